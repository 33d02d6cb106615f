"""Gated PixelCNN: van den Oord et al. 2016, Pixel Recurrent Neural Networks; Conditional Image Generation with PixelCNN
Decoders.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from workflow.models.base import Model
from workflow.models.layers import GatedPixelCNN, categorical_log_prob


class PixelCNN(Model):
    """p(x) as a product over pixels in reading order, and over R, G, B within a pixel, by masked convolutions.

    channels: features of each stack. layers: gated layers, the first with mask A. dropout: while training.
    """

    title = "PixelCNN"
    paper = "van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders"
    family = "autoregressive"
    taxonomy = "explicit tractable"
    likelihood = "exact"
    objective = "max Σᵢ log p(xᵢ | x₁, …, xᵢ₋₁)"
    about = (
        "The density of an image is the product of its pixels' densities, each given all pixels before it, and masked "
        "convolutions compute all factors at once. The likelihood is exact and training is stable; drawing an image "
        "takes one step a pixel, so sampling is slow. There is no latent code: its features are hidden activations, "
        "and it can complete a picture from its upper rows, but cannot reconstruct or interpolate."
    )

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        channels: Annotated[int, Field(ge=1)],
        layers: Annotated[int, Field(ge=1)],
        dropout: Annotated[float, Field(ge=0, lt=1)],
    ) -> None:
        super().__init__(shape, levels)
        self.network = GatedPixelCNN(shape, levels, channels, layers, dropout, ordered=True)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """Negative log-likelihood, nats per image."""
        return {"loss": -self.log_prob(x, generator).mean()}

    def log_prob(self, x: Tensor, generator: Generator) -> Tensor:
        """Exact log p(x), nats (N,). x: uint8 (N, C, H, W)."""
        return categorical_log_prob(self.network(x), x)

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw images pixel by pixel, uint8 (n, C, H, W)."""
        blank = torch.zeros(n, *self.shape, dtype=torch.long, device=self.device)
        return self.network.sample(blank, 0, generator).to(torch.uint8)

    @torch.no_grad()
    def complete(self, x: Tensor, rows: int, generator: Generator) -> Tensor:
        """Keep the first `rows` rows of x, uint8 (N, C, H, W), and draw the rest given them."""
        return self.network.sample(x, rows, generator).to(torch.uint8)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Hidden activations averaged over the four quarters of the image, (N, 4 channels)."""
        return F.adaptive_avg_pool2d(self.network.hidden(x), 2).flatten(1)


MODEL = PixelCNN
