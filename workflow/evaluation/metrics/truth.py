"""How far a model is from the truth, where that is known: data that were drawn from a model with an exact density.

What is estimated elsewhere is a mean of known numbers here: KL(p ‖ q) = 𝔼ₚ[log p(x) − log q(x)] (Kullback & Leibler
1951, On Information and Sufficiency, equation 2.4), over test images, which are draws from p.
"""

from torch import Tensor


def divergence(bits: Tensor, true_bits: Tensor) -> Tensor:
    """Terms of KL(p ‖ q), whose mean it is, bits/dim (N,); of an upper bound on −log q their mean is an upper bound.

    bits, true_bits: of draws from p, under q and under p itself, (N,) each.

    >>> import torch
    >>> divergence(torch.tensor([2.0, 3.0]), torch.tensor([1.5, 3.5]))
    tensor([ 0.5000, -0.5000])
    """
    return bits - true_bits
