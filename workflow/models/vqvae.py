"""VQ-VAE: van den Oord et al. 2017, Neural Discrete Representation Learning."""

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from workflow.models.base import Decodings, Model
from workflow.models.layers.adversarial import adaptive_weight, critic_network, hinge_loss
from workflow.models.layers.any_order import AnyOrder, Order
from workflow.models.layers.codes import Codebook
from workflow.models.layers.common import draw_categorical, quarter, to_unit, walk
from workflow.models.layers.convolutions import downsample, upsample
from workflow.models.layers.fsq import ScalarCodebook
from workflow.models.layers.noise import integers, uniform
from workflow.models.layers.pixels import Decoder, PixelDistribution
from workflow.models.layers.priors import AnyPrior, CaptionedPrior, MaskedPrior, Prior, make_prior

FEATURES = 64  # size of the critic's last hidden layer
BLANK = 0.1  # share of captions that are left out in training (Ho & Salimans 2022, Classifier-Free Diffusion Guidance)


class VqVae(Model):
    """An autoencoder whose code is a small grid of codebook entries, and a model of these grids.

    With `adversarial`, a VQ-GAN (Esser et al. 2021, Taming Transformers for High-Resolution Image Synthesis): a critic
    tells images from their reconstructions, the means of p(x|z). Samples stay draws from p(x|z), so that the bound is
    that of their distribution. The critic judges a whole image, not patches, and its features stand for those of the
    paper's pretrained network.

    With `vocabulary`, text to image as DALL-E 1 does it (Ramesh et al. 2021, Zero-Shot Text-to-Image Generation): the
    prior, a causal transformer, reads the words of a caption before the codes of its image. p(x) is then that of the
    blank caption, which takes the place of one in ten while it is trained.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        channels: of the convolutions at full resolution; twice as many at half and quarter resolution.
        prior_channels: width of the prior.
        prior_layers: depth of the prior.
        dropout: in encoder, decoder and prior, during training.
        codes: entries of the codebook.
        code_size: length of an entry.
        decay: of the codebook's moving averages.
        commitment: weight β of the commitment loss (equation 3).
        fsq: in place of a codebook and its four options: how many levels each of a code's numbers is rounded to
            (Mentzer et al. 2024, Finite Scalar Quantization: VQ-VAE Made Simple).
        prior: model of the grids: in raster order the paper's PixelCNN, or a causal transformer (Ramesh et al. 2021,
            DALL-E); in any order a masked transformer (Chang et al. 2022, MaskGIT).
        prior_passes: of a masked prior: the number of groups in which the codes of a grid are drawn, the first ones
            being the smallest; 0 for one code each.
        prior_order: of a masked prior: "random", so that samples follow the distribution whose likelihood is bounded;
            or "confident": each pass draws all masked codes and keeps the most probable (Chang et al. 2022, section
            3.2).
        prior_temperature: of Gumbel noise in the choice of the most probable.
        blocks: residual blocks at quarter resolution in encoder and decoder; the paper has 2.
        decoder: p(x|z) of a pixel, "categorical" or "logistic" (`PixelDistribution`).
        adversarial: weight of the adversarial loss, times one that makes its gradient at the decoder's last layer as
            long as that of the reconstruction (Esser et al. 2021, eq. 6 and 7); 0 for no critic.
        perceptual: weight of the squared distance between the critic's features of an image and of its reconstruction
            (Larsen et al. 2016, Autoencoding beyond pixels using a learned similarity metric, eq. 7).
        vocabulary: number of words in the captions to train on, which an error names if it is another; 0: no captions.
        caption_length: of captions, how many words one has at most.
    """

    title = "VQ-VAE"
    paper = "van den Oord et al. 2017, Neural Discrete Representation Learning"
    family = "vector-quantised"
    taxonomy = "explicit approximate"
    likelihood = "bound"
    # Of sampling alone; p(x|caption) and p(x) cannot be compared.
    unranked = ("prior_order", "prior_temperature", "vocabulary", "caption_length")
    objective = "min −log p(x|z) − log p(z) + β ‖zₑ(x) − sg(e_z)‖²,  z = argminₖ ‖zₑ(x) − eₖ‖"
    about = (
        "An encoder maps an image to a small grid of codebook entries, a decoder maps the grid to a distribution over "
        "images, and a PixelCNN or a transformer models the grids. Sampling takes one step per code instead of one per "
        "pixel, or fewer, and the codes are features. The log-likelihood is bounded by log p(x|z) + log p(z) for the "
        "one z that the encoder chooses. Samples are draws from p(x|z), with independent noise in each pixel; "
        "reconstructions and interpolations show its mean."
    )

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        channels: Annotated[int, Field(ge=1)],
        prior_channels: Annotated[int, Field(ge=1)],
        prior_layers: Annotated[int, Field(ge=1)],
        dropout: Annotated[float, Field(ge=0, lt=1)],
        codes: Annotated[int, Field(ge=2)] | None = None,
        code_size: Annotated[int, Field(ge=1)] | None = None,
        decay: Annotated[float, Field(gt=0, lt=1)] | None = None,
        commitment: Annotated[float, Field(ge=0)] | None = None,
        fsq: Annotated[list[Annotated[int, Field(ge=3)]], Field(min_length=1)] | None = None,
        prior: Prior = "pixelcnn",
        prior_passes: Annotated[int, Field(ge=0)] = 0,
        prior_order: Order = "random",
        prior_temperature: Annotated[float, Field(ge=0)] = 0.0,
        blocks: Annotated[int, Field(ge=0)] = 0,
        decoder: Decoder = "categorical",
        adversarial: Annotated[float, Field(ge=0)] = 0.0,
        perceptual: Annotated[float, Field(ge=0)] = 0.0,
        vocabulary: Annotated[int, Field(ge=0)] = 0,
        caption_length: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__(shape, levels)
        self.grid, colours, wide = quarter(shape), shape[0], 2 * channels
        if perceptual and not adversarial:
            raise ValueError("perceptual needs a critic: adversarial must be above zero")
        size, make_codebook = _codebook(codes, code_size, decay, commitment, fsq)
        self.encoder = nn.Sequential(
            *downsample(colours, channels, blocks=blocks),
            nn.Dropout(dropout),
            nn.Conv2d(wide, size, 3, padding=1, bias=False),
            # Not in the paper: normalised encodings spread over the codes instead of all choosing one at first.
            nn.BatchNorm2d(size, affine=False),
        )
        self.codebook, self.commitment = make_codebook(), commitment or 0.0
        self.distribution = PixelDistribution(decoder, levels)
        self.decoder = nn.Sequential(
            nn.Conv2d(size, wide, 3, padding=1),
            nn.SiLU(),
            nn.Dropout(dropout),
            *upsample(channels, self.distribution.outputs * colours, blocks=blocks),
            nn.Unflatten(1, (self.distribution.outputs, colours)),
        )
        any_order = _any_order(prior, math.prod(self.grid), prior_passes, prior_order, prior_temperature)
        self.vocabulary, self.caption_length = vocabulary, caption_length
        size_of_prior = (self.grid, len(self.codebook.available), prior_channels, prior_layers, dropout)
        if _captioned(prior, vocabulary, caption_length):
            self.prior: AnyPrior = CaptionedPrior(*size_of_prior, vocabulary, caption_length)
        else:
            self.prior = make_prior(prior, *size_of_prior, any_order)
        self.tightens = prior != "masked"  # whose own bound is a random one
        self.adversarial, self.perceptual = adversarial, perceptual
        self.critic = critic_network(shape, channels, FEATURES, 1, "convolutional") if adversarial else None
        if self.critic is not None:  # a bias would learn nothing while all outputs are within the margin of the loss
            self.critic[-1] = nn.Linear(FEATURES, 1, bias=False)
        extras = ["FSQ" if fsq else "", "masked prior" if prior == "masked" else "", "captions" if vocabulary else ""]
        self.title = "VQ-GAN" if adversarial else "VQ-VAE"
        self.title += f" ({', '.join(filter(None, extras))})" if any(extras) else ""
        self.objective = _objective(fsq=fsq is not None, adversarial=adversarial > 0)

    @property
    def players(self) -> dict[str, nn.Module]:
        """The model; with a critic, this and the rest."""
        if self.critic is None:
            return super().players
        return {"critic": self.critic, "coder": nn.ModuleList([self.encoder, self.decoder, self.prior])}

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """Reconstruction, commitment and prior terms, nats per image; the prior sends no gradient to the codes.

        With captions, y holds K of each image, int64 (N, K, caption_length), of which one is drawn. If it holds
        classes, int64 (N,), all captions are blank.

        With a critic, also the perceptual and the adversarial loss. The critic has a loss of its own.
        """
        if player == "critic":
            return self._critic_terms(x)
        z = self.encoder(to_unit(x, self.levels)).float()
        indices = self.codebook.nearest(z.detach())
        pixels = self.decoder(self.codebook.quantise(z, indices))
        terms = self._two_parts(x, pixels, self._mean_of_prior(indices, y, generator))
        loss = terms["reconstruction"]
        if self.critic is not None:
            terms |= self._against(self.critic, x, pixels, loss)
            loss = loss + self.perceptual * terms["perceptual"]
            loss = loss + self.adversarial * terms["adaptive_weight"] * terms["adversarial"]
        if isinstance(self.codebook, Codebook):
            terms["commitment"] = (z - self.codebook.lookup(indices)).square().flatten(1).sum(1).mean()
            loss = loss + self.commitment * terms["commitment"]
        if self.training:
            self.codebook.update(z.detach(), indices, generator)
        return {"loss": loss + terms["prior"], **terms, "perplexity": self.codebook.perplexity(indices)}

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Length of the two-part code, nats per image: the negative of `log_prob`, without the other terms.

        With captions, that of an image given one of its own.
        """
        indices = self.indices(x)
        if isinstance(self.prior, CaptionedPrior):
            prior = self._mean_of_prior(indices, y, generator)
        else:
            prior = self.prior_log_prob(indices, generator).mean()
        terms = self._two_parts(x, self.pixels(indices), prior)
        return {
            "loss": terms["reconstruction"] + terms["prior"],
            **terms,
            "perplexity": self.codebook.perplexity(indices),
        }

    def log_prob(self, x: Tensor, generator: Generator) -> Tensor:
        """log p(x|z) + log p(z) for the encoder's z, nats (N,).

        p(x) is the sum of p(x|z) p(z) over all grids z, so any single term is a lower bound: the evidence lower bound
        for a q(z|x) concentrated on one z.
        """
        return self._joint(x, self.indices(x), generator)

    @torch.no_grad()
    def log_weight(self, x: Tensor, generator: Generator) -> Tensor:
        """log( p(x, z) + p(x, z′) / q(z′) ) for the encoder's z and a z′ that differs in one code, nats (N,).

        Its exponential is, on average, the part of p(x) that z and all such neighbours have. The place is drawn evenly,
        its code the likelier the nearer it is to the one of z.
        """
        z, rows = self.indices(x), torch.arange(len(x), device=x.device)
        if self.codebook.available.sum() == 1:
            return self._joint(x, z, generator)
        place = torch.randint(z[0].numel(), (len(x),), generator=generator, device=x.device)
        taken, codes = z.flatten(1)[rows, place], torch.arange(len(self.codebook.available), device=x.device)
        vectors = self.codebook.lookup(codes.view(-1, 1, 1)).flatten(1)
        possible = self.codebook.available & (codes != taken.unsqueeze(1))
        distance = torch.cdist(vectors[taken], vectors)  # in units of the mean one, so that none is out of reach
        log_q = (-distance / distance.mean()).masked_fill(~possible, -torch.inf).log_softmax(1)
        drawn = draw_categorical(log_q, generator)
        beside = z.flatten(1).scatter(1, place.unsqueeze(1), drawn.unsqueeze(1)).view_as(z)
        weight = self._joint(x, beside, generator) - log_q[rows, drawn] + math.log(z[0].numel())
        return self._joint(x, z, generator).logaddexp(weight)

    def _joint(self, x: Tensor, indices: Tensor, generator: Generator) -> Tensor:
        """log p(x, z) = log p(x|z) + log p(z), nats (N,); of a masked prior a lower bound of it."""
        return self.distribution.log_prob(self.pixels(indices), x) + self.prior_log_prob(indices, generator)

    def log_prob_captioned(self, x: Tensor, captions: Tensor, generator: Generator) -> Tensor:
        """log p(x|z) + log p(z|caption) for the encoder's z, a lower bound of log p(x|caption), nats (N,).

        x: uint8 (N, C, H, W). captions: one for each, int64 (N, caption_length).
        """
        indices = self.indices(x)
        prior = self._captioned_prior.log_prob_given(indices, self.codebook.available, captions)
        return self.distribution.log_prob(self.pixels(indices), x) + prior

    def prior_log_prob(self, indices: Tensor, generator: Generator) -> Tensor:
        """log p(z) of grids of codes, int64 (N, h, w), nats (N,), of a masked prior a lower bound of it.

        Codes on trial have probability zero.
        """
        return self.prior.log_prob(indices, self.codebook.available, generator)

    @torch.no_grad()
    def indices(self, x: Tensor) -> Tensor:
        """The grid of codes of each image, int64 (N, h, w)."""
        return self.codebook.nearest(self.encoder(to_unit(x, self.levels)))

    @property
    def passes_in_sequence(self) -> int:
        """Those of the prior, and one of the decoder."""
        return self.prior.passes_in_sequence + 1

    @property
    def note(self) -> str:
        """Whether samples and likelihood belong to different distributions, and what else than it was maximised."""
        notes = []
        if isinstance(self.prior, MaskedPrior) and self.prior.any_order.order == "confident":
            notes.append(
                "A pass of the prior keeps the codes that it is surest of, so samples follow another distribution than "
                "the one whose likelihood is bounded, which draws as many codes a pass in random order."
            )
        if self.vocabulary:
            notes.append(
                "Its samples and bits/dim are those of the blank caption, which one training image in ten has; it "
                "learns to predict images from captions, not captions."
            )
        if self.critic is not None:
            notes.append(
                "The critic has seen means of p(x|z); samples are draws from it, whose distribution has the bound."
            )
        return " ".join(notes)

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw grids of codes and an image from p(x|z) for each, uint8 (n, C, H, W)."""
        return self.distribution.draw(self.pixels(self.draw_indices(n, generator)), generator)

    @torch.no_grad()
    def sample_captioned(self, captions: Tensor, generator: Generator, tries: int = 1) -> Tensor:
        """Draw one image for each caption, int64 (N, caption_length), uint8 (N, C, H, W).

        tries: how many grids of codes are drawn for each caption; that with the highest log p(z|caption) is decoded.
        """
        prior, available = self._captioned_prior, self.codebook.available
        grids = prior.draw_given(captions, available, generator)
        if tries > 1:
            best = prior.log_prob_given(grids, available, captions)
        for _ in range(tries - 1):
            others = prior.draw_given(captions, available, generator)
            found = prior.log_prob_given(others, available, captions)
            grids = torch.where((found > best).view(-1, 1, 1), others, grids)
            best = torch.maximum(found, best)
        return self.distribution.draw(self.pixels(grids), generator)

    @torch.no_grad()
    def decodings(self, n: int, generator: Generator) -> Decodings:
        """Draw n grids of codes; a draw from p(x|z), its mode and its mean, uint8 (n, C, H, W) each."""
        pixels, decode = self.pixels(self.draw_indices(n, generator)), self.distribution
        return Decodings(decode.draw(pixels, generator), decode.mode(pixels), decode.mean(pixels))

    @torch.no_grad()
    def draw_indices(self, n: int, generator: Generator) -> Tensor:
        """Draw n grids of codes from the prior, none of them on trial, int64 (n, h, w)."""
        return self.prior.draw(n, self.codebook.available, generator)

    def pixels(self, indices: Tensor) -> Tensor:
        """The numbers that describe p(x|z) given codes, int64 (N, h, w): (N, outputs, C, H, W)."""
        pixels: Tensor = self.decoder(self.codebook.lookup(indices))
        return pixels

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The chosen codebook vectors, (N, code_size · h · w)."""
        return self.codebook.lookup(self.indices(x)).flatten(1)

    def encoder_network(self) -> nn.Module:
        """The encoder, to what is quantised, (N, code_size, h, w)."""
        return self.encoder

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean images given the encoder's codes: uint8 (N, C, H, W)."""
        return self.distribution.mean(self.pixels(self.indices(x)))

    @torch.no_grad()
    def interpolate(self, a: Tensor, b: Tensor, steps: int) -> Tensor:
        """Interpolate linearly between the encodings and quantise; the mean images: uint8 (N, steps, C, H, W)."""
        ends = [self.encoder(to_unit(x, self.levels)) for x in (a, b)]
        path = walk(ends[0].flatten(1), ends[1].flatten(1), steps).flatten(0, 1)
        indices = self.codebook.nearest(path.unflatten(1, ends[0].shape[1:]))
        return self.distribution.mean(self.pixels(indices)).view(len(a), steps, *self.shape)

    @property
    def _captioned_prior(self) -> CaptionedPrior:
        assert isinstance(self.prior, CaptionedPrior)
        return self.prior

    def _mean_of_prior(self, indices: Tensor, y: Tensor, generator: Generator) -> Tensor:
        """The mean of log p(z), or of log p(z|caption) with one caption of each image, nats, (); y: as of `loss`."""
        if not isinstance(self.prior, CaptionedPrior):
            return self.prior.mean_bound(indices, self.codebook.available, generator)
        captions = self.prior.blank(len(indices)) if y.ndim == 1 else _one_each(y, generator)
        if self.training:
            left_out = uniform((len(captions), 1), generator, captions.device) < BLANK
            captions = captions.masked_fill(left_out, 0)
        return self.prior.log_prob_given(indices, self.codebook.available, captions).mean()

    def _two_parts(self, x: Tensor, pixels: Tensor, prior: Tensor) -> dict[str, Tensor]:
        """The lengths of both parts, nats per image; prior: the mean of log p(z), ()."""
        return {"reconstruction": -self.distribution.log_prob(pixels, x).mean(), "prior": -prior}

    def _critic_terms(self, x: Tensor) -> dict[str, Tensor]:
        """The critic's loss on images and their reconstructions, and how often it is right."""
        assert self.critic is not None
        with torch.no_grad():
            fake = self.distribution.smooth_mean(self.pixels(self.indices(x)))
        on_real, on_fake = (self.critic(images).float() for images in (to_unit(x, self.levels), fake))
        right = {"accuracy_real": (on_real > 0).float().mean(), "accuracy_fake": (on_fake < 0).float().mean()}
        return {"loss": hinge_loss(on_real, on_fake), **right}

    def _against(self, critic: nn.Sequential, x: Tensor, pixels: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        """The losses by the critic, which is not trained here, and the weight λ of the adversarial one.

        Args:
            critic: the critic.
            x: images, uint8 (N, C, H, W).
            pixels: the numbers that describe p(x|z), (N, outputs, C, H, W).
            reconstruction: the mean of -log p(x|z), ().
        """
        features, last = critic[:-1], cast(nn.Conv2d, self.decoder[-2])
        of_fake = features(self.distribution.smooth_mean(pixels))
        with torch.no_grad():
            of_real = features(to_unit(x, self.levels))
        perceptual = (of_real - of_fake).float().square().sum(1).mean()
        adversarial = -critic[-1](of_fake).float().mean()
        weight = adaptive_weight(reconstruction + self.perceptual * perceptual, adversarial, last.weight)
        return {"perceptual": perceptual, "adversarial": adversarial, "adaptive_weight": weight}


def _codebook(
    codes: int | None, code_size: int | None, decay: float | None, commitment: float | None, fsq: list[int] | None
) -> tuple[int, Callable[[], Codebook | ScalarCodebook]]:
    """How many numbers a code has, and what makes the codebook; raises ValueError if the options do not agree."""
    learned = (codes, code_size, decay, commitment)
    if fsq and all(option is None for option in learned):
        return len(fsq), partial(ScalarCodebook, fsq)
    if fsq or codes is None or code_size is None or decay is None or commitment is None:
        raise ValueError("give either fsq or codes, code_size, decay and commitment, of a codebook")
    return code_size, partial(Codebook, codes, code_size, decay)


def _any_order(prior: Prior, codes: int, passes: int, order: Order, temperature: float) -> AnyOrder:
    """How a masked prior draws a grid of so many codes; raises ValueError if the options do not agree."""
    if prior != "masked" and (passes or order != "random" or temperature):
        raise ValueError("prior_passes, prior_order and prior_temperature are of a masked prior")
    if passes > codes:
        raise ValueError(f"prior_passes {passes} exceeds the codes of an image ({codes})")
    return AnyOrder(codes, passes or codes, order, temperature)


def _captioned(prior: Prior, vocabulary: int, caption_length: int) -> bool:
    """Whether there are captions; raises ValueError if the options do not agree."""
    if (vocabulary == 0) != (caption_length == 0):
        raise ValueError("captions need both vocabulary and caption_length")
    if vocabulary and prior != "transformer":
        raise ValueError("captions need a prior that reads them: set prior to transformer")
    return vocabulary > 0


def _one_each(captions: Tensor, generator: Generator) -> Tensor:
    """One of the K captions of each image, drawn uniformly, from int64 (N, K, length): (N, length)."""
    chosen = integers(captions.shape[1], len(captions), generator, captions.device)
    return captions[torch.arange(len(captions), device=captions.device), chosen]


def _objective(*, fsq: bool, adversarial: bool) -> str:
    commitment, code = ("", "round(b(zₑ(x)))") if fsq else (" + β ‖zₑ(x) − sg(e_z)‖²", "argminₖ ‖zₑ(x) − eₖ‖")
    fooling, fake = (" − λ C(x̂)", ",  x̂ = 𝔼[x|z];  C tells x from x̂") if adversarial else ("", "")
    return f"min −log p(x|z) − log p(z){commitment}{fooling},  z = {code}{fake}"


MODEL = VqVae
