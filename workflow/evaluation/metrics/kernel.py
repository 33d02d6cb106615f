"""The kernel distance (KID: Bińkowski et al. 2018): unbiased squared MMD with the kernel (x·y/d + 1)³."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, np.dtype[np.float64]]
ROWS = 256  # whose products with all others are computed at once: few enough for the processor's cache


def squared_mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased estimate of the squared MMD (Gretton et al. 2012, A Kernel Two-Sample Test, lemma 6); may be negative.

    Args:
        x: float64 (m, d), m at least 2.
        y: likewise.

    >>> zeros, ones = torch.zeros(2, 1, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
    >>> squared_mmd(zeros, ones)  # (0 + 1)³ + (1 + 1)³ - 2 (0 + 1)³
    7.0
    """
    m, d = x.shape
    a, b = x.numpy(), y.numpy()
    within, between = _within(a) + _within(b), sum(_cubes(a[rows], b) for rows in _blocks(m))
    return float(within / (m * (m - 1)) - 2 * between / m**2) / d**3


def _blocks(m: int) -> Iterator[slice]:
    return (slice(start, start + ROWS) for start in range(0, m, ROWS))


def _cubes(a: Array, b: Array) -> float:
    """Sum of (aᵢ·bⱼ + d)³, d³ times the kernel, over all pairs."""
    products = a @ b.T
    products += a.shape[1]
    return float(np.vdot(products * products, products))


def _within(a: Array) -> float:
    """The same sum over all pairs of different points of one set, each computed once and counted twice."""
    pairs = sum(2 * _cubes(a[rows], a[: rows.start]) + _cubes(a[rows], a[rows]) for rows in _blocks(len(a)))
    return pairs - float((((a * a).sum(1) + a.shape[1]) ** 3).sum())


def mean_kernels(points: Tensor, others: Tensor) -> Tensor:
    """Mean kernel of each point with the points of another set, float64 (N,).

    Args:
        points: float (N, d).
        others: float (M, d).

    >>> mean_kernels(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [1.0]])).tolist()
    [1.0, 8.0]
    """
    b, d = others.double().numpy(), points.shape[1]
    parts = [((part.double().numpy() @ b.T / d + 1) ** 3).mean(1) for part in points.split(ROWS)]
    return torch.from_numpy(np.concatenate(parts))


def mean_other_kernels(points: Tensor) -> Tensor:
    """Mean kernel of each point with the other points of the same set, float64 (N,).

    Args:
        points: float (N, d), N at least 2.

    >>> mean_other_kernels(torch.tensor([[0.0], [1.0], [1.0]])).tolist()
    [1.0, 4.5, 4.5]
    """
    n, d = points.shape
    own = (points.double().square().sum(1) / d + 1) ** 3
    return (mean_kernels(points, points) * n - own) / (n - 1)


def kernel_influence(with_samples: Tensor, with_real: Tensor) -> Tensor:
    """Influence of each real image on the squared MMD, to first order: float64 (N,), with a mean of 0.

    The variance of the values over N is the variance of the distance due to the choice of real images, unless samples
    and real images have the same distribution: then the first order vanishes.

    Args:
        with_samples: mean kernel of each real image with the samples, (N,).
        with_real: mean kernel of each real image with the other real images, (N,).

    >>> kernel_influence(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0])).tolist()
    [2.0, -2.0]
    """
    values = 2 * (with_real - with_samples)
    return values - values.mean()


def kernel_distance(a: Tensor, b: Tensor, subsets: int, subset_size: int, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation of the squared MMD over random subsets.

    Args:
        a: features, float (N, d).
        b: features, float (M, d).
        subsets: their number.
        subset_size: of each, limited to the size of the smaller set.
        seed: of the subsets.

    >>> kernel_distance(torch.zeros(5, 1), torch.ones(5, 1), subsets=3, subset_size=2)
    (7.0, 0.0)
    """
    size = min(subset_size, len(a), len(b))
    rng = np.random.RandomState(seed)  # the stream of torch-fidelity, so that figures can be compared
    values = [
        squared_mmd(
            a[torch.from_numpy(rng.choice(len(a), size, replace=False))].double(),
            b[torch.from_numpy(rng.choice(len(b), size, replace=False))].double(),
        )
        for _ in range(subsets)
    ]
    return float(np.mean(values)), float(np.std(values))
