"""Wasserstein GAN: Arjovsky et al. 2017; with gradient penalty: Gulrajani et al. 2017."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from workflow.models.base import Model
from workflow.models.layers.adversarial import (
    VALIDATION_SAMPLES,
    Network,
    critic_network,
    energy_distance,
    generator_network,
    input_gradient,
)
from workflow.models.layers.common import from_unit, to_unit
from workflow.models.layers.noise import normal


class Wgan(Model):
    """A generator against a Lipschitz-constrained critic, which estimates the Wasserstein distance.

    The critic is constrained in one of two ways; the other hyper-parameter is 0.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        latents: size of the generator's noise vector.
        channels: of the convolutions at full resolution; twice as many at half and quarter resolution.
        features: size of the critic's last hidden layer, which `encode` returns.
        critic_steps: turns of the critic for each turn of the generator.
        clipping: bound of the absolute value of each weight (Arjovsky et al. 2017, algorithm 1).
        penalty: weight of the gradient penalty (Gulrajani et al. 2017, Improved Training of Wasserstein GANs, eq. 3).
        network: "convolutional"; or "dense", two hidden layers of `channels` features (the critic's second one has
            `features`), for images of any size.
    """

    title = "Wasserstein GAN"
    paper = "Arjovsky et al. 2017, Wasserstein Generative Adversarial Networks"
    family = "adversarial"
    taxonomy = "implicit"
    likelihood = "implicit"
    objective = "min_G max_f 𝔼ₓ[ f(x) ] − 𝔼_z[ f(G(z)) ], f 1-Lipschitz: weights clipped, or + λ 𝔼[ (‖∇f(x̂)‖ − 1)² ]"
    about = (
        "The critic is not a classifier but a Lipschitz function. The difference between its means on real images and "
        "on samples estimates the Wasserstein distance between the two distributions. The generator minimises this "
        "distance, whose gradient does not vanish however good the critic is. As for every GAN, sampling takes one "
        "pass and there is no density; the checkpoint is chosen by the energy distance between samples and held-out "
        "images."
    )

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        latents: Annotated[int, Field(ge=1)],
        channels: Annotated[int, Field(ge=1)],
        features: Annotated[int, Field(ge=1)],
        critic_steps: Annotated[int, Field(ge=1)],
        clipping: Annotated[float, Field(ge=0)] = 0.0,
        penalty: Annotated[float, Field(ge=0)] = 0.0,
        network: Network = "convolutional",
    ) -> None:
        super().__init__(shape, levels)
        if (clipping > 0) == (penalty > 0):
            raise ValueError("exactly one of clipping and penalty must be above zero")
        self.latents, self.critic_steps, self.clipping, self.penalty = latents, critic_steps, clipping, penalty
        self.generator = generator_network(shape, latents, channels, network)
        self.critic = critic_network(shape, channels, features, 1, network)
        self.critic[-1] = nn.Linear(features, 1, bias=False)  # a bias would cancel in the difference
        self.project("critic")

    @property
    def players(self) -> dict[str, nn.Module]:
        """The critic and the generator."""
        return {"critic": self.critic, "generator": self.generator}

    @property
    def turns(self) -> tuple[str, ...]:
        """The critic several times, so that it keeps up with the distance; then the generator, which reduces it."""
        return ("critic",) * self.critic_steps + ("generator",)

    @torch.no_grad()
    def project(self, player: str) -> None:
        """Clip the critic's weights, if that is how it is constrained."""
        if player == "critic" and self.clipping:
            for weights in self.critic.parameters():
                weights.clamp_(-self.clipping, self.clipping)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """The player's loss; for the critic also the estimated distance and the penalty."""
        if player == "generator":
            return {"loss": -self._values(self._fake(len(x), generator)).mean()}
        with torch.no_grad():
            fake = self._fake(len(x), generator)
        real = self._real(x)
        distance = self._values(real).mean() - self._values(fake).mean()
        if not self.penalty:
            return {"loss": -distance, "distance": distance}
        between = interpolates(real, fake, generator).requires_grad_()
        penalty = gradient_penalty(self._values(between), between)
        return {"loss": self.penalty * penalty - distance, "distance": distance, "penalty": penalty}

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor, generator: Generator) -> dict[str, Tensor]:
        """The energy distance between samples and x, and the critic's estimate of the Wasserstein distance.

        The critic's estimate has an unknown scale that changes during training, so it cannot choose the best weights.
        """
        real, fake = self._real(x), self._fake(VALIDATION_SAMPLES, generator)
        shown = to_unit(from_unit(fake, self.levels), self.levels)
        energy = energy_distance((to_unit(x, self.levels) + 1) / 2, (shown + 1) / 2)
        return {"loss": energy, "distance": self._values(real).mean() - self._values(fake).mean()}

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw n images, uint8 (n, C, H, W), from standard normal noise."""
        return from_unit(self._fake(n, generator), self.levels)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The critic's last hidden layer, (N, features)."""
        features: Tensor = self.critic[:-1](self._real(x))
        return features

    def _real(self, x: Tensor) -> Tensor:
        """The critic's input: images uint8 (N, C, H, W), scaled to [-1, 1]."""
        return to_unit(x, self.levels).to(next(self.critic.parameters()).dtype)

    def _fake(self, n: int, generator: Generator) -> Tensor:
        noise = normal((n, self.latents), generator, self.device)
        images: Tensor = self.generator(noise.to(next(self.generator.parameters()).dtype))
        return images

    def _values(self, images: Tensor) -> Tensor:
        """The critic's output for images scaled to [-1, 1], (N, 1): unbounded numbers, not logits."""
        values: Tensor = self.critic(images)
        return values.to(torch.promote_types(values.dtype, torch.float32))


def interpolates(real: Tensor, fake: Tensor, generator: Generator) -> Tensor:
    """x̂ = ε x + (1 - ε) G(z) with ε uniform in [0, 1], one per image: (N, C, H, W), as real and fake are."""
    share = torch.rand(len(real), 1, 1, 1, generator=generator, device=real.device).to(real.dtype)
    return torch.lerp(fake.to(real.dtype), real, share)


def gradient_penalty(values: Tensor, x: Tensor) -> Tensor:
    """E (‖∇ₓ f(x)‖ - 1)², differentiable (Gulrajani et al. 2017, eq. 3).

    Args:
        values: (N, 1), computed from x.
        x: (N, C, H, W), requires a gradient.
    """
    steepness: Tensor = torch.linalg.vector_norm(input_gradient(values, x), dim=1)
    return (steepness - 1).square().mean()


MODEL = Wgan
