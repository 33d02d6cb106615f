"""What families of every kind use: pixels as numbers, categorical pixels, classes, bounds."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from workflow.models.layers.noise import choices, integers


def to_unit(x: Tensor, levels: int) -> Tensor:
    """Integers 0..levels-1 of any shape to floats in [-1, 1]."""
    return x.float() * (2 / (levels - 1)) - 1


def from_unit(y: Tensor, levels: int) -> Tensor:
    """Floats to the nearest of the levels, uint8; what lies outside [-1, 1] is clipped. Inverse of `to_unit`."""
    return ((y.float() + 1) * ((levels - 1) / 2)).round().clamp(0, levels - 1).to(torch.uint8)


def categorical_log_prob(logits: Tensor, x: Tensor) -> Tensor:
    """log p(x) under independent categorical pixels. logits: (N, levels, *S), x: integers (N, *S). Nats, (N,)."""
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return -F.cross_entropy(precise, x.long(), reduction="none").flatten(1).sum(1)


def draw_categorical(logits: Tensor, generator: Generator) -> Tensor:
    """One draw from each categorical. logits: (N, levels, *S). Integers int64 (N, *S)."""
    flat = logits.float().movedim(1, -1)
    return choices(flat.softmax(-1).flatten(0, -2), generator).view(flat.shape[:-1])


def log_mean_exp(values: Tensor) -> Tensor:
    """log of the mean of exp(values) over the first dimension: K estimates of a density in logs made one. (K, N): (N,).

    As the logarithm is concave, the result's expectation is a lower bound of the log-density if the mean of the
    exponentials is unbiased, and rises with K (Burda et al. 2016, Importance Weighted Autoencoders, theorem 1).
    """
    return torch.logsumexp(values, 0) - math.log(len(values))


def over_classes(log_prob_given: Callable[[Tensor], Tensor], n: int, classes: int, device: torch.device) -> Tensor:
    """log p(x) = log Σ_y p(x|y) / classes, as if all classes were as frequent, nats (N,).

    log_prob_given: of n images, given the classes asked for, int64 (n,), in nats (n,): exact, or lower bounds, of which
    the result is one again.
    """
    given = [log_prob_given(torch.full((n,), y, dtype=torch.long, device=device)) for y in range(classes)]
    return log_mean_exp(torch.stack(given))


def draw_classes(n: int, classes: int, generator: Generator, device: torch.device) -> Tensor:
    """n classes, each as likely as any other, int64 (n,)."""
    return integers(classes, n, generator, device)


def quarter(shape: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width after halving twice; raises ValueError if they are not multiples of 4."""
    return halved(shape, 2)


def halved(shape: tuple[int, int, int], times: int) -> tuple[int, int]:
    """Height and width after so many halvings; raises ValueError if they are not multiples of 2 to that power."""
    _, height, width = shape
    factor, often = 2**times, {1: "once", 2: "twice"}.get(times, f"{times} times")
    if height % factor or width % factor:
        size = f"{height}x{width} pixels"
        raise ValueError(f"this kind of model halves images {often}: {size} are not multiples of {factor}")
    return height // factor, width // factor


def walk(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Straight lines from a to b, both included. (N, d), (N, d): (N, steps, d)."""
    return torch.lerp(a.unsqueeze(1), b.unsqueeze(1), torch.linspace(0, 1, steps, device=a.device).view(-1, 1))
