"""What all flows share: dequantisation, the bound, the prior, several scales."""

import math
from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch import Generator, Tensor, nn

from workflow.models.base import Model
from workflow.models.layers.common import log_frequencies, log_mean_exp, walk
from workflow.models.layers.noise import normal, uniform

PRIOR = 100  # images


class Flow(Model):
    """An invertible map from dequantised images to latents with a known distribution.

    Families implement `forward` and `inverse`, which begin with the logit of the pixels if `alpha` is not 0 (`logits`);
    the prior is standard normal unless they override it.
    """

    family = "flow"
    taxonomy = "explicit tractable"
    likelihood = "bound"
    tightens = True
    unranked: ClassVar[tuple[str, ...]] = ("dequantisation_samples",)  # one noise is enough to validate
    dequantisation_samples: int  # K draws of noise in `log_prob`: a tighter bound at K times the cost

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Latents h (N, D) of pixels y in [0, 1], (N, D), and log |det dh/dy|: (N,), or () if all are equal."""
        raise NotImplementedError

    def inverse(self, h: Tensor) -> Tensor:
        """Pixels y (N, D) from latents h (N, D): the inverse of `forward`."""
        raise NotImplementedError

    def latent_log_prob(self, h: Tensor) -> Tensor:
        """Log-density of each component of h, of any shape, under the prior."""
        return -0.5 * (h.square() + math.log(2 * math.pi))

    def draw_latents(self, n: int, generator: Generator) -> Tensor:
        """n draws from the prior, float32 (n, D)."""
        return normal((n, math.prod(self.shape)), generator, self.device)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """Negative lower bound of log p(x) from one draw of noise per image, nats per image."""
        return {"loss": -self._log_prob_given_noise(x, generator).mean()}

    def log_prob(self, x: Tensor, generator: Generator) -> Tensor:
        """Lower bound of log p(x) of images x, uint8 (N, C, H, W), nats (N,).

        p(x) is the integral of the density over the cell of width 1/levels that each integer stands for (Theis et al.
        2016, A Note on the Evaluation of Generative Models), estimated from K uniform draws (Ho et al. 2019, Flow++,
        section 3.1, with a uniform proposal). By Jensen's inequality this is a lower bound.
        """
        draws = [self._log_prob_given_noise(x, generator) for _ in range(self.dequantisation_samples)]
        return log_mean_exp(torch.stack(draws))

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw latents from the prior and map them to images, uint8 (n, C, H, W)."""
        return self._to_images(self.inverse(self.draw_latents(n, generator)))

    def dequantised(self, x: Tensor, generator: Generator) -> Tensor:
        """Uniform draws from the cells of images x, uint8 (N, C, H, W): float (N, D) in [0, 1]."""
        noise = uniform(x.shape, generator, x.device)
        return ((x + noise) / self.levels).flatten(1)

    def _log_prob_given_noise(self, x: Tensor, generator: Generator) -> Tensor:
        h, log_determinant = self.forward(self.dequantised(x, generator))
        cell = math.prod(self.shape) * math.log(self.levels)  # the cell has volume levels**-D
        return self.latent_log_prob(h.float()).sum(1) + log_determinant - cell

    def _to_images(self, y: Tensor) -> Tensor:
        return (y * self.levels).floor().clamp(0, self.levels - 1).to(torch.uint8).view(-1, *self.shape)


class Step(nn.Module):
    """An invertible map of (N, C, H, W) to a shape with as many elements: a part of a `MultiScaleFlow`."""

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The image of y, and the log-determinant of the Jacobian, (N,)."""
        raise NotImplementedError

    def inverse(self, z: Tensor) -> Tensor:
        """Undo `forward`."""
        raise NotImplementedError


class Logit(Step):
    """Pixels y in [0, 1] to logit(alpha + (1 - 2 alpha) y).

    Dinh et al. 2017, section 4.1, print it without the factor 2, which would make white infinite.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the log-determinant (N,)."""
        p = self.alpha + (1 - 2 * self.alpha) * y
        log_p, log_q = p.log(), (-p).log1p()
        return log_p - log_q, (math.log(1 - 2 * self.alpha) - log_p - log_q).flatten(1).sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        """Undo `forward`; logits beyond those of pixels end up slightly outside [0, 1]."""
        return (z.sigmoid() - self.alpha) / (1 - 2 * self.alpha)


def logits(alpha: float) -> list[Step]:
    """The first step of a flow: the logit of the pixels; for alpha 0 there is none, and the flow acts on raw pixels."""
    return [Logit(alpha)] if alpha else []


class Equalise(Step):
    """Each pixel through its own cumulative histogram, learned: piecewise linear, with a piece for each level.

    Equalised images of independent pixels are uniform, so with nothing after it the flow has the density of independent
    pixels. A linear spline as in Müller et al. 2019, Neural Importance Sampling, section 4.1, without a network.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
    """

    def __init__(self, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.logits = nn.Parameter(torch.zeros(math.prod(shape), levels))  # of each level's probability

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Equalised pixels in [0, 1], and the log-determinant (N,)."""
        scaled = y.flatten(1).T * self.levels
        level = scaled.detach().long().clamp(0, self.levels - 1)
        p = self.logits.softmax(1)
        here = p.gather(1, level)
        below = p.cumsum(1).gather(1, level) - here
        return (below + here * (scaled - level)).T.reshape_as(y), (here.log() + math.log(self.levels)).sum(0)

    def inverse(self, z: Tensor) -> Tensor:
        """Undo `forward`; what is outside [0, 1] ends up outside [0, 1]."""
        p = self.logits.softmax(1)
        edges, flat = p.cumsum(1), z.flatten(1).T.contiguous()
        level = torch.searchsorted(edges, flat, right=True).clamp(max=self.levels - 1)
        here = p.gather(1, level)
        return ((level + (flat - (edges.gather(1, level) - here)) / here) / self.levels).T.reshape_as(z)

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Begin with the histograms of images x, uint8 (N, C, H, W).

        The frequencies of levels in the whole channel count as much as `PRIOR` images: few images leave most of a
        pixel's 256 levels unseen.
        """
        frequencies = log_frequencies(x, self.levels).exp().repeat_interleave(x[0, 0].numel(), 0)
        pixels = x.flatten(1).T.long()
        counts = torch.zeros_like(self.logits).scatter_add_(
            1, pixels, torch.ones(()).to(self.logits).expand(pixels.shape)
        )
        self.logits.copy_((counts + PRIOR * frequencies).log())


def fit_histograms(flow: Flow, x: Tensor) -> None:
    """Begin each `Equalise` of a flow with the histograms of images x, uint8 (N, C, H, W)."""
    for module in flow.modules():
        if isinstance(module, Equalise):
            module.fit(x)


class Squeeze(Step):
    """Turn blocks of 2x2 pixels into channels: (N, C, H, W) to (N, 4C, H/2, W/2) (Dinh et al. 2017, section 3.6).

    All channels of the upper left pixels come first, then upper right, lower left and lower right.
    """

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The squeezed features, and the log-determinant: zeros (N,)."""
        blocks = y.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (N, C, H/2, 2, W/2, 2)
        return blocks.permute(0, 3, 5, 1, 2, 4).flatten(1, 3), y.new_zeros(len(y))

    def inverse(self, z: Tensor) -> Tensor:
        """Undo `forward`."""
        blocks: Tensor = z.unflatten(1, (2, 2, -1))  # (N, 2, 2, C, H/2, W/2)
        return blocks.permute(0, 3, 4, 1, 5, 2).flatten(4).flatten(2, 3)


class LayeredFlow(Flow):
    """A flow of finitely many layers, whose latents are a space to look at: features, maps, paths between images."""

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Latents h (N, D) of the centres of the cells."""
        h: Tensor = self(((x + 0.5) / self.levels).flatten(1))[0]
        return h

    @torch.no_grad()
    def decode(self, h: Tensor) -> Tensor:
        """Images of latents h (N, D): uint8 (N, C, H, W)."""
        return self._to_images(self.inverse(h))

    @torch.no_grad()
    def interpolate(self, a: Tensor, b: Tensor, steps: int) -> Tensor:
        """Interpolate linearly between the latents of a and b: uint8 (N, steps, C, H, W), from a itself to b itself."""
        h = walk(self.encode(a), self.encode(b), steps)
        return self._to_images(self.inverse(h.flatten(0, 1))).view(len(a), steps, *self.shape)


class MultiScaleFlow(LayeredFlow):
    """Invertible steps in groups; after each group but the last, half of the channels become latents.

    Dinh et al. 2017, section 3.6. groups: a ModuleList of ModuleLists of `Step`s. last: shape (C, H, W) of the output
    of the last group.
    """

    groups: nn.ModuleList
    last: tuple[int, int, int]

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Latents h (N, D) of y (N, D), those of the first group last, and log |det dh/dy|, (N,)."""
        z, log_determinant = y.view(-1, *self.shape), y.new_zeros(len(y))
        left: list[Tensor] = []
        for i, group in enumerate(self.groups):
            if i:
                z, leaving = z.chunk(2, dim=1)
                left.insert(0, leaving.flatten(1))
            for step in cast(Sequence[Step], group):
                z, change = step(z)
                log_determinant = log_determinant + change
        return torch.cat([z.flatten(1), *left], 1), log_determinant

    def inverse(self, h: Tensor) -> Tensor:
        """Pixels y (N, D) from latents h (N, D); for random ones sometimes slightly outside [0, 1]."""
        z, rest = h.tensor_split([math.prod(self.last)], dim=1)
        z = z.view(-1, *self.last)
        for i, group in reversed(list(enumerate(self.groups))):
            for step in reversed(cast(Sequence[Step], group)):
                z = step.inverse(z)
            if i:
                left, rest = rest.tensor_split([math.prod(z.shape[1:])], dim=1)
                z = torch.cat([z, left.view_as(z)], 1)
        return z.flatten(1)
