"""Precision and recall as a curve (PRD): Sajjadi et al. 2018, Assessing Generative Models via Precision and Recall."""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from workflow.evaluation.metrics.copying import nearest_points
from workflow.evaluation.metrics.neighbours import spread

CLUSTERS = 20  # of samples and real images together, and
ANGLES = 1001  # slopes at which the curve is computed, and
BETA = 8  # by which recall weighs more than precision in the one F-score, and less in the other: as in the paper
FITTED = 2000  # samples, and as many real images, that clusters are fitted to, at most
ROUNDS = 20  # of k-means
DRAWN = 25  # of so many slopes, one is kept for the chart


@dataclass(frozen=True)
class Curve:
    """What share of the samples is like real images (precision), and the reverse (recall), float64 (ANGLES,) each.

    slopes: the weight that a real image has over a sample at each place.
    """

    slopes: Tensor
    precision: Tensor
    recall: Tensor


def curve(samples: Tensor, real: Tensor) -> Curve:
    """The curve of two histograms of the same clusters, float64 (K,) that add up to 1: equations 7 and 8.

    >>> found = curve(torch.tensor([1.0, 0.0]).double(), torch.tensor([0.5, 0.5]).double())
    >>> [round(float(x.max()), 6) for x in (found.precision, found.recall)]
    [1.0, 0.5]
    """
    angles = torch.linspace(1e-10, math.pi / 2 - 1e-10, ANGLES, dtype=torch.float64)
    slopes = angles.tan()
    precision = torch.minimum(slopes[:, None] * real, samples).sum(1)
    return Curve(slopes, precision.clamp(max=1), (precision / slopes).clamp(max=1))


def f_score(found: Curve, beta: float) -> tuple[float, int]:
    """The greatest F-score on a curve, and its place; recall counts `beta` times as much as precision."""
    weight = beta**2
    scores = (1 + weight) * found.precision * found.recall / (weight * found.precision + found.recall).clamp(min=1e-300)
    return float(scores.max()), int(scores.argmax())


def histograms(samples: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shares of each cluster among samples and real images, float64 (K,) each, and of each real image its cluster.

    The clusters are those of equally many of both, so that neither is cut more finely because there are more of it.

    Args:
        samples: features, float (M, d).
        real: features, float (N, d).
    """
    count = min(len(samples), len(real), FITTED)
    pool = torch.cat([part[spread(len(part), count)] for part in (samples, real)]).double().numpy()
    clusters = min(CLUSTERS, len(np.unique(pool, axis=0)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty")  # it has no share in anything
        centres, _ = kmeans2(pool, clusters, iter=ROUNDS, minit="++", missing="warn", rng=np.random.default_rng(0))
    drawn, true = (nearest_points(part, torch.from_numpy(centres))[1] for part in (samples, real))
    samples_in, real_in = (found.bincount(minlength=clusters).double() / len(found) for found in (drawn, true))
    return samples_in, real_in, true


def influence(samples: Tensor, real: Tensor, cluster: Tensor, found: Curve, beta: float) -> Tensor:
    """How far each real image moves the F-score, to first order, in the clusters that there are: float64 (N,), mean 0.

    At the place of the greatest score, more weight of a cluster that has too few real images raises recall by that
    weight, and precision by the slope times it. The curve has a kink wherever a cluster has just enough of them:
    near the best possible score these values say up to three times too much.

    Args:
        samples: shares of the clusters among samples, float64 (K,).
        real: shares among real images, likewise.
        cluster: of each real image, int64 (N,).
        found: the curve of these shares.
        beta: of the F-score.
    """
    place = f_score(found, beta)[1]
    slope, p, r, weight = found.slopes[place], found.precision[place], found.recall[place], beta**2
    below = (weight * p + r).square().clamp(min=1e-300)
    gain = (1 + weight) * (r.square() * slope + weight * p.square()) / below * (slope * real < samples)
    return gain[cluster] - gain @ real


def precision_and_recall(samples: Tensor, real: Tensor) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """F₈ as recall, F⅛ as precision and some of the curve, and how far each real image moves the two scores.

    The paper takes the mean over ten clusterings. Here each draw and each extractor has its own, and the mean is over
    these.

    Args:
        samples: features, float (M, d).
        real: features, float (N, d).

    >>> real = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    >>> scores, _ = precision_and_recall(real, real)
    >>> round(scores["recall"], 6), round(scores["precision"], 6)
    (1.0, 1.0)
    """
    drawn, true, cluster = histograms(samples, real)
    found = curve(drawn, true)
    betas = {"recall": float(BETA), "precision": 1 / BETA}
    scores = {name: f_score(found, beta)[0] for name, beta in betas.items()}
    moves = {name: influence(drawn, true, cluster, found, beta) for name, beta in betas.items()}
    points = {"precision": found.precision[::DRAWN].tolist(), "recall": found.recall[::DRAWN].tolist()}
    return {**scores, "curve": points}, moves
