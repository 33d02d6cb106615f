"""Which classes the samples cover, as the classifier sees them."""

from typing import Any

import torch
from torch import Tensor


def class_shares(predicted: Tensor, classes: int) -> Tensor:
    """Share of each class, float64 (classes,). predicted: int64 (N,)."""
    return predicted.bincount(minlength=classes).double() / len(predicted)


def kl_divergence(p: Tensor, q: Tensor) -> float:
    """KL(p ‖ q) in nats; classes that p lacks add nothing, one that only q lacks makes it infinite."""
    present = p > 0
    return float((p[present] * (p[present] / q[present]).log()).sum())


def mode_coverage(predicted: Tensor, predicted_real: Tensor, classes: int) -> dict[str, Any]:
    """Class shares of samples and real images, KL(samples ‖ real) in nats, and how many classes have no sample.

    predicted, predicted_real: int64 (N,). The real shares are smoothed by one image a class, so that the KL is finite.
    """
    shares = class_shares(predicted, classes)
    smoothed = (predicted_real.bincount(minlength=classes).double() + 1) / (len(predicted_real) + classes)
    real = class_shares(predicted_real, classes)
    return {
        "histogram": shares.tolist(),
        "test_histogram": real.tolist(),
        "kl": kl_divergence(shares, smoothed),
        "missed": int(torch.sum((shares == 0) & (real > 0))),
    }
