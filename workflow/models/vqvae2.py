"""VQ-VAE-2: Razavi, van den Oord & Vinyals 2019, Generating Diverse High-Fidelity Images with VQ-VAE-2."""

import math
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from workflow.models.base import Decodings, Model
from workflow.models.layers.codes import CausalTransformer, Codebook, straight_through
from workflow.models.layers.common import categorical_log_prob, quarter, to_unit, walk
from workflow.models.layers.convolutions import double, halve
from workflow.models.layers.pixels import categorical_draw, categorical_mean, categorical_mode


class Coded(NamedTuple):
    """Encodings of one level, float (N, code_size, h, w), and the codes chosen for them, int64 (N, h, w)."""

    z: Tensor
    indices: Tensor


class VqVae2(Model):
    """An autoencoder with a coarse and a fine grid of codes, top and bottom, and a transformer over both.

    The paper has one PixelCNN per grid, that of the bottom conditioned on the top. Here a single causal transformer
    reads the top grid and then the bottom grid as one sequence, with a vocabulary for each (as Ramesh et al. 2021,
    DALL-E, do with text and image). This is also exactly p(top) p(bottom | top), and every bottom code sees all of the
    top.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        codes: entries of each level's codebook.
        code_size: length of an entry.
        decay: of the codebooks' moving averages.
        commitment: weight β of the commitment losses.
        channels: of the convolutions at full resolution; twice as many at half resolution (the bottom grid) and at
            quarter resolution (the top grid).
        prior_channels: width of the transformer.
        prior_layers: depth of the transformer.
        dropout: in encoders, decoders and transformer, during training.
    """

    title = "VQ-VAE-2"
    paper = "Razavi, van den Oord & Vinyals 2019, Generating Diverse High-Fidelity Images with VQ-VAE-2"
    family = "vector-quantised"
    taxonomy = "explicit approximate"
    likelihood = "bound"
    objective = "min −log p(x|z₁,z₂) − log p(z₂|z₁) − log p(z₁) + β Σₗ ‖zₑ,ₗ(x) − sg(e_zₗ)‖²"
    about = (
        "A VQ-VAE with two grids of codes: a coarse one for the overall content and a fine one, conditioned on it, "
        "for the details. A transformer models both grids. The log-likelihood is bounded by "
        "log p(x|z₁,z₂) + log p(z₂|z₁) + log p(z₁), and sampling takes one step per code of either grid. Samples are "
        "draws from p(x|z₁,z₂); reconstructions and interpolations show its mean."
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
    ) -> None:
        super().__init__(shape, levels)
        colours, (height, width), wide = shape[0], quarter(shape), 2 * channels
        self.commitment, self.codes = commitment, codes
        self.top_grid, self.bottom_grid = (height, width), (2 * height, 2 * width)
        self.encoder = nn.Sequential(
            nn.Conv2d(colours, channels, 3, padding=1),
            nn.SiLU(),
            *halve(channels, wide),
        )
        self.to_top = nn.Sequential(*halve(wide, wide), *_to_codes(wide, code_size, dropout))
        self.top = Codebook(codes, code_size, decay)
        self.decode_top = nn.Sequential(
            nn.Conv2d(code_size, wide, 3, padding=1),
            nn.SiLU(),
            *double(wide, wide),
        )
        self.to_bottom = nn.Sequential(*_to_codes(2 * wide, code_size, dropout))
        self.bottom = Codebook(codes, code_size, decay)
        self.enlarge_top = nn.ConvTranspose2d(code_size, code_size, 4, stride=2, padding=1)
        self.decoder = nn.Sequential(
            nn.Conv2d(2 * code_size, wide, 3, padding=1),
            nn.SiLU(),
            nn.Dropout(dropout),
            *double(wide, channels),
            nn.Conv2d(channels, levels * colours, 3, padding=1),
            nn.Unflatten(1, (levels, colours)),
        )
        self.prior = CausalTransformer(5 * height * width, 2 * codes, prior_channels, prior_layers, dropout)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """The three parts of the code, and the commitment, nats per image; the prior sends no gradient to the codes."""
        top, bottom = self.coded(x)
        e_top, e_bottom = self.top.lookup(top.indices), self.bottom.lookup(bottom.indices)
        pixels = self.pixels(straight_through(top.z, e_top), straight_through(bottom.z, e_bottom))
        terms = self._terms(x, pixels, top.indices, bottom.indices)
        commitment = ((top.z - e_top).square().sum() + (bottom.z - e_bottom).square().sum()) / len(x)
        if self.training:
            self.top.update(top.z.detach(), top.indices, generator)
            self.bottom.update(bottom.z.detach(), bottom.indices, generator)
        return {**terms, "loss": terms["loss"] + self.commitment * commitment, "commitment": commitment}

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Length of the code in its three parts, nats per image: the negative of `log_prob`, without the commitment."""
        top, bottom = self.indices(x)
        return self._terms(x, self.decoded(top, bottom), top, bottom)

    def log_prob(self, x: Tensor, generator: Generator) -> Tensor:
        """log p(x|z₁,z₂) + log p(z₂|z₁) + log p(z₁) for the encoders' z, nats (N,): a bound, as for the VQ-VAE."""
        top, bottom = self.indices(x)
        of_top, of_bottom = self.prior_log_prob(top, bottom)
        return categorical_log_prob(self.decoded(top, bottom), x) + of_bottom + of_top

    def coded(self, x: Tensor) -> tuple[Coded, Coded]:
        """Encodings and nearest codes of top and bottom. The bottom is encoded given the codes of the top."""
        features = self.encoder(to_unit(x, self.levels))
        z = self.to_top(features).float()
        top = Coded(z, self.top.nearest(z.detach()))
        above = self.decode_top(straight_through(z, self.top.lookup(top.indices)))
        z = self.to_bottom(torch.cat([features, above], 1)).float()
        return top, Coded(z, self.bottom.nearest(z.detach()))

    @torch.no_grad()
    def indices(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The grids of codes of each image: top, int64 (N, h, w), and bottom, (N, 2h, 2w)."""
        top, bottom = self.coded(x)
        return top.indices, bottom.indices

    def pixels(self, top: Tensor, bottom: Tensor) -> Tensor:
        """Logits of the pixels, (N, levels, C, H, W), given vectors (N, size, h, w) and (N, size, 2h, 2w)."""
        logits: Tensor = self.decoder(torch.cat([self.enlarge_top(top), bottom], 1))
        return logits

    @property
    def allowed(self) -> Tensor:
        """Which words of the vocabulary may appear at each position of the sequence, bool (2 codes, 5 h w).

        The first half of the vocabulary are the top's codes, the second half the bottom's; codes on trial are excluded.
        """
        top, words = math.prod(self.top_grid), self.top.available.new_zeros(2 * self.codes, self.prior.length)
        words[: self.codes, :top] = self.top.available[:, None]
        words[self.codes :, top:] = self.bottom.available[:, None]
        return words

    def prior_log_prob(self, top: Tensor, bottom: Tensor) -> tuple[Tensor, Tensor]:
        """log p(top) and log p(bottom | top), nats, each (N,). top: int64 (N, h, w), bottom: (N, 2h, 2w)."""
        words, places = torch.cat([top.flatten(1), bottom.flatten(1) + self.codes], 1), math.prod(self.top_grid)
        logits = self.prior(words).masked_fill(~self.allowed, -torch.inf)
        of_top = categorical_log_prob(logits[:, :, :places], words[:, :places])
        return of_top, categorical_log_prob(logits[:, :, places:], words[:, places:])

    @torch.no_grad()
    def draw_indices(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw n pairs of grids from the prior, no code on trial: top, int64 (n, h, w), and bottom, (n, 2h, 2w)."""
        words, places = self.prior.sample(n, generator, self.allowed), math.prod(self.top_grid)
        return words[:, :places].view(n, *self.top_grid), (words[:, places:] - self.codes).view(n, *self.bottom_grid)

    @property
    def passes_in_sequence(self) -> int:
        """Those of the prior over both grids, and one of the decoder."""
        return self.prior.passes_in_sequence + 1

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw pairs of grids and an image from p(x|z₁,z₂) for each, uint8 (n, C, H, W)."""
        return categorical_draw(self.decoded(*self.draw_indices(n, generator)), generator)

    @torch.no_grad()
    def decodings(self, n: int, generator: Generator) -> Decodings:
        """Draw n pairs of grids; a draw from p(x|z₁,z₂), its mode and its mean, uint8 (n, C, H, W) each."""
        logits = self.decoded(*self.draw_indices(n, generator))
        return Decodings(categorical_draw(logits, generator), categorical_mode(logits), categorical_mean(logits))

    def decoded(self, top: Tensor, bottom: Tensor) -> Tensor:
        """Logits of the pixels, (N, levels, C, H, W), given codes, int64 (N, h, w) and (N, 2h, 2w)."""
        return self.pixels(self.top.lookup(top), self.bottom.lookup(bottom))

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The chosen codebook vectors of both levels, (N, code_size · 5 h w)."""
        top, bottom = self.indices(x)
        return torch.cat([self.top.lookup(top).flatten(1), self.bottom.lookup(bottom).flatten(1)], 1)

    def encoder_network(self) -> nn.Module:
        """The encoder of the top level, to what is quantised, (N, code_size, h, w)."""
        return nn.Sequential(self.encoder, self.to_top)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean images given the encoders' codes: uint8 (N, C, H, W)."""
        return categorical_mean(self.decoded(*self.indices(x)))

    @torch.no_grad()
    def interpolate(self, a: Tensor, b: Tensor, steps: int) -> Tensor:
        """Interpolate linearly between the encodings of both levels and quantise; the mean images."""
        grids = []
        for codebook, start, end in zip((self.top, self.bottom), self.coded(a), self.coded(b), strict=True):
            path = walk(start.z.flatten(1), end.z.flatten(1), steps).flatten(0, 1)
            grids.append(codebook.nearest(path.unflatten(1, start.z.shape[1:])))
        return categorical_mean(self.decoded(*grids)).view(len(a), steps, *self.shape)

    def _terms(self, x: Tensor, pixels: Tensor, top: Tensor, bottom: Tensor) -> dict[str, Tensor]:
        """Length of the code, nats per image, its three parts, and the number of codes in use at each level."""
        of_top, of_bottom = self.prior_log_prob(top, bottom)
        parts = {
            "reconstruction": -categorical_log_prob(pixels, x).mean(),
            "prior_bottom": -of_bottom.mean(),
            "prior_top": -of_top.mean(),
        }
        used = {"perplexity_top": self.top.perplexity(top), "perplexity_bottom": self.bottom.perplexity(bottom)}
        return {"loss": torch.stack(list(parts.values())).sum(), **parts, **used}


def _to_codes(channels: int, code_size: int, dropout: float) -> list[nn.Module]:
    """From features to encodings, normalised as in the VQ-VAE."""
    return [
        nn.Dropout(dropout),
        nn.Conv2d(channels, code_size, 3, padding=1, bias=False),
        nn.BatchNorm2d(code_size, affine=False),
    ]


MODEL = VqVae2
