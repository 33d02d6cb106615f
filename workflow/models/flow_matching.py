"""Flow matching: Lipman et al. 2023, Flow Matching for Generative Modeling; with minibatch optimal transport."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from workflow.models.layers.common import log_mean_exp, quarter
from workflow.models.layers.flow import Flow, Step, logits
from workflow.models.layers.interpolation import great_circle
from workflow.models.layers.noise import normal, uniform
from workflow.models.layers.ode import EVALUATIONS, Solver, ascending_times, solver_step, to_noise, travel
from workflow.models.layers.unet import GROUPS, UNet

Pairing = Literal["independent", "optimal"]
EXACT_UP_TO = 64  # dimensions: the divergence is exact, else estimated
TIME_UNITS = 50  # time 1 in the network's units: as far apart as noise and data are for a diffusion model of 50 steps
FEATURE_TIME = 0.9  # at which `encode` takes its features
VALIDATION_TIMES = 8  # times at which each image is validated
CHECKED = 32  # training images on which the solver's error is measured


class FlowMatching(Flow):
    """A U-Net that predicts the velocity at which noise moves to images, and the continuous flow that it defines.

    Noise x_0 and a dequantised image x_1 are paired and joined by a straight line. The network learns the mean velocity
    of all lines through a point, v(x, t); the ordinary differential equation dx/dt = v then turns noise into images
    (Lipman et al. 2023, section 4.1, with σ_min = 0, as dequantised images already have a density).

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        channels: of the convolutions at full resolution; twice as many at half and quarter resolution.
        dropout: during training.
        solver: of the equation for samples: "euler" or "midpoint", of first and second order.
        sampling_steps: of this solver.
        density_steps: times at which the divergence is evaluated for the likelihood (`layers/ode.py`).
        dequantisation_samples: K draws of noise in `log_prob`, at K times the cost.
        pairing: of noise and images: "independent", or "optimal" within each batch, which makes the lines cross less
            and the paths straighter (Tong et al. 2024, Improving and Generalizing Flow-Based Generative Models with
            Minibatch Optimal Transport).
        alpha: keeps pixels away from 0 and 1 before a logit, as in RealNVP; 0 for raw pixels.
    """

    title = "Flow matching"
    paper = "Lipman et al. 2023, Flow Matching for Generative Modeling"
    # What an error of the velocity is measured against, and in which unit; no effect on the loss.
    unranked = ("pairing", "alpha", "solver", "sampling_steps", "density_steps", "dequantisation_samples")
    objective = "min ½ 𝔼_t‖v_θ((1 − t) x₀ + t x₁, t) − (x₁ − x₀)‖²,  x₀ ~ N(0, 1)"
    about = (
        "A network learns the velocity that carries noise to dequantised images along straight lines, on average; no "
        "equation is solved while it trains. Samples solve it from noise to data, a pass or two per step. Solved from "
        "data to noise, it gives the density by the instantaneous change of variables, up to the solver's error, and "
        "with it a lower bound for the discrete image. The noise that an image comes from serves as a latent to "
        "interpolate in; features are activations of the network. Nothing is compressed."
    )
    solver_error: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        channels: Annotated[int, Field(ge=GROUPS, multiple_of=GROUPS)],
        dropout: Annotated[float, Field(ge=0, lt=1)],
        solver: Solver,
        sampling_steps: Annotated[int, Field(ge=1)],
        density_steps: Annotated[int, Field(ge=1)],
        dequantisation_samples: Annotated[int, Field(ge=1)],
        pairing: Pairing = "independent",
        alpha: Annotated[float, Field(ge=0, lt=0.5)] = 0.0,
    ) -> None:
        super().__init__(shape, levels)
        quarter(shape)  # raises ValueError if images cannot be halved twice
        if pairing == "optimal":
            self.title = "Flow matching (optimal transport)"
        self.pairing, self.solver = pairing, solver
        self.sampling_steps, self.density_steps = sampling_steps, density_steps
        self.dequantisation_samples = dequantisation_samples
        self.tightens = self.exact
        self.network = UNet(shape[0], channels, dropout, 0)
        self.scale = nn.ModuleList([*logits(alpha), ToUnit(alpha)])
        # Root mean square over images, bits/dim; 0 until `finish` has measured it.
        self.register_buffer("solver_error", torch.zeros(()))

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """v(x, t) of x, (N, C, H, W), all at the same time: likewise."""
        return self._velocity(x, x.new_full((len(x),), t))

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """Conditional flow matching (Lipman et al. 2023, eq. 9), summed over pixels, halved: nats per image.

        ½‖v_θ − (x₁ − x₀)‖² is the divergence between unit Gaussians around the two.
        """
        images = self.scaled(x, generator)
        return self._matching([self.paired(images, generator)], generator)

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor, generator: Generator) -> dict[str, Tensor]:
        """The same with several times and noises per image."""
        every = [self.scaled(x, generator) for _ in range(VALIDATION_TIMES)]
        return self._matching([self.paired(images, generator) for images in every], generator)

    def paired(self, images: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Noise for scaled images (N, C, H, W), drawn and then paired with them, and the images."""
        noise = normal(images.shape, generator, images.device, images.dtype)
        if self.pairing == "optimal":
            noise = noise[optimal_pairs(noise, images)]
        return noise, images

    def scaled(self, x: Tensor, generator: Generator) -> Tensor:
        """Dequantised images x, uint8 (N, C, H, W), or their logits, in [-1, 1], (N, C, H, W)."""
        return self._to_scale(self.dequantised(x, generator).to(self._dtype))[0].view_as(x)

    def forward(self, y: Tensor, probe: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise h (N, D) of pixels y in [0, 1], (N, D), and log |det dh/dy|, (N,).

        probe: for an estimate of the divergence, (N, D); None for the exact one.
        """
        return self._to_noise(y, self.density_steps, probe)

    def inverse(self, h: Tensor) -> Tensor:
        """Pixels y (N, D) from noise h (N, D), as samples are drawn: of `forward` the inverse but for solvers' errors.

        They may end slightly outside [0, 1].
        """
        x = h.view(-1, *self.shape)
        for t, s in pairwise(ascending_times(self.sampling_steps)):
            x = solver_step(self.velocity, x, t, s, self.solver)
        return self._from_scale(x)

    def log_prob(self, x: Tensor, generator: Generator) -> Tensor:
        """Lower bound of log p(x) of images x, uint8 (N, C, H, W), up to the solver's error, nats (N,).

        With the exact divergence, it is that of `Flow`. An estimated divergence makes the logarithm of each of the K
        densities unbiased, but not the density: their mean would be too high. So the logarithms are averaged, whose
        expectation is the bound of K = 1.
        """
        draws = torch.stack([self._log_prob_given_noise(x, generator) for _ in range(self.dequantisation_samples)])
        return log_mean_exp(draws) if self.exact else draws.mean(0)

    @property
    def exact(self) -> bool:
        """Whether the divergence is computed rather than estimated."""
        return math.prod(self.shape) <= EXACT_UP_TO

    @torch.no_grad()
    def finish(self, x: Tensor, y: Tensor, generator: Generator) -> None:
        """Measure the solver's error on the first of the training images x: what twice as many steps change."""
        pixels = self.dequantised(x[:CHECKED], generator).to(self._dtype)
        probe = self._probe(len(pixels), generator)
        bits = []
        for steps in (self.density_steps, 2 * self.density_steps):
            h, log_determinant = self._to_noise(pixels, steps, probe)
            bits.append((self.latent_log_prob(h).sum(1) + log_determinant) / (pixels.shape[1] * math.log(2)))
        self.solver_error.copy_((bits[1] - bits[0]).square().mean().sqrt())

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The U-Net's innermost activations at a time with little noise, averaged over each quarter, (N, 8 channels).

        As for diffusion, the noise is replaced by its mean, zero. The noise that an image comes from would be a worse
        feature: it is as large as the image and made to have no structure.
        """
        t = torch.full((len(x),), FEATURE_TIME * TIME_UNITS, device=x.device, dtype=self._dtype)
        inner, _ = self.network.inward(FEATURE_TIME * self._centres(x), self.network.embed(t, None))
        return F.adaptive_avg_pool2d(inner, 2).flatten(1)

    @torch.no_grad()
    def interpolate(self, a: Tensor, b: Tensor, steps: int) -> Tensor:
        """Interpolate on great circles between the noises that a and b come from: uint8 (N, steps, C, H, W).

        Both ways are solved as for the likelihood, so that the ends are a and b, however few steps samples take.
        """
        times = ascending_times(self.density_steps)
        start, end = (travel(self.velocity, self._centres(x), times[::-1]).flatten(1) for x in (a, b))
        x = travel(self.velocity, great_circle(start, end, steps).view(-1, *self.shape), times)
        return self._to_images(self._from_scale(x)).view(len(a), steps, *self.shape)

    @property
    def passes_in_sequence(self) -> int:
        """One per sampling step of Euler's method, two of the midpoint method."""
        return EVALUATIONS[self.solver] * self.sampling_steps

    @property
    def note(self) -> str:
        """How samples are drawn, how the density is computed, and how large the solver's error is."""
        s = "" if self.sampling_steps == 1 else "s"
        trace = "exact" if self.exact else "estimated without bias, from one random vector per image (Hutchinson)"
        text = (
            f"Samples take {self.sampling_steps} step{s} of the {self.solver} method, the likelihood "
            f"{self.density_steps} of a method of fourth order; its divergence is {trace}."
        )
        if not self.solver_error:
            return text
        return (
            f"{text} With twice as many of the latter, bits/dim changes by ±{float(self.solver_error):.1g} "
            f"(root mean square over {CHECKED} training images): the bound holds up to an error of this size."
        )

    def _log_prob_given_noise(self, x: Tensor, generator: Generator) -> Tensor:
        y = self.dequantised(x, generator).to(self._dtype)
        h, log_determinant = self.forward(y, self._probe(len(x), generator))
        cell = math.prod(self.shape) * math.log(self.levels)  # the cell has volume levels**-D
        return self.latent_log_prob(h).sum(1) + log_determinant - cell

    def _probe(self, n: int, generator: Generator) -> Tensor | None:
        """One Rademacher vector per image, (n, D), kept all the way (FFJORD, section 3.1); None if none is needed."""
        if self.exact:
            return None
        coins = uniform((n, math.prod(self.shape)), generator, self.device)
        return (coins < 0.5).to(self._dtype) * 2 - 1

    def _to_noise(self, y: Tensor, steps: int, probe: Tensor | None) -> tuple[Tensor, Tensor]:
        scaled, change = self._to_scale(y)
        images = scaled.view(-1, *self.shape)
        h, integral = to_noise(self.velocity, images, steps, None if probe is None else probe.view_as(images))
        return h.flatten(1), change - integral

    def _matching(self, pairs: list[tuple[Tensor, Tensor]], generator: Generator) -> dict[str, Tensor]:
        """The loss of noise and images at stratified times, one in each of as many parts of [0, 1] as there are."""
        noise, images = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        n = len(images)
        within = torch.rand(n, generator=generator, device=images.device, dtype=images.dtype)
        t = (torch.arange(n, device=images.device) + within) / n
        x = torch.lerp(noise, images, t.view(-1, 1, 1, 1))
        error = self._velocity(x, t) - (images - noise)
        return {"loss": 0.5 * error.square().flatten(1).sum(1).mean()}

    def _velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """v(x, t), (N, C, H, W), with a time for each image, (N,)."""
        v: Tensor = self.network(x, t * TIME_UNITS, None)
        return v.to(self._dtype)

    def _centres(self, x: Tensor) -> Tensor:
        """The centres of the cells of images x, uint8 (N, C, H, W), scaled likewise."""
        return self._to_scale(((x + 0.5) / self.levels).flatten(1).to(self._dtype))[0].view_as(x)

    def _to_scale(self, y: Tensor) -> tuple[Tensor, Tensor]:
        log_determinant = y.new_zeros(len(y))
        for step in self.scale:
            y, change = step(y)
            log_determinant = log_determinant + change
        return y, log_determinant

    def _from_scale(self, x: Tensor) -> Tensor:
        y = x.flatten(1)
        for step in reversed(cast(Sequence[Step], self.scale)):
            y = step.inverse(y)
        return y

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype


class ToUnit(Step):
    """Scale pixels in [0, 1], or their logits if alpha is not 0, to [-1, 1]."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.centre, self.radius = (0.0, math.log(1 / alpha - 1)) if alpha else (0.5, 0.5)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled pixels, and the log-determinant, (N,)."""
        return (y - self.centre) / self.radius, y.new_full((len(y),), -y[0].numel() * math.log(self.radius))

    def inverse(self, z: Tensor) -> Tensor:
        """Undo `forward`."""
        return z * self.radius + self.centre


def optimal_pairs(noise: Tensor, images: Tensor) -> Tensor:
    """Which noise each image is paired with, int64 (N,): the permutation with the least sum of squared distances.

    That is the optimal plan between the two as sets, since both are weighted equally (Tong et al. 2024, section 3.3).
    The squares of the lengths do not depend on the permutation, so that products tell all.

    Args:
        noise: (N, *S).
        images: (N, *S).
    """
    from scipy.optimize import linear_sum_assignment  # takes long to load

    rows, columns = (points.flatten(1).cpu().numpy() for points in (images, noise))  # NumPy keeps their precision
    _, chosen = linear_sum_assignment(rows @ columns.T, maximize=True)
    return torch.from_numpy(chosen).to(images.device)


MODEL = FlowMatching
