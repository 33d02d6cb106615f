"""The Fréchet distance between Gaussians fitted to features (FID on Inception features: Heusel et al. 2017)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NUMBERS = 2**18  # converted to float64 at once (2 MB), or four times as many samples as dimensions
UNEXPLAINED = 1e-4  # share of a feature's deviation not explained by earlier ones, below which Cholesky is inaccurate
RANK = 1e-6  # share of the greatest standard deviation below which a direction counts as constant
ACCURACY = 1e-9  # bound on the relative error of a sum of singular values; the actual error is a thousandth of it


@dataclass(frozen=True)
class Gaussian:
    """Moments of a set of features, float64.

    mean: (d,). factor: (r, d), where factorᵀ·factor is the scatter matrix, (count - 1) times the covariance. r is at
    most the number of samples, so that few samples in many dimensions need no singular covariance matrix.
    count: number of samples.
    """

    mean: Tensor
    factor: Tensor
    count: int


def fit_gaussian(features: Tensor) -> Gaussian:
    """Fit a Gaussian to features, float (N, d), N at least 2.

    >>> gaussian = fit_gaussian(torch.tensor([[0.0], [2.0], [4.0]]))
    >>> gaussian.mean.tolist(), gaussian.count
    ([2.0], 3)
    >>> round(float(gaussian.factor.square().sum()) / (gaussian.count - 1), 6)  # the variance
    4.0
    """
    mean = torch.from_numpy(features.numpy().mean(0, dtype="f8"))  # a third of torch's time
    if len(features) <= len(mean):
        return Gaussian(mean, features.double() - mean, len(features))
    parts = features.split(max(NUMBERS // len(mean), 4 * len(mean)))
    scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for part in parts:
        x = (part.double() - mean).numpy()
        scatter += torch.from_numpy(x.T @ x)  # NumPy detects the symmetry: half the work
    factor, failed = torch.linalg.cholesky_ex(scatter, upper=True)
    if failed or (factor.diagonal() / scatter.diagonal().sqrt()).min() < UNEXPLAINED:
        # Nearly dependent features: the scatter matrix loses the small remainders of the last ones, the QR
        # decomposition of the features does not. R of the parts so far replaces them all.
        factor = mean.new_zeros(0, len(mean))
        for part in parts:
            factor = torch.linalg.qr(torch.cat([factor, part.double() - mean]), mode="r").R
    return Gaussian(mean, factor, len(features))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½), equation 6 of Heusel et al. 2017; at least 0.

    With Σᵢ = RᵢᵀRᵢ / (nᵢ - 1), the trace of the square root is the sum of the singular values of R₁R₂ᵀ. This needs no
    matrix square root and is exact even if covariances are singular.

    Equal variances and means that are 3 apart:

    >>> a, b = (fit_gaussian(torch.tensor([[x], [x + 2.0]])) for x in (0.0, 3.0))
    >>> round(frechet_distance(a, b), 6)
    9.0
    """
    scale_a, scale_b = a.count - 1, b.count - 1
    root = _nuclear_norm(a.factor @ b.factor.T) / math.sqrt(scale_a * scale_b)
    trace = a.factor.square().sum() / scale_a + b.factor.square().sum() / scale_b
    return max(0.0, float((a.mean - b.mean).square().sum() + trace - 2 * root))


def frechet_influence(samples: Gaussian, real: Gaussian, points: Tensor) -> Tensor:
    """Influence of each real image on the Fréchet distance, to first order: float64 (N,).

    This is the influence function at the distribution of the real images. For an image x with c = x - μ₂ it is

        -2 (μ₁ - μ₂)·c + cᵀ(I - T)c - tr(Σ₂(I - T)),  T = Σ₂^-½ (Σ₂^½ Σ₁ Σ₂^½)^½ Σ₂^-½,

    because I - T is the gradient with respect to Σ₂ (Bhatia, Jain & Lim 2019, On the Bures-Wasserstein Distance between
    Positive Definite Matrices). The variance of the values over N is the variance of the distance due to the choice of
    real images. Directions in which the real images do not vary are ignored.

    Args:
        samples: moments of the samples' features.
        real: moments of the real images' features.
        points: the real images' features, float (N, d).

    Real images at -1 and 1, whose variance is 2, and samples with mean 0 and variance 1:

    >>> points = torch.tensor([[-1.0], [1.0]])
    >>> samples = Gaussian(torch.zeros(1).double(), torch.ones(1, 1).double(), 2)
    >>> [round(value, 4) for value in frechet_influence(samples, fit_gaussian(points), points).tolist()]
    [-0.2929, -0.2929]
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

    They are the square roots of the eigenvalues of matrix·matrixᵀ, which take a third of the time. The eigenvalues have
    an absolute error in proportion to the largest one; if that would spoil the roots of small ones, the singular values
    are computed directly.
    """
    rows = matrix.numpy()
    squares = torch.linalg.eigvalsh(torch.from_numpy(rows @ rows.T))  # symmetric, as above
    values = squares.clamp(min=0).sqrt()
    error = torch.finfo(torch.float64).eps * squares[-1] / (2 * values)  # of each root
    total = values.sum() if error.sum() <= ACCURACY * values.sum() else torch.linalg.svdvals(matrix).sum()
    return float(total)
