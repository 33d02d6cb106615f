"""DDPM: Ho, Jain & Abbeel 2020, Denoising Diffusion Probabilistic Models; with the sampler DDIM: Song et al. 2021."""

import math
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from workflow.models.base import Model
from workflow.models.layers.common import draw_classes, from_unit, quarter, to_unit
from workflow.models.layers.noise import normal

Schedule = Literal["linear", "cosine"]
GROUPS = 4  # of channels that are normalised together
ROWS = 2**10  # noisy images in one forward pass of `log_prob`
FEATURE_SHARE = 0.1  # of the steps: the time at which `encode` takes its features
CLASS_TIMES = 10  # times at which the terms of the bound are compared to infer an image's class
VALIDATION_TIMES = 8  # times at which each image is validated
LATENT_STEPS = 20  # between an image and its noise, at most
REFINEMENTS = 3  # evaluations of the network for each of these steps


class Ddpm(Model):
    """A U-Net that predicts the noise in an image after any number of diffusion steps.

    The variance of a reverse step is that of the posterior (β̃ of section 3.2), in sampling and in the bound.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        steps: T, number of diffusion steps.
        schedule: variances of the steps, "linear" as in Ho et al. 2020 or "cosine" as in Nichol & Dhariwal 2021.
        sampling_steps: how many of the T times sampling visits, evenly spaced.
        eta: noise that sampling adds at these times: 1 for DDPM (ancestral sampling, if it visits all), 0 for DDIM.
        channels: of the convolutions at full resolution; twice as many at half and quarter resolution.
        dropout: during training.
        classes: number of classes of p(x|y), whose embedding is added to that of the time; 0 for p(x).
    """

    title = "Diffusion"
    paper = "Ho, Jain & Abbeel 2020, Denoising Diffusion Probabilistic Models"
    family = "diffusion"
    taxonomy = "explicit approximate"
    likelihood = "bound"
    unranked = ("steps", "schedule", "classes", "sampling_steps", "eta")  # another task; p(x|y); no effect on the loss
    objective = "min ½ 𝔼_t,ε‖ε − ε_θ(√ᾱₜ x + √(1 − ᾱₜ) ε, t)‖²,  ε ~ N(0, 1)"
    about = (
        "Images drown in Gaussian noise in many small steps, and a network that tells noise from image walks back from "
        "pure noise to a sample, one pass a step; DDIM leaves out steps. The density is bounded by what all steps of "
        "the ancestral walk cost, whichever walk draws the samples. Features are activations of the network; DDIM runs "
        "both ways, so that noise, as large as the image, is a latent to interpolate in, but nothing is compressed."
    )
    betas: Tensor
    alpha_bar: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        steps: Annotated[int, Field(ge=2)],
        schedule: Schedule,
        sampling_steps: Annotated[int, Field(ge=2)],
        eta: Annotated[float, Field(ge=0, le=1)],
        channels: Annotated[int, Field(ge=GROUPS, multiple_of=GROUPS)],
        dropout: Annotated[float, Field(ge=0, lt=1)],
        classes: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__(shape, levels)
        if sampling_steps > steps:
            raise ValueError(f"sampling_steps {sampling_steps} exceeds steps ({steps})")
        quarter(shape)  # raises ValueError if images cannot be halved twice
        self.steps, self.sampling_steps, self.eta, self.classes = steps, sampling_steps, eta, classes
        self.network = UNet(shape[0], channels, dropout, classes)
        betas = noise_schedule(schedule, steps)
        alpha_bar = torch.cat([betas.new_ones(1), (1 - betas).cumprod(0)])
        self.register_buffer("betas", betas, persistent=False)  # of times 1..T
        self.register_buffer("alpha_bar", alpha_bar, persistent=False)  # of times 0..T

    def diffuse(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t, drawn from q(x_t|x_0) (eq. 4).

        Args:
            x: x_0 in [-1, 1], (N, C, H, W).
            t: times 0..T, int64 (N,).
            noise: standard normal, (N, C, H, W).
        """
        a = self._at(t, x)
        return a.sqrt() * x + (1 - a).sqrt() * noise

    def clean(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The x_0 of x_t, given the noise in it (eq. 15), clipped to [-1, 1]."""
        a = self._at(t, x)
        return ((x - (1 - a).sqrt() * noise) / a.sqrt()).clamp(-1, 1)

    def backward_step(self, x: Tensor, x_0: Tensor, t: Tensor, s: Tensor, eta: float) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(x_s|x_t, x_0), s < t (Song et al. 2021, eq. 7 and 16).

        With eta = 1 and s = t - 1, this is the posterior of the forward process (Ho et al. 2020, eq. 7), which
        ancestral sampling uses.

        Args:
            x: x_t, (N, C, H, W).
            x_0: likewise.
            t: times, int64, (N,) or (1,).
            s: earlier times, likewise.
            eta: share of the posterior's standard deviation.
        """
        a_t, a_s = self._at(t, x), self._at(s, x)
        variance = eta**2 * (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)
        noise = (x - a_t.sqrt() * x_0) / (1 - a_t).sqrt()
        return a_s.sqrt() * x_0 + (1 - a_s - variance).clamp(min=0).sqrt() * noise, variance.sqrt()

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """L_simple (eq. 14), nats per image: ½‖ε − ε_θ‖² is the divergence between unit Gaussians around the two.

        "bound" estimates the bound of -log p(x|y) from the same times, nats per image; it is only logged.
        """
        return self._at_random_times(x, y, generator)

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor, generator: Generator) -> dict[str, Tensor]:
        """The same at several times per image.

        The best weights are chosen by the training loss, which weighs all times equally. In the bound, a few times with
        hardly any noise, which do not affect how samples look, outweigh all others.
        """
        return self._at_random_times(x.repeat(VALIDATION_TIMES, 1, 1, 1), y.repeat(VALIDATION_TIMES), generator)

    def log_prob(self, x: Tensor, generator: Generator) -> Tensor:
        """Lower bound of log p(x) (eq. 5) for the reverse process through all T times, one noise each, nats (N,).

        With classes, a bound of the largest term of p(x): log p(x|y) - log classes for the likeliest class y. That
        class is chosen with other noise, as the maximum of several noisy bounds is not a bound.
        """
        if not self.classes:
            return self.log_prob_given(x, None, generator)
        return self.log_prob_given(x, self.likeliest_class(x, generator), generator) - math.log(self.classes)

    def likeliest_class(self, x: Tensor, generator: Generator) -> Tensor:
        """The class that minimises a few of the bound's terms, with the same noise for all classes, int64 (N,)."""
        totals = x.new_zeros(self.classes, len(x), dtype=self._dtype)
        for time in torch.linspace(1, self.steps, min(self.steps, CLASS_TIMES)).round().long().tolist():
            noise, t = self._noise(x.shape, generator), torch.full((len(x),), time, device=x.device)
            for y, total in enumerate(totals):
                total += self.terms(x, t, noise, torch.full_like(t, y))[1]
        return totals.argmin(0)

    def log_prob_given(self, x: Tensor, y: Tensor | None, generator: Generator) -> Tensor:
        """Lower bound of log p(x|y), nats (N,), for classes y, int64 (N,); None if the model has none."""
        total = -self.prior_term(x)
        for times in torch.arange(1, self.steps + 1, device=x.device).split(max(1, ROWS // len(x))):
            noise = torch.cat([self._noise(x.shape, generator) for _ in times])
            k, t = len(times), times.repeat_interleave(len(x))
            terms = self.terms(x.repeat(k, 1, 1, 1), t, noise, None if y is None else y.repeat(k))[1]
            total = total - terms.view(k, len(x)).sum(0)
        return total

    def prior_term(self, x: Tensor) -> Tensor:
        """L_T = KL( q(x_T|x_0) ‖ N(0, 1) ): the information about the image left at time T, nats (N,)."""
        a = self.alpha_bar[-1]
        return 0.5 * (a * self._unit(x).square() - a - torch.log1p(-a)).flatten(1).sum(1).to(self._dtype)

    def terms(self, x: Tensor, t: Tensor, noise: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """½‖ε − ε_θ‖² and the bound's term L_{t-1}, each in nats (N,).

        For t > 1, the term is the divergence of q(x_{t-1}|x_t, x_0) from the model's p(x_{t-1}|x_t), which has the same
        variance and the predicted x_0: ½(SNR(t-1) - SNR(t))‖x_0 - x̂_0‖² (Kingma et al. 2021, Variational Diffusion
        Models, eq. 14). For t = 1, it is -log p(x_0|x_1), with the standard deviation of x_1.

        Args:
            x: images, uint8 (N, C, H, W).
            t: times 1..T, int64 (N,).
            noise: ε, (N, C, H, W).
            y: classes, int64 (N,); None if the model has none.
        """
        x_0 = self._unit(x)
        x_t = self.diffuse(x_0, t, noise)
        predicted = self.network(x_t, t, y).to(self._dtype)
        believed = self.clean(x_t, t, predicted)
        simple = 0.5 * (noise - predicted).square().flatten(1).sum(1)
        snr = self.alpha_bar / (1 - self.alpha_bar)
        weight = 0.5 * (snr[t.clamp(min=2) - 1] - snr[t]).to(self._dtype)
        divergence = weight * (x_0 - believed).square().flatten(1).sum(1)
        decoded = gaussian_log_prob(believed, float(self.betas[0].sqrt()), x, self.levels).flatten(1).sum(1)
        return simple, torch.where(t > 1, divergence, -decoded)

    @property
    def passes_in_sequence(self) -> int:
        """One per sampling step."""
        return self.sampling_steps

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw n images, uint8 (n, C, H, W); if there are classes, draw those first."""
        y = draw_classes(n, self.classes, generator, self.device) if self.classes else None
        return self._sample(n, y, generator)

    @torch.no_grad()
    def sample_given(self, y: Tensor, generator: Generator) -> Tensor:
        """Draw one image of each class y, int64 (N,): uint8 (N, C, H, W)."""
        return self._sample(len(y), y, generator)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The U-Net's innermost activations at a time with little noise, averaged over each quarter, (N, 8 channels).

        After Baranchuk et al. 2022, Label-Efficient Semantic Segmentation with Diffusion Models; here the noise is
        replaced by its mean, zero, which makes the features deterministic.
        """
        x_0 = self._unit(x)
        t = torch.full((len(x),), max(1, round(FEATURE_SHARE * self.steps)), device=x.device)
        inner, _ = self.network.inward(self.diffuse(x_0, t, torch.zeros_like(x_0)), self.network.embed(t, None))
        return F.adaptive_avg_pool2d(inner, 2).flatten(1)

    @torch.no_grad()
    def interpolate(self, a: Tensor, b: Tensor, steps: int) -> Tensor:
        """Interpolate on great circles between the DDIM latents of a and b and decode: uint8 (N, steps, C, H, W).

        Song et al. 2021, sections 4.3 and 4.4. A class-conditional model uses the average of its class embeddings.
        """
        start, end = (self.to_noise(self._unit(x)).flatten(1) for x in (a, b))
        x = great_circle(start, end, steps).view(-1, *self.shape)
        for t, s in pairwise(reversed(self._latent_times())):
            x = self._flow(x, t, s, self._predict(x, t))
        return from_unit(x, self.levels).view(len(a), steps, *self.shape)

    def to_noise(self, x: Tensor) -> Tensor:
        """The noise from which deterministic DDIM sampling generates images x in [-1, 1], both (N, C, H, W).

        A step from s to t must undo the step from t to s, which depends on the noise predicted at t. It is found by
        fixed-point iteration, starting from x_s.
        """
        for s, t in pairwise(self._latent_times()):
            x_t = x
            for _ in range(REFINEMENTS):
                x_t = self._flow(x, s, t, self._predict(x_t, t))
            x = x_t
        return x

    def _flow(self, x: Tensor, t: int, s: int, noise: Tensor) -> Tensor:
        """DDIM's step from x_t to x_s, in either direction of time: an Euler step of the probability flow (eq. 13)."""
        a_t, a_s = float(self.alpha_bar[t]), float(self.alpha_bar[s])
        scale = math.sqrt(a_s / a_t)
        return scale * x + (math.sqrt(1 - a_s) - scale * math.sqrt(1 - a_t)) * noise

    def _predict(self, x: Tensor, t: int, y: Tensor | None = None) -> Tensor:
        noise: Tensor = self.network(x, torch.full((len(x),), t, device=x.device), y)
        return noise.to(self._dtype)

    def _sample(self, n: int, y: Tensor | None, generator: Generator) -> Tensor:
        x = self._noise((n, *self.shape), generator)
        for t, s in pairwise(reversed(spaced_times(self.steps, self.sampling_steps))):
            here, there = (torch.tensor([time], device=self.device) for time in (t, s))
            x_0 = self.clean(x, here, self._predict(x, t, y))
            x, deviation = self.backward_step(x, x_0, here, there, self.eta)
            if self.eta and s:
                x = x + deviation * self._noise(x.shape, generator)
        return from_unit(x, self.levels)

    def _latent_times(self) -> list[int]:
        """All times but T: the step to T may lose the image altogether, so it cannot be undone."""
        return spaced_times(self.steps, min(self.steps, LATENT_STEPS))[:-1]

    def _at_random_times(self, x: Tensor, y: Tensor, generator: Generator) -> dict[str, Tensor]:
        t = spread_times(len(x), self.steps, generator, x.device)
        simple, term = self.terms(x, t, self._noise(x.shape, generator), y if self.classes else None)
        return {"loss": simple.mean(), "bound": (self.prior_term(x) + self.steps * term.detach()).mean()}

    def _noise(self, size: tuple[int, ...], generator: Generator) -> Tensor:
        return normal(size, generator, self.device, self._dtype)

    def _unit(self, x: Tensor) -> Tensor:
        return to_unit(x, self.levels).to(self._dtype)

    def _at(self, t: Tensor, x: Tensor) -> Tensor:
        return self.alpha_bar[t].to(x.dtype).view(-1, 1, 1, 1)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype


class UNet(nn.Module):
    """Predicts the noise, at three resolutions (appendix B of the paper, but smaller: one block each way at each).

    Args:
        colours: channels of an image.
        channels: at full resolution; twice as many at half and quarter resolution.
        dropout: during training.
        classes: their number; 0 for an unconditional model.
    """

    frequencies: Tensor

    def __init__(self, colours: int, channels: int, dropout: float, classes: int) -> None:
        super().__init__()
        wide, embedding = 2 * channels, 4 * channels
        self.embed_time = nn.Sequential(nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.embed_class = nn.Embedding(classes, embedding) if classes else None
        frequencies = torch.exp(-math.log(1e4) * torch.arange(channels // 2) / (channels // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.first = nn.Conv2d(colours, channels, 3, padding=1)
        sizes = (channels, wide)
        self.down = nn.ModuleList(Block(c, c, embedding, dropout) for c in sizes)
        self.halve = nn.ModuleList(nn.Conv2d(c, wide, 3, stride=2, padding=1) for c in sizes)
        self.middle = nn.ModuleList(Block(wide, wide, embedding, dropout) for _ in range(2))
        self.attention = Attention(wide)
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(wide, c, 4, stride=2, padding=1) for c in sizes)
        self.up = nn.ModuleList(Block(2 * c, c, embedding, dropout) for c in sizes)
        self.last = nn.Sequential(nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, colours, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """The noise in x_t, (N, C, H, W).

        Args:
            x: x_t, (N, C, H, W).
            t: times, int64 (N,).
            y: classes, int64 (N,); None for the average of their embeddings.
        """
        embedding = self.embed(t, y)
        h, passed = self.inward(x, embedding)
        for i in (1, 0):
            h = self.up[i](torch.cat([self.enlarge[i](h), passed[i]], 1), embedding)
        noise: Tensor = self.last(h)
        return noise

    def embed(self, t: Tensor, y: Tensor | None) -> Tensor:
        """Embedding of time and class for all blocks, (N, 4 channels)."""
        embedding: Tensor = self.embed_time(self.sinusoids(t))
        if self.embed_class is not None:
            embedding = embedding + (self.embed_class.weight.mean(0) if y is None else self.embed_class(y))
        return F.silu(embedding)

    def sinusoids(self, t: Tensor) -> Tensor:
        """Sinusoidal embedding of times t, int64 (N,): (N, channels) (Vaswani et al. 2017, section 3.5)."""
        angles = t[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], 1)

    def inward(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Activations at quarter resolution, (N, 2 channels, H/4, W/4), and those of the skip connections."""
        h, passed = self.first(x), []
        for block, halve in zip(self.down, self.halve, strict=True):
            passed.append(block(h, embedding))
            h = halve(passed[-1])
        return self.middle[1](self.attention(self.middle[0](h, embedding)), embedding), passed


class Block(nn.Module):
    """Two convolutions with a residual connection; between them, the embedding is added at every pixel.

    Args:
        inputs: number of input features.
        outputs: number of output features.
        embedding: size of the embedding.
        dropout: during training.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.GroupNorm(GROUPS, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.hear = nn.Linear(embedding, outputs)
        self.after = nn.Sequential(
            nn.GroupNorm(GROUPS, outputs), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Features (N, inputs, H, W) and an embedding (N, embedding) to features (N, outputs, H, W)."""
        heard = self.before(x) + self.hear(embedding)[..., None, None]
        out: Tensor = self.shortcut(x) + self.after(heard)
        return out


class Attention(nn.Module):
    """Self-attention over all pixels, one head, with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.GroupNorm(GROUPS, channels), nn.Conv2d(channels, 3 * channels, 1))
        self.after = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, channels, H, W) to the same shape."""
        query, key, value = self.before(x).flatten(2).chunk(3, dim=1)
        share = (query.transpose(1, 2) @ key / math.sqrt(x.shape[1])).softmax(-1)
        seen: Tensor = self.after((value @ share.transpose(1, 2)).view_as(x))
        return x + seen


def noise_schedule(schedule: Schedule, steps: int) -> Tensor:
    """Variances β_t of the noise that each of T steps adds, float64 (T,).

    Args:
        schedule: "linear": from 1e-4 to 0.02 for 1,000 steps (Ho et al. 2020, section 4), scaled up for fewer steps so
            that the end stays the same; "cosine": ᾱ_t is a squared cosine (Nichol & Dhariwal 2021, Improved Denoising
            Diffusion Probabilistic Models, eq. 17).
        steps: T.
    """
    if schedule == "linear":
        betas = torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * (1000 / steps)
        if betas[-1] >= 1:
            raise ValueError(f"{steps} steps are too few for the linear schedule, which needs more than 20")
        return betas
    time = torch.arange(steps + 1, dtype=torch.float64) / steps
    alpha_bar = ((time + 0.008) / 1.008 * math.pi / 2).cos().square()
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


def spaced_times(steps: int, count: int) -> list[int]:
    """Time 0, and `count` of the times 1..T, evenly spaced up to T."""
    return [round(i * steps / count) for i in range(count + 1)]


def spread_times(n: int, steps: int, generator: Generator, device: torch.device) -> Tensor:
    """Stratified times: one in each of n equal parts of 1..T, int64 (n,), ascending.

    Means over them are unbiased, with a lower variance than over independent times (after Kingma et al. 2021,
    Variational Diffusion Models, appendix I.1).

    Args:
        n: number of times.
        steps: T.
        generator: on `device`.
        device: of the result.
    """
    within = torch.rand(n, generator=generator, device=device, dtype=torch.float64)
    return ((torch.arange(n, device=device) + within) * (steps / n)).long().clamp(max=steps - 1) + 1


def gaussian_log_prob(mean: Tensor, deviation: float, x: Tensor, levels: int) -> Tensor:
    """log-probability of each pixel under a Gaussian distribution rounded to the nearest level, nats (eq. 13).

    The outermost levels take the tails, so that the probabilities of a pixel's levels sum to one.

    Args:
        mean: on the scale where levels are -1..1, any shape.
        deviation: standard deviation, on the same scale.
        x: integers 0..levels-1, in the shape of `mean`.
        levels: their number.
    """
    half_bin = 1 / (levels - 1)
    centre = 2 * half_bin * x.to(mean.dtype) - 1
    upper = torch.where(x == levels - 1, torch.inf, (centre + half_bin - mean) / deviation)
    lower = torch.where(x == 0, -torch.inf, (centre - half_bin - mean) / deviation)
    # By symmetry the difference can be taken in the lower tail, where it does not cancel.
    flip = lower + upper > 0
    upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    log_upper = torch.special.log_ndtr(upper)
    log_mass: Tensor = log_upper + torch.log(-torch.expm1(torch.special.log_ndtr(lower) - log_upper))
    return log_mass


def great_circle(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Spherical interpolation from a to b, both (N, d), with both ends: (N, steps, d).

    Shoemake 1985, Animating Rotation with Quaternion Curves.
    """
    angle = F.cosine_similarity(a, b).clamp(-1, 1).acos().view(-1, 1, 1) / math.pi
    share = torch.linspace(0, 1, steps, device=a.device, dtype=a.dtype).view(1, -1, 1)
    weight = share * (share * angle).sinc() / angle.sinc()  # sin(share · angle) / sin(angle), also for angle 0
    return weight.flip(1) * a.unsqueeze(1) + weight * b.unsqueeze(1)


MODEL = Ddpm
