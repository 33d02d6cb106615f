"""Models of grids of codes: in raster order by a PixelCNN or a transformer, in any order by a masked transformer.

Where a function asks which codes are available, bool (codes,), it gives the others probability zero.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workflow.models.layers.any_order import AnyOrder
from workflow.models.layers.codes import HEAD, CausalTransformer, TransformerLayer
from workflow.models.layers.common import categorical_log_prob
from workflow.models.layers.gated import GatedPixelCNN

Prior = Literal["pixelcnn", "transformer", "masked"]


class PixelCnnPrior(GatedPixelCNN):
    """Van den Oord et al. 2017, Neural Discrete Representation Learning, section 3.3.

    Args:
        grid: height and width.
        codes: their number.
        width: features per code.
        layers: their number.
        dropout: during training.
    """

    def __init__(self, grid: tuple[int, int], codes: int, width: int, layers: int, dropout: float) -> None:
        super().__init__((1, *grid), codes, width, layers, dropout, ordered=False)
        self.grid = grid

    def mean_bound(self, grids: Tensor, available: Tensor, generator: Generator) -> Tensor:
        """The mean of log p over grids, int64 (N, h, w): nats, ()."""
        return self.log_prob(grids, available, generator).mean()

    def log_prob(self, grids: Tensor, available: Tensor, generator: Generator) -> Tensor:
        """Exact log p of grids, int64 (N, h, w), nats (N,)."""
        logits = self(grids.unsqueeze(1)).squeeze(2)
        return categorical_log_prob(_only(available, logits), grids)

    @torch.no_grad()
    def draw(self, n: int, available: Tensor, generator: Generator) -> Tensor:
        """Draw n grids code by code, int64 (n, h, w)."""
        blank = torch.zeros(n, 1, *self.grid, dtype=torch.long, device=available.device)
        return self.sample(blank, 0, generator, available).squeeze(1)


class TransformerPrior(CausalTransformer):
    """Ramesh et al. 2021, Zero-Shot Text-to-Image Generation (DALL-E); arguments as those of `PixelCnnPrior`."""

    def __init__(self, grid: tuple[int, int], codes: int, width: int, layers: int, dropout: float) -> None:
        super().__init__(math.prod(grid), codes, width, layers, dropout)
        self.grid = grid

    def mean_bound(self, grids: Tensor, available: Tensor, generator: Generator) -> Tensor:
        """The mean of log p over grids, int64 (N, h, w): nats, ()."""
        return self.log_prob(grids, available, generator).mean()

    def log_prob(self, grids: Tensor, available: Tensor, generator: Generator) -> Tensor:
        """Exact log p of grids, int64 (N, h, w), nats (N,)."""
        logits = self(grids.flatten(1)).view(len(grids), -1, *self.grid)
        return categorical_log_prob(_only(available, logits), grids)

    @torch.no_grad()
    def draw(self, n: int, available: Tensor, generator: Generator) -> Tensor:
        """Draw n grids code by code, int64 (n, h, w)."""
        return self.sample(n, generator, available[:, None].expand(-1, self.length)).view(n, *self.grid)


class CaptionedPrior(CausalTransformer):
    """The words of a caption, then the codes of a grid, as one sequence (Ramesh et al. 2021, DALL-E, section 2).

    It predicts the codes alone; the paper's predicts the words, too, with a seventh of that weight. Captions are int64
    (N, caption_length): numbers of words, 1..vocabulary, then zeros. One of zeros alone, the blank one, says nothing.

    Args:
        grid: height and width.
        codes: their number.
        width: features per word or code, rounded up to whole attention heads (`layers/codes.py`).
        layers: their number.
        dropout: during training.
        vocabulary: number of words.
        caption_length: words of a caption, at most.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        codes: int,
        width: int,
        layers: int,
        dropout: float,
        vocabulary: int,
        caption_length: int,
    ) -> None:
        super().__init__(caption_length + math.prod(grid), codes + 1 + vocabulary, width, layers, dropout)
        self.grid, self.codes, self.caption_length = grid, codes, caption_length
        self.head = nn.Sequential(nn.LayerNorm(self.width), nn.Linear(self.width, codes))

    def logits(self, captions: Tensor, codes: Tensor) -> Tensor:
        """Logits of each code given the caption and the codes before it, (N, codes, h · w). codes: int64 (N, h · w)."""
        hidden = self.hidden(torch.cat([self.codes + captions, codes], 1), len(self.layers))
        logits: Tensor = self.head(hidden[:, self.caption_length :])
        return logits.transpose(1, 2)

    def log_prob_given(self, grids: Tensor, available: Tensor, captions: Tensor) -> Tensor:
        """Exact log p of grids, int64 (N, h, w), given their captions, nats (N,)."""
        logits = self.logits(captions, grids.flatten(1)).view(len(grids), -1, *self.grid)
        return categorical_log_prob(_only(available, logits), grids)

    def log_prob(self, grids: Tensor, available: Tensor, generator: Generator) -> Tensor:
        """Exact log p of grids, int64 (N, h, w), given the blank caption, nats (N,)."""
        return self.log_prob_given(grids, available, self.blank(len(grids)))

    def mean_bound(self, grids: Tensor, available: Tensor, generator: Generator) -> Tensor:
        """The mean of log p over grids, int64 (N, h, w), given the blank caption: nats, ()."""
        return self.log_prob(grids, available, generator).mean()

    @torch.no_grad()
    def draw_given(self, captions: Tensor, available: Tensor, generator: Generator) -> Tensor:
        """Draw a grid for each caption, code by code, int64 (N, h, w)."""
        allowed = available[:, None].expand(-1, self.length)
        drawn = self.sample(len(captions), generator, allowed, self.codes + captions)
        return drawn[:, self.caption_length :].view(-1, *self.grid)

    @torch.no_grad()
    def draw(self, n: int, available: Tensor, generator: Generator) -> Tensor:
        """Draw n grids given the blank caption, int64 (n, h, w)."""
        return self.draw_given(self.blank(n), available, generator)

    def blank(self, n: int) -> Tensor:
        """n blank captions."""
        return torch.zeros(n, self.caption_length, dtype=torch.long, device=self.positions.device)

    @property
    def passes_in_sequence(self) -> int:
        """As in `Model`, to draw a grid: one per code, the first of which reads the caption."""
        return math.prod(self.grid)


class MaskedPrior(nn.Module):
    """A transformer that sees the known codes of a grid, before and after, and predicts the others.

    Chang et al. 2022, MaskGIT: Masked Generative Image Transformer, section 3; its likelihood is bounded as that of
    `AnyOrder` (`layers/any_order.py`).

    Args:
        grid: height and width.
        codes: their number.
        width: features per code, rounded up to whole attention heads (`layers/codes.py`).
        layers: their number.
        dropout: during training.
        any_order: how the codes of a grid are drawn.
    """

    def __init__(
        self, grid: tuple[int, int], codes: int, width: int, layers: int, dropout: float, any_order: AnyOrder
    ) -> None:
        super().__init__()
        heads = -(-width // HEAD)
        self.grid, self.codes, self.any_order, width = grid, codes, any_order, heads * HEAD
        self.positions = nn.Parameter(0.02 * torch.randn(math.prod(grid), width))
        self.embedding = nn.Embedding(codes + 1, width)  # the last one is the mask
        self.layers = nn.ModuleList([TransformerLayer(width, heads, dropout) for _ in range(layers)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, codes))

    def forward(self, indices: Tensor, hidden: Tensor) -> Tensor:
        """Logits of each code given those that are not hidden, (N, codes, h · w).

        indices: int64 (N, h · w), of which the hidden ones may have any value. hidden: bool (N, h · w).
        """
        h = self.embedding(indices.masked_fill(hidden, self.codes)) + self.positions
        for layer in cast(Sequence[TransformerLayer], self.layers):
            h = layer.combine(h, F.scaled_dot_product_attention(*layer.project(h)))
        logits: Tensor = self.head(h)
        return logits.transpose(1, 2)

    def mean_bound(self, grids: Tensor, available: Tensor, generator: Generator) -> Tensor:
        """A lower bound of the mean of log p over grids, int64 (N, h, w), at one code a pass: nats, ()."""
        return self.any_order.mean_bound(partial(self._among, available), grids.flatten(1), generator)

    def log_prob(self, grids: Tensor, available: Tensor, generator: Generator) -> Tensor:
        """Lower bound of log p of grids, int64 (N, h, w), estimated without bias from one order each, nats (N,)."""
        return self.any_order.log_prob(partial(self._among, available), grids.flatten(1), generator)

    @property
    def passes_in_sequence(self) -> int:
        """As in `Model`, to draw a grid: one per group of codes."""
        return self.any_order.passes

    @torch.no_grad()
    def draw(self, n: int, available: Tensor, generator: Generator) -> Tensor:
        """Draw n grids, several codes at once, int64 (n, h, w)."""
        blank = torch.zeros(n, math.prod(self.grid), dtype=torch.long, device=available.device)
        every = torch.ones_like(blank, dtype=torch.bool)
        return self.any_order.draw(partial(self._among, available), blank, every, generator).view(n, *self.grid)

    def _among(self, available: Tensor, indices: Tensor, hidden: Tensor) -> Tensor:
        return _only(available, self(indices, hidden))


AnyPrior = PixelCnnPrior | TransformerPrior | CaptionedPrior | MaskedPrior


def make_prior(
    kind: Prior, grid: tuple[int, int], codes: int, width: int, layers: int, dropout: float, any_order: AnyOrder
) -> AnyPrior:
    """A prior of this kind; `any_order` is how a masked one draws, the other arguments are as of each."""
    if kind == "masked":
        return MaskedPrior(grid, codes, width, layers, dropout, any_order)
    return (PixelCnnPrior if kind == "pixelcnn" else TransformerPrior)(grid, codes, width, layers, dropout)


def _only(available: Tensor, logits: Tensor) -> Tensor:
    """Logits (N, codes, …) without the codes that are not available."""
    return logits.masked_fill(~available.view(1, -1, *[1] * (logits.ndim - 2)), -torch.inf)
