"""Diffusion by masks: Austin et al. 2021, Structured Denoising Diffusion Models in Discrete State-Spaces (D3PM)."""

import math
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from workflow.models.base import Model
from workflow.models.layers.common import draw_categorical, quarter, to_unit
from workflow.models.layers.diffusion import spread_times
from workflow.models.layers.noise import uniform
from workflow.models.layers.unet import GROUPS, UNet

VALIDATION_TIMES = 8  # masks by which each image is validated


class MaskDiffusion(Model):
    """A U-Net that fills in the masked pixels of an image, however many there are.

    Noise masks pixels (the absorbing state of Austin et al. 2021) in random order, and the model draws them in the
    reverse order: this is an autoregressive model of no fixed order (Hoogeboom et al. 2022, Autoregressive Diffusion
    Models). The numbers of an image, a pixel's colours each for itself, are drawn in `passes` groups. Those of a group
    are independent given the groups before it.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        passes: number of groups; 0 for one number each. With fewer passes, the first groups are the smallest: their
            sizes are the steps of a cosine (Chang et al. 2022, MaskGIT: Masked Generative Image Transformer, section
            3.3).
        order: of drawing: "random", so that samples follow the distribution whose likelihood is bounded; or
            "confident": each pass draws all masked numbers and keeps those to which it gave the highest probability
            (Chang et al. 2022, section 3.2).
        temperature: of Gumbel noise that is added to these log-probabilities and falls linearly to 0 in the last pass
            (Chang et al. 2022, section 3.2), so that samples differ more; only for the order "confident".
        channels: of the convolutions at full resolution; twice as many at half and quarter resolution.
        dropout: during training.
    """

    title = "Mask diffusion"
    paper = "Austin et al. 2021, Structured Denoising Diffusion Models in Discrete State-Spaces"
    family = "diffusion"
    taxonomy = "explicit approximate"
    likelihood = "bound"
    unranked = ("passes", "order", "temperature")  # of sampling and the bound, not of the loss
    objective = "min −𝔼_σ Σₜ log p(x_σ(t) | x_σ(1), …, x_σ(t−1)),  σ a random order of the pixels"
    about = (
        "Noise masks the pixels of an image one after another in random order, and a network that sees all the others "
        "predicts those that are masked. Sampling begins with nothing but masks and takes one pass per pixel, or draws "
        "several pixels at once, as if they were independent, in fewer passes. The log-likelihood is bounded by its "
        "mean over random orders. Any part of an image can be completed from any other. Features are activations of "
        "the network; there is no latent code."
    )

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        passes: Annotated[int, Field(ge=0)],
        channels: Annotated[int, Field(ge=GROUPS, multiple_of=GROUPS)],
        dropout: Annotated[float, Field(ge=0, lt=1)],
        order: Literal["random", "confident"] = "random",
        temperature: Annotated[float, Field(ge=0)] = 0.0,
    ) -> None:
        super().__init__(shape, levels)
        quarter(shape)  # raises ValueError if images cannot be halved twice
        self.numbers, colours = math.prod(shape), shape[0]
        if passes > self.numbers:
            raise ValueError(f"passes {passes} exceeds the numbers in an image ({self.numbers})")
        if temperature and order == "random":
            raise ValueError('temperature is for the order "confident"; a random one has none')
        self.passes, self.order, self.temperature = passes or self.numbers, order, temperature
        chosen = [f"{passes} passes" if passes else "", order if order == "confident" else ""]
        self.title += f" ({', '.join(filter(None, chosen))})" if any(chosen) else ""
        self.network = UNet(2 * colours, channels, dropout, classes=0, outputs=levels * colours)

    def logits(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Logits of each number given those that are not hidden, (N, levels, C, H, W).

        Args:
            x: images, uint8 (N, C, H, W); hidden numbers may have any value.
            hidden: bool (N, C, H, W).
        """
        dtype = next(self.parameters()).dtype
        shown = to_unit(x, self.levels).masked_fill(hidden, 0)
        known = (~hidden).flatten(1).sum(1)
        flat = self.network(torch.cat([shown, hidden], 1).to(dtype), known, None)
        logits: Tensor = flat.unflatten(1, (self.levels, self.shape[0]))
        return logits

    def hidden_log_prob(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Sum of the log-probabilities of the hidden numbers of images, each given the others, nats (N,).

        Args:
            x: images, uint8 (N, C, H, W).
            hidden: bool (N, C, H, W).
        """
        logits = self.logits(x, hidden)
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        log_prob = -F.cross_entropy(precise, x.long(), reduction="none")
        return log_prob.masked_fill(~hidden, 0).flatten(1).sum(1)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """The bound of -log p(x) at one number a pass, nats per image (Hoogeboom et al. 2022, eq. 4).

        One of the D terms stands for all: that of a random number of known pixels, at random places.
        """
        known = spread_times(len(x), self.numbers, generator, x.device) - 1
        hidden = self._ranks(len(x), generator) >= known.view(-1, 1, 1, 1)
        one_each = self.hidden_log_prob(x, hidden) / (self.numbers - known)  # what the next number adds
        return {"loss": -self.numbers * one_each.mean()}

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor, generator: Generator) -> dict[str, Tensor]:
        """The same with several masks per image."""
        return self.loss(x.repeat(VALIDATION_TIMES, 1, 1, 1), y, "model", generator)

    def log_prob(self, x: Tensor, generator: Generator) -> Tensor:
        """Lower bound of log p(x), estimated without bias from one order for each image, nats (N,)."""
        return self.log_prob_in_order(x, self._ranks(len(x), generator))

    def log_prob_in_order(self, x: Tensor, ranks: Tensor) -> Tensor:
        """What an order contributes to the bound, whose mean over all orders it is, nats (N,).

        Any of the hidden numbers may be the next to be drawn, so each term is a mean over all of them. This makes it
        vary less between orders, and leaves the mean over orders as it is (Hoogeboom et al. 2022, eq. 4).

        Args:
            x: images, uint8 (N, C, H, W).
            ranks: the place of each number in the order, int64 (N, C, H, W), 0..D-1.
        """
        terms = [
            (after - before) / (self.numbers - before) * self.hidden_log_prob(x, ranks >= before)
            for before, after in pairwise(group_ends(self.numbers, self.passes))
        ]
        return torch.stack(terms).sum(0)

    @property
    def passes_in_sequence(self) -> int:
        """One per group."""
        return self.passes

    @property
    def note(self) -> str:
        """How many passes it takes, and whether samples and likelihood belong to different distributions."""
        passes = f"{self.passes} passes for the {self.numbers} numbers of an image"
        if self.order == "random":
            return f"Samples take {passes}, in random order; the bound is that of their distribution."
        return (
            f"Samples take {passes}, of which each keeps what it is surest of, and thus follow another distribution "
            "than the one whose likelihood is bounded, which draws groups of the same sizes in random order."
        )

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw images group by group, uint8 (n, C, H, W)."""
        return self.complete(torch.zeros(n, *self.shape, dtype=torch.uint8, device=self.device), 0, generator)

    @torch.no_grad()
    def complete(self, x: Tensor, rows: int, generator: Generator) -> Tensor:
        """Keep the first `rows` rows of x, uint8 (N, C, H, W), and draw the rest, in as many passes if it can."""
        hidden = torch.ones_like(x, dtype=torch.bool)
        hidden[:, :, :rows] = False
        remaining = int(hidden[:1].sum()) if len(x) else 0
        drawn, hidden = x.flatten(1).clone(), hidden.flatten(1)
        ends = group_ends(remaining, min(self.passes, remaining))
        for passed, (before, after) in enumerate(pairwise(ends), 1):
            masked = hidden.nonzero()[:, 1].view(len(x), remaining - before)
            logits = self.logits(drawn.view_as(x), hidden.view_as(x)).flatten(2)
            places, numbers = self._group(masked, logits, after - before, 1 - passed / (len(ends) - 1), generator)
            drawn.scatter_(1, places, numbers.to(torch.uint8))
            hidden.scatter_(1, places, False)
        return drawn.view_as(x)

    def _group(
        self, masked: Tensor, logits: Tensor, size: int, left: float, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Where the next numbers are and what they are, int64 (N, size) each.

        Args:
            masked: the places that are not drawn yet, int64 (N, M).
            logits: of all numbers, (N, levels, D).
            size: how many to draw.
            left: share of passes that are left after this one.
            generator: source of randomness.
        """
        noise = uniform(masked.shape, generator, masked.device)
        if self.order == "random":
            places = masked.gather(1, noise.topk(size, 1).indices)
            return places, draw_categorical(_at(logits, places), generator)
        log_prob = _at(logits, masked).float().log_softmax(1)
        numbers = draw_categorical(log_prob, generator)
        gumbel = -(-noise.clamp(min=torch.finfo(noise.dtype).tiny).log()).log()
        surest = log_prob.gather(1, numbers.unsqueeze(1)).squeeze(1) + self.temperature * left * gumbel
        kept = surest.topk(size, 1).indices
        return masked.gather(1, kept), numbers.gather(1, kept)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The U-Net's innermost activations for the whole image, averaged over each quarter, (N, 8 channels)."""
        seen = torch.cat([to_unit(x, self.levels), torch.zeros_like(x)], 1).to(next(self.parameters()).dtype)
        every = torch.full((len(x),), self.numbers, device=x.device)
        inner, _ = self.network.inward(seen, self.network.embed(every, None))
        return F.adaptive_avg_pool2d(inner, 2).flatten(1)

    def _ranks(self, n: int, generator: Generator) -> Tensor:
        """Random orders: the place of each number in one of n orders, int64 (n, C, H, W)."""
        return uniform((n, self.numbers), generator, self.device).argsort(1).view(n, *self.shape)


def group_ends(numbers: int, passes: int) -> list[int]:
    """How many of an image's numbers are drawn after each pass, from 0 to all, at least one more each time.

    All but cos(π/2 · j/k) of them after j of k passes (Chang et al. 2022, MaskGIT, section 3.3).
    """
    ends = [0]
    for j in range(1, passes + 1):
        share = 1 - math.cos(math.pi / 2 * j / passes)
        ends.append(max(ends[-1] + 1, min(round(numbers * share), numbers - (passes - j))))
    return ends


def _at(logits: Tensor, places: Tensor) -> Tensor:
    """The logits at places, int64 (N, M), of all, (N, levels, D): (N, levels, M)."""
    return logits.gather(2, places.unsqueeze(1).expand(-1, logits.shape[1], -1))


MODEL = MaskDiffusion
