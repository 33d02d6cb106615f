"""Distributions of a pixel's level as histograms, one for each bin of what is predicted for the pixel."""

import torch
from torch import Generator, Tensor

from workflow.models.layers.noise import choices_at, uniform
from workflow.models.layers.pixels import gaussian_log_prob

BINS = 64  # of predicted pixels strictly between black and white, each with its own histogram
DRAWN = 2**16  # pixels drawn from histograms at once
UNSEEN = 0.05  # added to the count of each level in a histogram


def gaussian_histograms(deviation: Tensor, levels: int) -> Tensor:
    """log-probability of each level under a Gaussian around the middle of each bin, nats (BINS + 2, levels)."""
    middle = torch.cat([torch.tensor([-1.0]), (torch.arange(BINS) + 0.5) * (2 / BINS) - 1, torch.tensor([1.0])])
    level = torch.arange(levels).expand(len(middle), -1)
    return gaussian_log_prob(middle[:, None].expand_as(level), deviation, level, levels)


def counted_histograms(x: Tensor, predicted: Tensor, levels: int) -> Tensor:
    """log-probability of each level, nats (BINS + 2, levels): its share among the pixels of a bin.

    Args:
        x: images, uint8 (N, C, H, W).
        predicted: what is predicted for them, in [-1, 1], (N, C, H, W).
        levels: pixel values are 0..levels-1.
    """
    cells = bins(predicted) * levels + x
    counts = cells.flatten().bincount(minlength=(BINS + 2) * levels).view(-1, levels) + UNSEEN
    return (counts / counts.sum(1, keepdim=True)).log()


def draw_from_histograms(log_prob: Tensor, predicted: Tensor, generator: Generator) -> Tensor:
    """A draw of each pixel, uint8 (N, C, H, W), by what is predicted for it, (N, C, H, W)."""
    marks, places = uniform((predicted.numel(),), generator, predicted.device), bins(predicted).flatten()
    probabilities = log_prob.exp()
    parts = zip(marks.split(DRAWN), places.split(DRAWN), strict=True)
    drawn = torch.cat([choices_at(mark, probabilities[some]) for mark, some in parts])
    return drawn.to(torch.uint8).view_as(predicted)


def bins(predicted: Tensor) -> Tensor:
    """Which histogram a predicted pixel in [-1, 1] belongs to, int64 of any shape.

    The ends, to which predictions are clipped, have their own.
    """
    inside = ((predicted + 1) * (BINS / 2)).long().clamp(max=BINS - 1) + 1
    return torch.where(predicted <= -1, 0, torch.where(predicted >= 1, BINS + 1, inside))
