"""DDPM: Ho, Jain & Abbeel 2020, Denoising Diffusion Probabilistic Models; with the sampler DDIM: Song et al. 2021."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from workflow.models.base import Model
from workflow.models.layers.common import draw_classes, from_unit, quarter, to_unit
from workflow.models.layers.diffusion import Schedule, noise_schedule, spaced_times, spread_times
from workflow.models.layers.interpolation import great_circle
from workflow.models.layers.noise import choices_at, normal, uniform
from workflow.models.layers.pixels import gaussian_log_prob
from workflow.models.layers.unet import GROUPS, UNet

Variances = Literal["fixed", "per step", "per pixel"]
VARIANCES = {"per step": "one per step", "per pixel": "one per step and pixel"}  # the fitted ones, in words
ROWS = 2**10  # noisy images in one forward pass of `log_prob` and `finish`
FITTED_TO = 2**14  # noisy images, at most, that variances are fitted to, if that is enough for
FEWEST = 128  # images per time
BINS = 64  # of predicted pixels strictly between black and white, each with its own histogram
DRAWN = 2**16  # pixels drawn from histograms at once
UNSEEN = 0.05  # added to the count of each level in a histogram
DECODER_SCALES = 2 ** (torch.arange(-24, 25, dtype=torch.float64) / 8)  # 1/8 to 8: the decoder's deviation by x_1's
FEATURE_SHARE = 0.1  # of the steps: the time at which `encode` takes its features
CLASS_TIMES = 10  # times at which the terms of the bound are compared to infer an image's class
VALIDATION_TIMES = 8  # times at which each image is validated
LATENT_STEPS = 20  # between an image and its noise, at most
REFINEMENTS = 3  # evaluations of the network for each of these steps


class Ddpm(Model):
    """A U-Net that predicts the noise in an image after any number of diffusion steps.

    Samples follow the distribution whose likelihood is bounded: sampling and the bound use the same means and variances
    at every step, and samples include the noise of p(x_0|x_1), which Ho et al. leave out of the images they show. This
    holds if sampling visits all times with eta 1. With fewer times or less noise (DDIM), samples follow another
    distribution, whose density is unknown, and end with the mean of the last step.

    The variance of a reverse step is the posterior's (β̃ of Ho et al. 2020, section 3.2) if variances are "fixed", and
    that of p(x_0|x_1) is then that of x_1. Fitted variances are the optimal ones: β̃ plus what the error of the
    predicted x_0 contributes, whose mean square is measured on training images, either "per step" or "per pixel" of
    each step (Bao et al. 2022, Analytic-DPM, theorem 1; with the network's actual error, as in Bao et al. 2022,
    Estimating the Optimal Covariance with Imperfect Mean). The variance of p(x_0|x_1), the same for all pixels, is then
    the one of a grid that maximises the likelihood of training images.

    Instead of a Gaussian, p(x_0|x_1) can be a histogram: the share of each level among the pixels of training images
    with nearly the same predicted x_0. Where the last step's noise covers several levels, it knows that the background
    of a drawing is exactly black, which a Gaussian of one variance for all pixels cannot say.

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
        variances: of the reverse steps: "fixed" to those of the posterior (Ho et al. 2020), or fitted to training
            images, "per step" or "per pixel" of each step (Bao et al. 2022).
        patch: side of the squares of pixels that the network reads at once; with 2 it costs about half as much, and it
            has no blocks at full resolution (`layers/unet.py`).
        bound_terms: how many of the bound's T terms are computed for an image, in `log_prob`: the first, and others at
            stratified random times that stand for all. The estimate is unbiased. 0 for all.
        decoder: p(x_0|x_1) of a pixel: a Gaussian, or a histogram of the levels in training images where the network
            predicts nearly the same x_0.
        min_snr: γ by which the training loss at time t is weighted, min(SNR, γ) / SNR with SNR = ᾱ_t / (1 - ᾱ_t) (Hang
            et al. 2023, Efficient Diffusion Training via Min-SNR Weighting Strategy): with little time to train, less
            of it goes into times with hardly any noise. 0 for equal weights, which validation always has.
    """

    title = "Diffusion"
    paper = "Ho, Jain & Abbeel 2020, Denoising Diffusion Probabilistic Models"
    family = "diffusion"
    taxonomy = "explicit approximate"
    likelihood = "bound"
    # Another task; p(x|y); no effect on the loss.
    unranked = ("steps", "schedule", "classes", "sampling_steps", "eta", "variances", "bound_terms", "decoder")
    objective = "min ½ 𝔼_t,ε‖ε − ε_θ(√ᾱₜ x + √(1 − ᾱₜ) ε, t)‖²,  ε ~ N(0, 1)"
    about = (
        "Gaussian noise is added to images in many small steps, and a network that predicts this noise reverses the "
        "process, one pass per step, from pure noise to a sample. The log-likelihood is bounded by a sum of one term "
        "per step; sampling through all steps uses the same means and variances, whereas DDIM skips steps or noise. "
        "Features are activations of the network. DDIM is invertible, so that noise of the size of the image serves "
        "as a latent to interpolate in, but nothing is compressed."
    )
    betas: Tensor
    alpha_bar: Tensor
    error: Tensor
    decoder_deviation: Tensor
    decoder_log_prob: Tensor

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
        variances: Variances = "fixed",
        patch: Literal[1, 2] = 1,
        bound_terms: Annotated[int, Field(ge=0)] = 0,
        decoder: Literal["gaussian", "histogram"] = "gaussian",
        min_snr: Annotated[float, Field(ge=0)] = 0.0,
    ) -> None:
        super().__init__(shape, levels)
        if bound_terms == 1:
            raise ValueError("bound_terms 1 leaves no term to stand for the others: at least 2, or 0 for all")
        if sampling_steps > steps:
            raise ValueError(f"sampling_steps {sampling_steps} exceeds steps ({steps})")
        self.bound_terms, self.min_snr = bound_terms, min_snr
        quarter(shape)  # raises ValueError if images cannot be halved twice
        self.steps, self.sampling_steps, self.eta, self.classes = steps, sampling_steps, eta, classes
        self.network = UNet(shape[0], channels, dropout, classes, patch)
        betas = noise_schedule(schedule, steps)
        alpha_bar = torch.cat([betas.new_ones(1), (1 - betas).cumprod(0)])
        self.register_buffer("betas", betas, persistent=False)  # of times 1..T
        self.register_buffer("alpha_bar", alpha_bar, persistent=False)  # of times 0..T
        self.variances, fitted = variances, variances != "fixed"
        size = shape if variances == "per pixel" else (1, 1, 1)
        # Mean square of x_0 - x̂_0 at times 0..T: while it is zero, the variances are the fixed ones.
        self.register_buffer("error", torch.zeros(steps + 1, *size), persistent=fitted)
        self.register_buffer("decoder_deviation", betas[0].sqrt().float(), persistent=fitted)  # of p(x_0|x_1)
        self.decoder = decoder
        if decoder == "histogram":  # until it is counted, that of the Gaussian around the middle of each bin
            middle = torch.cat([torch.tensor([-1.0]), (torch.arange(BINS) + 0.5) * (2 / BINS) - 1, torch.tensor([1.0])])
            level = torch.arange(levels).expand(len(middle), -1)
            log_prob = gaussian_log_prob(middle[:, None].expand_as(level), self.decoder_deviation, level, levels)
            self.register_buffer("decoder_log_prob", log_prob)

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

    def reverse_deviation(self, t: Tensor, s: Tensor, eta: float) -> Tensor:
        """Standard deviation of the noise in the model's step from x_t to x_s.

        Its square is the variance of q(x_s|x_t, x_0), plus eta² times the variance that the error of the predicted x_0
        causes through the mean. For eta = 1, it is the optimal one: the second moment of x_s around the model's mean.
        """
        nothing = self.alpha_bar.new_zeros(1, 1, 1, 1)
        _, deviation = self.backward_step(nothing, nothing, t, s, eta)
        gain, _ = self.backward_step(nothing, nothing + 1, t, s, eta)  # the mean is linear in x_0
        return (deviation.square() + eta**2 * gain.square() * self.error[t]).sqrt()

    @torch.no_grad()
    def finish(self, x: Tensor, y: Tensor, generator: Generator) -> None:
        """Fit variances and histograms to training images x of classes y, one noise per time and image."""
        x = x[: max(FEWEST, FITTED_TO // self.steps)]
        if self.variances != "fixed":
            self._fit_variances(x, y, generator)
        if self.decoder == "histogram":
            self._fit_histograms(x, self._believed(x, y, 1, generator))

    def _fit_variances(self, x: Tensor, y: Tensor, generator: Generator) -> None:
        shared = (0,) if self.variances == "per pixel" else (0, 1, 2, 3)
        for time in range(1, self.steps + 1):
            believed = self._believed(x, y, time, generator)
            self.error[time] = (self._unit(x) - believed).square().mean(shared, keepdim=True).squeeze(0)
            if time == 1:
                deviations = (DECODER_SCALES.to(x.device) * self.betas[0].sqrt()).to(self._dtype)
                scores = [gaussian_log_prob(believed, d, x, self.levels).mean() for d in deviations]
                self.decoder_deviation.copy_(deviations[torch.stack(scores).argmax()])

    def _fit_histograms(self, x: Tensor, believed: Tensor) -> None:
        """Count the levels of images x, uint8 (N, C, H, W), by what is predicted, (N, C, H, W)."""
        cells = _bins(believed) * self.levels + x
        counts = cells.flatten().bincount(minlength=(BINS + 2) * self.levels).view(-1, self.levels) + UNSEEN
        self.decoder_log_prob.copy_((counts / counts.sum(1, keepdim=True)).log())

    def _believed(self, x: Tensor, y: Tensor, time: int, generator: Generator) -> Tensor:
        """The predicted x_0 of images x of classes y, from one x_t each, (N, C, H, W)."""
        believed = []
        for images, classes in zip(x.split(ROWS), y[: len(x)].split(ROWS), strict=True):
            t = torch.full((len(images),), time, device=x.device)
            x_t = self.diffuse(self._unit(images), t, self._noise(images.shape, generator))
            believed.append(self.clean(x_t, t, self._predict(x_t, time, classes if self.classes else None)))
        return torch.cat(believed)

    def decoder_log_likelihood(self, x: Tensor, believed: Tensor) -> Tensor:
        """log p(x_0|x_1) of each pixel of images x, uint8 (N, C, H, W), by the predicted x_0, nats."""
        if self.decoder == "gaussian":
            return gaussian_log_prob(believed, self.decoder_deviation, x, self.levels)
        return self.decoder_log_prob[_bins(believed), x.long()].to(self._dtype)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """L_simple (eq. 14), nats per image: ½‖ε − ε_θ‖² is the divergence between unit Gaussians around the two.

        With `min_snr`, a weighted mean over times.

        "bound" estimates the bound of -log p(x|y) from the same times, nats per image; it is only logged.
        """
        return self._at_random_times(x, y, generator, self.min_snr)

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

    def log_prob_by_class(self, x: Tensor, generator: Generator) -> Tensor:
        """Lower bound of log p(x|y) for each class y, estimated from a few of its terms, nats (N, classes).

        With the same times and noise for all classes, their differences need few terms (Li et al. 2023, Your Diffusion
        Model is Secretly a Zero-Shot Classifier, section 3.2).
        """
        labels = [torch.full((len(x),), y, device=x.device) for y in range(self.classes)]
        return torch.stack(self._bounds(x, labels, min(self.bound_terms or CLASS_TIMES, CLASS_TIMES), generator), 1)

    def log_prob_given(self, x: Tensor, y: Tensor | None, generator: Generator) -> Tensor:
        """Lower bound of log p(x|y), nats (N,), for classes y, int64 (N,); None if the model has none."""
        return self._bounds(x, [y], self.bound_terms, generator)[0]

    def _bounds(self, x: Tensor, labels: Sequence[Tensor | None], terms: int, generator: Generator) -> list[Tensor]:
        """The bound, nats (N,), for each of several choices of all images' classes, at the same times and with the same
        noise; terms: as `bound_terms`.
        """
        totals = [-self.prior_term(x)] * len(labels)
        visited, stands_for = self._bound_times(len(x), terms, generator)
        size = max(1, ROWS // len(x))
        for times, weights in zip(visited.split(size), stands_for.split(size), strict=True):
            noise, k = torch.cat([self._noise(x.shape, generator) for _ in times]), len(times)
            images, t = x.repeat(k, 1, 1, 1), times.flatten()
            for place, y in enumerate(labels):
                found = self.terms(images, t, noise, None if y is None else y.repeat(k))[1]
                totals[place] = totals[place] - (weights * found.view(k, len(x))).sum(0)
        return totals

    def _bound_times(self, n: int, terms: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """The times of the terms that are computed for n images, int64 (K, n), and how many terms each stands for.

        The latter is float (K, 1). The first term, -log p(x_0|x_1), is unlike the others and always among them.
        terms: as `bound_terms`.
        """
        if not 0 < terms < self.steps:
            every = torch.arange(1, self.steps + 1, device=self.device).unsqueeze(1)
            return every.expand(-1, n), torch.ones_like(every, dtype=self._dtype)
        parts, others = terms - 1, self.steps - 1
        within = torch.stack([uniform((n,), generator, self.device) for _ in range(parts)])
        start = torch.arange(parts, device=self.device).unsqueeze(1)
        drawn = ((start + within) * (others / parts)).long().clamp(max=others - 1) + 2
        weights = torch.full((terms, 1), others / parts, device=self.device, dtype=self._dtype)
        weights[0] = 1
        return torch.cat([torch.ones_like(drawn[:1]), drawn]), weights

    def prior_term(self, x: Tensor) -> Tensor:
        """L_T = KL( q(x_T|x_0) ‖ N(0, 1) ): the information about the image left at time T, nats (N,)."""
        a = self.alpha_bar[-1]
        return 0.5 * (a * self._unit(x).square() - a - torch.log1p(-a)).flatten(1).sum(1).to(self._dtype)

    def terms(self, x: Tensor, t: Tensor, noise: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """½‖ε − ε_θ‖² and the bound's term L_{t-1}, each in nats (N,).

        For t > 1, the term is the divergence of q(x_{t-1}|x_t, x_0) from the model's p(x_{t-1}|x_t), which has the
        predicted x_0 in place of x_0. With equal variances it is w‖x_0 - x̂_0‖², w = ½(SNR(t-1) - SNR(t)) (Kingma et al.
        2021, Variational Diffusion Models, eq. 14). A mean square error r of x̂_0 makes the model's variance larger by
        the factor 1 + 2wr. For t = 1, the term is -log p(x_0|x_1).

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
        weight = weight.view(-1, 1, 1, 1)
        growth = 2 * weight * self.error[t]
        per_pixel = growth.log1p() + (2 * weight * (x_0 - believed).square() - growth) / (1 + growth)
        divergence = 0.5 * per_pixel.flatten(1).sum(1)
        decoded = self.decoder_log_likelihood(x, believed).flatten(1).sum(1)
        return simple, torch.where(t > 1, divergence, -decoded)

    @property
    def passes_in_sequence(self) -> int:
        """One per sampling step."""
        return self.sampling_steps

    @property
    def ancestral(self) -> bool:
        """Whether samples are drawn from the distribution that `log_prob` bounds."""
        return self.eta == 1 and self.sampling_steps == self.steps

    @property
    def note(self) -> str:
        """Which reverse variances it has, and whether samples and likelihood belong to different distributions."""
        if self.variances == "fixed":
            chosen = "Its reverse variances are the fixed ones of Ho et al. 2020."
        else:
            each = VARIANCES[self.variances]
            chosen = f"Its reverse variances are fitted to training images, {each} (Bao et al. 2022)."
        if self.decoder == "histogram":
            chosen += " The last step draws each pixel from a histogram, counted on training images."
        if 0 < self.bound_terms < self.steps:
            chosen += f" The bound is estimated from {self.bound_terms} of its {self.steps} terms for each image."
        if self.ancestral:
            return f"{chosen} Samples and the bound use the same ones."
        return (
            f"{chosen} Samples take {self.sampling_steps} of {self.steps} steps with η = {self.eta:g} and thus follow "
            "another distribution than the one whose likelihood is bounded, which takes all steps with η = 1."
        )

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
            x, _ = self.backward_step(x, x_0, here, there, self.eta)
            if self.eta and s:
                deviation = self.reverse_deviation(here, there, self.eta).to(x.dtype)
                x = x + deviation * self._noise(x.shape, generator)
        if self.ancestral and self.decoder == "histogram":
            return self._draw_from_histograms(x, generator)
        if self.ancestral:
            x = x + self.decoder_deviation * self._noise(x.shape, generator)
        return from_unit(x, self.levels)

    def _draw_from_histograms(self, believed: Tensor, generator: Generator) -> Tensor:
        """A draw from p(x_0|x_1) by the predicted x_0, (N, C, H, W): uint8."""
        marks, bins = uniform((believed.numel(),), generator, self.device), _bins(believed).flatten()
        probabilities = self.decoder_log_prob.exp()
        parts = zip(marks.split(DRAWN), bins.split(DRAWN), strict=True)
        drawn = torch.cat([choices_at(mark, probabilities[some]) for mark, some in parts])
        return drawn.to(torch.uint8).view_as(believed)

    def _latent_times(self) -> list[int]:
        """All times but T: the step to T may lose the image altogether, so it cannot be undone."""
        return spaced_times(self.steps, min(self.steps, LATENT_STEPS))[:-1]

    def _at_random_times(self, x: Tensor, y: Tensor, generator: Generator, min_snr: float = 0.0) -> dict[str, Tensor]:
        t = spread_times(len(x), self.steps, generator, x.device)
        simple, term = self.terms(x, t, self._noise(x.shape, generator), y if self.classes else None)
        if min_snr:
            a = self.alpha_bar[t].to(self._dtype)
            simple = simple * (min_snr * (1 - a) / a).clamp(max=1)
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


def _bins(predicted: Tensor) -> Tensor:
    """Which histogram a predicted x_0 in [-1, 1], of any shape, belongs to, int64.

    The ends, to which predictions are clipped, have their own.
    """
    inside = ((predicted + 1) * (BINS / 2)).long().clamp(max=BINS - 1) + 1
    return torch.where(predicted <= -1, 0, torch.where(predicted >= 1, BINS + 1, inside))


MODEL = Ddpm
