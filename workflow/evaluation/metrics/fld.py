"""FLD's generalisation gap: how much better a density made of the samples fits training images than unseen ones.

Jiralerspong, Bose, Gemp, Qin, Bachrach & Gidel 2023, Feature Likelihood Divergence: Evaluating the Generalization of
Generative Models Using Samples, and their code (github.com/marcojira/fld). Every sample is the centre of an isotropic
Gaussian. The variances are fitted to training images by maximum likelihood, so that a sample which copies one becomes a
narrow peak, which no unseen image falls into.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from workflow.evaluation.metrics.neighbours import spread

SAMPLES, TRAINING = 1000, 10_000  # that are looked at, at most
ROWS = 1024  # images at once
ROUNDS = 8  # of EM; twice as many change the gap by less than a tenth of its standard error
NARROWEST = 1e-3  # variance times number of features: of an exact copy the likelihood has no maximum
NEARER = 0.9**2  # by which the background's squared distances are shortened, as in the authors' code


def generalisation_gap(samples: Tensor, training: Tensor, test: Tensor) -> tuple[float, Tensor]:
    """100 times the mean of −log p / d of training images less that of test images; and what each adds.

    In nats per feature, times 100, the sign and the scale as in the authors' code: 0 is no gap, and the lower it is,
    the more of the training images are in the samples. Features are first scaled by the mean and the standard deviation
    of the test images; those that are constant there are left out, and 0 is returned if all are.

    The second result, float64 (M,), says how far each test image moves the gap, but for what it does to the scale: the
    variance of these values divided by M is that of the gap over the choice of test images.

    Args:
        samples: features, float (m, d). At most `SAMPLES` are looked at, evenly spaced.
        training: features, float (N, d); likewise at most `TRAINING`.
        test: features, float (M, d).
    """
    mean, scale = test.double().mean(0), test.double().std(0, correction=0)
    kept = scale > 0
    if not kept.any():
        return 0.0, torch.zeros(len(test), dtype=torch.float64)
    chosen = samples[spread(len(samples), SAMPLES)], training[spread(len(training), TRAINING)], test
    centres, seen, unseen = (((points.double() - mean) / scale)[:, kept] for points in chosen)
    features = int(kept.sum())
    parts = [squared_distances(part, centres) for part in seen.split(ROWS)]
    background = [NEARER * (part - seen.mean(0)).square().sum(1, keepdim=True) for part in seen.split(ROWS)]
    variances = fit_variances(parts, background, features)
    of_training = torch.cat([log_density(part, variances, features) for part in parts])
    of_test = torch.cat(
        [log_density(squared_distances(part, centres), variances, features) for part in unseen.split(ROWS)]
    )
    terms = 100 * of_test / features
    return float(terms.mean() - 100 * of_training.mean() / features), terms - terms.mean()


def squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """Of each point to each centre, float64 (N, m). points: (N, d). centres: (m, d)."""
    squares = torch.addmm(centres.square().sum(1), points, centres.T, alpha=-2)
    return (squares + points.square().sum(1, keepdim=True)).clamp_(min=0)


def fit_variances(parts: Sequence[Tensor], background: Sequence[Tensor], features: int) -> Tensor:
    """The variances of m Gaussians with fixed centres and equal weights that fit training images best, float64 (m,).

    By `ROUNDS` of EM from those that suit the image nearest to each centre, on the authors' objective: the mean of
    log(1/m Σⱼ N(x; xⱼ, σⱼ²) + b(x)). The background b, a Gaussian around the mean of the training images with a
    variance of its own, explains images that are far from all samples and has no part in `log_density`.

    Args:
        parts: squared distances of training images to the centres, float64 (n, m) each.
        background: of the same images to the background's centre, (n, 1) each.
        features: d.
    """
    nearest = torch.stack([part.min(0).values for part in parts]).min(0).values
    variances = torch.cat([(nearest + NARROWEST) / features, nearest.new_ones(1)])
    squares = [torch.cat(pair, 1) for pair in zip(parts, background, strict=True)]
    log_weights = torch.zeros_like(variances)
    log_weights[:-1] = -math.log(len(nearest))
    for _ in range(ROUNDS):
        mass, total = torch.zeros_like(variances), torch.zeros_like(variances)
        for part in squares:
            shares = (_log_normal(part, variances, features) + log_weights).softmax(1)
            mass += shares.sum(0)
            total += torch.linalg.vecdot(shares, part, dim=0)
        found = total / (features * mass)
        variances = torch.where(mass > 0, found, variances).clamp(min=NARROWEST / features)
    return variances[:-1]


def log_density(squares: Tensor, variances: Tensor, features: int) -> Tensor:
    """log of the mean of the Gaussians at points with these squared distances to their centres, nats (N,).

    Args:
        squares: float64 (N, m).
        variances: float64 (m,).
        features: d.

    >>> round(float(log_density(torch.zeros(1, 2), torch.ones(2), features=1)), 4)  # at the centre of N(0, 1)
    -0.9189
    """
    return _log_normal(squares, variances, features).logsumexp(1) - math.log(len(variances))


def _log_normal(squares: Tensor, variances: Tensor, features: int) -> Tensor:
    """log N of points at squared distances (N, m), nats (N, m)."""
    return torch.addcmul(-features / 2 * (2 * math.pi * variances).log(), squares, -0.5 / variances)
