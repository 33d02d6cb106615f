"""Mode coverage: which classes, as predicted by a classifier, or which known Gaussians the samples cover."""

from typing import Any

import torch
from torch import Tensor

NEAR = 3  # standard deviations within which a point belongs to a mode


def class_shares(predicted: Tensor, classes: int) -> Tensor:
    """Frequency of each class among predictions, int64 (N,): float64 (classes,), all 0 if there are no predictions.

    >>> class_shares(torch.tensor([0, 0, 2, 0]), classes=3).tolist()
    [0.75, 0.0, 0.25]
    """
    return predicted.bincount(minlength=classes).double() / max(1, len(predicted))


def kl_divergence(p: Tensor, q: Tensor) -> float:
    """KL(p ‖ q) in nats; 0 log 0 is 0, and the result is infinite if q lacks a class that p has.

    >>> round(kl_divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])), 6)
    0.693147
    """
    present = p > 0
    return float((p[present] * (p[present] / q[present]).log()).sum())


def mode_coverage(predicted: Tensor, predicted_real: Tensor, classes: int) -> dict[str, Any]:
    """Class frequencies of samples and real images, KL(samples ‖ real) in nats, and the number of classes found.

    Metz et al. 2017, Unrolled Generative Adversarial Networks, section 3.3.1. The real frequencies are smoothed by one
    image per class, so that the KL is finite.

    Args:
        predicted: classes of samples, int64 (N,).
        predicted_real: classes of real images, int64 (M,).
        classes: their number.

    >>> coverage = mode_coverage(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]), classes=3)
    >>> coverage["found"], round(coverage["kl"], 4)
    (2, 0.4621)
    """
    shares = class_shares(predicted, classes)
    smoothed = (predicted_real.bincount(minlength=classes).double() + 1) / (len(predicted_real) + classes)
    return {
        "histogram": shares.tolist(),
        "test_histogram": class_shares(predicted_real, classes).tolist(),
        "kl": kl_divergence(shares, smoothed),
        "found": int((shares > 0).sum()),
    }


def kl_influence(predicted: Tensor, predicted_real: Tensor, classes: int) -> Tensor:
    """Influence of each real image on the KL of `mode_coverage`, to first order: float64 (M,), with a mean of 0.

    Args:
        predicted: classes of samples, int64 (N,).
        predicted_real: classes of real images, int64 (M,).
        classes: their number.

    All samples are of class 0; a further real image of that class would lower the KL.

    >>> kl_influence(torch.tensor([0, 0]), torch.tensor([0, 1, 0]), classes=2).round(decimals=3).tolist()
    [-0.333, 0.667, -0.333]
    """
    counts, n = predicted_real.bincount(minlength=classes).double(), len(predicted_real)
    ratios = class_shares(predicted, classes) * n / (counts + 1)
    return ratios @ counts / n - ratios[predicted_real]


def nearest_mode(images: Tensor, centres: Tensor, std: float) -> tuple[Tensor, Tensor]:
    """The nearest Gaussian to each point, int64 (N,), and whether the point is of high quality, bool (N,).

    High quality means within three standard deviations of the centre (Srivastava et al. 2017, VEEGAN, section 4.1, on
    the data of Metz et al. 2017, Unrolled Generative Adversarial Networks).

    Args:
        images: points, uint8 (N, 1, 1, 2).
        centres: of the Gaussians, in levels, (K, 2).
        std: their standard deviation, in levels.

    >>> points = torch.tensor([[1, 0], [10, 14]], dtype=torch.uint8).view(2, 1, 1, 2)
    >>> nearest_mode(points, torch.tensor([[0.0, 0.0], [10.0, 10.0]]), std=1.0)
    (tensor([0, 1]), tensor([ True, False]))
    """
    distance, mode = torch.cdist(images.flatten(1).double(), centres.double()).min(1)
    return mode, distance <= NEAR * std
