"""Pixel transformer: Chen et al. 2020, Generative Pretraining from Pixels (Image GPT)."""

import math
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from workflow.models.base import Model
from workflow.models.layers.codes import CausalTransformer, TransformerLayer
from workflow.models.layers.common import categorical_log_prob


class PixelTransformer(Model):
    """A causal transformer over the pixels of an image in reading order, each pixel's colours one after another.

    The paper reduces colours to a palette of 512, so that a pixel is one code; here the codes are the levels of each
    colour, so that the density is that of the image itself.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        width: features per number of the image, rounded up to whole attention heads (`layers/codes.py`).
        layers: their number.
        dropout: during training.
    """

    title = "Pixel transformer"
    paper = "Chen et al. 2020, Generative Pretraining from Pixels"
    family = "autoregressive"
    taxonomy = "explicit tractable"
    likelihood = "exact"
    objective = "max Σᵢ log p(xᵢ | x₁, …, xᵢ₋₁)"
    about = (
        "The density of an image is a product of conditional densities, one per pixel, each given all pixels before "
        "it. A causal transformer computes all factors in parallel. It has no notion of neighbourhood but the one that "
        "it learns from positions. The likelihood is exact, but sampling takes one step per pixel, each of which "
        "attends to all earlier ones. Features are the activations of its middle layer. It can complete an image from "
        "its upper rows, but there is no latent code to reconstruct from or to interpolate in."
    )

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        width: Annotated[int, Field(ge=1)],
        layers: Annotated[int, Field(ge=1)],
        dropout: Annotated[float, Field(ge=0, lt=1)],
    ) -> None:
        super().__init__(shape, levels)
        self.network = CausalTransformer(math.prod(shape), levels, width, layers, dropout)
        # As in the paper, which follows GPT-2: with torch's larger numbers, positions are hardly heard at first.
        nn.init.normal_(self.network.embedding.weight, std=0.02)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """Negative log-likelihood, nats per image."""
        return {"loss": -self.log_prob(x, generator).mean()}

    def log_prob(self, x: Tensor, generator: Generator) -> Tensor:
        """Exact log p(x), nats (N,). x: uint8 (N, C, H, W)."""
        numbers = _in_order(x)
        return categorical_log_prob(self.network(numbers), numbers)

    @property
    def passes_in_sequence(self) -> int:
        """One per pixel and colour."""
        return self.network.passes_in_sequence

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw images number by number, uint8 (n, C, H, W)."""
        return self.complete(torch.zeros(n, *self.shape, dtype=torch.uint8, device=self.device), 0, generator)

    @torch.no_grad()
    def complete(self, x: Tensor, rows: int, generator: Generator) -> Tensor:
        """Keep the first `rows` rows of x, uint8 (N, C, H, W), and draw the rest."""
        colours, height, width = self.shape
        every = torch.ones(self.levels, self.network.length, dtype=torch.bool, device=x.device)
        drawn = self.network.sample(len(x), generator, every, _in_order(x[:, :, :rows]))
        return drawn.view(-1, height, width, colours).permute(0, 3, 1, 2).to(torch.uint8).contiguous()

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The normalised input of the middle layer's attention, averaged over each quarter, (N, 4 width).

        The paper averages over the whole image (section 3.4), whose features are hundreds of times as many.
        """
        middle, (colours, height, width) = len(self.network.layers) // 2, self.shape
        layer = cast(TransformerLayer, self.network.layers[middle])
        hidden = layer.before_attention(self.network.hidden(_in_order(x), middle))
        of_pixels = hidden.view(len(x), height, width, colours, -1).mean(3).permute(0, 3, 1, 2)
        return F.adaptive_avg_pool2d(of_pixels, 2).flatten(1)


def _in_order(x: Tensor) -> Tensor:
    """Images uint8 (N, C, H, W) as sequences, int64 (N, H·W·C)."""
    return x.permute(0, 2, 3, 1).flatten(1).long()


MODEL = PixelTransformer
