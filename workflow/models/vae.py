"""VAE: Kingma & Welling 2014, Auto-Encoding Variational Bayes."""

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from workflow.models.base import Model
from workflow.models.layers.common import (
    categorical_log_prob,
    draw_classes,
    from_unit,
    log_mean_exp,
    over_classes,
    quarter,
    to_unit,
    walk,
)
from workflow.models.layers.convolutions import downsample, upsample
from workflow.models.layers.noise import normal

Decoder = Literal["categorical", "logistic"]
Kind = Literal["convolutional", "dense"]
ROWS = 2**22  # elements of the largest tensor in a chunk of `log_prob`: 16 MiB


class Vae(Model):
    """An encoder to a Gaussian over latents, and a decoder to independent discrete pixels.

    Below, a code is the decoder's input: a latent and, if there are classes, a weight for each: (N, latents + classes).

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        latents: their number.
        channels: of the convolutions at full resolution; twice as many at half and quarter resolution.
        dropout: in encoder and decoder, during training.
        beta: weight of the KL term (Higgins et al. 2017, beta-VAE); 1 for the VAE.
        decoder: p(x|z) of a pixel: a probability for each level ("categorical"), or a discretised logistic (Salimans et
            al. 2017, PixelCNN++, section 2.1), which knows that levels are ordered and needs 2 numbers per pixel.
        importance_samples: K of the bound in `log_prob`.
        classes: number of classes of p(x|y); 0 for p(x). The decoder gets the class along with the latents (Kingma et
            al. 2014, Semi-Supervised Learning with Deep Generative Models, model M2). Unlike in that model the encoder
            does not, so that it also serves images of unknown class; the bound holds for any q(z|x).
        network: "convolutional"; or "dense", two hidden layers of `channels` tanh features in encoder and decoder, as
            in Burda et al. 2016, for images of any size.
        training_samples: K of the training bound; more than 1 makes it an importance weighted autoencoder (Burda et al.
            2016, Importance Weighted Autoencoders), with beta on the log-ratio of prior and posterior.
    """

    title = "VAE"
    paper = "Kingma & Welling 2014, Auto-Encoding Variational Bayes"
    family = "variational"
    taxonomy = "explicit approximate"
    likelihood = "bound"
    unranked = ("classes", "training_samples", "importance_samples")  # p(x|y); the bound of so many draws; unseen
    objective = "max 𝔼_q(z|x)[ log p(x|z) ] − β KL( q(z|x) ‖ p(z) )"
    about = (
        "An encoder maps an image to a Gaussian over a few latents and a decoder maps latents to a distribution of "
        "images; both are trained on a lower bound of the log-likelihood, as the exact one is an integral over all "
        "latents. It samples in one pass, its latents are compact features, and its density is only bounded, here with "
        "K importance samples. Pictures show the decoder's most probable pixels, as is usual: a true draw from p(x|z), "
        "which is what the bound judges, adds noise that is independent for each pixel."
    )

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        latents: Annotated[int, Field(ge=1)],
        channels: Annotated[int, Field(ge=1)],
        dropout: Annotated[float, Field(ge=0, lt=1)],
        beta: Annotated[float, Field(ge=0)],
        decoder: Decoder,
        importance_samples: Annotated[int, Field(ge=1)],
        classes: Annotated[int, Field(ge=0)] = 0,
        network: Kind = "convolutional",
        training_samples: Annotated[int, Field(ge=1)] = 1,
    ) -> None:
        super().__init__(shape, levels)
        self.latents, self.channels, self.beta = latents, channels, beta
        self.decoder, self.importance_samples, self.classes = decoder, importance_samples, classes
        self.training_samples = training_samples
        self.outputs = levels if decoder == "categorical" else 2  # numbers that describe a pixel's distribution
        build = _convolutional if network == "convolutional" else _dense
        self.encode_layers, self.decode_layers = build(
            shape, channels, dropout, inputs=latents + classes, outputs=self.outputs, latents=latents
        )

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each (N, latents). x: uint8 (N, C, H, W)."""
        mean, log_variance = self.encode_layers(to_unit(x, self.levels)).float().chunk(2, dim=1)
        return mean, log_variance

    def code(self, z: Tensor, y: Tensor) -> Tensor:
        """The decoder's input: z (N, latents) and, if there are classes, y, int64 (N,), one-hot."""
        return torch.cat([z, F.one_hot(y, self.classes).to(z.dtype)], 1) if self.classes else z

    def log_likelihood(self, x: Tensor, code: Tensor) -> Tensor:
        """log p(x|code) in nats, (N,). x: uint8 (N, C, H, W), code: (N, latents + classes)."""
        pixels: Tensor = self.decode_layers(code)
        if self.decoder == "categorical":
            return categorical_log_prob(pixels, x)
        return logistic_log_prob(pixels[:, 0], pixels[:, 1], x, self.levels).flatten(1).sum(1)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """Negative evidence lower bound with beta times the KL term, from one z per image, nats per image.

        With several training samples, the importance-weighted bound from as many z.
        """
        if self.training_samples > 1:
            return self._weighted_bound(x, y, generator, self.beta)
        return self._negative_bound(x, y, generator, self.beta)

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor, generator: Generator) -> dict[str, Tensor]:
        """The same with beta 1: a bound of the likelihood whatever beta is, so that models can be compared."""
        if self.training_samples > 1:
            return self._weighted_bound(x, y, generator, 1.0)
        return self._negative_bound(x, y, generator, 1.0)

    def log_prob(self, x: Tensor, generator: Generator) -> Tensor:
        """Importance-weighted lower bound of log p(x) from K draws of z (Burda et al. 2016, eq. 8), nats (N,).

        With classes, p(x) is the mean of p(x|y) over them; all use the same draws.
        """
        log_ratio, z = self._draw(x, self.importance_samples, generator)

        def given(y: Tensor) -> Tensor:
            return log_mean_exp(self._log_likelihoods(x, z, y) + log_ratio)

        if self.classes:
            return over_classes(given, len(x), self.classes, x.device)
        return given(torch.zeros(len(x), dtype=torch.long, device=x.device))

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw n latents (and classes) from the prior; the most probable image of each, uint8 (n, C, H, W)."""
        y = torch.zeros(n, dtype=torch.long, device=self.device)
        if self.classes:
            y = draw_classes(n, self.classes, generator, self.device)
        return self.sample_given(y, generator)

    @torch.no_grad()
    def sample_given(self, y: Tensor, generator: Generator) -> Tensor:
        """Draw a latent for each class y, int64 (N,); the most probable image of each, uint8 (N, C, H, W)."""
        z = normal((len(y), self.latents), generator, self.device)
        return self.decode(self.code(z, y))

    @torch.no_grad()
    def decode(self, code: Tensor) -> Tensor:
        """The most probable images given codes, (N, latents + classes): uint8 (N, C, H, W)."""
        pixels: Tensor = self.decode_layers(code)
        if self.decoder == "categorical":
            return pixels.argmax(1).to(torch.uint8)
        return logistic_mode(pixels[:, 0], pixels[:, 1], self.levels)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Means of q(z|x), (N, latents)."""
        return self.posterior(x)[0]

    @torch.no_grad()
    def likeliest_code(self, x: Tensor) -> Tensor:
        """The mean of q(z|x), and the class y that maximises p(x|z, y) there: (N, latents + classes)."""
        z = self.encode(x)
        y = torch.zeros(len(x), dtype=torch.long, device=x.device)
        if self.classes:
            y = torch.stack([self.log_likelihood(x, self.code(z, y + k)) for k in range(self.classes)]).argmax(0)
        return self.code(z, y)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The most probable images given the likeliest codes of x: uint8 (N, C, H, W)."""
        return self.decode(self.likeliest_code(x))

    @torch.no_grad()
    def interpolate(self, a: Tensor, b: Tensor, steps: int) -> Tensor:
        """Interpolate linearly between the likeliest codes and decode: uint8 (N, steps, C, H, W).

        With classes, one class fades into the other along the way.
        """
        codes = walk(self.likeliest_code(a), self.likeliest_code(b), steps)
        return self.decode(codes.flatten(0, 1)).view(len(a), steps, *self.shape)

    def _negative_bound(self, x: Tensor, y: Tensor, generator: Generator, beta: float) -> dict[str, Tensor]:
        mean, log_variance = self.posterior(x)
        noise = normal(mean.shape, generator, x.device)
        code = self.code(mean + (log_variance / 2).exp() * noise, y)
        reconstruction = -self.log_likelihood(x, code).mean()
        kl = kl_to_standard_normal(mean, log_variance).mean()
        return {"loss": reconstruction + beta * kl, "reconstruction": reconstruction, "kl": kl}

    def _weighted_bound(self, x: Tensor, y: Tensor, generator: Generator, beta: float) -> dict[str, Tensor]:
        log_ratio, z = self._draw(x, self.training_samples, generator)
        return {"loss": -log_mean_exp(self._log_likelihoods(x, z, y) + beta * log_ratio).mean()}

    def _draw(self, x: Tensor, samples: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """log p(z) - log q(z|x), (K, N), of K draws z from q(z|x) for each image, and these draws, (K, N, latents)."""
        mean, log_variance = self.posterior(x)
        noise = normal((samples, *mean.shape), generator, x.device, dim=1)
        z = mean + (log_variance / 2).exp() * noise
        return 0.5 * (noise.square() + log_variance - z.square()).sum(2), z

    def _log_likelihoods(self, x: Tensor, z: Tensor, y: Tensor) -> Tensor:
        """log p(x|z, y) of K latents z, (K, N, d), of each image x of class y: (K, N). Computed in chunks."""
        rows = max(1, ROWS // (math.prod(self.shape[1:]) * max(self.channels, self.outputs * self.shape[0])))
        image = torch.arange(len(x), device=x.device).repeat(len(z))
        chunks = zip(z.flatten(0, 1).split(rows), image.split(rows), strict=True)
        parts = [self.log_likelihood(x[i], self.code(z_i, y[i] if self.classes else y)) for z_i, i in chunks]
        return torch.cat(parts).view(z.shape[:2])


def _convolutional(
    shape: tuple[int, int, int], channels: int, dropout: float, *, inputs: int, outputs: int, latents: int
) -> tuple[nn.Sequential, nn.Sequential]:
    """A convolutional encoder and decoder.

    Args:
        shape: of an image, (C, H, W).
        channels: at full resolution.
        dropout: during training.
        inputs: size of the decoder's input.
        outputs: numbers per pixel and colour channel that the decoder returns.
        latents: their number; the encoder returns twice as many numbers.
    """
    colours, (height, width), wide = shape[0], quarter(shape), 2 * channels
    encoder = nn.Sequential(
        *downsample(colours, channels),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(wide * height * width, 2 * latents),
    )
    decoder = nn.Sequential(
        nn.Linear(inputs, wide * height * width),
        nn.SiLU(),
        nn.Dropout(dropout),
        nn.Unflatten(1, (wide, height, width)),
        *upsample(channels, outputs * colours),
        nn.Unflatten(1, (outputs, colours)),
    )
    return encoder, decoder


def _dense(
    shape: tuple[int, int, int], channels: int, dropout: float, *, inputs: int, outputs: int, latents: int
) -> tuple[nn.Sequential, nn.Sequential]:
    """Two layers of `channels` tanh features and a linear one each way; arguments as of `_convolutional`."""

    def layers(first: int, last: int) -> list[nn.Module]:
        tanh = [nn.Linear(first, channels), nn.Tanh(), nn.Linear(channels, channels), nn.Tanh()]
        return [*tanh, nn.Dropout(dropout), nn.Linear(channels, last)]

    d = math.prod(shape)
    encoder = nn.Sequential(nn.Flatten(), *layers(d, 2 * latents))
    return encoder, nn.Sequential(*layers(inputs, outputs * d), nn.Unflatten(1, (outputs, *shape)))


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL( N(mean, variance) ‖ N(0, 1) ) in nats, summed over the last dimension: (N, d) to (N,).

    Kingma & Welling 2014, appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)


def logistic_log_prob(mean: Tensor, log_scale: Tensor, x: Tensor, levels: int) -> Tensor:
    """log-probability of each pixel under a logistic distribution rounded to the nearest level, nats.

    Salimans et al. 2017, PixelCNN++, equation 2, with one component. The outermost levels take the tails, so that the
    probabilities of a pixel's levels sum to one.

    Args:
        mean: of the distribution, on the scale where levels are -1..1; broadcast against x.
        log_scale: logarithm of its scale, likewise.
        x: integers 0..levels-1.
        levels: their number.
    """
    centre, half_bin = to_unit(x, levels), 1 / (levels - 1)
    # The scale is at least exp(-7), as in PixelCNN++: smaller ones gain next to nothing and make gradients explode.
    inverse_scale = (-log_scale.float().clamp(min=-7)).exp()
    upper = (centre + half_bin - mean.float()) * inverse_scale
    lower = (centre - half_bin - mean.float()) * inverse_scale
    # sigma(u) - sigma(l) = sigma(u) sigma(-l) (1 - exp(l - u)) avoids cancellation in the tails.
    below_upper, above_lower = F.logsigmoid(upper), F.logsigmoid(-lower)
    log_mass = below_upper + above_lower + torch.log(-torch.expm1(-2 * half_bin * inverse_scale))
    log_mass = torch.where(x == 0, below_upper, log_mass)
    return torch.where(x == levels - 1, above_lower, log_mass)


def logistic_mode(mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """The most probable level of each pixel, uint8: the one nearest to the mean, or an outermost one with its tail."""
    nearest = from_unit(mean, levels)
    candidates = torch.stack([nearest, torch.zeros_like(nearest), torch.full_like(nearest, levels - 1)])
    best = logistic_log_prob(mean, log_scale, candidates, levels).argmax(0, keepdim=True)
    return candidates.gather(0, best).squeeze(0)


MODEL = Vae
