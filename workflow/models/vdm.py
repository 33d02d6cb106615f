"""Variational diffusion: Kingma, Salimans, Poole & Ho 2021, Variational Diffusion Models."""

import math
from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from workflow.models.base import Model
from workflow.models.layers.common import categorical_log_prob, from_unit, quarter, to_unit
from workflow.models.layers.diffusion import backward_step, from_noise, prior_divergence, to_noise
from workflow.models.layers.interpolation import great_circle
from workflow.models.layers.learned_schedule import LearnedSchedule
from workflow.models.layers.noise import normal, uniform
from workflow.models.layers.pixels import categorical_draw
from workflow.models.layers.unet import GROUPS, UNet

FIRST_DEVIATION = 1 / 3  # of the noise at time 0 when training starts, as a share of half the distance of two levels
LAST_GAMMA = 5.0  # γ(1) when training starts: an image has 1/150 of the variance of the noise
FIRST_OUTPUT = 0.1  # scale of the network's last layer when training starts: its output is a correction of z
GAMMA_UNITS = 3  # by which γ is multiplied for the network: its range is then about that of the times of 50 steps
ROWS = 2**10  # noisy images in one forward pass of `log_prob`
VALIDATION_TIMES = 8  # times at which each image is validated
FEATURE_GAMMA = -3.5  # at which `encode` takes its features: the noise has 3 % of the variance of an image
LATENT_STEPS = 50  # between an image and its noise


class Vdm(Model):
    """A U-Net that predicts the noise in an image at any signal-to-noise ratio, trained by the bound itself.

    Time is continuous, from 0 to 1. z_t = α x + σ ε with σ² = sigmoid(γ) and α² = sigmoid(−γ), so that γ(t) is minus
    the logarithm of the signal-to-noise ratio. As the network is told γ and not t, the bound depends on γ(0) and γ(1)
    alone: between these, the schedule is a change of variables (section 5.1). Both ends are learned by the bound, the
    shape of the schedule by the variance of its estimate (appendix H).

    As levels are few and evenly spaced, a predicted image has to be finer than them where there is hardly any noise:
    the network also reads sines and cosines whose period is one and two levels (section 4.1, appendix C).

    The predicted image is clipped to [-1, 1] but in the training loss, where that would stop gradients.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        channels: of the convolutions at full resolution; twice as many at half and quarter resolution.
        dropout: during training.
        sampling_steps: ancestral steps of a sample, evenly spaced in time.
        bound_times: at which `log_prob` evaluates the network for each image, one in each of as many parts of [0, 1].
    """

    title = "Variational diffusion"
    paper = "Kingma, Salimans, Poole & Ho 2021, Variational Diffusion Models"
    family = "diffusion"
    taxonomy = "explicit approximate"
    likelihood = "bound"
    unranked = ("sampling_steps", "bound_times")  # no effect on the loss
    objective = (
        "min ½ 𝔼_t,ε[γ′(t)‖ε − ε_θ(z_t, γ(t))‖²] − 𝔼[log p(x | z₀)] + KL(q(z₁|x) ‖ p(z₁)),  "
        "z_t = √sigmoid(−γ) x + √sigmoid(γ) ε"
    )
    about = (
        "Diffusion in continuous time, trained by its bound of the log-likelihood rather than by a reweighted one. The "
        "bound depends on the noise schedule only through the signal-to-noise ratios at its ends, which are learned "
        "with it; the schedule between them is learned to make the bound's estimate less noisy. Samples take a finite "
        "number of steps. The way is invertible, so that noise of the size of the image serves as a latent to "
        "interpolate in; features are activations of the network. Nothing is compressed."
    )

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        channels: Annotated[int, Field(ge=GROUPS, multiple_of=GROUPS)],
        dropout: Annotated[float, Field(ge=0, lt=1)],
        sampling_steps: Annotated[int, Field(ge=1)],
        bound_times: Annotated[int, Field(ge=1)],
    ) -> None:
        super().__init__(shape, levels)
        quarter(shape)  # raises ValueError if images cannot be halved twice
        self.sampling_steps, self.bound_times = sampling_steps, bound_times
        self.network = UNet(5 * shape[0], channels, dropout, 0, outputs=shape[0])
        with torch.no_grad():  # with a large output the sines would magnify rounding from step to step
            for parameter in self.network.last[-1].parameters():
                parameter.mul_(FIRST_OUTPUT)
        self.schedule = LearnedSchedule(2 * math.log(FIRST_DEVIATION / (levels - 1)), LAST_GAMMA)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """The bound of -log p(x), from one noise and one time for each image, nats per image.

        Times are stratified over the batch (appendix I.1).
        """
        return self._bound(x, generator, clip=False)

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor, generator: Generator) -> dict[str, Tensor]:
        """The same from several times for each image, with predicted images clipped as in `log_prob`."""
        return self._bound(x.repeat(VALIDATION_TIMES, 1, 1, 1), generator, clip=True)

    def log_prob(self, x: Tensor, generator: Generator) -> Tensor:
        """Lower bound of log p(x) in the limit of infinitely many steps, nats (N,); an unbiased estimate of it."""
        x_0, n, k = self._unit(x), len(x), self.bound_times
        total = -self.prior_term(x_0) - self.reconstruction_term(x, self._noise(x.shape, generator))
        within = torch.stack([uniform((n,), generator, self.device) for _ in range(k)]).to(x_0.dtype)
        times = (torch.arange(k, device=self.device)[:, None] + within) / k
        for some in times.split(max(1, ROWS // n)):
            noise = torch.cat([self._noise(x.shape, generator) for _ in some])
            gamma, speed = self.schedule(some.flatten())
            terms = self.diffusion_term(x_0.repeat(len(some), 1, 1, 1), gamma, speed, noise)
            total = total - terms.view(-1, n).sum(0) / k
        return total

    def prior_term(self, x_0: Tensor) -> Tensor:
        """KL( q(z_1|x) ‖ N(0, 1) ) of images in [-1, 1], (N, C, H, W), nats (N,)."""
        return prior_divergence(x_0, torch.sigmoid(-self.schedule.ends[1]))

    def reconstruction_term(self, x: Tensor, noise: Tensor) -> Tensor:
        """-log p(x|z_0) of images x, uint8 (N, C, H, W), with this noise in z_0, nats (N,)."""
        deviation = (self.schedule.ends[0] / 2).exp()
        return -categorical_log_prob(self.level_logits(self._unit(x) + deviation * noise), x)

    def level_logits(self, z: Tensor) -> Tensor:
        """Logits of p(x|z_0), (N, levels, C, H, W), from z_0 / α_0, (N, C, H, W).

        Of each pixel, p(x|z_0) is proportional to q(z_0|x) (section 3.3).
        """
        level = to_unit(torch.arange(self.levels, device=z.device), self.levels).to(z.dtype).view(1, -1, 1, 1, 1)
        return -0.5 * (-self.schedule.ends[0]).exp() * (z[:, None] - level).square()

    def diffusion_term(self, x_0: Tensor, gamma: Tensor, speed: Tensor, noise: Tensor, clip: bool = True) -> Tensor:
        """½γ'(t)‖ε − ε̂‖², the integrand of the diffusion loss over time (section 4.2, eq. 17), nats (N,).

        Args:
            x_0: images in [-1, 1], (N, C, H, W).
            gamma: γ(t) for each, (N,).
            speed: γ'(t), (N,).
            noise: ε, (N, C, H, W).
            clip: whether ε̂ is what follows from the predicted image, clipped to [-1, 1].
        """
        alpha, sigma = _scales(gamma.view(-1, 1, 1, 1))
        z = alpha * x_0 + sigma * noise
        predicted = self.predict(z, gamma)
        error = noise - predicted
        if clip:
            error = alpha / sigma * (((z - sigma * predicted) / alpha).clamp(-1, 1) - x_0)
        return 0.5 * speed * error.square().flatten(1).sum(1)

    def predict(self, z: Tensor, gamma: Tensor) -> Tensor:
        """The noise that the network believes to be in z, (N, C, H, W), at γ, (N,).

        The network predicts what z has to be corrected by: z itself is the best guess where there is only noise.
        """
        correction: Tensor = self.network(self._seen(z), GAMMA_UNITS * gamma, None)
        return z + correction.to(z.dtype)

    def _seen(self, z: Tensor) -> Tensor:
        """z and its Fourier features, whose periods are two levels and one: (N, 5C, H, W)."""
        angle = z * (math.pi * (self.levels - 1) / 2)
        return torch.cat([z, angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos()], 1)

    @property
    def passes_in_sequence(self) -> int:
        """One per sampling step."""
        return self.sampling_steps

    @property
    def note(self) -> str:
        """Which steps the bound and the samples take, and the ends that were learned."""
        start, end = (float(gamma) for gamma in self.schedule.ends)
        return (
            f"The bound is that of infinitely many steps, estimated from {self.bound_times} times for each image; "
            f"samples take {self.sampling_steps} steps and thus follow a slightly different distribution. Minus the "
            f"logarithm of the signal-to-noise ratio rises from {start:.1f} to {end:.1f}."
        )

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw n images, uint8 (n, C, H, W), by ancestral steps and a draw from p(x|z_0)."""
        z = self._noise((n, *self.shape), generator)
        gammas, _ = self.schedule(torch.linspace(1, 0, self.sampling_steps + 1, device=self.device).to(z.dtype))
        for here, there in pairwise(gammas):
            alpha, sigma = _scales(here)
            x_0 = ((z - sigma * self.predict(z, here.expand(n))) / alpha).clamp(-1, 1)
            # In double precision: the steps are short where there is hardly any noise.
            a_t, a_s = torch.sigmoid(-here.double()), torch.sigmoid(-there.double())
            mean, deviation = backward_step(z, x_0, a_t, a_s, eta=1.0)
            z = mean + deviation * self._noise(z.shape, generator)
        return categorical_draw(self.level_logits(z / _scales(gammas[-1])[0]), generator)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The U-Net's innermost activations with little noise, averaged over each quarter, (N, 8 channels).

        As for other diffusion models here, the noise is replaced by its mean, zero.
        """
        gamma = torch.full((len(x),), FEATURE_GAMMA, device=x.device)
        z = _scales(gamma.view(-1, 1, 1, 1))[0] * self._unit(x)
        inner, _ = self.network.inward(self._seen(z), self.network.embed(GAMMA_UNITS * gamma, None))
        return F.adaptive_avg_pool2d(inner, 2).flatten(1)

    @torch.no_grad()
    def interpolate(self, a: Tensor, b: Tensor, steps: int) -> Tensor:
        """Interpolate on great circles between the noises that a and b come from: uint8 (N, steps, C, H, W).

        Both ways are deterministic, as for DDIM (Song et al. 2021).
        """
        gammas, _ = self.schedule(torch.linspace(0, 1, LATENT_STEPS + 1, device=self.device, dtype=self._dtype))
        shares = [1.0, *(float(torch.sigmoid(-gamma.double())) for gamma in gammas)]

        def predict(z: Tensor, i: int) -> Tensor:
            return self.predict(z, gammas[i - 1].expand(len(z)))

        start, end = (to_noise(predict, self._unit(x), shares).flatten(1) for x in (a, b))
        x = from_noise(predict, great_circle(start, end, steps).view(-1, *self.shape), shares)
        return from_unit(x, self.levels).view(len(a), steps, *self.shape)

    def _bound(self, x: Tensor, generator: Generator, clip: bool) -> dict[str, Tensor]:
        x_0, n = self._unit(x), len(x)
        within = torch.rand(n, generator=generator, device=x.device, dtype=x_0.dtype)
        rise = self.schedule.rise((torch.arange(n, device=x.device) + within) / n)
        noise = self._noise(x.shape, generator)
        diffusion = self.diffusion_term(x_0, *self.schedule.between_ends(*rise), noise, clip)
        _learn_by_variance(rise, diffusion.detach())
        parts = {
            "prior": self.prior_term(x_0).mean(),
            "reconstruction": self.reconstruction_term(x, self._noise(x.shape, generator)).mean(),
            "diffusion": diffusion.mean(),
        }
        return {
            "loss": torch.stack(list(parts.values())).sum(),
            **{name: part.detach() for name, part in parts.items()},
        }

    def _noise(self, size: tuple[int, ...], generator: Generator) -> Tensor:
        return normal(size, generator, self.device, self._dtype)

    def _unit(self, x: Tensor) -> Tensor:
        return to_unit(x, self.levels).to(self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return self.schedule.ends.dtype


def _scales(gamma: Tensor) -> tuple[Tensor, Tensor]:
    """α and σ, of the shape of γ."""
    return torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()


def _learn_by_variance(rise: tuple[Tensor, Tensor], terms: Tensor) -> None:
    """Have the shape of the schedule learn from the variance of these terms, (N,), in place of their mean.

    The mean does not depend on the shape, so their mean square falls with their variance. With each term's gradient
    multiplied by the term itself, the backward pass of the mean yields the gradient of half the mean square (appendix
    H), here divided by the mean square, which makes it that of its logarithm: of the same size whatever the terms'.
    """
    factors = terms / terms.square().mean()
    for part in rise:
        if part.requires_grad:
            part.register_hook(lambda gradient: gradient * factors)


MODEL = Vdm
