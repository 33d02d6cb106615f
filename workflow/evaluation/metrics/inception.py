"""The Inception Score (Salimans et al. 2016), from any classifier's logits."""

import numpy as np
import torch
from torch import Tensor

from workflow.errors import BakeoffError

LOGITS = 2**18  # converted to probabilities at once, 2 MB in float64


def inception_score(logits: Tensor, splits: int, seed: int = 0) -> tuple[float, float]:
    """exp E_x KL(p(y|x) ‖ p(y)): mean and standard deviation over parts of the samples.

    The score lies between 1 and the number of classes. Samples are shuffled first, because those of some models are
    sorted. Raises BakeoffError if there are fewer samples than splits.

    Args:
        logits: of a classifier, float (N, classes).
        splits: number of parts.
        seed: of the shuffling.

    Certain predictions, equally many of each of four classes, and completely uncertain ones:

    >>> inception_score(1000 * torch.eye(4), splits=1)
    (4.0, 0.0)
    >>> inception_score(torch.zeros(4, 4), splits=1)
    (1.0, 0.0)
    """
    if len(logits) < splits:
        raise BakeoffError(
            f"evaluate.splits: {splits}: too many for {len(logits)} images; set it to {len(logits)} or lower"
        )
    order = np.random.RandomState(seed).permutation(len(logits))  # the stream of torch-fidelity
    parts = torch.from_numpy(order).tensor_split([i * len(logits) // splits for i in range(1, splits)])
    scores = [_score(logits, part) for part in parts]
    return float(np.mean(scores)), float(np.std(scores))


def _score(logits: Tensor, chosen: Tensor) -> float:
    """The score of the samples `chosen`, int64 (M,): exp(entropy of their mean p(y|x) - their mean entropy)."""
    marginal, negative_entropy = torch.zeros(logits.shape[1], dtype=torch.float64), 0.0
    for rows in chosen.split(max(1, LOGITS // logits.shape[1])):
        log_p = logits[rows].double().log_softmax(1)
        p = log_p.exp()
        marginal += p.sum(0)
        negative_entropy += float(torch.dot(p.flatten(), log_p.flatten()))
    marginal /= len(chosen)
    return float(np.exp(negative_entropy / len(chosen) - float(torch.xlogy(marginal, marginal).sum())))
