"""The Inception Score (Salimans et al. 2016), from any classifier's logits."""

import numpy as np
import torch
from torch import Tensor

from workflow.errors import BakeoffError

LOGITS = 2**18  # turned into probabilities at once, 2 MB in float64


def inception_score(logits: Tensor, splits: int, seed: int = 0) -> tuple[float, float]:
    """exp E_x KL(p(y|x) ‖ p(y)), its mean and standard deviation over `splits` parts. logits: float (N, classes).

    Between 1 and the number of classes. The samples are shuffled first, as some models come sorted. Raises BakeoffError
    if there are fewer samples than splits.
    """
    if len(logits) < splits:
        raise BakeoffError(f"evaluate.splits: {splits}: too many for {len(logits)} images; set it lower")
    order = np.random.RandomState(seed).permutation(len(logits))  # torch-fidelity's stream
    parts = torch.from_numpy(order).tensor_split([i * len(logits) // splits for i in range(1, splits)])
    scores = [_score(logits, part) for part in parts]
    return float(np.mean(scores)), float(np.std(scores))


def _score(logits: Tensor, chosen: Tensor) -> float:
    """The score of the samples `chosen`, int64 (M,): e to the entropy of their mean p(y|x) less their mean entropy."""
    marginal, negative_entropy = torch.zeros(logits.shape[1], dtype=torch.float64), 0.0
    for rows in chosen.split(max(1, LOGITS // logits.shape[1])):
        log_p = logits[rows].double().log_softmax(1)
        p = log_p.exp()
        marginal += p.sum(0)
        negative_entropy += float(torch.dot(p.flatten(), log_p.flatten()))
    marginal /= len(chosen)
    return float(np.exp(negative_entropy / len(chosen) - float(torch.xlogy(marginal, marginal).sum())))
