"""MAF: Papamakarios, Pavlakou & Murray 2017, Masked Autoregressive Flow for Density Estimation."""

import math
from collections.abc import Sequence
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from workflow.models.layers.dense import Degrees, DenseNetwork, raster_rank, spread_degrees
from workflow.models.layers.flow import LayeredFlow, Step, logits
from workflow.models.layers.noise import choices_at, normal, uniform

# Log-scales stay within it, by a hyperbolic tangent. Without a bound, as in the paper, images unlike the training
# images give infinite numbers; the authors' code bounds them when it samples, by 10.
BOUND = 7.0
EPSILON = 1e-5  # added to variances


class Maf(LayeredFlow):
    """Affine autoregressive layers, each in the reverse order of the one before, the first in reading order.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        layers: their number; without any, the base density is that of the logits themselves.
        width: features of a hidden layer of a layer's network.
        depth: hidden layers of a layer's network; without any, means are linear and scales constant, so that the model
            is a Gaussian with any covariance.
        dropout: in the hidden layers, during training.
        batch_norm: whether a batch normalisation follows each layer (appendix B).
        components: of the base density, "MADE MoG": each latent is a mixture of so many Gaussians given those before
            it. 0 for a standard normal base.
        alpha: keeps pixels away from 0 and 1 before the logit, the paper's λ; 0 for raw pixels.
        dequantisation_samples: K draws of noise in `log_prob`: a tighter bound at K times the cost.
    """

    title = "MAF"
    paper = "Papamakarios et al. 2017, Masked Autoregressive Flow for Density Estimation"
    objective = "max 𝔼ᵤ[ log p(h) + log |det ∂h/∂y| ] − D log levels,  h = f(y),  y = (x + u) / levels"
    about = (
        "In each layer, every number is shifted and scaled by a function of those before it, computed by MADE's masked "
        "network; the next layer models what is left, in the reverse order. The Jacobian is triangular, so that the "
        "density of an image takes one pass, but samples take one pass per pixel and layer. The density is that of "
        "pixels dequantised by noise, which gives a lower bound for the discrete image. There are as many latents as "
        "pixels, and they restore every image exactly."
    )

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        layers: Annotated[int, Field(ge=0)],
        width: Annotated[int, Field(ge=1)],
        depth: Annotated[int, Field(ge=0)],
        dropout: Annotated[float, Field(ge=0, lt=1)],
        alpha: Annotated[float, Field(ge=0, lt=0.5)],
        dequantisation_samples: Annotated[int, Field(ge=1)],
        batch_norm: bool = True,
        components: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__(shape, levels)
        if not layers and not components:
            raise ValueError("without layers, give components; otherwise there is nothing to train")
        self.dequantisation_samples, self.components = dequantisation_samples, components
        rank, d = raster_rank(shape), math.prod(shape)
        self.steps = nn.ModuleList(logits(alpha))
        for _ in range(layers):
            self.steps.append(Autoregressive(rank, width, depth, dropout))
            if batch_norm:
                self.steps.append(BatchNorm(d))
            rank = d + 1 - rank
        self.base = AutoregressiveMixture(rank, components, width, depth, dropout) if components else None

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Latents h (N, D) of pixels y (N, D), and log |det dh/dy|, (N,)."""
        log_determinant = y.new_zeros(len(y))
        for step in self.steps:
            y, change = step(y)
            log_determinant = log_determinant + change
        return y, log_determinant

    @torch.no_grad()
    def inverse(self, h: Tensor) -> Tensor:
        """Pixels y (N, D) from latents h (N, D): the inverse of `forward`, number after number in each layer."""
        for step in reversed(cast(Sequence[Step], self.steps)):
            h = step.inverse(h)
        return h

    def latent_log_prob(self, h: Tensor) -> Tensor:
        """Log-density of each latent given those before it, (N, D), of h, (N, D)."""
        return super().latent_log_prob(h) if self.base is None else self.base.log_prob(h)

    @torch.no_grad()
    def draw_latents(self, n: int, generator: Generator) -> Tensor:
        """n draws from the base density, (n, D)."""
        return super().draw_latents(n, generator) if self.base is None else self.base.draw(n, generator)

    @property
    def passes_in_sequence(self) -> int:
        """One per number of a base that is a mixture, and one per number of each layer but the first.

        The first depends on no other. With fewer hidden units than numbers, several numbers depend on the same ones and
        wait together.
        """
        layers = [step for step in self.steps if isinstance(step, Autoregressive)]
        waits = sum(len(layer.degrees.reach.unique()) - 1 for layer in layers)
        return (math.prod(self.shape) if self.components else 0) + (waits + 1 if layers else 0)

    @torch.no_grad()
    def calibrate(self, x: Tensor, generator: Generator) -> None:
        """Set the statistics of each batch normalisation in turn to those of images x, uint8 (N, C, H, W).

        So evaluation depends on no batch; the paper, too, takes them from the training images (appendix B).
        """
        if not any(isinstance(step, BatchNorm) for step in self.steps):
            return
        y = self.dequantised(x, generator)
        for step in self.steps:
            if isinstance(step, BatchNorm):
                step.fit(y)
            y, _ = step(y)


class Autoregressive(Step):
    """Numbers minus a mean, divided by a scale, both given the numbers before them in an order (eq. 2 to 5).

    Args:
        rank: the place of each number in the order, 1..D, int64 (D,).
        width: features of a hidden layer.
        depth: hidden layers; without any, the mean is linear and the scale constant.
        dropout: in the hidden layers, during training.
    """

    rank: Tensor
    hidden: Tensor

    def __init__(self, rank: Tensor, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        d = len(rank)
        self.register_buffer("rank", rank, persistent=False)
        self.register_buffer("hidden", spread_degrees(d, width, depth), persistent=False)
        self.network = DenseNetwork(d, 2 if depth else 1, width, depth, dropout)
        self.log_scale = None if depth else nn.Parameter(torch.zeros(d))

    @property
    def degrees(self) -> Degrees:
        """Which numbers and hidden units see which numbers."""
        return Degrees(self.rank, self.hidden)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The noise that y, (N, D), is made of, (N, D), and the log-determinant, (N,)."""
        mean, log_scale = self._affine(self.network(y, self.degrees).to(y.dtype), slice(None))
        return (y - mean) * (-log_scale).exp(), -log_scale.sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        """Undo `forward`, number after number."""
        y, numbers = torch.zeros_like(z), self.network.in_order(len(z), self.degrees)
        for rank, place in enumerate(self.rank.argsort().cpu().tolist(), start=1):
            mean, log_scale = self._affine(numbers(rank, y)[..., None], slice(place, place + 1))
            y[:, place, None] = z[:, place, None] * log_scale.exp() + mean
        return y

    def _affine(self, numbers: Tensor, places: slice) -> tuple[Tensor, Tensor]:
        """Means and log-scales, each (N, some), from the network's numbers for some places, (N, 2 or 1, some)."""
        raw = numbers[:, 1] if self.log_scale is None else self.log_scale[places].expand(len(numbers), -1)
        return numbers[:, 0], _bounded(raw)


class BatchNorm(Step):
    """Normalises each number over the batch, or by fixed statistics in evaluation; then scales and shifts (eq. 19).

    d: how many numbers.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, d: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("variance", torch.ones(d))
        self.shift = nn.Parameter(torch.zeros(d))
        self.log_scale = nn.Parameter(torch.zeros(d))

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The result, (N, D), and the log-determinant with the statistics held fixed, (N,).

        Raises ValueError for a single image in training.
        """
        if self.training and len(y) == 1:
            raise ValueError("batch normalisation needs more than one image")
        variance, mean = _statistics(y) if self.training else (self.variance, self.mean)
        log_scale = self.log_scale - 0.5 * (variance + EPSILON).log()
        return (y - mean) * log_scale.exp() + self.shift, log_scale.sum().expand(len(y))

    def inverse(self, z: Tensor) -> Tensor:
        """Undo `forward` in evaluation."""
        log_scale = self.log_scale - 0.5 * (self.variance + EPSILON).log()
        return (z - self.shift) * (-log_scale).exp() + self.mean

    @torch.no_grad()
    def fit(self, y: Tensor) -> None:
        """Take the statistics of y, (N, D), for evaluation."""
        for buffer, statistic in zip((self.variance, self.mean), _statistics(y), strict=True):
            buffer.copy_(statistic)


class AutoregressiveMixture(nn.Module):
    """A density in which each number is a mixture of Gaussians given those before it in an order ("MADE MoG").

    Args:
        rank: the place of each number in the order, 1..D, int64 (D,).
        components: of a mixture.
        width: features of a hidden layer.
        depth: hidden layers.
        dropout: in these layers, during training.
    """

    rank: Tensor
    hidden: Tensor

    def __init__(self, rank: Tensor, components: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("rank", rank, persistent=False)
        self.register_buffer("hidden", spread_degrees(len(rank), width, depth), persistent=False)
        self.network = DenseNetwork(len(rank), 3 * components, width, depth, dropout)
        nn.init.normal_(self.network.out.bias)  # so that components differ at first, as in the authors' code

    @property
    def degrees(self) -> Degrees:
        """Which numbers and hidden units see which numbers."""
        return Degrees(self.rank, self.hidden)

    def log_prob(self, h: Tensor) -> Tensor:
        """Log-density of each number given those before it, (N, D), of h, (N, D)."""
        weights, means, log_scales = self.network(h, self.degrees).to(h.dtype).chunk(3, dim=1)
        log_scales = _bounded(log_scales)
        noise = (h.unsqueeze(1) - means) * (-log_scales).exp()
        each = weights.log_softmax(1) - log_scales - 0.5 * (noise.square() + math.log(2 * math.pi))
        return torch.logsumexp(each, 1)

    @torch.no_grad()
    def draw(self, n: int, generator: Generator) -> Tensor:
        """n draws, number after number, (n, D)."""
        size = (n, len(self.rank))
        marks, noise = (random(size, generator, self.rank.device) for random in (uniform, normal))
        h, numbers = torch.zeros_like(noise), self.network.in_order(n, self.degrees)
        for rank, place in enumerate(self.rank.argsort().cpu().tolist(), start=1):
            weights, means, log_scales = numbers(rank, h).chunk(3, dim=1)
            chosen = choices_at(marks[:, place], weights.float().softmax(1))[:, None]
            scale = _bounded(log_scales.gather(1, chosen)).exp()
            h[:, place, None] = means.gather(1, chosen) + scale * noise[:, place, None]
        return h


def _bounded(log_scale: Tensor) -> Tensor:
    return BOUND * (log_scale / BOUND).tanh()


def _statistics(y: Tensor) -> tuple[Tensor, Tensor]:
    """Variance and mean of each number over images, (D,) each."""
    variance, mean = torch.var_mean(y, 0, correction=0)
    return variance, mean


MODEL = Maf
