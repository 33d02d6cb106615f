"""Random streams by name: every use of random numbers has its own generator, so that none disturbs another."""

from enum import IntEnum

import torch


class Stream(IntEnum):
    """What random numbers are drawn for. The values are part of every result: never change or reuse one."""

    LOSS = 1
    """Noise in the losses of the training loop."""
    CLASSIFIER = 1
    """Order of the images when the classifier is trained: an alias of LOSS, as the values of both were fixed before
    they had names. The two never meet, as no process trains both a model and the classifier."""
    ORDER = 2
    """Order of the training images in each epoch."""
    VALIDATION = 3
    """Noise in the validation losses: the same for every checkpoint, so that they differ by their weights alone."""
    SAMPLES = 4
    """The images that the metrics are computed on."""
    LIKELIHOOD = 5
    """Noise in the bounds of log p(x) of the test images."""
    COMPLETIONS = 6
    """The lower halves of images that a model completes."""
    REAL_SAMPLES = 7
    """Which training images stand in for a model's samples in the reference scores."""
    HISTOGRAM_SAMPLES = 8
    """Images of the baseline of independent pixels."""
    SNAPSHOTS = 9
    """Samples in the course of training: the same noise every time, so that they can be compared."""
    OUT_OF_DISTRIBUTION = 10
    """Inputs that are unlike the data."""
    CLASS_SAMPLES = 11
    """Images of requested classes."""
    FINISH = 12
    """Noise in what is fitted after training to the weights that are kept."""
    TAKEN = 13
    """Images that somebody draws for other uses (`stages/draw.py`)."""
    SPECTRUM = 14
    """Noise between the levels of pixels, where the spectrum of a model's scales is compared with that of PCA."""
    TRAINING_LIKELIHOOD = 15
    """Noise in the bounds of log p(x) of training images."""
    AUDIT = 16
    """What is damaged, and how, when measures are audited."""
    LABELS = 17
    """Which training images are labelled, where a probe learns from a few labels: the same for all models."""
    BINARISATION = 18
    """Which pixels of a training image are white, where they are drawn anew for each batch."""
    FINE_TUNING = 19
    """Fresh weights, order and dropout where encoders are trained on from a few labels."""


def make_generator(device: torch.device, seed: int, stream: Stream, *indices: int) -> torch.Generator:
    """A generator of the random numbers of one stream.

    Args:
        device: where the numbers are drawn.
        seed: of the run, from the parameters.
        stream: what the numbers are for.
        indices: further numbers that tell generators of the same stream apart, such as step and part of a batch.
    """
    mixed = 0
    for number in (seed, stream, *indices):  # increment and multiplier of splitmix64: nearby seeds, unrelated streams
        mixed = ((mixed ^ number) + 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9 % 2**63
    return torch.Generator(device).manual_seed(mixed)
