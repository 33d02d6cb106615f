"""The Fréchet distance between Gaussians fitted to features (FID on Inception features: Heusel et al. 2017)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NUMBERS = 2**25  # turned into float64 at once, 256 MB


@dataclass(frozen=True)
class Gaussian:
    """Moments of a set of features, float64.

    mean: (d,). factor: (r, d) with factorᵀ·factor the scatter matrix, that is (count - 1) times the covariance; r is
    at most the number of samples, so few samples in many dimensions need no singular covariance matrix.
    """

    mean: Tensor
    factor: Tensor
    count: int


def fit_gaussian(features: Tensor) -> Gaussian:
    """features: float (N, d), N at least 2."""
    mean = features.mean(0, dtype=torch.float64)
    factor = mean.new_zeros(0, len(mean))
    for part in features.split(max(1, NUMBERS // len(mean))):  # R of what is above the next part stands for all of it
        factor = torch.linalg.qr(torch.cat([factor, part.double() - mean]), mode="r").R
    return Gaussian(mean, factor, len(features))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½), equation 6 of Heusel et al. 2017; at least 0.

    With Σᵢ = RᵢᵀRᵢ / (nᵢ - 1), the trace of the root is the sum of the singular values of R₁R₂ᵀ: no matrix square root,
    and exact where the covariances are singular.
    """
    scale_a, scale_b = a.count - 1, b.count - 1
    root = torch.linalg.svdvals(a.factor @ b.factor.T).sum() / math.sqrt(scale_a * scale_b)
    trace = a.factor.square().sum() / scale_a + b.factor.square().sum() / scale_b
    return max(0.0, float((a.mean - b.mean).square().sum() + trace - 2 * root))
