"""How far a model is from the truth, where that is known: data that were drawn from a model with an exact density.

What is estimated elsewhere is a mean of known numbers here: KL(p ‖ q) = 𝔼ₚ[log p(x) − log q(x)] (Kullback & Leibler
1951, On Information and Sufficiency, equation 2.4), over test images, which are draws from p.
"""

import math

from torch import Tensor


def divergence(bits: Tensor, true_bits: Tensor) -> Tensor:
    """Terms of KL(p ‖ q), whose mean it is, bits/dim (N,); of an upper bound on −log q their mean is an upper bound.

    bits, true_bits: of draws from p, under q and under p itself, (N,) each.

    >>> import torch
    >>> divergence(torch.tensor([2.0, 3.0]), torch.tensor([1.5, 3.5]))
    tensor([ 0.5000, -0.5000])
    """
    return bits - true_bits


def slack(log_probs: Tensor) -> Tensor:
    """By how much a lower bound of log p(x) rises if it rests on R times as many draws, nats (N,), never below 0.

    log_probs: (R, N), in nats; each row is the logarithm of a mean of independent weights of expectation p(x), or at
    most that. Their mean is such a mean, too, of R times as many weights, and its bound is tighter (Burda et al. 2016,
    Importance Weighted Autoencoders, theorem 1).

    >>> import torch
    >>> round(slack(torch.tensor([[0.0], [math.log(3)]])).exp().item(), 4)  # 2 over the geometric mean of 1 and 3
    1.1547
    """
    return log_probs.logsumexp(0) - math.log(len(log_probs)) - log_probs.mean(0)
