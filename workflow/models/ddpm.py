"""DDPM: Ho, Jain & Abbeel 2020, Denoising Diffusion Probabilistic Models; with the sampler DDIM: Song et al. 2021."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from workflow.models.layers.common import draw_classes, from_unit, quarter
from workflow.models.layers.diffusion import (
    Schedule,
    at_velocity,
    backward_step,
    bound_times,
    clean,
    diffuse,
    from_noise,
    prior_divergence,
    spaced_times,
    spread_times,
    to_noise,
    velocity,
)
from workflow.models.layers.interpolation import great_circle
from workflow.models.layers.reverse import FITTED, ROWS, Decoder, Prediction, ReverseProcess, Variances
from workflow.models.layers.unet import GROUPS, UNet

Target = Literal["noise", "velocity"]
FEATURE_SHARE = 0.1  # of the steps: the time at which `encode` takes its features
CLASS_TIMES = 10  # times at which the terms of the bound are compared to infer an image's class
VALIDATION_TIMES = 8  # times at which each image is validated
HYBRID = 0.001  # λ: weight of the bound in the loss if variances are learned (Nichol & Dhariwal 2021, eq. 16)
LATENT_STEPS = 20  # between an image and its noise, at most
OF_VELOCITY = "min ½ 𝔼_t,ε‖v − v_θ(√ᾱₜ x + √(1 − ᾱₜ) ε, t)‖²,  v = √ᾱₜ ε − √(1 − ᾱₜ) x,  ε ~ N(0, 1)"
OF_VARIANCES = ";  for Σ_θ = exp(s_θ log βₜ + (1 − s_θ) log β̃ₜ):  min ½ λ L_vlb"


class Ddpm(ReverseProcess):
    """A U-Net that predicts the noise in an image after any number of diffusion steps, and may learn variances.

    Samples follow the distribution whose likelihood is bounded: sampling and the bound use the same means and variances
    at every step, and samples include the noise of p(x_0|x_1), which Ho et al. leave out of the images they show. This
    holds if sampling visits all times with eta 1. With fewer times or less noise (DDIM), samples follow another
    distribution, whose density is unknown, and end with the mean of the last step.

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
        variances: of the reverse steps: "fixed" to those of the posterior (Ho et al. 2020); fitted to training images,
            "per step" or "per pixel" of each step (Bao et al. 2022); or "learned" by the network (Nichol & Dhariwal
            2021).
        patch: side of the squares of pixels that the network reads at once; with 2 it costs about half as much, and it
            has no blocks at full resolution (`layers/unet.py`).
        bound_terms: how many of the bound's T terms are computed for an image, in `log_prob`: the first, and others at
            stratified random times that stand for all. The estimate is unbiased. 0 for all.
        decoder: p(x_0|x_1) of a pixel: a Gaussian, or a histogram of the levels in training images where the network
            predicts nearly the same x_0.
        min_snr: γ by which the training loss at time t is weighted, min(SNR, γ) / SNR with SNR = ᾱ_t / (1 - ᾱ_t) (Hang
            et al. 2023, Efficient Diffusion Training via Min-SNR Weighting Strategy): with little time to train, less
            of it goes into times with hardly any noise. Of velocities, the weight is min(SNR, γ) / (SNR + 1). 0 for
            equal weights, which validation always has.
        prediction: what the network predicts: the noise ε, or the velocity v = √ᾱₜ ε − √(1 − ᾱₜ) x (Salimans & Ho 2022,
            Progressive Distillation for Fast Sampling of Diffusion Models), which also tells x_0 well from x_T.
    """

    title = "Diffusion"
    paper = "Ho, Jain & Abbeel 2020, Denoising Diffusion Probabilistic Models"
    family = "diffusion"
    taxonomy = "explicit approximate"
    likelihood = "bound"
    tightens = True
    # Another task; p(x|y); no effect on the loss.
    unranked = (
        "steps", "schedule", "prediction", "classes", "sampling_steps", "eta", "variances", "bound_terms", "decoder",
    )  # fmt: skip
    objective = "min ½ 𝔼_t,ε‖ε − ε_θ(√ᾱₜ x + √(1 − ᾱₜ) ε, t)‖²,  ε ~ N(0, 1)"
    about = (
        "Gaussian noise is added to images in many small steps, and a network that predicts this noise reverses the "
        "process, one pass per step, from pure noise to a sample. The log-likelihood is bounded by a sum of one term "
        "per step; sampling through all steps uses the same means and variances, whereas DDIM skips steps or noise. "
        "Features are activations of the network. DDIM is invertible, so that noise of the size of the image serves "
        "as a latent to interpolate in, but nothing is compressed."
    )

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
        decoder: Decoder = "gaussian",
        min_snr: Annotated[float, Field(ge=0)] = 0.0,
        prediction: Target = "noise",
    ) -> None:
        super().__init__(shape, levels, steps, schedule, variances, decoder)
        if bound_terms == 1:
            raise ValueError("bound_terms 1 leaves no term to stand for the others: at least 2, or 0 for all")
        if sampling_steps > steps:
            raise ValueError(f"sampling_steps {sampling_steps} exceeds steps ({steps})")
        self.bound_terms, self.min_snr = bound_terms, min_snr
        quarter(shape)  # raises ValueError if images cannot be halved twice
        self.sampling_steps, self.eta, self.classes, self.prediction = sampling_steps, eta, classes, prediction
        if prediction == "velocity":
            self.objective = OF_VELOCITY
        if variances == "learned":
            self.objective += OF_VARIANCES
        apart = {"velocity": prediction == "velocity", "learned variances": variances == "learned"}
        if any(apart.values()):
            self.title = f"Diffusion ({', '.join(word for word, chosen in apart.items() if chosen)})"
        outputs = shape[0] * (2 if variances == "learned" else 1)
        self.network = UNet(shape[0], channels, dropout, classes, patch, outputs)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """L_simple (eq. 14), nats per image: ½‖ε − ε_θ‖² is the divergence between unit Gaussians around the two.

        Of velocities, likewise. With `min_snr`, a weighted mean over times. With learned variances, half of L_hybrid
        (Nichol & Dhariwal 2021, eq. 16): that, and λ/2 times the bound.

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

    def log_weight(self, x: Tensor, generator: Generator) -> Tensor:
        """log p(x, x_1, …, x_T|y) − log q(x_1, …, x_T|x) on a path drawn from q, less log classes, nats (N,).

        Of all terms of the bound at once, with the noise of one path.
        """
        if not self.classes:
            return self.path_log_weight(x, None, generator)
        return self.path_log_weight(x, self.likeliest_class(x, generator), generator) - math.log(self.classes)

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
        visited, stands_for = bound_times(len(x), self.steps, terms, generator, self.device)
        size = max(1, ROWS // len(x))
        for times, weights in zip(visited.split(size), stands_for.split(size), strict=True):
            noise, k = torch.cat([self._noise(x.shape, generator) for _ in times]), len(times)
            images, t = x.repeat(k, 1, 1, 1), times.flatten()
            for place, y in enumerate(labels):
                found = self.terms(images, t, noise, None if y is None else y.repeat(k))[1]
                totals[place] = totals[place] - (weights.to(self._dtype) * found.view(k, len(x))).sum(0)
        return totals

    def prior_term(self, x: Tensor) -> Tensor:
        """L_T = KL( q(x_T|x_0) ‖ N(0, 1) ) of images x, uint8 (N, C, H, W), nats (N,)."""
        return prior_divergence(self._unit(x), self.alpha_bar[-1]).to(self._dtype)

    def terms(self, x: Tensor, t: Tensor, noise: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """½‖ε − ε_θ‖², or that of velocities, and the bound's term L_{t-1}, each in nats (N,).

        For t > 1, the term is the divergence of q(x_{t-1}|x_t, x_0) from the model's p(x_{t-1}|x_t), which has the
        predicted x_0 in place of x_0; for t = 1, it is -log p(x_0|x_1). Gradients of the term reach learned variances
        only.

        Args:
            x: images, uint8 (N, C, H, W).
            t: times 1..T, int64 (N,).
            noise: ε, (N, C, H, W).
            y: classes, int64 (N,); None if the model has none.
        """
        x_0, a = self._unit(x), self.at(t)
        found = self.predict(diffuse(x_0, noise, a), t, y)
        target = noise if self.prediction == "noise" else velocity(x_0, noise, a)
        simple = 0.5 * (target - found.target).square().flatten(1).sum(1)
        believed = found.clean.detach()
        decoded = self.decoder_log_likelihood(x, believed, found.share).flatten(1).sum(1)
        return simple, torch.where(t > 1, self.divergence(x_0, believed, t, found.share), -decoded)

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
        elif self.variances == "learned":
            chosen = "Its reverse variances are learned, for each pixel of each image (Nichol & Dhariwal 2021)."
        else:
            each = FITTED[self.variances]
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
        t = self._time(max(1, round(FEATURE_SHARE * self.steps))).expand(len(x))
        inner, _ = self.network.inward(diffuse(x_0, torch.zeros_like(x_0), self.at(t)), self.network.embed(t, None))
        return F.adaptive_avg_pool2d(inner, 2).flatten(1)

    @torch.no_grad()
    def interpolate(self, a: Tensor, b: Tensor, steps: int) -> Tensor:
        """Interpolate on great circles between the DDIM latents of a and b and decode: uint8 (N, steps, C, H, W).

        Song et al. 2021, sections 4.3 and 4.4. A class-conditional model uses the average of its class embeddings.
        """
        times = spaced_times(self.steps, min(self.steps, LATENT_STEPS))[:-1]  # T may lose the image: no way back
        shares = [float(self.alpha_bar[time]) for time in times]

        def predict(x: Tensor, i: int) -> Tensor:
            return self.predict(x, self._time(times[i])).noise

        start, end = (to_noise(predict, self._unit(x), shares).flatten(1) for x in (a, b))
        x = from_noise(predict, great_circle(start, end, steps).view(-1, *self.shape), shares)
        return from_unit(x, self.levels).view(len(a), steps, *self.shape)

    def predict(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Prediction:
        """What the network makes of x_t.

        Args:
            x: x_t, (N, C, H, W).
            t: times 1..T, int64, (N,) or (1,).
            y: classes, int64 (N,); None if the model has none, or for their average.
        """
        outputs: Tensor = self.network(x, t.expand(len(x)), y).to(self._dtype)
        target, share = outputs, None
        if self.variances == "learned":
            target, share = outputs.chunk(2, 1)
            share = (share + 1) / 2  # at first in the middle
        if self.prediction == "velocity":
            return Prediction(target, *at_velocity(x, target, self.at(t)), share)
        return Prediction(target, clean(x, target, self.at(t)), target, share)

    def _sample(self, n: int, y: Tensor | None, generator: Generator) -> Tensor:
        x = self._noise((n, *self.shape), generator)
        for t, s in pairwise(reversed(spaced_times(self.steps, self.sampling_steps))):
            here, there = self._time(t), self._time(s)
            found = self.predict(x, here, y)
            x, _ = backward_step(x, found.clean, self.at(here), self.at(there), self.eta)
            if self.eta and s:
                deviation = self.reverse_deviation(here, there, self.eta, found.share).to(x.dtype)
                x = x + deviation * self._noise(x.shape, generator)
        return self.draw_last(x, found.share, generator) if self.ancestral else from_unit(x, self.levels)

    def _at_random_times(self, x: Tensor, y: Tensor, generator: Generator, min_snr: float = 0.0) -> dict[str, Tensor]:
        t = spread_times(len(x), self.steps, generator, x.device)
        simple, term = self.terms(x, t, self._noise(x.shape, generator), y if self.classes else None)
        if min_snr:
            a = self.alpha_bar[t].to(self._dtype)
            weight = (min_snr * (1 - a) / a).clamp(max=1)
            simple = simple * (weight if self.prediction == "noise" else a * weight)
        bound = (self.prior_term(x) + self.steps * term).mean()
        loss = simple.mean()
        if self.variances == "learned":
            loss = loss + 0.5 * HYBRID * bound
        return {"loss": loss, "bound": bound.detach()}


MODEL = Ddpm
