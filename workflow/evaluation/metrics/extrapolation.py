"""FID at infinite sample size (Chong & Forsyth 2020, Effectively Unbiased FID and Inception Score)."""

from collections.abc import Sequence
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from workflow.evaluation.metrics.frechet import Gaussian, fit_gaussian, frechet_distance

PARTS = (1, 2, 3, 4)  # into which the samples are split: the smallest size is a quarter of all


def infinite_fid(features: Tensor, real: Gaussian, seed: int = 0) -> float:
    """The Fréchet distance that samples without end would have; it may be below zero by chance.

    The expected distance at N samples is that at infinity plus a multiple of 1/N (section 3 of the paper), so the
    distances at several sizes are extrapolated to 1/N = 0 by least squares. At each size all samples are used: the
    distance is the mean over as many disjoint random parts as there are. What the finite number of real images adds
    stays. features: float (N, d), N at least 8.
    """
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(features)))  # some models come sorted
    distances = []
    for parts in PARTS:
        size = len(features) // parts
        subsets = order[: parts * size].split(size)
        distances.append(fmean(frechet_distance(fit_gaussian(features[rows]), real) for rows in subsets))
    return extrapolated([parts / len(features) for parts in PARTS], distances)


def extrapolated(inverse_sizes: Sequence[float], values: Sequence[float]) -> float:
    """Where the least-squares line through values at some 1/N meets 1/N = 0.

    >>> round(extrapolated([0.001, 0.002, 0.004], [1.5, 2.0, 3.0]), 6)
    1.0
    """
    return float(np.polyfit(inverse_sizes, values, 1)[1])
