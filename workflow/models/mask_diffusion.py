"""Diffusion by masks: Austin et al. 2021, Structured Denoising Diffusion Models in Discrete State-Spaces (D3PM)."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from workflow.models.base import Model
from workflow.models.layers.any_order import AnyOrder, Order
from workflow.models.layers.common import quarter, to_unit
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
        order: Order = "random",
        temperature: Annotated[float, Field(ge=0)] = 0.0,
    ) -> None:
        super().__init__(shape, levels)
        quarter(shape)  # raises ValueError if images cannot be halved twice
        numbers, colours = math.prod(shape), shape[0]
        if passes > numbers:
            raise ValueError(f"passes {passes} exceeds the numbers in an image ({numbers})")
        self.any_order = AnyOrder(numbers, passes or numbers, order, temperature)
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

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """The bound of -log p(x) at one number a pass, nats per image (Hoogeboom et al. 2022, eq. 4)."""
        return {"loss": -self.any_order.mean_bound(self._flat_logits, x.flatten(1), generator)}

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor, generator: Generator) -> dict[str, Tensor]:
        """The same with several masks per image."""
        return self.loss(x.repeat(VALIDATION_TIMES, 1, 1, 1), y, "model", generator)

    def log_prob(self, x: Tensor, generator: Generator) -> Tensor:
        """Lower bound of log p(x), estimated without bias from one order for each image, nats (N,)."""
        return self.any_order.log_prob(self._flat_logits, x.flatten(1), generator)

    @property
    def passes_in_sequence(self) -> int:
        """One per group."""
        return self.any_order.passes

    @property
    def note(self) -> str:
        """How many passes it takes, and whether samples and likelihood belong to different distributions."""
        passes = f"{self.any_order.passes} passes for the {self.any_order.numbers} numbers of an image"
        if self.any_order.order == "random":
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
        return self.any_order.draw(self._flat_logits, x.flatten(1), hidden.flatten(1), generator).view_as(x)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The U-Net's innermost activations for the whole image, averaged over each quarter, (N, 8 channels)."""
        seen = torch.cat([to_unit(x, self.levels), torch.zeros_like(x)], 1).to(next(self.parameters()).dtype)
        every = torch.full((len(x),), self.any_order.numbers, device=x.device)
        inner, _ = self.network.inward(seen, self.network.embed(every, None))
        return F.adaptive_avg_pool2d(inner, 2).flatten(1)

    def _flat_logits(self, numbers: Tensor, hidden: Tensor) -> Tensor:
        """The logits of images as rows of numbers (`layers/any_order.py`)."""
        return self.logits(numbers.view(-1, *self.shape), hidden.view(-1, *self.shape)).flatten(2)


MODEL = MaskDiffusion
