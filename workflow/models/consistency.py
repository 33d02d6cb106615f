"""Consistency distillation: Song, Dhariwal, Chen & Sutskever 2023, Consistency Models."""

import math
from collections.abc import Iterable
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.func import functional_call

from workflow.models.base import Model
from workflow.models.layers.adversarial import VALIDATION_SAMPLES, energy_distance
from workflow.models.layers.common import from_unit, quarter, to_unit
from workflow.models.layers.diffusion import spaced_times, spread_times
from workflow.models.layers.noise import normal
from workflow.models.layers.unet import GROUPS, UNet

DEVIATION = 0.5  # σ of images in [-1, 1], as the networks' inputs and outputs are scaled (Karras et al. 2022, table 1)
RHO = 7  # how much denser the times are where there is little noise (Karras et al. 2022, eq. 5)
FIRST = 0.25  # ε, over the distance of two levels: 0.002 for 256 levels, as in the paper
LAST = 80 / math.sqrt(3 * 32 * 32)  # T, over the square root of an image's dimensions: 80 for CIFAR-10, as in the paper
TIME_UNITS = 6  # by which log t is multiplied for the networks: its range is then about that of the times of 50 steps
FEATURE_TIME = 0.2  # at which `encode` takes its features


class Consistency(Model):
    """A U-Net that takes noise to an image in one pass, distilled from a diffusion model that is trained beside it.

    x_t = x + t z with standard normal z, so that t is the noise's standard deviation, from ε to T. The teacher D(x, t)
    predicts x; it defines the probability flow dx/dt = (x − D(x, t)) / t, which takes noise at time T to an image at
    time ε. The student f(x, t) learns where the flow through (x, t) ends. All that it is told is that two points on the
    same path have the same end, and that f(x, ε) = x, which holds for any weights.

    The paper distils a model that has been trained before, and starts the student with its weights. Here both learn at
    once, a step each, so that the budget covers the teacher. The student's weights are the teacher's at that time plus
    changes, which start at zero and are all that the student's loss trains.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        channels: of the convolutions at full resolution; twice as many at half and quarter resolution.
        steps: of the flow's solver from T to ε, N − 1 in the paper.
        sampling_steps: passes of the student for a sample. With more than one, the image is made noisy again, as at
            other times of the solver, evenly spaced, and goes through the student again (algorithm 1).
        target_decay: μ, of the moving average of the student's weights that predicts what it has to agree with; 0 for
            the student itself, without a gradient (Song & Dhariwal 2024, Improved Techniques for Training Consistency
            Models).
    """

    title = "Consistency"
    paper = "Song, Dhariwal, Chen & Sutskever 2023, Consistency Models"
    family = "consistency"
    taxonomy = "implicit"
    likelihood = "implicit"
    objective = (
        "student: min ½ 𝔼‖f_θ(xₜ, t) − f_θ⁻(x̂ₛ, s)‖²,  x̂ₛ = a step of the teacher's flow from xₜ = x + t z to s < t;  "
        "teacher: min ½ 𝔼[w(t) ‖D_φ(xₜ, t) − x‖²]"
    )
    about = (
        "A diffusion model defines paths from noise to images. A second network learns to go from any point of a path "
        "to its end at once, by agreeing with itself on neighbouring points. Samples take one pass, or a few with "
        "fresh noise in between. In one pass, an image is a deterministic function of noise, as a GAN's generator "
        "computes it, so there is no density; the diffusion model's own is not that of the samples. Features are "
        "activations of the diffusion model; nothing is compressed."
    )
    times: Tensor
    target: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        channels: Annotated[int, Field(ge=GROUPS, multiple_of=GROUPS)],
        steps: Annotated[int, Field(ge=1)],
        sampling_steps: Annotated[int, Field(ge=1)],
        target_decay: Annotated[float, Field(ge=0, lt=1)],
    ) -> None:
        super().__init__(shape, levels)
        quarter(shape)  # raises ValueError if images cannot be halved twice
        if sampling_steps > steps:
            raise ValueError(f"sampling_steps {sampling_steps} exceeds steps ({steps})")
        self.steps, self.sampling_steps, self.target_decay = steps, sampling_steps, target_decay
        self.teacher = UNet(shape[0], channels, 0.0, 0)
        self.changes = nn.ParameterList(torch.zeros_like(weight) for weight in self.teacher.parameters())
        self.register_buffer("target", _flat(self.teacher.parameters()))
        first, last = FIRST * 2 / (levels - 1), LAST * math.sqrt(math.prod(shape))
        self.register_buffer("times", between(first, last, torch.linspace(0, 1, steps + 1)), persistent=False)

    @property
    def players(self) -> dict[str, nn.Module]:
        """The diffusion model and what is distilled from it."""
        return {"teacher": self.teacher, "student": self.changes}

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """The teacher's loss is that of denoising, the student's that of algorithm 2, with λ = 1 and squared distance.

        Times are stratified over the batch.
        """
        x_0, n = self._unit(x), len(x)
        noise = self._noise(x.shape, generator)
        if player == "teacher":
            within = torch.rand(n, generator=generator, device=x.device, dtype=x_0.dtype)
            place = (torch.arange(n, device=x.device) + within) / n
            t = between(float(self.times[0]), float(self.times[-1]), place)
            return {"loss": self.denoising_error(x_0, noise, t).mean()}
        if self.training:
            self.target.lerp_(_flat(self.student_weights().values()), 1 - self.target_decay)
        return {"loss": self.disagreement(x_0, noise, spread_times(n, self.steps, generator, x.device)).mean()}

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor, generator: Generator) -> dict[str, Tensor]:
        """The energy distance between samples and x, as for a GAN: networks that agree on nonsense agree as well."""
        shown = self._unit(self.sample(VALIDATION_SAMPLES, generator))
        return {"loss": energy_distance((self._unit(x) + 1) / 2, (shown + 1) / 2)}

    def denoising_error(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """½w(t)‖D(x_t, t) − x_0‖² of images x_0 and noise, (N, C, H, W), at times t, (N,): (N,).

        The weight w makes it the squared error of the network's output, whose variance is 1 at any time (Karras et al.
        2022, eq. 8).
        """
        error = self.denoise(x_0 + _wide(t) * noise, t) - x_0
        return 0.5 * (t.square() + DEVIATION**2) / (t * DEVIATION).square() * error.square().flatten(1).sum(1)

    def disagreement(self, x_0: Tensor, noise: Tensor, i: Tensor) -> Tensor:
        """½‖f(x_t, t) − f⁻(x̂_s, s)‖² at neighbouring times t = times[i] and s = times[i − 1], (N,).

        Gradients reach the student through the former only.

        Args:
            x_0: images, (N, C, H, W).
            noise: z, likewise.
            i: 1..steps, int64 (N,).
        """
        t, s = self.times[i], self.times[i - 1]
        x = x_0 + _wide(t) * noise
        with torch.no_grad():
            goal = self.consistent(self.flow_step(x, t, s), s, self._target_weights())
        return 0.5 * (self.consistent(x, t) - goal).square().flatten(1).sum(1)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """The teacher's D(x, t), an estimate of x_0, (N, C, H, W), from x_t, likewise, and t, (N,).

        Karras et al. 2022, Elucidating the Design Space of Diffusion-Based Generative Models, eq. 7 and table 1.
        """
        spread = (_wide(t).square() + DEVIATION**2).sqrt()
        output: Tensor = self.teacher(x / spread, TIME_UNITS * t.log(), None)
        return (DEVIATION / spread) ** 2 * x + _wide(t) * DEVIATION / spread * output.to(x.dtype)

    def flow_step(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x at times s from x at times t, both (N,), along the teacher's flow, by a step of Heun's method."""
        slope = (x - self.denoise(x, t)) / _wide(t)
        there = x + _wide(s - t) * slope
        slope_there = (there - self.denoise(there, s)) / _wide(s)
        return x + _wide(s - t) * (slope + slope_there) / 2

    def consistent(self, x: Tensor, t: Tensor, weights: dict[str, Tensor] | None = None) -> Tensor:
        """f(x, t), where the flow through x, (N, C, H, W), at times t, (N,), ends: likewise. f(x, ε) is x, exactly.

        Appendix C of the paper. weights: by name, in place of the student's own.
        """
        spread, elapsed = (_wide(t).square() + DEVIATION**2).sqrt(), _wide(t) - self.times[0]
        inputs = x / spread, TIME_UNITS * t.log(), None
        output: Tensor = functional_call(self.teacher, weights or self.student_weights(), inputs)
        kept = DEVIATION**2 / (elapsed.square() + DEVIATION**2)
        return kept * x + DEVIATION * elapsed / spread * output.to(x.dtype)

    def student_weights(self) -> dict[str, Tensor]:
        """The teacher's weights plus the student's changes, by name; gradients reach the changes only."""
        pairs = zip(self.teacher.named_parameters(), self.changes, strict=True)
        return {name: weight.detach() + change for (name, weight), change in pairs}

    @property
    def passes_in_sequence(self) -> int:
        """One per sampling step."""
        return self.sampling_steps

    @property
    def note(self) -> str:
        """How many steps there are, and what the budget has to cover."""
        s = "" if self.sampling_steps == 1 else "s"
        return (
            f"Samples take {self.sampling_steps} step{s}; in training, the teacher's flow has {self.steps} of Heun's "
            "method. The training budget covers the teacher too, and both learn at once, whereas the paper distils a "
            "model that has been trained before."
        )

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw n images, uint8 (n, C, H, W)."""
        return from_unit(self.generate(n, generator), self.levels)

    def generate(self, n: int, generator: Generator) -> Tensor:
        """The same before levels are rounded, in about [-1, 1], (n, C, H, W) (algorithm 1)."""
        first, *others = reversed(spaced_times(self.steps, self.sampling_steps)[1:])
        x = self.consistent(self.times[first] * self._noise((n, *self.shape), generator), self.times[first].expand(n))
        for i in others:
            deviation = (self.times[i].square() - self.times[0].square()).sqrt()
            x = self.consistent(x + deviation * self._noise(x.shape, generator), self.times[i].expand(n))
        return x

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The teacher's innermost activations with little noise, averaged over each quarter, (N, 8 channels).

        As for other diffusion models, the noise is replaced by its mean, zero.
        """
        time = max(FEATURE_TIME, float(self.times[0]))  # of few levels, the first is later
        t = self.times.new_full((len(x),), time)
        inputs = self._unit(x) / math.sqrt(time**2 + DEVIATION**2)
        inner, _ = self.teacher.inward(inputs, self.teacher.embed(TIME_UNITS * t.log(), None))
        return F.adaptive_avg_pool2d(inner, 2).flatten(1)

    def _target_weights(self) -> dict[str, Tensor]:
        """The moving average of the student's weights, by name."""
        named = dict(self.teacher.named_parameters())
        parts = self.target.split([weight.numel() for weight in named.values()])
        return {name: part.view_as(named[name]) for name, part in zip(named, parts, strict=True)}

    def _noise(self, size: tuple[int, ...], generator: Generator) -> Tensor:
        return normal(size, generator, self.device, self.times.dtype)

    def _unit(self, x: Tensor) -> Tensor:
        return to_unit(x, self.levels).to(self.times.dtype)


def between(first: float, last: float, place: Tensor) -> Tensor:
    """Times from `first`, at place 0, to `last`, at place 1, of the shape of `place` (Karras et al. 2022, eq. 5)."""
    start, end = first ** (1 / RHO), last ** (1 / RHO)
    times: Tensor = (start + place * (end - start)) ** RHO
    return times


def _flat(weights: Iterable[Tensor]) -> Tensor:
    """All numbers of these weights in one row, without a gradient. Convolutions may keep theirs channels last."""
    return torch.cat([weight.detach().flatten() for weight in weights])


def _wide(t: Tensor) -> Tensor:
    """One number for each image, (N,), as (N, 1, 1, 1)."""
    return t.view(-1, 1, 1, 1)


MODEL = Consistency
