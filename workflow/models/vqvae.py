"""VQ-VAE: van den Oord et al. 2017, Neural Discrete Representation Learning."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from workflow.models.base import Decodings, Model
from workflow.models.layers.codes import CausalTransformer, Codebook, straight_through
from workflow.models.layers.common import categorical_log_prob, quarter, to_unit, walk
from workflow.models.layers.convolutions import downsample, upsample
from workflow.models.layers.gated import GatedPixelCNN
from workflow.models.layers.pixels import Decoder, PixelDistribution


class VqVae(Model):
    """An autoencoder whose code is a small grid of codebook entries, and an autoregressive model of these grids.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        codes: entries of the codebook.
        code_size: length of an entry.
        decay: of the codebook's moving averages.
        commitment: weight β of the commitment loss (equation 3).
        channels: of the convolutions at full resolution; twice as many at half and quarter resolution.
        prior_channels: width of the prior.
        prior_layers: depth of the prior.
        dropout: in encoder, decoder and prior, during training.
        prior: model of the grids in raster order: the paper's PixelCNN, or a causal transformer (Ramesh et al. 2021,
            DALL-E).
        blocks: residual blocks at quarter resolution in encoder and decoder; the paper has 2.
        decoder: p(x|z) of a pixel, "categorical" or "logistic" (`PixelDistribution`).
    """

    title = "VQ-VAE"
    paper = "van den Oord et al. 2017, Neural Discrete Representation Learning"
    family = "vector-quantised"
    taxonomy = "explicit approximate"
    likelihood = "bound"
    objective = "min −log p(x|z) − log p(z) + β ‖zₑ(x) − sg(e_z)‖²,  z = argminₖ ‖zₑ(x) − eₖ‖"
    about = (
        "An encoder maps an image to a small grid of codebook entries, a decoder maps the grid to a distribution over "
        "images, and a PixelCNN or a transformer models the grids. Sampling takes one step per code instead of one per "
        "pixel, and the codes are features. The log-likelihood is bounded by log p(x|z) + log p(z) for the one z that "
        "the encoder chooses. Samples are draws from p(x|z), with independent noise in each pixel; reconstructions and "
        "interpolations show its mean."
    )

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        codes: Annotated[int, Field(ge=2)],
        code_size: Annotated[int, Field(ge=1)],
        decay: Annotated[float, Field(gt=0, lt=1)],
        commitment: Annotated[float, Field(ge=0)],
        channels: Annotated[int, Field(ge=1)],
        prior_channels: Annotated[int, Field(ge=1)],
        prior_layers: Annotated[int, Field(ge=1)],
        dropout: Annotated[float, Field(ge=0, lt=1)],
        prior: Literal["pixelcnn", "transformer"] = "pixelcnn",
        blocks: Annotated[int, Field(ge=0)] = 0,
        decoder: Decoder = "categorical",
    ) -> None:
        super().__init__(shape, levels)
        colours, wide, self.commitment = shape[0], 2 * channels, commitment
        self.encoder = nn.Sequential(
            *downsample(colours, channels, blocks=blocks),
            nn.Dropout(dropout),
            nn.Conv2d(wide, code_size, 3, padding=1, bias=False),
            # Not in the paper: normalised encodings spread over the codes instead of all choosing one at first.
            nn.BatchNorm2d(code_size, affine=False),
        )
        self.codebook = Codebook(codes, code_size, decay)
        self.distribution = PixelDistribution(decoder, levels)
        self.decoder = nn.Sequential(
            nn.Conv2d(code_size, wide, 3, padding=1),
            nn.SiLU(),
            nn.Dropout(dropout),
            *upsample(channels, self.distribution.outputs * colours, blocks=blocks),
            nn.Unflatten(1, (self.distribution.outputs, colours)),
        )
        self.grid = quarter(shape)
        self.prior = _prior(prior, self.grid, codes, prior_channels, prior_layers, dropout)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """Reconstruction, commitment and prior terms, nats per image; the prior sends no gradient to the codes."""
        z = self.encoder(to_unit(x, self.levels)).float()
        indices = self.codebook.nearest(z.detach())
        quantised = self.codebook.lookup(indices)
        straight = straight_through(z, quantised)
        terms = self._two_parts(x, indices, straight)
        commitment = (z - quantised).square().flatten(1).sum(1).mean()
        if self.training:
            self.codebook.update(z.detach(), indices, generator)
        loss = terms["reconstruction"] + self.commitment * commitment + terms["prior"]
        return {"loss": loss, **terms, "commitment": commitment, "perplexity": self.codebook.perplexity(indices)}

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Length of the two-part code, nats per image: the negative of `log_prob`, without the commitment term."""
        indices = self.indices(x)
        terms = self._two_parts(x, indices, self.codebook.lookup(indices))
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
        indices = self.indices(x)
        return self.distribution.log_prob(self.pixels(indices), x) + self.prior_log_prob(indices)

    def prior_log_prob(self, indices: Tensor) -> Tensor:
        """log p(z) of grids of codes, int64 (N, h, w), nats (N,); codes on trial have probability zero."""
        on_trial = ~self.codebook.available.view(1, -1, 1, 1)
        return categorical_log_prob(self.prior_logits(indices).masked_fill(on_trial, -torch.inf), indices)

    def prior_logits(self, indices: Tensor) -> Tensor:
        """Logits of each code given those before it in raster order, (N, codes, h, w). indices: int64 (N, h, w)."""
        if isinstance(self.prior, GatedPixelCNN):
            logits: Tensor = self.prior(indices.unsqueeze(1))
            return logits.squeeze(2)
        in_order: Tensor = self.prior(indices.flatten(1))
        return in_order.view(len(indices), -1, *self.grid)

    @torch.no_grad()
    def indices(self, x: Tensor) -> Tensor:
        """The grid of codes of each image, int64 (N, h, w)."""
        return self.codebook.nearest(self.encoder(to_unit(x, self.levels)))

    @property
    def passes_in_sequence(self) -> int:
        """Those of the prior, and one of the decoder."""
        return self.prior.passes_in_sequence + 1

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw grids of codes and an image from p(x|z) for each, uint8 (n, C, H, W)."""
        return self.distribution.draw(self.pixels(self.draw_indices(n, generator)), generator)

    @torch.no_grad()
    def decodings(self, n: int, generator: Generator) -> Decodings:
        """Draw n grids of codes; a draw from p(x|z), its mode and its mean, uint8 (n, C, H, W) each."""
        pixels, decode = self.pixels(self.draw_indices(n, generator)), self.distribution
        return Decodings(decode.draw(pixels, generator), decode.mode(pixels), decode.mean(pixels))

    @torch.no_grad()
    def draw_indices(self, n: int, generator: Generator) -> Tensor:
        """Draw n grids of codes from the prior, none of them on trial, int64 (n, h, w)."""
        available = self.codebook.available
        if isinstance(self.prior, GatedPixelCNN):
            blank = torch.zeros(n, 1, *self.grid, dtype=torch.long, device=self.device)
            return self.prior.sample(blank, 0, generator, available).squeeze(1)
        return self.prior.sample(n, generator, available[:, None].expand(-1, self.prior.length)).view(n, *self.grid)

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

    def _two_parts(self, x: Tensor, indices: Tensor, quantised: Tensor) -> dict[str, Tensor]:
        reconstruction = -self.distribution.log_prob(self.decoder(quantised), x).mean()
        return {"reconstruction": reconstruction, "prior": -self.prior_log_prob(indices).mean()}


def _prior(
    kind: str, grid: tuple[int, int], codes: int, channels: int, layers: int, dropout: float
) -> GatedPixelCNN | CausalTransformer:
    if kind == "pixelcnn":
        return GatedPixelCNN((1, *grid), codes, channels, layers, dropout, ordered=False)
    return CausalTransformer(math.prod(grid), codes, channels, layers, dropout)


MODEL = VqVae
