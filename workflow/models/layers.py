"""Blocks that more than one family uses, each at the one place where it is tested."""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def to_unit(x: Tensor, levels: int) -> Tensor:
    """Integers 0..levels-1 of any shape to floats in [-1, 1]."""
    return x.float() * (2 / (levels - 1)) - 1


def from_unit(y: Tensor, levels: int) -> Tensor:
    """Floats to the nearest of the levels, uint8; what lies outside [-1, 1] is clipped. Inverse of `to_unit`."""
    return ((y.float() + 1) * ((levels - 1) / 2)).round().clamp(0, levels - 1).to(torch.uint8)


def categorical_log_prob(logits: Tensor, x: Tensor) -> Tensor:
    """log p(x) under independent categorical pixels. logits: (N, levels, *S), x: integers (N, *S). Nats, (N,)."""
    return -F.cross_entropy(logits.float(), x.long(), reduction="none").flatten(1).sum(1)


def draw_categorical(logits: Tensor, generator: Generator) -> Tensor:
    """One draw from each categorical. logits: (N, levels, *S). Integers int64 (N, *S)."""
    flat = logits.float().movedim(1, -1)
    draws = torch.multinomial(flat.softmax(-1).flatten(0, -2), 1, generator=generator)
    return draws.view(flat.shape[:-1])


def log_mean_exp(values: Tensor) -> Tensor:
    """log of the mean of exp(values) over the first dimension: K estimates of a density in logs made one. (K, N): (N,).

    As the logarithm is concave, the result's expectation is a lower bound of the log-density if the mean of the
    exponentials is unbiased, and rises with K (Burda et al. 2016, Importance Weighted Autoencoders, theorem 1).
    """
    return torch.logsumexp(values, 0) - math.log(len(values))
