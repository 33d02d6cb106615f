"""Which modes of the data the samples cover: classes, as the classifier sees them, or Gaussians that are known."""

from typing import Any

import torch
from torch import Tensor

NEAR = 3  # standard deviations within which a point belongs to a mode


def class_shares(predicted: Tensor, classes: int) -> Tensor:
    """Share of each class, float64 (classes,), all 0 if there is none. predicted: int64 (N,)."""
    return predicted.bincount(minlength=classes).double() / max(1, len(predicted))


def kl_divergence(p: Tensor, q: Tensor) -> float:
    """KL(p ‖ q) in nats; classes that p lacks add nothing, one that only q lacks makes it infinite."""
    present = p > 0
    return float((p[present] * (p[present] / q[present]).log()).sum())


def mode_coverage(predicted: Tensor, predicted_real: Tensor, classes: int) -> dict[str, Any]:
    """Class shares of samples and real images, KL(samples ‖ real) in nats, and how many classes have a sample.

    predicted, predicted_real: int64 (N,). The real shares are smoothed by one image a class, so that the KL is finite.
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
    """What each real image adds to the KL of `mode_coverage`, to first order: float64 (N,), with a mean of 0."""
    counts, n = predicted_real.bincount(minlength=classes).double(), len(predicted_real)
    ratios = class_shares(predicted, classes) * n / (counts + 1)
    return ratios @ counts / n - ratios[predicted_real]


def nearest_mode(images: Tensor, centres: Tensor, std: float) -> tuple[Tensor, Tensor]:
    """Which Gaussian each point is nearest to, int64 (N,), and whether it is a sample of high quality, bool (N,).

    images: uint8 (N, 1, 1, 2), centres: (K, 2), std: both in levels. High quality: within three standard deviations of
    the centre (Srivastava et al. 2017, VEEGAN, section 4.1, on the data of Metz et al. 2017, Unrolled GANs).
    """
    distance, mode = torch.cdist(images.flatten(1).double(), centres.double()).min(1)
    return mode, distance <= NEAR * std
