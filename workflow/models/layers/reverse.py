"""The way back of Gaussian diffusion in discrete time: means and variances of its steps, and the last one to levels."""

from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor

from workflow.models.base import Model
from workflow.models.layers.common import from_unit, to_unit
from workflow.models.layers.diffusion import Schedule, backward_step, diffuse, noise_schedule
from workflow.models.layers.histogram import bins, counted_histograms, draw_from_histograms, gaussian_histograms
from workflow.models.layers.noise import normal
from workflow.models.layers.pixels import gaussian_log_prob

Variances = Literal["fixed", "per step", "per pixel", "learned"]
Decoder = Literal["gaussian", "histogram"]
FITTED: dict[Variances, str] = {"per step": "one per step", "per pixel": "one per step and pixel"}  # in words
ROWS = 2**10  # noisy images in one forward pass
FITTED_TO = 2**14  # noisy images, at most, that variances are fitted to, if that is enough for
FEWEST = 128  # images per time
DECODER_SCALES = 2 ** (torch.arange(-24, 25, dtype=torch.float64) / 8)  # 1/8 to 8: the decoder's deviation by x_1's


class Prediction(NamedTuple):
    """What the network makes of x_t, each (N, C, H, W).

    Args:
        target: what it was trained to predict, noise or velocity.
        clean: the x_0 that follows, clipped to [-1, 1].
        noise: the noise that follows.
        share: v of a learned variance: 0 for the posterior's, 1 for that of the forward step; None if none is learned.

    """

    target: Tensor
    clean: Tensor
    noise: Tensor
    share: Tensor | None


class ReverseProcess(Model):
    """p(x_{t-1}|x_t) for times t = 1..T, given what is predicted from x_t; a family adds `predict`, loss and sampling.

    The variance of a reverse step is the posterior's (β̃ of Ho et al. 2020, section 3.2) if variances are "fixed", and
    that of p(x_0|x_1) is then that of x_1. Fitted variances are the optimal ones: β̃ plus what the error of the
    predicted x_0 contributes, whose mean square is measured on training images, either "per step" or "per pixel" of
    each step (Bao et al. 2022, Analytic-DPM, theorem 1; with the network's actual error, as in Bao et al. 2022,
    Estimating the Optimal Covariance with Imperfect Mean). The variance of p(x_0|x_1), the same for all pixels, is then
    the one of a grid that maximises the likelihood of training images.

    Learned variances are predicted by the network for each pixel of each x_t: β^v β̃^(1−v), where β is the variance of
    the forward step and v a second output (Nichol & Dhariwal 2021, Improved Denoising Diffusion Probabilistic Models,
    section 3.1). They learn from the bound, whose gradient does not reach the mean. With strided times, β and β̃ are
    those of the longer step.

    Instead of a Gaussian, p(x_0|x_1) can be a histogram: the share of each level among the pixels of training images
    with nearly the same predicted x_0. Where the last step's noise covers several levels, it knows that the background
    of a drawing is exactly black, which a Gaussian of one variance for all pixels cannot say.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        steps: T.
        schedule: of the noise.
        variances: of the reverse steps.
        decoder: p(x_0|x_1).
    """

    betas: Tensor
    alpha_bar: Tensor
    error: Tensor
    decoder_deviation: Tensor
    decoder_log_prob: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        steps: int,
        schedule: Schedule,
        variances: Variances,
        decoder: Decoder,
    ) -> None:
        super().__init__(shape, levels)
        self.steps, self.variances, self.decoder = steps, variances, decoder
        betas = noise_schedule(schedule, steps)
        alpha_bar = torch.cat([betas.new_ones(1), (1 - betas).cumprod(0)])
        self.register_buffer("betas", betas, persistent=False)  # of times 1..T
        self.register_buffer("alpha_bar", alpha_bar, persistent=False)  # of times 0..T
        fitted = variances in FITTED
        size = shape if variances == "per pixel" else (1, 1, 1)
        # Mean square of x_0 - x̂_0 at times 0..T: while it is zero, the variances are the fixed ones.
        self.register_buffer("error", torch.zeros(steps + 1, *size), persistent=fitted)
        self.register_buffer("decoder_deviation", betas[0].sqrt().float(), persistent=fitted)  # of p(x_0|x_1)
        if decoder == "histogram":  # until it is counted, that of the Gaussian around the middle of each bin
            self.register_buffer("decoder_log_prob", gaussian_histograms(self.decoder_deviation, levels))

    def predict(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Prediction:
        """What the network makes of x_t.

        Args:
            x: x_t, (N, C, H, W).
            t: times 1..T, int64, (N,) or (1,).
            y: classes, int64 (N,); None if the model has none, or for their average.
        """
        raise NotImplementedError

    def at(self, t: Tensor) -> Tensor:
        """ᾱ_t at times 0..T, int64 (N,), to broadcast against images: (N, 1, 1, 1)."""
        return self.alpha_bar[t].to(self._dtype).view(-1, 1, 1, 1)

    def reverse_deviation(self, t: Tensor, s: Tensor, eta: float, share: Tensor | None = None) -> Tensor:
        """Standard deviation of the noise in the model's step from x_t to x_s.

        Its square is the variance of q(x_s|x_t, x_0), plus eta² times the variance that the error of the predicted x_0
        causes through the mean. For eta = 1, it is the optimal one: the second moment of x_s around the model's mean.
        If it is learned, share says how it is interpolated.
        """
        nothing = self.alpha_bar.new_zeros(1, 1, 1, 1)
        a_t, a_s = (self.alpha_bar[time].view(-1, 1, 1, 1) for time in (t, s))
        _, deviation = backward_step(nothing, nothing, a_t, a_s, eta)
        if share is not None:
            return deviation * (0.5 * share * _log_ratio(a_t, a_s)).exp()
        gain, _ = backward_step(nothing, nothing + 1, a_t, a_s, eta)  # the mean is linear in x_0
        return (deviation.square() + eta**2 * gain.square() * self.error[t]).sqrt()

    def divergence(self, x_0: Tensor, believed: Tensor, t: Tensor, share: Tensor | None) -> Tensor:
        """KL( q(x_{t-1}|x_t, x_0) ‖ p(x_{t-1}|x_t) ), nats (N,), for times t > 1; 0 for time 1.

        With equal variances it is w‖x_0 - x̂_0‖², w = ½(SNR(t-1) - SNR(t)) (Kingma et al. 2021, Variational Diffusion
        Models, eq. 14). A mean square error r of x̂_0 makes the model's variance larger by the factor 1 + 2wr, a learned
        share v by (β/β̃)^v.

        Args:
            x_0: images in [-1, 1], (N, C, H, W).
            believed: the predicted x̂_0, likewise.
            t: int64 (N,).
            share: v, (N, C, H, W); None if variances are not learned.
        """
        snr, s = self.alpha_bar / (1 - self.alpha_bar), t.clamp(min=2) - 1
        weight = (0.5 * (snr[s] - snr[t])).to(self._dtype).view(-1, 1, 1, 1)
        if share is None:
            growth = 2 * weight * self.error[t]
        else:
            ratio = _log_ratio(self.alpha_bar[t], self.alpha_bar[s]).to(self._dtype)
            growth = (share * ratio.view(-1, 1, 1, 1)).expm1()
        per_pixel = growth.log1p() + (2 * weight * (x_0 - believed).square() - growth) / (1 + growth)
        return 0.5 * per_pixel.flatten(1).sum(1)

    def decoder_log_likelihood(self, x: Tensor, believed: Tensor, share: Tensor | None = None) -> Tensor:
        """log p(x_0|x_1) of each pixel of images x, uint8 (N, C, H, W), by the predicted x_0 and variance, nats."""
        if self.decoder == "gaussian":
            return gaussian_log_prob(believed, self.last_deviation(share), x, self.levels)
        return self.decoder_log_prob[bins(believed), x.long()].to(self._dtype)

    def last_deviation(self, share: Tensor | None) -> Tensor:
        """Standard deviation of p(x_0|x_1), for all pixels or, if it is learned, for each.

        As β̃ is 0 for this step, that of the second takes its place (Nichol & Dhariwal 2021).
        """
        if share is None:
            return self.decoder_deviation
        least = (1 - self.alpha_bar[1]) / (1 - self.alpha_bar[2]) * self.betas[1]
        return (0.5 * (share * self.betas[0].log() + (1 - share) * least.log())).exp()

    def path_log_weight(self, x: Tensor, y: Tensor | None, generator: Generator) -> Tensor:
        """log p(x, x_1, …, x_T) − log q(x_1, …, x_T|x) on a path drawn from q, nats (N,).

        Its expectation is the bound, Ho et al. 2020, equation 3; that of its exponential is p(x).

        Args:
            x: images, uint8 (N, C, H, W).
            y: classes, int64 (N,); None if the model has none.
            generator: of the path.
        """
        x_0, noise = self._unit(x), self._noise(x.shape, generator)
        last = self.at(self._time(self.steps))
        x_t = diffuse(x_0, noise, last)
        total = 0.5 * (noise.square() + (1 - last).log() - x_t.square())
        for time in range(self.steps, 1, -1):
            t, s = self._time(time), self._time(time - 1)
            found = self.predict(x_t, t, y)
            mean, deviation = backward_step(x_t, x_0, self.at(t), self.at(s), 1.0)
            believed, _ = backward_step(x_t, found.clean, self.at(t), self.at(s), 1.0)
            of_model = self.reverse_deviation(t, s, 1.0, found.share).to(self._dtype)
            noise = self._noise(x.shape, generator)
            x_t = mean + deviation * noise
            off = (x_t - believed) / of_model
            total = total + 0.5 * (noise.square() - off.square()) + (deviation / of_model).log()
        found = self.predict(x_t, self._time(1), y)
        return (total + self.decoder_log_likelihood(x, found.clean, found.share)).flatten(1).sum(1)

    def draw_last(self, mean: Tensor, share: Tensor | None, generator: Generator) -> Tensor:
        """A draw from p(x_0|x_1), uint8 (N, C, H, W), around the predicted x_0."""
        if self.decoder == "histogram":
            return draw_from_histograms(self.decoder_log_prob, mean, generator)
        return from_unit(mean + self.last_deviation(share) * self._noise(mean.shape, generator), self.levels)

    @torch.no_grad()
    def finish(self, x: Tensor, y: Tensor, generator: Generator) -> None:
        """Fit variances and histograms to training images x of classes y, one noise per time and image."""
        x = x[: max(FEWEST, FITTED_TO // self.steps)]
        if self.variances in FITTED:
            self._fit_variances(x, y, generator)
        if self.decoder == "histogram":
            self.decoder_log_prob.copy_(counted_histograms(x, self._believed(x, y, 1, generator), self.levels))

    def _fit_variances(self, x: Tensor, y: Tensor, generator: Generator) -> None:
        shared = (0,) if self.variances == "per pixel" else (0, 1, 2, 3)
        for time in range(1, self.steps + 1):
            believed = self._believed(x, y, time, generator)
            self.error[time] = (self._unit(x) - believed).square().mean(shared, keepdim=True).squeeze(0)
            if time == 1:
                deviations = (DECODER_SCALES.to(x.device) * self.betas[0].sqrt()).to(self._dtype)
                scores = [gaussian_log_prob(believed, d, x, self.levels).mean() for d in deviations]
                self.decoder_deviation.copy_(deviations[torch.stack(scores).argmax()])

    def _believed(self, x: Tensor, y: Tensor, time: int, generator: Generator) -> Tensor:
        """The predicted x_0 of images x of classes y, from one x_t each, (N, C, H, W)."""
        believed = []
        for images, classes in zip(x.split(ROWS), y[: len(x)].split(ROWS), strict=True):
            t = self._time(time)
            x_t = diffuse(self._unit(images), self._noise(images.shape, generator), self.at(t))
            believed.append(self.predict(x_t, t, classes if self.classes else None).clean)
        return torch.cat(believed)

    def _noise(self, size: tuple[int, ...], generator: Generator) -> Tensor:
        return normal(size, generator, self.device, self._dtype)

    def _unit(self, x: Tensor) -> Tensor:
        return to_unit(x, self.levels).to(self._dtype)

    def _time(self, t: int) -> Tensor:
        return torch.tensor([t], device=self.device)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


def _log_ratio(a_t: Tensor, a_s: Tensor) -> Tensor:
    """log(β/β̃): of the variance of a step from time s to t to that of its posterior, from ᾱ at both."""
    return ((1 - a_t) / (1 - a_s)).log()
