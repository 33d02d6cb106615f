"""The Inception Score (Salimans et al. 2016), from any classifier's logits."""

import math

import numpy as np
import torch
from torch import Tensor

from workflow.errors import BakeoffError


def inception_score(logits: Tensor, splits: int, seed: int = 0) -> tuple[float, float]:
    """exp E_x KL(p(y|x) ‖ p(y)), its mean and standard deviation over `splits` parts. logits: float (N, classes).

    Between 1 and the number of classes. The samples are shuffled first, as some models come sorted. Raises BakeoffError
    if there are fewer samples than splits.
    """
    if len(logits) < splits:
        raise BakeoffError(f"evaluate.splits: {splits}: too many for {len(logits)} images; set it lower")
    order = np.random.RandomState(seed).permutation(len(logits))  # torch-fidelity's stream
    log_p = logits.double()[torch.from_numpy(order)].log_softmax(1)
    scores = []
    for part in log_p.tensor_split([i * len(log_p) // splits for i in range(1, splits)]):
        log_marginal = part.logsumexp(0) - math.log(len(part))
        scores.append(float((part.exp() * (part - log_marginal)).sum(1).mean().exp()))
    return float(np.mean(scores)), float(np.std(scores))
