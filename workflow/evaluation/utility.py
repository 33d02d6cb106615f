"""What samples are good for: whether a classifier learns from them alone to tell real images.

Classification accuracy score: Ravuri & Vinyals 2019, Classification Accuracy Score for Conditional Generative Models,
section 3.
"""

import torch
from torch import Tensor

from workflow.data.arrays import Card
from workflow.data.tensors import ImageSet
from workflow.evaluation.classifier import fit_classifier
from workflow.params import Extractor


def hits_after_training_on(
    images: ImageSet, test: ImageSet, card: Card, settings: Extractor, device: torch.device, seed: int
) -> Tensor:
    """Which test images a classifier gets right that was trained on these images alone, bool (N,).

    Its weights are those of the epoch that fits its own training images best, so that no real image has a part in the
    choice. Random numbers of others are left as they are.

    Args:
        images: with their classes, to train on.
        test: real images, N of them.
        card: of the data.
        settings: of the classifier, as for the one whose features are used.
        device: to train on.
        seed: of the classifier.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.enable_grad(), torch.random.fork_rng(devices):
        classes, separately = len(card.classes), card.channelwise
        model = fit_classifier(
            images, images, card.levels, classes, settings, device, seed=seed, channelwise=separately
        )
    logits, right = model.answers(test, settings.batch_size)
    return logits.argmax(1) == right
