"""The kernel distance (KID: Bińkowski et al. 2018): unbiased squared MMD with the kernel (x·y/d + 1)³."""

import numpy as np
import torch
from torch import Tensor


def squared_mmd(x: Tensor, y: Tensor) -> float:
    """The unbiased estimate, which can be below zero. x, y: float64 (m, d), the same m, at least 2."""
    m, d = x.shape
    within_x, within_y = ((a @ a.T / d + 1) ** 3 for a in (x, y))
    between = (x @ y.T / d + 1) ** 3
    within = (within_x.sum() - within_x.trace() + within_y.sum() - within_y.trace()) / (m * (m - 1))
    return float(within - 2 * between.mean())


def kernel_distance(a: Tensor, b: Tensor, subsets: int, subset_size: int, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation over random subsets. a, b: float (N, d).

    A subset is no larger than the smaller set: then it is all of it.
    """
    size = min(subset_size, len(a), len(b))
    rng = np.random.RandomState(seed)  # the stream that torch-fidelity draws from, so that figures can be compared
    values = [
        squared_mmd(
            a[torch.from_numpy(rng.choice(len(a), size, replace=False))].double(),
            b[torch.from_numpy(rng.choice(len(b), size, replace=False))].double(),
        )
        for _ in range(subsets)
    ]
    return float(np.mean(values)), float(np.std(values))
