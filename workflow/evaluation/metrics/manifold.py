"""Precision, recall, density and coverage: whether samples lie where real images lie, and vice versa."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workflow.errors import BakeoffError

ROWS = 1024  # of each set whose distances from each other are in memory at once, 8 MB: they stay in the cache
ROUNDING = 1e-13  # of squared distances, a share of the greatest squared length: equal points are in each other's balls
NEIGHBOUR_ROWS = 256  # whose distances from all others are in memory at once
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
        remedy = f"set it to {len(points) - 1} or lower" if len(points) > 1 else "at least 2 images are needed"
        raise BakeoffError(f"evaluate.neighbours: {k}: too many for {len(points)} images; {remedy}")
    lifted = _lift(points, points.double().mean(0))
    return Manifold(points, _squared_radii(lifted, k) + ROUNDING * float(lifted[:, -1].max()))


def nearest_others(points: Tensor, k: int) -> Tensor:
    """Indices of the k nearest other points of each point, int64 (N, k).

    Args:
        points: float (N, d), more than k of them.
        k: number of neighbours.

    >>> nearest_others(torch.tensor([[0.0], [1.0], [3.0]]), k=1).tolist()
    [[1], [0], [1]]
    """
    lifted = _lift(points, points.double().mean(0))
    found = []
    for i in range(0, len(points), NEIGHBOUR_ROWS):
        x, ones, lengths = np.split(lifted[i : i + NEIGHBOUR_ROWS], [-2, -1], axis=1)
        squares = torch.from_numpy(np.hstack([-2 * x, lengths, ones]) @ lifted.T)
        squares[torch.arange(len(x)), torch.arange(i, i + len(x))] = torch.inf
        found.append(squares.topk(k, dim=1, largest=False).indices)
    return torch.cat(found)


@dataclass(frozen=True)
class Overlap:
    """Counts of the samples inside balls of real images and vice versa.

    hits: number of real balls that each sample is in, int64 (M,). inside: number of samples in the ball of each real
    image, int64 (N,). alone: the number of those that are in no other real ball, int64 (N,). recalled: whether each
    real image is in the ball of some sample, bool (N,).
    """

    hits: Tensor
    inside: Tensor
    alone: Tensor
    recalled: Tensor


def overlap(samples: Manifold, real: Manifold) -> Overlap:
    """Compare each sample with each real image, once.

    >>> real = fit_manifold(torch.tensor([[0.0], [1.0], [9.0]]), k=1)
    >>> found = overlap(fit_manifold(torch.tensor([[0.5], [100.0]]), k=1), real)
    >>> found.hits.tolist(), found.inside.tolist(), found.alone.tolist(), found.recalled.tolist()
    ([2, 0], [1, 1, 0], [0, 0, 0], [True, True, True])
    """
    centre = real.points.double().mean(0)
    hits, ball = np.zeros((2, len(samples.points)), int)
    inside, recalled = np.zeros(len(real.points), int), np.zeros(len(real.points), bool)
    for here, there, squares in _squares(_lift(samples.points, centre), _lift(real.points, centre)):
        within = squares <= real.squared_radii[there].numpy()
        counts = np.count_nonzero(within, axis=1)
        hits[here] += counts
        ball[here] = np.where(counts > 0, there.start + within.argmax(1), ball[here])
        inside[there] += np.count_nonzero(within, axis=0)
        recalled[there] |= (squares <= samples.squared_radii[here, None].numpy()).any(0)
    alone = np.bincount(ball[hits == 1], minlength=len(inside))
    return Overlap(*map(torch.from_numpy, (hits, inside, alone, recalled)))


def manifold_scores(found: Overlap, k: int) -> dict[str, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019) and density and coverage (Naeem et al. 2020).

    precision: share of samples inside some real image's ball. recall: share of real images inside some sample's ball.
    density: mean number of real balls that a sample is in, divided by k; 1 is expected for real images, and crowded
    regions exceed it. coverage: share of real images with a sample inside their ball.

    Args:
        found: which balls of real images the samples are in, and the other way round.
        k: with which both manifolds were fitted.

    One of two samples lies near two of three real images. The other is so far away that its ball contains everything:

    >>> real = fit_manifold(torch.tensor([[0.0], [1.0], [9.0]]), k=1)
    >>> samples = fit_manifold(torch.tensor([[0.5], [100.0]]), k=1)
    >>> scores = manifold_scores(overlap(samples, real), k=1)
    >>> {name: round(score, 3) for name, score in scores.items()}
    {'precision': 0.5, 'recall': 1.0, 'density': 1.0, 'coverage': 0.667}
    """
    return {
        "precision": float((found.hits > 0).double().mean()),
        "recall": float(found.recalled.double().mean()),
        "density": float(found.hits.double().mean()) / k,
        "coverage": float((found.inside > 0).double().mean()),
    }


def manifold_influence(found: Overlap, others: Tensor) -> dict[str, Tensor]:
    """Influence of each real image on these scores, to first order, in units of the score: float64 (N,) each.

    Recall, density and coverage are means over real images, and so are these values. An image also limits the balls
    that have it among their k nearest neighbours. If such a ball could grow by 1/k of its content, it would gain that
    share of its samples (density), and would get its first sample as often as it now has a single one (coverage). For
    precision the value is the share of samples that no other ball contains. Outliers that happen to be absent from the
    real images are beyond any first order: where few large balls contain most samples, precision varies by more than
    these values say.

    Args:
        found: counts of the samples inside balls of real images and vice versa.
        others: indices of the k nearest other real images, int64 (N, k), from `nearest_others`.
    """
    n, k = others.shape
    inside, samples = found.inside.double(), len(found.hits)

    def with_balls(values: Tensor, gained: Tensor) -> Tensor:
        """The values less what the balls of others would gain without each image; the mean stays."""
        lost = torch.zeros(n, dtype=torch.float64)
        lost.index_add_(0, others.flatten(), (gained / k).repeat_interleave(k))
        return values - lost + lost.mean()

    density = inside * n / samples / k
    return {
        "precision": found.alone.double() * n / samples,
        "recall": found.recalled.double(),
        "density": with_balls(density, density),
        "coverage": with_balls((inside > 0).double(), (inside == 1).double()),
    }
