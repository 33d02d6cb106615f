"""Do samples lie where real images lie, and the other way round? Nearest-neighbour balls in feature space."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workflow.errors import BakeoffError

ROWS = 1024  # of each set whose distances from each other are in memory at once, 8 MB: they stay in the cache
ROUNDING = 1e-13  # of squared distances, a share of the greatest squared length: equal points are in each other's balls
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Manifold:
    """Where a set of features lies: a ball around each.

    points: float (N, d). squared_radii: float64 (N,).
    """

    points: Tensor
    squared_radii: Tensor


def _lift(points: Tensor, centre: Tensor) -> Array:
    """Points (N, d) about a centre (d,), and beside them 1 and their squared length: float64 (N, d + 2).

    About a centre among them, squares are small, and so are their rounding errors.
    """
    x = points.double() - centre
    return torch.cat([x, x.new_ones(len(x), 1), x.square().sum(1, keepdim=True)], 1).numpy()


def _squares(a: Array, b: Array) -> Iterator[tuple[slice, slice, Array]]:
    """Squared distances (m, n) of some of a (M, d + 2) to some of b (N, d + 2), and which, until all had their turn.

    Of a set to itself only those on one side of the diagonal, as the others mirror them.
    """
    for i in range(0, len(a), ROWS):
        x, ones, lengths = np.split(a[i : i + ROWS], [-2, -1], axis=1)
        left = np.hstack([-2 * x, lengths, ones])  # |a|² - 2 a·b + |b|² in one product: adding would take long
        for j in range(i if a is b else 0, len(b), ROWS):
            yield slice(i, i + ROWS), slice(j, j + ROWS), left @ b[j : j + ROWS].T


def _squared_radii(points: Array, k: int) -> Tensor:
    """Squared distance of each point, lifted, to its k-th nearest other point, (N,)."""
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
    """A ball around each point reaches to its k-th neighbour. points: float (N, d).

    Raises BakeoffError if there are no more than k of them.
    """
    if len(points) <= k:
        raise BakeoffError(f"evaluate.neighbours: {k}: too many for {len(points)} images; set it lower")
    lifted = _lift(points, points.double().mean(0))
    return Manifold(points, _squared_radii(lifted, k) + ROUNDING * float(lifted[:, -1].max()))


def manifold_scores(samples: Manifold, real: Manifold, k: int) -> dict[str, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019) and density and coverage (Naeem et al. 2020).

    precision: share of samples in some real image's ball, recall: share of real images in some sample's ball, density:
    how many real balls a sample is in, over k (1 for the real thing, and above it in crowded places), coverage: share
    of real images with a sample in their ball. Both were fitted with this k.
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
