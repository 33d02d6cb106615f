"""FID at infinite sample size (Chong & Forsyth 2020, Effectively Unbiased FID and Inception Score)."""

from collections.abc import Sequence
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from workflow.evaluation.metrics.frechet import Gaussian, fit_gaussian, frechet_distance

PARTS = (1, 2, 3, 4)  # numbers of disjoint subsets that the samples are split into, one number per size


def infinite_fid(features: Tensor, real: Gaussian, seed: int = 0) -> float:
    """The Fréchet distance expected of infinitely many samples; it may be negative by chance.

    The expected distance at N samples differs from that at infinity by a multiple of 1/N (section 3 of the paper), so
    distances at several sizes are extrapolated to 1/N = 0 by least squares. The distance at each size is a mean over
    disjoint random subsets that use all samples. The bias due to the finite number of real images remains.

    Args:
        features: of the samples, float (N, d), N at least 8.
        real: moments of the real images' features.
        seed: of the subsets.
    """
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(features)))  # some models come sorted
    distances = []
    for parts in PARTS:
        size = len(features) // parts
        subsets = order[: parts * size].split(size)
        distances.append(fmean(frechet_distance(fit_gaussian(features[rows]), real) for rows in subsets))
    return extrapolated([parts / len(features) for parts in PARTS], distances)


def extrapolated(inverse_sizes: Sequence[float], values: Sequence[float]) -> float:
    """Intercept at 1/N = 0 of the least-squares line through values at several 1/N.

    >>> round(extrapolated([0.001, 0.002, 0.004], [1.5, 2.0, 3.0]), 6)
    1.0
    """
    return float(np.polyfit(inverse_sizes, values, 1)[1])
