"""How many different images there are among samples: the Vendi score and the mode count of RKE.

Both are entropies of the eigenvalues λ of a kernel matrix K of n samples, divided by n, with ones on its diagonal: such
eigenvalues add up to 1. Both are 1 if all samples are alike, and n if no two have anything in common. Of k equally
frequent kinds of samples that have nothing in common, both are k.
"""

import torch
from torch import Tensor

from workflow.evaluation.metrics.neighbours import spread

MOST = 1000  # samples that are compared with one another; of more, so many, evenly spaced
ROWS = 256  # whose distances from all others are in memory at once
RESOLVED = 0.5  # width of the Gaussian kernel, as a share of the median distance between test images


def vendi_score(features: Tensor) -> float:
    """exp(-Σ λ log λ) of the cosines between features: Friedman & Dieng 2023, The Vendi Score, definition 3.1.

    The eigenvalues are those of the features' own second moments, which are the fewer numbers if there are fewer
    features than samples (section 3.1, proposition 3.2).

    Args:
        features: float (n, d). The cosine of two vectors of zeros is 1 here, that of one and another vector 0.

    >>> round(vendi_score(torch.tensor([[1.0, 0.0], [9.0, 0.0], [0.0, 2.0], [0.0, 1.0]])), 6)
    2.0
    """
    x = features[spread(len(features), MOST)].double()
    x = torch.cat([x, (x == 0).all(1, keepdim=True)], 1)  # a direction of its own for vectors of zeros
    x = x / x.norm(dim=1, keepdim=True)
    shares = torch.linalg.eigvalsh((x.T @ x if x.shape[1] < len(x) else x @ x.T) / len(x))
    shares = shares[shares > 0]  # rounding errors may be below 0
    return float((-shares * shares.log()).sum().exp())


def kernel_width(points: Tensor) -> float:
    """The width of the Gaussian kernel that real images with these features, float (N, d), ask for; N at least 2.

    `RESOLVED` times the median distance: kinds of images that are as far apart as most are then count as different
    ones. The mean if most images are equal, 1 if all are.

    >>> kernel_width(torch.tensor([[0.0], [2.0], [6.0]]))
    2.0
    """
    distances = torch.pdist(points[spread(len(points), MOST)].double())
    return RESOLVED * (float(distances.median()) or float(distances.mean())) or 1.0


def renyi_modes(features: Tensor, width: float) -> float:
    """exp of the entropy of order 2, 1 / Σ λ², that is, n² over the sum of all squared kernels.

    RKE's mode count of Jalali, Li & Farnia 2023, An Information-Theoretic Evaluation of Generative Models in Learning
    Multi-modal Distributions, section 4, with the kernel exp(-|x - y|² / (2 width²)).

    Args:
        features: float (n, d).
        width: of the kernel, in the unit of the features.

    >>> round(renyi_modes(torch.tensor([[0.0], [0.0], [99.0], [99.0]]), width=1.0), 6)
    2.0
    """
    x = features[spread(len(features), MOST)].double()
    x = (x - x.mean(0)) / width
    lengths, total = x.square().sum(1), 0.0
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)  # with themselves and those before them: the rest is the same
        squares = lengths[rows, None] + lengths[: rows.stop] - 2 * x[rows] @ x[: rows.stop].T
        found = squares.clamp(min=0).neg().exp()
        total += float(2 * found[:, :start].sum() + found[:, start:].sum())
    return len(x) ** 2 / total
