"""GAN: Goodfellow et al. 2014, Generative Adversarial Nets."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from workflow.models.base import Model
from workflow.models.layers import from_unit, quarter, to_unit

Objective = Literal["minimax", "non-saturating"]
LEAK = 0.2  # slope of the critic's leaky ReLU below zero
VALIDATION_SAMPLES = 1000


class Gan(Model):
    """A convolutional generator against a convolutional critic (the paper's discriminator).

    latents: size of the generator's noise. channels: of the convolutions at full size; twice as many at half and
    quarter size. features: of the critic's last hidden layer, which `encode` gives. objective: what the generator
    minimises, the paper's minimax game or its non-saturating variant (section 3). critic_steps: turns of the critic
    for each of the generator (the paper's k). r1: weight of the gradient penalty on real images (Mescheder et al. 2018,
    Which Training Methods for GANs do actually Converge?, eq. 9; 0 is the paper's GAN).
    """

    title = "GAN"
    paper = "Goodfellow et al. 2014, Generative Adversarial Nets"
    family = "adversarial"
    taxonomy = "implicit"
    likelihood = "implicit"
    objective = "min_G max_D 𝔼ₓ[ log D(x) ] + 𝔼_z[ log(1 − D(G(z))) ];  non-saturating: G maximises 𝔼_z[ log D(G(z)) ]"
    about = (
        "A generator turns noise into images, and a critic is trained to tell them from real ones; each is the other's "
        "loss. At the game's optimum the samples follow the data and the critic is right half the time. It samples in "
        "one pass and has no density at all: no likelihood, no bound, no reconstruction. Features come from the "
        "critic; the checkpoint is chosen by the energy distance of samples to held-out images."
    )

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        latents: Annotated[int, Field(ge=1)],
        channels: Annotated[int, Field(ge=1)],
        features: Annotated[int, Field(ge=1)],
        objective: Objective,
        critic_steps: Annotated[int, Field(ge=1)],
        r1: Annotated[float, Field(ge=0)],
    ) -> None:
        super().__init__(shape, levels)
        self.latents, self.r1, self.critic_steps = latents, r1, critic_steps
        self.generator_objective: Objective = objective
        colours, (height, width), wide = shape[0], quarter(shape), 2 * channels
        self.generator = nn.Sequential(
            nn.Linear(latents, wide * height * width),
            nn.ReLU(),
            nn.Unflatten(1, (wide, height, width)),
            nn.ConvTranspose2d(wide, wide, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(wide, channels, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, colours, 3, padding=1),
            nn.Tanh(),
        )
        self.critic = nn.Sequential(
            nn.Conv2d(colours, channels, 3, padding=1),
            nn.LeakyReLU(LEAK),
            nn.Conv2d(channels, wide, 4, stride=2, padding=1),
            nn.LeakyReLU(LEAK),
            nn.Conv2d(wide, wide, 4, stride=2, padding=1),
            nn.LeakyReLU(LEAK),
            nn.Flatten(),
            nn.Linear(wide * height * width, features),
            nn.LeakyReLU(LEAK),
            nn.Linear(features, 1),
        )

    @property
    def players(self) -> dict[str, nn.Module]:
        """The critic and the generator."""
        return {"critic": self.critic, "generator": self.generator}

    @property
    def turns(self) -> tuple[str, ...]:
        """The critic k times, then the generator."""
        return ("critic",) * self.critic_steps + ("generator",)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """The player's loss, and for the critic the penalty and its accuracy on real and on fake images."""
        if player == "generator":
            return {"loss": generator_loss(self.critic(self._fake(len(x), generator)), self.generator_objective)}
        with torch.no_grad():
            fake = self._fake(len(x), generator)
        real = to_unit(x, self.levels).requires_grad_(self.r1 > 0)
        on_real, on_fake = self.critic(real), self.critic(fake)
        terms = {"loss": critic_loss(on_real, on_fake), **accuracy(on_real, on_fake)}
        if self.r1 > 0:
            terms["r1"] = gradient_penalty(on_real, real)
            terms["loss"] = terms["loss"] + self.r1 / 2 * terms["r1"]
        return terms

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor, generator: Generator) -> dict[str, Tensor]:
        """The energy distance of samples to x, and the critic's accuracy on both.

        The players' losses say how the game stands, not how good the samples are, and there is no likelihood. The
        energy distance falls to zero only where the two distributions are the same, and needs no other network.
        """
        real, fake = to_unit(x, self.levels), self._fake(VALIDATION_SAMPLES, generator)
        shown = to_unit(from_unit(fake, self.levels), self.levels)
        distance = energy_distance((real + 1) / 2, (shown + 1) / 2)
        return {"loss": distance, **accuracy(self.critic(real), self.critic(fake))}

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """n images, uint8 (n, C, H, W), from standard normal noise."""
        return from_unit(self._fake(n, generator), self.levels)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The critic's last hidden layer, (N, features)."""
        features: Tensor = self.critic[:-1](to_unit(x, self.levels))
        return features

    def _fake(self, n: int, generator: Generator) -> Tensor:
        images: Tensor = self.generator(torch.randn(n, self.latents, generator=generator, device=self.device))
        return images


def critic_loss(on_real: Tensor, on_fake: Tensor) -> Tensor:
    """-E[log D(x)] - E[log(1 - D(G(z)))] from logits, D = sigmoid (eq. 1)."""
    return -F.logsigmoid(on_real.float()).mean() - F.logsigmoid(-on_fake.float()).mean()


def generator_loss(on_fake: Tensor, objective: Objective) -> Tensor:
    """E[log(1 - D(G(z)))], or -E[log D(G(z))], which has a gradient also where the critic is sure (section 3)."""
    if objective == "minimax":
        return F.logsigmoid(-on_fake.float()).mean()
    return -F.logsigmoid(on_fake.float()).mean()


def gradient_penalty(logits: Tensor, x: Tensor) -> Tensor:
    """E ‖∇ₓ logit(x)‖², differentiable; x (N, C, H, W) requires a gradient, logits (N, 1) were computed from it."""
    (gradient,) = torch.autograd.grad(logits.float().sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def accuracy(on_real: Tensor, on_fake: Tensor) -> dict[str, Tensor]:
    """Share of real images that the critic calls real, and of fakes that it calls fake, from logits."""
    return {"accuracy_real": (on_real > 0).float().mean(), "accuracy_fake": (on_fake < 0).float().mean()}


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """2 E‖X - Y‖ - E‖X - X'‖ - E‖Y - Y'‖ (Székely & Rizzo 2013, Energy statistics), estimated without bias.

    x: (N, *S), y: (M, *S), at least two of each. May be below zero where the distributions are close.
    """
    x, y = x.flatten(1), y.flatten(1)
    within = torch.pdist(x).mean() + torch.pdist(y).mean()
    return 2 * torch.cdist(x, y).mean() - within


MODEL = Gan
