"""The Fréchet distance between Gaussians fitted to features (FID on Inception features: Heusel et al. 2017)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NUMBERS = 2**18  # turned into float64 at once, 2 MB, or four times as many samples as dimensions
UNEXPLAINED = 1e-4  # share of a feature's deviation that those before it must leave for Cholesky to be accurate
RANK = 1e-6  # of the greatest standard deviation: in a direction with less of it nothing varies
ACCURACY = 1e-9  # bound on what squares may take from a sum of singular values; it loses a thousandth of that


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
    mean = torch.from_numpy(features.numpy().mean(0, dtype="f8"))  # torch takes three times as long
    if len(features) <= len(mean):
        return Gaussian(mean, features.double() - mean, len(features))
    parts = features.split(max(NUMBERS // len(mean), 4 * len(mean)))
    scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for part in parts:
        x = (part.double() - mean).numpy()
        scatter += torch.from_numpy(x.T @ x)  # NumPy knows such a product to be symmetric: half the work of torch's
    factor, failed = torch.linalg.cholesky_ex(scatter, upper=True)
    if failed or (factor.diagonal() / scatter.diagonal().sqrt()).min() < UNEXPLAINED:
        # Nearly dependent features: what is left of the last ones is lost in the scatter matrix, but not in the
        # features' own QR. R of what is above the next part stands for all of it.
        factor = mean.new_zeros(0, len(mean))
        for part in parts:
            factor = torch.linalg.qr(torch.cat([factor, part.double() - mean]), mode="r").R
    return Gaussian(mean, factor, len(features))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½), equation 6 of Heusel et al. 2017; at least 0.

    With Σᵢ = RᵢᵀRᵢ / (nᵢ - 1), the trace of the root is the sum of the singular values of R₁R₂ᵀ: no matrix square root,
    and exact where the covariances are singular.
    """
    scale_a, scale_b = a.count - 1, b.count - 1
    root = _nuclear_norm(a.factor @ b.factor.T) / math.sqrt(scale_a * scale_b)
    trace = a.factor.square().sum() / scale_a + b.factor.square().sum() / scale_b
    return max(0.0, float((a.mean - b.mean).square().sum() + trace - 2 * root))


def frechet_influence(samples: Gaussian, real: Gaussian, points: Tensor) -> Tensor:
    """What each real image adds to the Fréchet distance, to first order: float64 (N,).

    That is its influence function at the real images' own distribution: for an image c = x - μ₂,

        -2 (μ₁ - μ₂)·c + cᵀ(I - T)c - tr(Σ₂(I - T)),  T = Σ₂^-½ (Σ₂^½ Σ₁ Σ₂^½)^½ Σ₂^-½,

    as I - T is the gradient in Σ₂ (Bhatia, Jain & Lim 2019, On the Bures-Wasserstein distance between positive definite
    matrices). The variance of these values over N is that of the distance by the choice of real images. Directions in
    which the real images do not vary are left out. points: float (N, d), whose moments are `real`.
    """
    _, deviations, axes = torch.linalg.svd(real.factor / math.sqrt(real.count - 1), full_matrices=False)
    varies = deviations > RANK * deviations[0]
    deviations, axes = deviations[varies], axes[varies].T
    turned = samples.factor @ (axes * deviations)
    squares, optimal = torch.linalg.eigh(turned.T @ turned / (samples.count - 1))
    roots = squares.clamp(min=0).sqrt()
    whiten, shift = (axes / deviations) @ optimal, samples.mean - real.mean
    total, found = deviations.square().sum(), []
    for part in points.split(max(1, NUMBERS // points.shape[1])):
        c = part.double() - real.mean
        found.append(c.square().sum(1) - 2 * c @ shift - (c @ whiten).square() @ roots - total + roots.sum())
    return torch.cat(found)


def _nuclear_norm(matrix: Tensor) -> float:
    """The sum of the singular values of a matrix (m, n).

    They are the roots of the eigenvalues of matrix·matrixᵀ, which take a third of the time, but are known to a rounding
    error of the greatest alone; where the roots of small ones would suffer from that, the singular values themselves.
    """
    rows = matrix.numpy()
    squares = torch.linalg.eigvalsh(torch.from_numpy(rows @ rows.T))  # symmetric, as above
    values = squares.clamp(min=0).sqrt()
    error = torch.finfo(torch.float64).eps * squares[-1] / (2 * values)  # of each root
    total = values.sum() if error.sum() <= ACCURACY * values.sum() else torch.linalg.svdvals(matrix).sum()
    return float(total)
