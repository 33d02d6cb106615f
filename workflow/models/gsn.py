"""Generative stochastic network, as a denoising autoencoder trained by walkback: Bengio et al. 2013, Generalized
Denoising Auto-Encoders as Generative Models; Bengio et al. 2014, Deep Generative Stochastic Networks Trainable by
Backprop.
"""

import math
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from workflow.models.base import Decodings, Model
from workflow.models.layers.common import from_unit, to_unit
from workflow.models.layers.noise import normal, uniform
from workflow.models.layers.pixels import Decoder, PixelDistribution

Corruption = Literal["salt and pepper", "gaussian"]


class Gsn(Model):
    """A Markov chain that corrupts an image and then draws one from p(x|corrupted), which a network has learned.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        corruption: "salt and pepper" makes pixels black or white; "gaussian" adds noise and rounds to a level.
        noise: probability that a pixel is corrupted, or standard deviation of the noise as a share of the range from
            black to white.
        walkback: steps of the chain, started at a training image, from each of which the network learns to find the
            way back to that image (Bengio et al. 2013, algorithm 1, with a fixed number of steps as in Bengio et al.
            2014); 1 for a plain denoising autoencoder.
        width: features of a hidden layer.
        depth: hidden layers.
        dropout: in these layers, during training.
        decoder: p(x|corrupted) of a pixel, "categorical" or "logistic" (`PixelDistribution`).
        sampling_steps: of the chain before its state is a sample.
    """

    title = "GSN"
    paper = "Bengio et al. 2014, Deep Generative Stochastic Networks Trainable by Backprop"
    family = "generative stochastic network"
    taxonomy = "implicit Markov chain"
    likelihood = "implicit"
    unranked = ("corruption", "noise", "walkback", "sampling_steps")  # each is another task, or unseen
    objective = "max 𝔼[ Σₜ log p(x | x̃ₜ) ],  x̃ₜ ~ C(x̃ | xₜ₋₁),  xₜ ~ p(x | x̃ₜ),  x₀ = x"
    about = (
        "A network learns to restore corrupted images, as a distribution p(x|x̃). Corrupting and restoring in turn is a "
        "Markov chain, and if the network is right, its stationary distribution is that of the data. Walkback training "
        "follows the chain for a few steps away from each image and teaches it the way back, which removes spurious "
        "modes. There is no density, and drawing an image takes as many passes as the chain takes to forget its start. "
        "Features are the last hidden layer on the image itself. Nothing is compressed, so there are no "
        "reconstructions to judge."
    )

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        corruption: Corruption,
        noise: Annotated[float, Field(gt=0, le=1)],
        walkback: Annotated[int, Field(ge=1)],
        width: Annotated[int, Field(ge=1)],
        depth: Annotated[int, Field(ge=1)],
        dropout: Annotated[float, Field(ge=0, lt=1)],
        decoder: Decoder,
        sampling_steps: Annotated[int, Field(ge=1)],
    ) -> None:
        super().__init__(shape, levels)
        self.corruption: Corruption = corruption
        self.noise, self.walkback, self.sampling_steps = noise, walkback, sampling_steps
        self.pixels = PixelDistribution(decoder, levels)
        d = math.prod(shape)
        layers = [
            layer
            for a, b in pairwise([d, *[width] * depth])
            for layer in (nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout))
        ]
        self.hidden = nn.Sequential(nn.Flatten(), *layers)
        self.to_pixels = nn.Sequential(
            nn.Linear(width, self.pixels.outputs * d), nn.Unflatten(1, (self.pixels.outputs, *shape))
        )

    def forward(self, corrupted: Tensor) -> Tensor:
        """What describes p(x|corrupted), (N, outputs, C, H, W). corrupted: uint8 (N, C, H, W)."""
        numbers: Tensor = self.to_pixels(self.hidden(self._scaled(corrupted)))
        return numbers

    @torch.no_grad()
    def corrupt(self, x: Tensor, generator: Generator) -> Tensor:
        """A draw from C(x̃|x), uint8 (N, C, H, W)."""
        if self.corruption == "gaussian":
            return from_unit(
                to_unit(x, self.levels) + 2 * self.noise * normal(x.shape, generator, x.device), self.levels
            )
        mark = uniform(x.shape, generator, x.device)
        extreme = torch.where(mark < self.noise / 2, 0, self.levels - 1).to(torch.uint8)
        return torch.where(mark < self.noise, extreme, x)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """-log p(x|corrupted), averaged over the steps of the walk, nats per image."""
        state, terms = x, []
        for step in range(self.walkback):
            numbers = self(self.corrupt(state, generator))
            terms.append(-self.pixels.log_prob(numbers, x).mean())
            if step + 1 < self.walkback:
                with torch.no_grad():
                    state = self.pixels.draw(numbers, generator)
        return {"loss": torch.stack(terms).mean()}

    @property
    def passes_in_sequence(self) -> int:
        """One per step of the chain."""
        return self.sampling_steps

    @property
    def note(self) -> str:
        """How long the chain of an image is."""
        return f"Samples are the last states of chains of {self.sampling_steps:,} steps, one for each image."

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Run a chain for each image from uniform noise, uint8 (n, C, H, W)."""
        return self.pixels.draw(self._last(self._start(n, generator), generator), generator)

    @torch.no_grad()
    def decodings(self, n: int, generator: Generator) -> Decodings:
        """Run n chains; in the last step a draw, the mode and the mean of p(x|corrupted), uint8 (n, C, H, W) each."""
        numbers = self._last(self._start(n, generator), generator)
        return Decodings(self.pixels.draw(numbers, generator), self.pixels.mode(numbers), self.pixels.mean(numbers))

    @torch.no_grad()
    def complete(self, x: Tensor, rows: int, generator: Generator) -> Tensor:
        """Keep the first `rows` rows of x, uint8 (N, C, H, W), and run the chain of the other pixels."""
        known, state = x[:, :, :rows], self._start(len(x), generator)
        for _ in range(self.sampling_steps):
            state = self.step(torch.cat([known, state[:, :, rows:]], 2), generator)
        return torch.cat([known, state[:, :, rows:]], 2)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The last hidden layer on images that are not corrupted, (N, width)."""
        features: Tensor = self.hidden(self._scaled(x))
        return features

    def encoder_network(self) -> nn.Module:
        """The hidden layers, to the last of them, (N, width)."""
        return self.hidden

    @torch.no_grad()
    def step(self, x: Tensor, generator: Generator) -> Tensor:
        """Corrupt images x, uint8 (N, C, H, W), and draw from p(x|corrupted): uint8 (N, C, H, W)."""
        return self.pixels.draw(self(self.corrupt(x, generator)), generator)

    def _start(self, n: int, generator: Generator) -> Tensor:
        """Uniform noise, uint8 (n, C, H, W)."""
        return (uniform((n, *self.shape), generator, self.device) * self.levels).to(torch.uint8)

    def _last(self, state: Tensor, generator: Generator) -> Tensor:
        """What describes the distribution of the last step of the chain, (N, outputs, C, H, W)."""
        for _ in range(self.sampling_steps - 1):
            state = self.step(state, generator)
        numbers: Tensor = self(self.corrupt(state, generator))
        return numbers

    def _scaled(self, x: Tensor) -> Tensor:
        """Levels to [-1, 1], in the type of the weights."""
        return to_unit(x, self.levels).to(next(self.parameters()).dtype)


MODEL = Gsn
