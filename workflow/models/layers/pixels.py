"""Distributions of discrete pixels: log-probabilities, draws, modes and means, given a network's outputs."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from workflow.models.layers.common import categorical_log_prob, from_unit, to_unit
from workflow.models.layers.noise import choices_at, uniform

Decoder = Literal["categorical", "logistic"]
NUMBERS = 2**24  # of the largest tensor in a chunk of `categorical_draw` and `categorical_mean`: 64 MiB
# Of a logistic distribution, as in PixelCNN++: smaller scales gain next to nothing and make gradients explode.
MIN_LOG_SCALE = -7


@dataclass(frozen=True)
class PixelDistribution:
    """Distribution of independent pixels, given `outputs` numbers for each from a network, (N, outputs, C, H, W).

    decoder: a probability for each level ("categorical", with one logit for two levels), or a discretised logistic
    (Salimans et al. 2017, PixelCNN++, section 2.1), which knows that levels are ordered and needs 2 numbers per pixel.
    levels: pixel values are 0..levels-1.
    """

    decoder: Decoder
    levels: int

    @property
    def outputs(self) -> int:
        """How many numbers describe a pixel's distribution."""
        if self.bernoulli:
            return 1
        return self.levels if self.decoder == "categorical" else 2

    @property
    def bernoulli(self) -> bool:
        """Whether the number of a pixel is the logit of the upper of two levels."""
        return self.decoder == "categorical" and self.levels == 2

    def log_prob(self, numbers: Tensor, x: Tensor) -> Tensor:
        """log p(x) in nats, (N,). x: uint8 (N, C, H, W)."""
        if self.bernoulli:
            logits = numbers[:, 0].to(torch.promote_types(numbers.dtype, torch.float32)).flatten(1)
            return (logits * x.flatten(1) - F.softplus(logits)).sum(1)
        if self.decoder == "categorical":
            return categorical_log_prob(numbers, x)
        return logistic_log_prob(numbers[:, 0], numbers[:, 1], x, self.levels).flatten(1).sum(1)

    def log_levels(self, numbers: Tensor) -> Tensor:
        """log-probability of each level of each pixel, nats (N, levels, C, H, W)."""
        if self.decoder == "categorical":
            return self._logits(numbers).float().log_softmax(1)
        levels = torch.arange(self.levels, device=numbers.device).view(1, -1, 1, 1, 1)
        return logistic_log_prob(numbers[:, :1], numbers[:, 1:], levels, self.levels)

    def draw(self, numbers: Tensor, generator: Generator) -> Tensor:
        """A draw, uint8 (N, C, H, W)."""
        if self.decoder == "categorical":
            return categorical_draw(self._logits(numbers), generator)
        return logistic_draw(numbers[:, 0], numbers[:, 1], self.levels, generator)

    def smooth_mean(self, numbers: Tensor) -> Tensor:
        """The mean images before they are rounded, scaled to [-1, 1] and differentiable: float (N, C, H, W)."""
        if self.decoder == "categorical":
            level = torch.arange(self.levels, device=numbers.device, dtype=torch.float32)
            return to_unit(torch.einsum("nlchw,l->nchw", numbers.float().softmax(1), level), self.levels)
        return to_unit(_unrounded_mean(numbers[:, 0], numbers[:, 1], self.levels), self.levels)

    def mode(self, numbers: Tensor) -> Tensor:
        """The most probable images, uint8 (N, C, H, W)."""
        if self.decoder == "categorical":
            return categorical_mode(self._logits(numbers))
        return logistic_mode(numbers[:, 0], numbers[:, 1], self.levels)

    def mean(self, numbers: Tensor) -> Tensor:
        """The mean images, rounded, uint8 (N, C, H, W)."""
        if self.decoder == "categorical":
            return categorical_mean(self._logits(numbers))
        return logistic_mean(numbers[:, 0], numbers[:, 1], self.levels)

    def fitted(self, x: Tensor) -> Tensor:
        """The numbers, (outputs, C, H, W), of pixels that are distributed as in images x and independent of each other.

        Each level of a categorical pixel counts as if it were seen once more. x: uint8 (N, C, H, W).
        """
        if self.decoder == "logistic":
            y = to_unit(x, self.levels)
            scale = y.std(0) * (math.sqrt(3) / math.pi)  # a logistic's standard deviation is its scale times π/√3
            return torch.stack([y.mean(0), scale.log().clamp(min=MIN_LOG_SCALE)])
        counts = torch.stack([(x == level).sum(0) for level in range(self.levels)]) + 1
        logs = (counts / counts.sum(0)).log()
        return logs[1:] - logs[:1] if self.bernoulli else logs

    def _logits(self, numbers: Tensor) -> Tensor:
        """Of each level, (N, levels, C, H, W)."""
        return torch.cat([torch.zeros_like(numbers), numbers], 1) if self.bernoulli else numbers


def categorical_draw(logits: Tensor, generator: Generator) -> Tensor:
    """A draw of each pixel, uint8 (N, C, H, W), from its logits, (N, levels, C, H, W)."""
    marks = uniform((logits[:, 0].numel(),), generator, logits.device).view_as(logits[:, 0])
    if logits.shape[1] == 2:  # the same without sums over levels, in a fourteenth of the time
        black = (logits[:, 0].float() - logits[:, 1].float()).sigmoid()
        torch._assert_async((black >= 0).all(), "a probability is not finite")
        return (marks >= black).to(torch.uint8)

    def draw(some: Tensor, marked: Tensor) -> Tensor:
        probabilities = some.float().movedim(1, -1).softmax(-1).flatten(0, -2)
        return choices_at(marked.flatten(), probabilities).view_as(marked).to(torch.uint8)

    size = _images(logits)
    return torch.cat([draw(*part) for part in zip(logits.split(size), marks.split(size), strict=True)])


def categorical_mode(logits: Tensor) -> Tensor:
    """The most probable level of each pixel, uint8 (N, C, H, W), from its logits, (N, levels, C, H, W)."""
    return logits.argmax(1).to(torch.uint8)


def categorical_mean(logits: Tensor) -> Tensor:
    """The mean of each pixel, rounded to a level, uint8 (N, C, H, W), from its logits, (N, levels, C, H, W)."""
    level = torch.arange(logits.shape[1], device=logits.device, dtype=torch.float32)
    parts = [torch.einsum("nlchw,l->nchw", some.float().softmax(1), level) for some in logits.split(_images(logits))]
    return torch.cat(parts).round().to(torch.uint8)


def _images(logits: Tensor) -> int:
    """How many images make a chunk."""
    return max(1, NUMBERS // max(1, logits[:1].numel()))


def logistic_log_prob(mean: Tensor, log_scale: Tensor, x: Tensor, levels: int) -> Tensor:
    """log-probability of each pixel under a logistic distribution rounded to the nearest level, nats.

    Salimans et al. 2017, PixelCNN++, equation 2, with one component. The outermost levels take the tails, so that the
    probabilities of a pixel's levels sum to one.

    Args:
        mean: of the distribution, on the scale where levels are -1..1; broadcast against x.
        log_scale: logarithm of its scale, likewise.
        x: integers 0..levels-1.
        levels: their number.
    """
    centre, half_bin = to_unit(x, levels), 1 / (levels - 1)
    inverse_scale = (-log_scale.float().clamp(min=MIN_LOG_SCALE)).exp()
    upper = (centre + half_bin - mean.float()) * inverse_scale
    lower = (centre - half_bin - mean.float()) * inverse_scale
    # sigma(u) - sigma(l) = sigma(u) sigma(-l) (1 - exp(l - u)) avoids cancellation in the tails.
    below_upper, above_lower = F.logsigmoid(upper), F.logsigmoid(-lower)
    log_mass = below_upper + above_lower + torch.log(-torch.expm1(-2 * half_bin * inverse_scale))
    log_mass = torch.where(x == 0, below_upper, log_mass)
    return torch.where(x == levels - 1, above_lower, log_mass)


def logistic_mode(mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """The most probable level of each pixel, uint8: the one nearest to the mean, or an outermost one with its tail."""
    nearest = from_unit(mean, levels)
    candidates = torch.stack([nearest, torch.zeros_like(nearest), torch.full_like(nearest, levels - 1)])
    best = logistic_log_prob(mean, log_scale, candidates, levels).argmax(0, keepdim=True)
    return candidates.gather(0, best).squeeze(0)


def logistic_draw(mean: Tensor, log_scale: Tensor, levels: int, generator: Generator) -> Tensor:
    """A draw of each pixel of images (N, C, H, W) from the distribution of `logistic_log_prob`: uint8."""
    mark = uniform((mean.numel(),), generator, mean.device).view_as(mean)
    return from_unit(mean.float() + log_scale.float().clamp(min=MIN_LOG_SCALE).exp() * torch.logit(mark), levels)


def logistic_mean(mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """The mean of each pixel under the distribution of `logistic_log_prob`, rounded to a level, uint8.

    It is not the logistic's own mean, as the outermost levels take the tails: E[x] is the sum of P(x > k) over k.
    """
    return _unrounded_mean(mean, log_scale, levels).round().to(torch.uint8)


def _unrounded_mean(mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    inverse_scale = (-log_scale.float().clamp(min=MIN_LOG_SCALE)).exp()
    total = torch.zeros_like(mean, dtype=torch.float32)
    for k in range(levels - 1):
        edge = (2 * k + 1) / (levels - 1) - 1  # between levels k and k + 1
        total = total + ((mean.float() - edge) * inverse_scale).sigmoid()
    return total


def gaussian_log_prob(mean: Tensor, deviation: Tensor, x: Tensor, levels: int) -> Tensor:
    """log-probability of each pixel under a Gaussian distribution rounded to the nearest level, nats (eq. 13).

    The outermost levels take the tails, so that the probabilities of a pixel's levels sum to one.

    Args:
        mean: on the scale where levels are -1..1, any shape.
        deviation: standard deviation, on the same scale, broadcast against the mean.
        x: integers 0..levels-1, in the shape of `mean`.
        levels: their number.
    """
    half_bin = 1 / (levels - 1)
    centre = 2 * half_bin * x.to(mean.dtype) - 1
    upper = torch.where(x == levels - 1, torch.inf, (centre + half_bin - mean) / deviation)
    lower = torch.where(x == 0, -torch.inf, (centre - half_bin - mean) / deviation)
    # By symmetry the difference can be taken in the lower tail, where it does not cancel.
    flip = lower + upper > 0
    upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    log_upper = torch.special.log_ndtr(upper)
    log_mass: Tensor = log_upper + torch.log(-torch.expm1(torch.special.log_ndtr(lower) - log_upper))
    return log_mass
