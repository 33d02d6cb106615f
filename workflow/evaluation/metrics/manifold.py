"""Precision, recall, density and coverage: whether samples lie where real images lie, and vice versa."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workflow.errors import BakeoffError

ROWS = 1024  # of each set, whose pairwise distances are in memory at once: 8 MB, which fit into the cache
ROUNDING = 1e-13  # tolerance of squared distances relative to the greatest squared length: equal points are neighbours
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Manifold:
    """An estimate of the manifold of a set of features: the union of a ball around each.

    points: float (N, d). squared_radii: float64 (N,).
    """

    points: Tensor
    squared_radii: Tensor


def _lift(points: Tensor, centre: Tensor) -> Array:
    """Points (N, d) relative to a centre (d,), with 1 and their squared length appended: float64 (N, d + 2).

    Relative to their mean, squares are small, and so are rounding errors.
    """
    x = points.double() - centre
    return torch.cat([x, x.new_ones(len(x), 1), x.square().sum(1, keepdim=True)], 1).numpy()


def _squares(a: Array, b: Array) -> Iterator[tuple[slice, slice, Array]]:
    """Squared distances (m, n) between blocks of a, (M, d + 2), and b, (N, d + 2), after the rows of each block.

    For the distances of a set to itself, only blocks on one side of the diagonal are computed.
    """
    for i in range(0, len(a), ROWS):
        x, ones, lengths = np.split(a[i : i + ROWS], [-2, -1], axis=1)
        left = np.hstack([-2 * x, lengths, ones])  # |a|² - 2 a·b + |b|² in a single product
        for j in range(i if a is b else 0, len(b), ROWS):
            yield slice(i, i + ROWS), slice(j, j + ROWS), left @ b[j : j + ROWS].T


def _squared_radii(points: Array, k: int) -> Tensor:
    """Squared distance of each lifted point to its k-th nearest other point, (N,)."""
    nearest = torch.full((len(points), k), torch.inf, dtype=torch.float64)  # so far
    for here, there, squares in _squares(points, points):
        views = [(here, squares), (there, squares.T)]
        if here == there:
            np.fill_diagonal(squares, np.inf)
            views.pop()
        for rows, found in views:
            candidates = torch.cat([nearest[rows], torch.from_numpy(found)], 1)
            nearest[rows] = candidates.topk(k, dim=1, largest=False, sorted=False).values
    return nearest.amax(1)


def fit_manifold(points: Tensor, k: int) -> Manifold:
    """Put a ball around each point, float (N, d), that reaches to its k-th nearest neighbour.

    Raises BakeoffError if there are not more than k points.

    >>> manifold = fit_manifold(torch.tensor([[0.0], [1.0], [3.0]]), k=1)
    >>> [round(radius, 6) for radius in manifold.squared_radii.tolist()]
    [1.0, 1.0, 4.0]
    """
    if len(points) <= k:
        raise BakeoffError(f"evaluate.neighbours: {k}: too many for {len(points)} images; set it lower")
    lifted = _lift(points, points.double().mean(0))
    return Manifold(points, _squared_radii(lifted, k) + ROUNDING * float(lifted[:, -1].max()))


def manifold_scores(samples: Manifold, real: Manifold, k: int) -> dict[str, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019) and density and coverage (Naeem et al. 2020).

    precision: share of samples inside some real image's ball. recall: share of real images inside some sample's ball.
    density: mean number of real balls that a sample is in, divided by k; 1 is expected for real images, and crowded
    regions exceed it. coverage: share of real images with a sample inside their ball.

    Args:
        samples: fitted to features of samples.
        real: fitted to features of real images.
        k: with which both were fitted.

    One of two samples lies near two of three real images. The other is so far away that its ball contains everything:

    >>> real = fit_manifold(torch.tensor([[0.0], [1.0], [9.0]]), k=1)
    >>> samples = fit_manifold(torch.tensor([[0.5], [100.0]]), k=1)
    >>> scores = manifold_scores(samples, real, k=1)
    >>> {name: round(score, 3) for name, score in scores.items()}
    {'precision': 0.5, 'recall': 1.0, 'density': 1.0, 'coverage': 0.667}
    """
    centre = real.points.double().mean(0)
    hits = np.zeros(len(samples.points), int)
    covered, recalled = np.zeros((2, len(real.points)), bool)
    for here, there, squares in _squares(_lift(samples.points, centre), _lift(real.points, centre)):
        inside = squares <= real.squared_radii[there].numpy()
        hits[here] += np.count_nonzero(inside, axis=1)
        covered[there] |= inside.any(0)
        recalled[there] |= (squares <= samples.squared_radii[here, None].numpy()).any(0)
    return {
        "precision": float((hits > 0).mean()),
        "recall": float(recalled.mean()),
        "density": float(hits.mean()) / k,
        "coverage": float(covered.mean()),
    }
