"""VAE: Kingma & Welling 2014, Auto-Encoding Variational Bayes."""

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from workflow.models.base import Decodings, Model
from workflow.models.layers.common import (
    draw_classes,
    for_each_class,
    log_mean_exp,
    over_classes,
    quarter,
    to_unit,
    walk,
)
from workflow.models.layers.convolutions import downsample, upsample
from workflow.models.layers.mixture import Mixture, fit_mixture, standard_normal
from workflow.models.layers.noise import normal
from workflow.models.layers.pixels import Decoder, PixelDistribution

Kind = Literal["convolutional", "dense"]
ENCODED = 1000  # images encoded at once to fit the mixture
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
        decoder: p(x|z) of a pixel, "categorical" or "logistic" (`PixelDistribution`).
        importance_samples: K of the bound in `log_prob`.
        classes: number of classes of p(x|y); 0 for p(x). The decoder gets the class along with the latents (Kingma et
            al. 2014, Semi-Supervised Learning with Deep Generative Models, model M2). Unlike in that model the encoder
            does not, so that it also serves images of unknown class; the bound holds for any q(z|x).
        network: "convolutional"; or "dense", two hidden layers of `channels` tanh features in encoder and decoder, as
            in Burda et al. 2016, for images of any size, with pixels in [0, 1]; its first outputs are those of
            independent pixels.
        training_samples: K of the training bound; more than 1 makes it an importance weighted autoencoder (Burda et al.
            2016, Importance Weighted Autoencoders), with beta on the log-ratio of prior and posterior.
        blocks: residual blocks at quarter resolution in encoder and decoder, for convolutional networks.
        components: of a mixture of Gaussians that replaces the prior after training, fitted to latents of training
            images (Dai & Wipf 2019, Diagnosing and Enhancing VAE Models, whose second stage is another VAE; Ghosh et
            al. 2020, section 4). Latents drawn from it are like those that the decoder has been trained on, and the
            bound is tighter. 0 for a standard normal prior throughout.
    """

    weights: Tensor
    means: Tensor
    factors: Tensor

    title = "VAE"
    paper = "Kingma & Welling 2014, Auto-Encoding Variational Bayes"
    family = "variational"
    taxonomy = "explicit approximate"
    likelihood = "bound"
    tightens = True
    # p(x|y); the bound of so many draws; unseen; unseen
    unranked = ("classes", "training_samples", "importance_samples", "components")
    objective = "max 𝔼_q(z|x)[ log p(x|z) ] − β KL( q(z|x) ‖ p(z) )"
    about = (
        "An encoder maps an image to a Gaussian over a few latents, and a decoder maps latents to a distribution over "
        "images. Both are trained on a lower bound of the log-likelihood, because the likelihood itself is an integral "
        "over all latents; the bound reported here uses K importance samples. Sampling takes one pass, and the latents "
        "are compact features. Samples are draws from p(x|z), with independent noise in each pixel; reconstructions "
        "and interpolations show its mean."
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
        blocks: Annotated[int, Field(ge=0)] = 0,
        components: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__(shape, levels)
        self.latents, self.channels, self.beta = latents, channels, beta
        self.importance_samples, self.classes = importance_samples, classes
        self.training_samples, self.components = training_samples, components
        self.pixels = PixelDistribution(decoder, levels)
        self.network = network
        if network == "dense" and blocks:
            raise ValueError("blocks are for convolutional networks; a dense one has none")
        build = partial(_convolutional, blocks=blocks) if network == "convolutional" else _dense
        self.encode_layers, self.decode_layers = build(
            shape, channels, dropout, inputs=latents + classes, outputs=self.pixels.outputs, latents=latents
        )

        if components:
            for name, tensor in standard_normal(components, latents)._asdict().items():
                self.register_buffer(name, tensor)

    @property
    def note(self) -> str:
        """Which prior it has, unless it is a standard normal one."""
        if not self.components:
            return ""
        return (
            f"Its prior is a mixture of {self.components} Gaussians, fitted after training to latents of training "
            "images; the bound and the samples use it."
        )

    @torch.no_grad()
    def initialise(self, x: Tensor, generator: Generator) -> None:
        """Let the dense decoder's first outputs be the distributions of the pixels of images x, uint8 (N, C, H, W)."""
        if self.network == "dense":
            last = self.decode_layers[-2]
            assert isinstance(last, nn.Linear)
            last.bias.copy_(self.pixels.fitted(x).flatten())

    @torch.no_grad()
    def finish(self, x: Tensor, y: Tensor, generator: Generator) -> None:
        """Fit the mixture to one draw from q(z|x) for each training image x."""
        if not self.components:
            return
        mean, log_variance = map(torch.cat, zip(*map(self.posterior, x.split(ENCODED)), strict=True))
        z = mean + (log_variance / 2).exp() * normal(mean.shape, generator, x.device)
        fit_mixture(self.mixture, z, generator)

    @property
    def mixture(self) -> Mixture:
        """The prior, if it has components."""
        return Mixture(self.weights, self.means, self.factors)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each (N, latents). x: uint8 (N, C, H, W)."""
        mean, log_variance = self.encode_layers(to_unit(x, self.levels)).float().chunk(2, dim=1)
        return mean, log_variance

    @property
    def standard_prior(self) -> bool:
        """As in `HasPosterior`."""
        return not self.components

    def levels_given(self, z: Tensor) -> Tensor:
        """As in `HasPosterior`."""
        return self.pixels.log_levels(self.decode_layers(z))

    def code(self, z: Tensor, y: Tensor) -> Tensor:
        """The decoder's input: z (N, latents) and, if there are classes, y, int64 (N,), one-hot."""
        return torch.cat([z, F.one_hot(y, self.classes).to(z.dtype)], 1) if self.classes else z

    def log_likelihood(self, x: Tensor, code: Tensor) -> Tensor:
        """log p(x|code) in nats, (N,). x: uint8 (N, C, H, W), code: (N, latents + classes)."""
        return self.pixels.log_prob(self.decode_layers(code), x)

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
        given = self._bound_given(x, generator)
        if self.classes:
            return over_classes(given, len(x), self.classes, x.device)
        return given(torch.zeros(len(x), dtype=torch.long, device=x.device))

    def log_prob_by_class(self, x: Tensor, generator: Generator) -> Tensor:
        """The same bound of log p(x|y) for each class y, nats (N, classes); all use the same draws."""
        return for_each_class(self._bound_given(x, generator), len(x), self.classes, x.device).T

    def _bound_given(self, x: Tensor, generator: Generator) -> Callable[[Tensor], Tensor]:
        """The bound of log p(x|y), nats (N,), as a function of the classes y, int64 (N,), with draws made once."""
        log_ratio, z = self._draw(x, self.importance_samples, generator)
        return lambda y: log_mean_exp(self._log_likelihoods(x, z, y) + log_ratio)

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw n latents (and classes) from the prior and an image from p(x|z) for each: uint8 (n, C, H, W)."""
        return self.sample_given(self._draw_classes(n, generator), generator)

    @torch.no_grad()
    def sample_given(self, y: Tensor, generator: Generator) -> Tensor:
        """Draw a latent for each class y, int64 (N,), and an image from p(x|z): uint8 (N, C, H, W)."""
        return self.draw(self._draw_code(y, generator), generator)

    @torch.no_grad()
    def decodings(self, n: int, generator: Generator) -> Decodings:
        """Draw n latents (and classes); a draw from p(x|z), its mode and its mean, uint8 (n, C, H, W) each."""
        code = self._draw_code(self._draw_classes(n, generator), generator)
        return Decodings(self.draw(code, generator), self.mode(code), self.mean(code))

    @torch.no_grad()
    def draw(self, code: Tensor, generator: Generator) -> Tensor:
        """Draw from p(x|code) given codes, (N, latents + classes): uint8 (N, C, H, W)."""
        return self.pixels.draw(self.decode_layers(code), generator)

    @torch.no_grad()
    def mode(self, code: Tensor) -> Tensor:
        """The most probable images given codes, (N, latents + classes): uint8 (N, C, H, W)."""
        return self.pixels.mode(self.decode_layers(code))

    @torch.no_grad()
    def mean(self, code: Tensor) -> Tensor:
        """The mean images given codes, (N, latents + classes), rounded: uint8 (N, C, H, W)."""
        return self.pixels.mean(self.decode_layers(code))

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Means of q(z|x), (N, latents)."""
        return self.posterior(x)[0]

    def encoder_network(self) -> nn.Module:
        """The encoder, to mean and log-variance of q(z|x), (N, 2 latents)."""
        return self.encode_layers

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """The mean image given each latent z, (N, latents): uint8 (N, C, H, W); with classes, all alike."""
        classes = z.new_full((len(z), self.classes), 1 / max(1, self.classes))
        return self.mean(torch.cat([z, classes], 1))

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
        """The mean images given the likeliest codes of x: uint8 (N, C, H, W)."""
        return self.mean(self.likeliest_code(x))

    @torch.no_grad()
    def interpolate(self, a: Tensor, b: Tensor, steps: int) -> Tensor:
        """Interpolate linearly between the likeliest codes; the mean image of each: uint8 (N, steps, C, H, W).

        With classes, one class fades into the other along the way.
        """
        codes = walk(self.likeliest_code(a), self.likeliest_code(b), steps)
        return self.mean(codes.flatten(0, 1)).view(len(a), steps, *self.shape)

    def _draw_classes(self, n: int, generator: Generator) -> Tensor:
        """n classes, int64 (n,); zeros if the model has none."""
        if self.classes:
            return draw_classes(n, self.classes, generator, self.device)
        return torch.zeros(n, dtype=torch.long, device=self.device)

    def _draw_code(self, y: Tensor, generator: Generator) -> Tensor:
        """Draw a latent from the prior for each class y, int64 (N,): codes, (N, latents + classes)."""
        if self.components:
            return self.code(self.mixture.draw(len(y), generator), y)
        return self.code(normal((len(y), self.latents), generator, self.device), y)

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
        if not self.components:
            return 0.5 * (noise.square() + log_variance - z.square()).sum(2), z
        log_q = -0.5 * (noise.square() + log_variance + math.log(2 * math.pi)).sum(2)
        return self.mixture.log_prob(z.flatten(0, 1)).view(z.shape[:2]) - log_q, z

    def _log_likelihoods(self, x: Tensor, z: Tensor, y: Tensor) -> Tensor:
        """log p(x|z, y) of K latents z, (K, N, d), of each image x of class y: (K, N). Computed in chunks."""
        places = math.prod(self.shape[1:]) if self.network == "convolutional" else 1
        rows = max(1, ROWS // max(places * self.channels, self.pixels.outputs * math.prod(self.shape)))
        image = torch.arange(len(x), device=x.device).repeat(len(z))
        chunks = zip(z.flatten(0, 1).split(rows), image.split(rows), strict=True)
        parts = [self.log_likelihood(x[i], self.code(z_i, y[i] if self.classes else y)) for z_i, i in chunks]
        return torch.cat(parts).view(z.shape[:2])


def _convolutional(
    shape: tuple[int, int, int], channels: int, dropout: float, *, inputs: int, outputs: int, latents: int, blocks: int
) -> tuple[nn.Sequential, nn.Sequential]:
    """A convolutional encoder and decoder.

    Args:
        shape: of an image, (C, H, W).
        channels: at full resolution.
        dropout: during training.
        inputs: size of the decoder's input.
        outputs: numbers per pixel and colour channel that the decoder returns.
        latents: their number; the encoder returns twice as many numbers.
        blocks: residual blocks in each.
    """
    colours, (height, width), wide = shape[0], quarter(shape), 2 * channels
    encoder = nn.Sequential(
        *downsample(colours, channels, blocks=blocks),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(wide * height * width, 2 * latents),
    )
    decoder = nn.Sequential(
        nn.Linear(inputs, wide * height * width),
        nn.SiLU(),
        nn.Dropout(dropout),
        nn.Unflatten(1, (wide, height, width)),
        *upsample(channels, outputs * colours, blocks=blocks),
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
    encoder = nn.Sequential(nn.Flatten(), _FromZero(), *layers(d, 2 * latents))
    return encoder, nn.Sequential(*layers(inputs, outputs * d), nn.Unflatten(1, (outputs, *shape)))


class _FromZero(nn.Module):
    """Pixels in [-1, 1] to [0, 1]. Most are black: as -1 and not 0, they would move all features at once."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return (x + 1) / 2


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL( N(mean, variance) ‖ N(0, 1) ) in nats, summed over the last dimension: (N, d) to (N,).

    Kingma & Welling 2014, appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)


MODEL = Vae
