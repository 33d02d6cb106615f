"""Do samples lie where real images lie, and the other way round? Nearest-neighbour balls in feature space."""

from collections.abc import Iterator

import torch
from torch import Tensor

from workflow.errors import BakeoffError

DISTANCES = 2**25  # computed at once, 256 MB


def _distances(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Distances (n, N) of some points of a (M, d) to all of b (N, d), and which points, until all had their turn."""
    rows = max(1, DISTANCES // len(b))
    for start in range(0, len(a), rows):
        yield slice(start, start + rows), torch.cdist(a[start : start + rows], b)


def _radii(points: Tensor, k: int) -> Tensor:
    """Distance of each point to its k-th nearest other point, (N,)."""
    return torch.cat([d.kthvalue(k + 1, dim=1).values for _, d in _distances(points, points)])


def manifold_scores(samples: Tensor, real: Tensor, k: int) -> dict[str, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019) and density and coverage (Naeem et al. 2020).

    samples: float (M, d), real: float (N, d). precision: share of samples in some real image's ball, recall: share of
    real images in some sample's ball, density: how many real balls a sample is in, over k (1 for the real thing, and
    above it in crowded places), coverage: share of real images with a sample in their ball. A ball reaches to the k-th
    neighbour within its own set. Raises BakeoffError if a set has no more than k members.
    """
    samples, real = samples.double(), real.double()
    if min(len(samples), len(real)) <= k:
        raise BakeoffError(
            f"evaluate.neighbours: {k}: too many for {min(len(samples), len(real))} images; set it lower"
        )
    real_radii, sample_radii = _radii(real, k), _radii(samples, k)
    hits = torch.zeros(len(samples), dtype=torch.long)
    covered = torch.zeros(len(real), dtype=torch.bool)
    recalled = torch.zeros(len(real), dtype=torch.bool)
    for part, distances in _distances(samples, real):
        inside = distances <= real_radii
        hits[part] = inside.sum(1)
        covered |= inside.any(0)
        recalled |= (distances <= sample_radii[part, None]).any(0)
    return {
        "precision": float((hits > 0).double().mean()),
        "recall": float(recalled.double().mean()),
        "density": float(hits.double().mean()) / k,
        "coverage": float(covered.double().mean()),
    }
