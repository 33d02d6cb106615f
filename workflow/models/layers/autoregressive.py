"""Masked networks over pixels or codes, in reading order, and their cached sampling."""

import itertools
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workflow.models.layers.common import draw_categorical, to_unit

EMBEDDING = 8  # numbers that stand for a level in the gated PixelCNN's first layer


def _group_mask(outputs: int, inputs: int, groups: int, *, own: bool) -> Tensor:
    """Which input feature each output feature may see at its own pixel, as 1 or 0, (outputs, inputs).

    Features come in `groups` equal blocks, one a colour channel. Block g sees the blocks before it and, if `own` (mask
    B; mask A does not), itself.
    """
    group_out = torch.arange(outputs) * groups // outputs
    group_in = torch.arange(inputs) * groups // inputs
    return (group_out[:, None] >= group_in + (not own)).float()


class GatedLayer(nn.Module):
    """One layer of the gated PixelCNN (van den Oord et al. 2016b, figure 2): a vertical and a horizontal stack.

    The vertical stack at row i sees rows up to i and reaches the horizontal one a row later; the horizontal stack sees
    its own row to the left. Together they see all that comes before a pixel: there is no blind spot. If there are
    classes, an image's adds to the gates of both stacks, the same everywhere (equation 4).
    """

    mask: Tensor
    out_mask: Tensor

    def __init__(
        self, inputs: int, features: int, groups: int, kernel: int, dropout: float, *, first: bool, classes: int = 0
    ) -> None:
        super().__init__()
        self.reach, self.first = kernel // 2, first
        self.vertical = nn.Conv2d(inputs, 2 * features, (self.reach + 1, kernel))
        self.horizontal = nn.Conv2d(inputs, 2 * features, (1, self.reach + 1))
        self.from_above = nn.Conv2d(2 * features, 2 * features, 1)
        self.out = nn.Conv2d(features, features, 1)
        self.by_class = nn.Embedding(classes, 4 * features) if classes else None
        self.dropout = nn.Dropout(dropout)
        mask = torch.ones(2 * features, inputs, 1, self.reach + 1)
        for half in mask.chunk(2):  # the two halves of a gate, each with a block for every colour channel
            half[:, :, 0, -1] = _group_mask(features, inputs, groups, own=not first)
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer(
            "out_mask", _group_mask(features, features, groups, own=True)[..., None, None], persistent=False
        )

    def forward(self, v: Tensor, h: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Both stacks' features, (N, inputs, H, W), to the next, (N, features, H, W). y: classes, int64 (N,)."""
        down, across = self.biases(y)
        rows = self.down(F.pad(v, (self.reach, self.reach, self.reach, 0)))
        above = _plus(self.from_above(F.pad(rows, (0, 0, 1, 0))[:, :, :-1]), across)
        return _gate(_plus(rows, down)), self.across(F.pad(h, (self.reach, 0, 0, 0)), above, h)

    def biases(self, y: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What classes y, int64 (N,), add to the gates of the vertical and horizontal stack: (N, 2 features, 1, 1)."""
        down, across = (None, None) if self.by_class is None else self.by_class(y)[..., None, None].chunk(2, dim=1)
        return down, across

    def down(self, v: Tensor) -> Tensor:
        """Vertical stack before its gate, of padded features (N, inputs, rows + reach, W + 2 reach)."""
        rows: Tensor = self.vertical(v)
        return rows

    def across(self, h: Tensor, above: Tensor, residual: Tensor) -> Tensor:
        """Horizontal stack, of padded features (N, inputs, rows, W + reach) and what comes from elsewhere."""
        mixed = F.conv2d(h, self.horizontal.weight * self.mask, self.horizontal.bias) + above
        out: Tensor = F.conv2d(self.dropout(_gate(mixed)), self.out.weight * self.out_mask, self.out.bias)
        return out if self.first else out + residual


def _gate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    return a.tanh() * b.sigmoid()


def _plus(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias


class GatedPixelCNN(nn.Module):
    """p(x) of integer images as a product over pixels, row by row, and over colour channels within a pixel.

    shape: (C, H, W). channels: features of each stack (rounded up to a multiple of C). layers: their number; the first
    has mask A and sees 7x7 pixels (all, if the grid is smaller), the others mask B and 3x3. dropout: while training.
    ordered: whether the integers are levels of grey, read as numbers, or mere names, as codes are, read through an
    embedding. classes: how many there are, if it is p(x|y); without them y is not looked at.
    """

    head_mask: Tensor
    logits_mask: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        channels: int,
        layers: int,
        dropout: float,
        *,
        ordered: bool,
        classes: int = 0,
    ) -> None:
        super().__init__()
        colours = shape[0]
        self.shape, self.levels = shape, levels
        self.features = -(-channels // colours) * colours
        self.embedding = None if ordered else nn.Embedding(levels, EMBEDDING)
        self.inputs = colours if ordered else colours * EMBEDDING
        self.layers = nn.ModuleList()
        widest = min(7, 2 * max(shape[1:]) - 1)  # what reaches beyond a small grid would only ever see padding
        for i in range(layers):
            inputs, kernel = (self.inputs, widest) if i == 0 else (self.features, 3)
            made = GatedLayer(inputs, self.features, colours, kernel, dropout, first=i == 0, classes=classes)
            self.layers.append(made)
        self.head = nn.Conv2d(self.features, self.features, 1)
        self.to_logits = nn.Conv2d(self.features, colours * levels, 1)
        for name, layer in (("head_mask", self.head), ("logits_mask", self.to_logits)):
            mask = _group_mask(layer.out_channels, self.features, colours, own=True)[..., None, None]
            self.register_buffer(name, mask, persistent=False)

    @property
    def gated(self) -> Sequence[GatedLayer]:
        """The layers, as what they are."""
        return cast(Sequence[GatedLayer], self.layers)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Logits of each pixel given those before it, (N, levels, C, H, W).

        x: integers (N, C, H, W). y: the images' classes, int64 (N,).
        """
        return self.logits(self.hidden(x, y))

    def hidden(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The horizontal stack's last features, (N, features, H, W)."""
        v = h = self.embed(x)
        for layer in self.gated:
            v, h = layer(v, h, y)
        return h

    def embed(self, x: Tensor) -> Tensor:
        """Integers (N, C, H, W) to features (N, inputs, H, W), a block for each colour channel."""
        if self.embedding is None:
            return to_unit(x, self.levels).to(self.head.weight.dtype)
        features: Tensor = self.embedding(x.long())
        return features.movedim(-1, 2).flatten(1, 2)

    def logits(self, h: Tensor) -> Tensor:
        """The horizontal stack's last features to logits, (N, levels, C, H, W)."""
        h = F.conv2d(F.relu(h), self.head.weight * self.head_mask, self.head.bias)
        flat = F.conv2d(F.relu(h), self.to_logits.weight * self.logits_mask, self.to_logits.bias)
        logits: Tensor = flat.unflatten(1, (self.shape[0], self.levels)).transpose(1, 2)
        return logits

    @torch.no_grad()
    def sample(
        self, given: Tensor, row: int, generator: Generator, allowed: Tensor | None = None, y: Tensor | None = None
    ) -> Tensor:
        """Draw the pixels of rows `row` and below, given the rows above. given: integers (N, C, H, W); int64 likewise.

        Features of what is already drawn are kept, so that a pixel costs one small convolution a layer and not a whole
        forward pass: the same logits, many times faster. allowed: bool (levels,): only these are drawn. y: the images'
        classes, int64 (N,).
        """
        x = given.long().clone()
        x[:, :, row:] = 0
        _, height, width = self.shape
        # Padded features that go into each layer, of the vertical and the horizontal stack; filled in as we go.
        sizes = [(self.inputs if layer.first else self.features, layer.reach) for layer in self.gated]
        dtype = self.head.weight.dtype
        v = [torch.zeros(len(x), c, height + p, width + 2 * p, device=x.device, dtype=dtype) for c, p in sizes]
        nothing = x.new_zeros((1, 2 * self.features, 1, width), dtype=dtype)
        above = [_plus(layer.from_above(nothing), layer.biases(y)[1]) for layer in self.gated]
        for i in range(height):
            if i >= row:
                self._sample_row(x, i, above, generator, allowed)
            above = self._finish_row(x, i, v, y)
        return x

    def _sample_row(self, x: Tensor, i: int, above: list[Tensor], generator: Generator, allowed: Tensor | None) -> None:
        """Draw the pixels of row i into x. above: what each layer's vertical stack says of the rows before."""
        colours, _, width = self.shape
        h = [
            above[0].new_zeros(len(x), self.inputs if layer.first else self.features, 1, width + layer.reach)
            for layer in self.gated
        ]
        for j in range(width):
            for colour in range(colours):
                features = self.embed(x[:, :, i : i + 1, j : j + 1])
                for layer, taps, rows in zip(self.gated, h, above, strict=True):
                    taps[:, :, :, j + layer.reach, None] = features
                    patch = taps[:, :, :, j : j + layer.reach + 1]
                    features = layer.across(patch, rows[:, :, :, j : j + 1], features)
                logits = self.logits(features)[:, :, colour, 0, 0]
                if allowed is not None:
                    logits = logits.masked_fill(~allowed, -torch.inf)
                x[:, colour, i, j] = draw_categorical(logits, generator)
            # Deeper features of a pixel do not see its last colour, but the pixels to its right do.
            h[0][:, :, :, j + self.gated[0].reach, None] = self.embed(x[:, :, i : i + 1, j : j + 1])

    def _finish_row(self, x: Tensor, i: int, v: list[Tensor], y: Tensor | None) -> list[Tensor]:
        """Run row i through the vertical stack; returns what each layer's horizontal stack sees of it a row later."""
        width, above = self.shape[2], []
        features = self.embed(x[:, :, i : i + 1])
        for layer, rows in zip(self.gated, v, strict=True):
            rows[:, :, i + layer.reach, layer.reach : layer.reach + width] = features[:, :, 0]
            down, across = layer.biases(y)
            row = layer.down(rows[:, :, i : i + layer.reach + 1])
            above.append(_plus(layer.from_above(row), across))
            features = _gate(_plus(row, down))
        return above


class MaskedConv2d(nn.Conv2d):
    """A convolution that sees, in reading order, no pixel after its own (van den Oord et al. 2016a, section 3.4).

    up, aside: how many rows above and columns to either side it sees. Of its own pixel a feature sees those of earlier
    colour channels and, if `own` (mask B; mask A does not), of its own channel. gates: how many sets of features its
    outputs are, each with a block for every one of the `groups` channels.
    """

    mask: Tensor

    def __init__(
        self, inputs: int, outputs: int, groups: int, up: int = 0, aside: int = 0, *, own: bool = True, gates: int = 1
    ) -> None:
        super().__init__(inputs, gates * outputs, (up + 1, 2 * aside + 1))
        self.up, self.aside = up, aside
        mask = torch.ones_like(self.weight)
        mask[:, :, up, aside + 1 :] = 0
        mask[:, :, up, aside] = _group_mask(outputs, inputs, groups, own=own).repeat(gates, 1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, gates · outputs, H, W)."""
        return F.conv2d(self.framed(x), self.weight * self.mask, self.bias)

    def framed(self, x: Tensor) -> Tensor:
        """x within the zeros that the convolution sees beyond its edges, (N, inputs, H + up, W + 2 aside)."""
        return F.pad(x, (self.aside, self.aside, self.up, 0))

    def pixel(self, framed: Tensor, i: int, j: int) -> Tensor:
        """The convolution at one pixel of the framed features, (N, gates · outputs, 1, 1)."""
        patch = framed[:, :, i : i + self.up + 1, j : j + 2 * self.aside + 1]
        return F.conv2d(patch, self.weight * self.mask, self.bias)


class PixelLayer(nn.Module):
    """Features of all pixels, (N, features, H, W), to as many: each from those of its own pixel and of earlier ones."""

    blank_columns = 0  # how many the layer wants on the right of the image

    def maps(self, n: int, height: int, width: int) -> list[Tensor]:
        """Room for what the layer must know of n images' earlier pixels when it is given pixel after pixel."""
        raise NotImplementedError

    def pixel(self, x: Tensor, maps: list[Tensor], i: int, j: int) -> Tensor:
        """What `forward` makes of pixel (i, j), features x: (N, features, 1, 1), which it also enters in the maps."""
        raise NotImplementedError


class MaskedNetwork(nn.Module):
    """p(x) of images in reading order: a 7x7 convolution with mask A, layers, and two 1x1 convolutions.

    Table 1 of van den Oord et al. 2016a, Pixel Recurrent Neural Networks. features: of the layers, a multiple of C.
    classes: how many there are, if it is p(x|y): not in that paper, an image's class adds to what the layers are given.
    """

    def __init__(
        self, shape: tuple[int, int, int], levels: int, features: int, layers: Sequence[PixelLayer], classes: int = 0
    ) -> None:
        super().__init__()
        colours = shape[0]
        self.shape, self.levels = shape, levels
        reach = min(3, max(shape[1:]) - 1)  # what reaches beyond a small grid would only ever see padding
        self.first = MaskedConv2d(colours, features, colours, reach, reach, own=False)
        self.by_class = nn.Embedding(classes, features) if classes else None
        self.layers = nn.ModuleList(layers)
        self.blank_columns = max((layer.blank_columns for layer in layers), default=0)
        self.head = MaskedConv2d(features, features, colours)
        self.to_logits = MaskedConv2d(features, colours * levels, colours)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Logits of each pixel given those before it, (N, levels, C, H, W).

        x: integers (N, C, H, W). y: the images' classes, int64 (N,).
        """
        return self.logits(self.hidden(x, y))

    def hidden(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The last layer's features, (N, features, H, W)."""
        h = self._given(self.first(F.pad(self.embed(x), (0, self.blank_columns))), y)
        for layer in self.layers:
            h = layer(h)
        return h[..., : self.shape[2]]

    def embed(self, x: Tensor) -> Tensor:
        """Integers (N, C, H, W) to numbers in [-1, 1]."""
        return to_unit(x, self.levels).to(self.head.weight.dtype)

    def logits(self, h: Tensor) -> Tensor:
        """The last layer's features to logits, (N, levels, C, H, W)."""
        flat = self.to_logits(F.relu(self.head(F.relu(h))))
        logits: Tensor = flat.unflatten(1, (self.shape[0], self.levels)).transpose(1, 2)
        return logits

    def _given(self, h: Tensor, y: Tensor | None) -> Tensor:
        return h if self.by_class is None else h + self.by_class(y)[..., None, None]

    @torch.no_grad()
    def sample(self, given: Tensor, row: int, generator: Generator, y: Tensor | None = None) -> Tensor:
        """As `GatedPixelCNN.sample`: the layers, given pixel after pixel, keep what they must know of those before."""
        x = given.long().clone()
        x[:, :, row:] = 0
        colours, height, width = self.shape
        columns = width + self.blank_columns
        layers = cast(Sequence[PixelLayer], self.layers)
        maps = [layer.maps(len(x), height, columns) for layer in layers]
        seen = self.first.framed(F.pad(self.embed(x), (0, self.blank_columns)))
        for i, j in itertools.product(range(height), range(columns)):
            unknown = i >= row and j < width
            for colour in range(colours if unknown else 1):
                h = self._given(self.first.pixel(seen, i, j), y)
                for layer, known in zip(layers, maps, strict=True):
                    h = layer.pixel(h, known, i, j)
                if unknown:
                    x[:, colour, i, j] = draw_categorical(self.logits(h)[:, :, colour, 0, 0], generator)
                    seen[:, :, i + self.first.up, j + self.first.aside] = self.embed(x[:, :, i, j])
        return x
