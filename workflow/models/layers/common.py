"""Functions that families of every kind use: scaling of pixels, categorical pixels, classes, bounds."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from workflow.models.layers.noise import choices, choices_at, integers


def to_unit(x: Tensor, levels: int) -> Tensor:
    """Scale integers 0..levels-1, of any shape, to floats in [-1, 1]."""
    return x.float() * (2 / (levels - 1)) - 1


def from_unit(y: Tensor, levels: int) -> Tensor:
    """Round floats to the nearest level, uint8, clipping values outside [-1, 1]; the inverse of `to_unit`."""
    return ((y.float() + 1) * ((levels - 1) / 2)).round().clamp(0, levels - 1).to(torch.uint8)


def categorical_log_prob(logits: Tensor, x: Tensor) -> Tensor:
    """log p(x) under independent categorical pixels, nats (N,).

    Args:
        logits: (N, levels, *S).
        x: integers 0..levels-1, (N, *S).
    """
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    rows = precise.movedim(1, -1).flatten(0, -2)  # as convolutions lay them out, channels last: nothing is copied
    return -F.cross_entropy(rows, x.long().flatten(), reduction="none").view(len(x), -1).sum(1)


def log_frequencies(x: Tensor, levels: int) -> Tensor:
    """Logarithm of the share of each level among the pixels of each channel, as if each were seen once more.

    x: integers 0..levels-1, (N, C, H, W). Float (C, levels).
    """
    counts = torch.stack([channel.flatten().long().bincount(minlength=levels) for channel in x.unbind(1)]) + 1
    return (counts / counts.sum(1, keepdim=True)).log()


def draw_categorical(logits: Tensor, generator: Generator) -> Tensor:
    """Draw from categorical distributions with logits (N, levels, *S): int64 (N, *S)."""
    flat = logits.float().movedim(1, -1)
    return choices(flat.softmax(-1).flatten(0, -2), generator).view(flat.shape[:-1])


def draw_at(marks: Tensor, logits: Tensor) -> Tensor:
    """What `draw_categorical` draws from logits (N, levels) with these random numbers in [0, 1), (N,): int64 (N,)."""
    return choices_at(marks, logits.float().softmax(1))


def log_mean_exp(values: Tensor) -> Tensor:
    """Combine K estimates of a density, given as logarithms (K, N), into the logarithm of their mean, (N,).

    If the estimates are unbiased, the expectation of the result is a lower bound of the log-density, because the
    logarithm is concave, and it rises with K (Burda et al. 2016, Importance Weighted Autoencoders, theorem 1).
    """
    return torch.logsumexp(values, 0) - math.log(len(values))


def over_classes(log_prob_given: Callable[[Tensor], Tensor], n: int, classes: int, device: torch.device) -> Tensor:
    """log p(x) = log Σ_y p(x|y) / classes, with equally frequent classes, nats (n,).

    Args:
        log_prob_given: log p(x|y) of n images, nats (n,), given their classes, int64 (n,). If it returns lower bounds,
            the result is a lower bound as well.
        n: number of images.
        classes: their number.
        device: of the images.
    """
    return log_mean_exp(for_each_class(log_prob_given, n, classes, device))


def for_each_class(log_prob_given: Callable[[Tensor], Tensor], n: int, classes: int, device: torch.device) -> Tensor:
    """log p(x|y) for each class y, nats (classes, n); arguments as those of `over_classes`."""
    given = [log_prob_given(torch.full((n,), y, dtype=torch.long, device=device)) for y in range(classes)]
    return torch.stack(given)


def draw_classes(n: int, classes: int, generator: Generator, device: torch.device) -> Tensor:
    """Draw n classes uniformly, int64 (n,)."""
    return integers(classes, n, generator, device)


def quarter(shape: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width after halving twice; raises ValueError if they are not multiples of 4."""
    return halved(shape, 2)


def halved(shape: tuple[int, int, int], times: int) -> tuple[int, int]:
    """Height and width after halving so many times; raises ValueError if they are not multiples of 2**times."""
    _, height, width = shape
    factor, often = 2**times, {1: "once", 2: "twice"}.get(times, f"{times} times")
    if height % factor or width % factor:
        size = f"{height}x{width} pixels"
        raise ValueError(f"this kind of model halves images {often}: {size} are not multiples of {factor}")
    return height // factor, width // factor


def walk(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Linear interpolation from a to b, both (N, d), with both ends: (N, steps, d)."""
    return torch.lerp(a.unsqueeze(1), b.unsqueeze(1), torch.linspace(0, 1, steps, device=a.device).view(-1, 1))
