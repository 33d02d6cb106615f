"""Bayes' rule: a density of images given their class as a classifier, which can refuse to answer.

The class with the greatest p(x|y) p(y) is the answer (Ng & Jordan 2002, On Discriminative vs. Generative Classifiers).
Images with a low score are refused: by the confidence in the answer (Hendrycks & Gimpel 2017, A Baseline for Detecting
Misclassified and Out-of-Distribution Examples in Neural Networks), or by p(x), which only a generative model has. The
accuracy against the share of images kept is that of Geifman & El-Yaniv 2017, Selective Classification for Deep Neural
Networks, equations 1 and 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workflow.evaluation.metrics.out_of_distribution import auroc
from workflow.paths import CONFIDENCE, DENSITY

Rejection = tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Answers:
    """What a classifier says of N images.

    classes: int64 (N,). scores: by which it may refuse to answer, float64 (N,), higher for images that it keeps.
    """

    classes: Tensor
    scores: dict[str, Tensor]


def log_prior(labels: Tensor, classes: int) -> Tensor:
    """log p(y) by the frequencies of classes among labels, int64 (N,), as if each were seen once more: float64 (K,)."""
    counts = labels.bincount(minlength=classes).double() + 1
    return (counts / counts.sum()).log()


def answers(log_joint: Tensor, log_density: Tensor | None = None) -> Answers:
    """The likeliest class of each image, with the log-odds of its being right as the confidence.

    Log-odds order images as the probability does, but do not round to the same where it is nearly 1. An image that no
    class can have is answered with no confidence at all.

    Args:
        log_joint: log p(x, y) or log p(y|x) plus anything that is the same for all classes, float (N, K).
        log_density: log p(x), or anything that grows with it, float (N,).

    >>> found = answers(torch.tensor([[0.2, 0.8], [0.9, 0.1]]).log())
    >>> found.classes.tolist(), found.scores["confidence"].exp().round(decimals=3).tolist()
    ([1, 0], [4.0, 9.0])
    """
    joint = log_joint.double()
    best, classes = joint.max(1)
    others = joint.scatter(1, classes.unsqueeze(1), -torch.inf).logsumexp(1)
    scores = {CONFIDENCE: (best - others).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)}
    return Answers(classes, scores if log_density is None else {**scores, DENSITY: log_density.double()})


def accuracy_kept(right: Tensor, scores: Tensor) -> Tensor:
    """The accuracy on the k images with the highest scores, for k = 1..N: float64 (N,).

    Of equal scores, a mean over all orders.

    Args:
        right: which images are put into their class, bool (N,).
        scores: of these images, float (N,).

    >>> accuracy_kept(torch.tensor([True, False, True, True]), torch.tensor([3.0, 1.0, 2.0, 1.0])).tolist()
    [1.0, 1.0, 0.8333333333333334, 0.75]
    """
    _, group, sizes = scores.unique(return_inverse=True, return_counts=True)
    hits = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, group, right.double())
    ordered = (hits / sizes)[group.sort(descending=True).values]
    kept: Tensor = ordered.cumsum(0) / torch.arange(1, len(scores) + 1)
    return kept


def area(right: Tensor, scores: Tensor) -> float:
    """The area under the accuracy against the share kept: its mean over all shares. Arguments as `accuracy_kept`."""
    return float(accuracy_kept(right, scores).mean())


def area_influence(right: Tensor, scores: Tensor) -> Tensor:
    """How far each image moves the area, float64 (N,): by the jackknife (Quenouille 1956, Notes on Bias in Estimation).

    The variance of these values, divided by their number, is that of the area over the choice of images.
    """
    places = torch.arange(len(right))
    without = [area(right[places != i], scores[places != i]) for i in range(len(right))] if len(right) > 1 else [0.0]
    left_out = torch.tensor(without, dtype=torch.float64)
    return (len(right) - 1) * (left_out.mean() - left_out)


def rejection(inside: Answers, labels: Tensor, outside: Mapping[str, Answers]) -> Rejection:
    """Measures of a classifier; how far each image moves them, by dotted path; and the accuracy kept, by the score.

    Of each score: "kept" is the area under the accuracy against the share kept, "odd" the AUROC, the probability that
    an image of the data has a higher score than one of another kind.

    Args:
        inside: answers for N images of the data.
        labels: their classes, int64 (N,).
        outside: answers for images that are not of the data, by their kind.
    """
    right = inside.classes == labels
    curves = {name: accuracy_kept(right, score) for name, score in inside.scores.items()}
    scores = {
        "accuracy": float(right.double().mean()),
        "kept": {name: float(curve.mean()) for name, curve in curves.items()},
        "odd": {
            name: {kind: auroc(score, other.scores[name]) for kind, other in outside.items()}
            for name, score in inside.scores.items()
        },
    }
    influence = {f"kept.{name}": area_influence(right, score) for name, score in inside.scores.items()}
    return scores, {"accuracy": right.double(), **influence}, curves
