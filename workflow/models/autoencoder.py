"""Autoencoder with a density fitted to its latents: Hinton & Salakhutdinov 2006; Ghosh et al. 2020, From Variational to
Deterministic Autoencoders.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from workflow.models.base import Model
from workflow.models.layers.common import from_unit, quarter, to_unit, walk
from workflow.models.layers.convolutions import downsample, upsample
from workflow.models.layers.mixture import Mixture, fit_mixture, standard_normal

FITTED = 10_000  # images, at most, whose latents the mixture is fitted to
BATCH = 1000  # images encoded at once to fit the mixture


class Autoencoder(Model):
    """A deterministic convolutional encoder and decoder, and a mixture of Gaussians fitted to the latents.

    `calibrate` fits the mixture to the latents of training images (Ghosh et al. 2020, section 4, ex-post density
    estimation); before that it is standard normal.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        latents: their number.
        channels: of the convolutions at full resolution; twice as many at half and quarter resolution.
        dropout: in encoder and decoder, during training.
        components: Gaussians in the mixture, each with its own covariance.
        blocks: residual blocks at quarter resolution in encoder and decoder.
    """

    title = "Autoencoder"
    paper = "Ghosh et al. 2020, From Variational to Deterministic Autoencoders"
    family = "autoencoder"
    taxonomy = "implicit"
    likelihood = "implicit"
    unranked = ("components",)  # reconstructions do not depend on it
    objective = "min 𝔼ₓ ‖x − D(E(x))‖²,  then max Σₓ log Σₖ πₖ N(E(x); μₖ, Σₖ)"
    about = (
        "An encoder compresses an image into a few latents, and a decoder reconstructs it. Nothing is random and the "
        "latents have no distribution, so on its own it can reconstruct and interpolate but not generate. Samples "
        "come from a mixture of Gaussians that is fitted to the latents of training images (Ghosh et al. 2020); they "
        "test this mixture as much as the autoencoder. There is no density of images."
    )

    weights: Tensor
    means: Tensor
    factors: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        latents: Annotated[int, Field(ge=1)],
        channels: Annotated[int, Field(ge=1)],
        dropout: Annotated[float, Field(ge=0, lt=1)],
        components: Annotated[int, Field(ge=1)],
        blocks: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__(shape, levels)
        colours, (height, width), wide = shape[0], quarter(shape), 2 * channels
        self.encoder = nn.Sequential(
            *downsample(colours, channels, blocks=blocks),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(wide * height * width, latents),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latents, wide * height * width),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Unflatten(1, (wide, height, width)),
            *upsample(channels, colours, blocks=blocks),
        )
        for name, tensor in standard_normal(components, latents)._asdict().items():
            self.register_buffer(name, tensor)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """Squared error of the reconstruction, with pixels scaled to [-1, 1], summed over pixels, per image."""
        original = to_unit(x, self.levels)
        back = self.decoder(self.encoder(original))
        return {"loss": (back - original).square().flatten(1).sum(1).mean()}

    @torch.no_grad()
    def calibrate(self, x: Tensor, generator: Generator) -> None:
        """Fit the mixture to the latents of the first FITTED images x, uint8 (N, C, H, W), by EM.

        If there are fewer images than components, the other components get no weight.
        """
        z = torch.cat([self.encode(part) for part in x[:FITTED].split(BATCH)])
        fit_mixture(self.mixture, z, generator)

    @property
    def mixture(self) -> Mixture:
        """The density of the latents."""
        return Mixture(self.weights, self.means, self.factors)

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw latents from the mixture and decode them, uint8 (n, C, H, W)."""
        return self.decode(self.draw_latents(n, generator))

    @torch.no_grad()
    def draw_latents(self, n: int, generator: Generator) -> Tensor:
        """n draws from the mixture, (n, latents)."""
        return self.mixture.draw(n, generator)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Latents (N, latents) to images, uint8 (N, C, H, W)."""
        return from_unit(self.decoder(z), self.levels)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The latents, (N, latents)."""
        z: Tensor = self.encoder(to_unit(x, self.levels))
        return z

    def encoder_network(self) -> nn.Module:
        """The encoder, to the latents, (N, latents)."""
        return self.encoder

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Encode images and decode them, uint8 (N, C, H, W)."""
        return self.decode(self.encode(x))

    @torch.no_grad()
    def interpolate(self, a: Tensor, b: Tensor, steps: int) -> Tensor:
        """Interpolate linearly between the latents of a and b and decode: uint8 (N, steps, C, H, W)."""
        z = walk(self.encode(a), self.encode(b), steps)
        return self.decode(z.flatten(0, 1)).view(len(a), steps, *self.shape)


MODEL = Autoencoder
