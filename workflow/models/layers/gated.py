"""The gated PixelCNN over pixels or codes in raster order, and fast sampling from it."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workflow.models.base import Choose
from workflow.models.layers import context
from workflow.models.layers.common import draw_at, to_unit
from workflow.models.layers.masks import group_mask
from workflow.models.layers.noise import uniform

EMBEDDING = 8  # size of a code's embedding in the first layer of the gated PixelCNN


class GatedLayer(nn.Module):
    """One layer of the gated PixelCNN: a vertical and a horizontal stack.

    Van den Oord et al. 2016b, Conditional Image Generation with PixelCNN Decoders, figure 2. The vertical stack at row
    i sees rows up to i and feeds the horizontal stack one row below; the horizontal stack sees its own row to the left.
    Together they see everything before a pixel, without a blind spot. A class-conditional layer adds an embedding of
    the class to the gates of both stacks at every position (equation 4), and one that knows positions adds something of
    its own at each (as equation 5).

    Args:
        inputs: number of input features.
        features: number of output features of each stack.
        groups: blocks that features come in, one per colour channel.
        kernel: width of the convolutions, odd.
        dropout: during training.
        first: whether this is the first layer, which has mask A and no residual connection.
        classes: number of classes; 0 for an unconditional layer.
        dilation: distance between the pixels that the convolutions see (Yu & Koltun 2016, Multi-Scale Context
            Aggregation by Dilated Convolutions).
        positions: height and width of images if the layer is to know positions.
    """

    mask: Tensor
    out_mask: Tensor

    def __init__(
        self,
        inputs: int,
        features: int,
        groups: int,
        kernel: int,
        dropout: float,
        *,
        first: bool,
        classes: int = 0,
        dilation: int = 1,
        positions: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.taps, self.first, self.dilation = kernel // 2 + 1, first, dilation
        self.reach = kernel // 2 * dilation
        self.vertical = nn.Conv2d(inputs, 2 * features, (self.taps, kernel), dilation=dilation)
        self.horizontal = nn.Conv2d(inputs, 2 * features, (1, self.taps), dilation=dilation)
        self.from_above = nn.Conv2d(2 * features, 2 * features, 1)
        self.out = nn.Conv2d(features, features, 1)
        self.by_class = nn.Embedding(classes, 4 * features) if classes else None
        self.by_position = nn.Parameter(torch.zeros(1, 4 * features, *positions)) if positions else None
        self.dropout = nn.Dropout(dropout)
        mask = torch.ones(2 * features, inputs, 1, self.taps)
        for half in mask.chunk(2):  # the two halves of a gate, each with one block per colour channel
            half[:, :, 0, -1] = group_mask(features, inputs, groups, own=not first)
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer(
            "out_mask", group_mask(features, features, groups, own=True)[..., None, None], persistent=False
        )

    def forward(self, v: Tensor, h: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features of both stacks, (N, inputs, H, W), to (N, features, H, W). y: classes, int64 (N,)."""
        down, across = self.biases(y)
        rows = self.down(F.pad(v, (self.reach, self.reach, self.reach, 0)))
        above = _plus(self.from_above(F.pad(rows, (0, 0, 1, -1))), across)
        return _gate(_plus(rows, down)), self.across(F.pad(h, (self.reach, 0, 0, 0)), above, h)

    def context(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Contexts of both stacks (`layers/context.py`), from those of their inputs."""
        reach = range(-self.reach, self.reach + 1, self.dilation)
        rows = context.gathered(v, [(down, right) for down in reach if down <= 0 for right in reach])
        seen = context.kernel_offsets(self.mask, 0, self.taps - 1)
        across = context.gathered(h, [(down, right * self.dilation) for down, right in seen])
        across |= context.gathered(rows, [(-1, 0)])
        return rows, across if self.first else across | h

    def biases(self, y: Tensor | None, rows: slice = slice(None)) -> tuple[Tensor | None, Tensor | None]:
        """What classes y, int64 (N,), and positions in some rows add to the gates, vertical and horizontal.

        Each (N or 1, 2 features, rows or 1, W or 1).
        """
        both = None if self.by_class is None else self.by_class(y)[..., None, None]
        if self.by_position is not None:
            both = _plus(self.by_position[:, :, rows], both)
        down, across = (None, None) if both is None else both.chunk(2, dim=1)
        return down, across

    def down(self, v: Tensor) -> Tensor:
        """The vertical stack before its gate, from padded features (N, inputs, rows + reach, W + 2 reach)."""
        rows: Tensor = self.vertical(v)
        return rows

    def across(self, h: Tensor, above: Tensor, residual: Tensor) -> Tensor:
        """The horizontal stack.

        Args:
            h: padded features, (N, inputs, rows, W + reach).
            above: the vertical stack's contribution to the gates, (N, 2 features, rows, W).
            residual: unpadded features, (N, features, rows, W).
        """
        kernel, bias = self.horizontal.weight * self.mask, self.horizontal.bias
        mixed = F.conv2d(h, kernel, bias, dilation=self.horizontal.dilation) + above
        out: Tensor = F.conv2d(self.dropout(_gate(mixed)), self.out.weight * self.out_mask, self.out.bias)
        return out if self.first else out + residual

    def matrices(self, colours: int) -> tuple[Tensor, Tensor, Tensor]:
        """`across` at a single pixel, as matrices for the block of each colour channel.

        Returns the matrix that multiplies the features of the pixels to the left and of the pixel itself,
        (C, taps · inputs, 2 f), the matrix that multiplies the gated features, (C, C · f, f), and its bias,
        (C, f), where f is the number of features in a block.
        """
        taps = _by_colour((self.horizontal.weight * self.mask).squeeze(2), 0, colours).permute(0, 3, 2, 1).flatten(1, 2)
        out = (self.out.weight * self.out_mask)[..., 0, 0].unflatten(0, (colours, -1)).transpose(1, 2)
        assert self.out.bias is not None
        return taps.contiguous(), out.contiguous(), self.out.bias.unflatten(0, (colours, -1))


def _by_colour(gates: Tensor, dim: int, colours: int) -> Tensor:
    """Regroup gates, two halves with one block per colour, by colour: (…, C, 2 f, …) along `dim`."""
    halves: Tensor = gates.unflatten(dim, (2, colours, -1))
    return halves.transpose(dim, dim + 1).flatten(dim + 1, dim + 2)


def _gate(x: Tensor) -> Tensor:
    """tanh(a) σ(b) of the halves of x; on a CPU, 2 σ(2a) - 1 takes a third of the time of the hyperbolic tangent."""
    a, b = x.chunk(2, dim=1)
    return (2 * (2 * a).sigmoid() - 1) * b.sigmoid()


def _plus(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias


def _values_at(x: Tensor, place: tuple[int, int, int]) -> Tensor:
    """Of images (N, C, H, W), at one colour channel, row and column."""
    return x[:, place[0], place[1], place[2]]


class GatedPixelCNN(nn.Module):
    """p(x) of integer images as a product over pixels in raster order, and over colour channels within a pixel.

    Van den Oord et al. 2016b, Conditional Image Generation with PixelCNN Decoders, equations 1 to 4.

    Args:
        shape: (C, H, W).
        levels: pixel values are 0..levels-1.
        channels: features of each stack, rounded up to a multiple of C.
        layers: their number; the first has mask A and sees 7x7 pixels (or the whole grid, if smaller), the others have
            mask B and see 3x3.
        dropout: during training.
        ordered: whether the integers are grey levels, read as numbers, or labels such as codes, read through an
            embedding.
        classes: number of classes of p(x|y); 0 for an unconditional model, which ignores y.
        dilations: of the layers after the first, which take them in turn.
        positions: whether the first layer knows where in the image it is, which convolutions alone cannot tell.
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
        dilations: Sequence[int] = (1,),
        positions: bool = False,
    ) -> None:
        super().__init__()
        colours = shape[0]
        self.shape, self.levels = shape, levels
        self.features = -(-channels // colours) * colours
        self.embedding = None if ordered else nn.Embedding(levels, EMBEDDING)
        self.inputs = colours if ordered else colours * EMBEDDING
        self.layers = nn.ModuleList()
        widest = min(7, 2 * max(shape[1:]) - 1)  # beyond a small grid there is only padding
        for i in range(layers):
            inputs, kernel = (self.inputs, widest) if i == 0 else (self.features, 3)
            made = GatedLayer(
                inputs,
                self.features,
                colours,
                kernel,
                dropout,
                first=i == 0,
                classes=classes,
                dilation=dilations[(i - 1) % len(dilations)] if i else 1,
                positions=shape[1:] if positions and i == 0 else None,
            )
            self.layers.append(made)
        self.head = nn.Conv2d(self.features, self.features, 1)
        self.to_logits = nn.Conv2d(self.features, colours * levels, 1)
        for name, layer in (("head_mask", self.head), ("logits_mask", self.to_logits)):
            mask = group_mask(layer.out_channels, self.features, colours, own=True)[..., None, None]
            self.register_buffer(name, mask, persistent=False)

    @property
    def gated(self) -> Sequence[GatedLayer]:
        """The layers, with their type."""
        return cast(Sequence[GatedLayer], self.layers)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Logits of each pixel given those before it, (N, levels, C, H, W).

        x: integers (N, C, H, W). y: the images' classes, int64 (N,).
        """
        return self.logits(self.hidden(x, y))

    def hidden(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The last features of the horizontal stack, (N, features, H, W)."""
        v = h = self.embed(x)
        for layer in self.gated:
            v, h = layer(v, h, y)
        return h

    def embed(self, x: Tensor) -> Tensor:
        """Integers (N, C, H, W) to features (N, inputs, H, W), one block per colour channel."""
        if self.embedding is None:
            return to_unit(x, self.levels).to(self.head.weight.dtype)
        features: Tensor = self.embedding(x.long())
        return features.movedim(-1, 2).flatten(1, 2)

    def logits(self, h: Tensor) -> Tensor:
        """The last features of the horizontal stack to logits, (N, levels, C, H, W)."""
        h = F.conv2d(F.relu(h), self.head.weight * self.head_mask, self.head.bias)
        flat = F.conv2d(F.relu(h), self.to_logits.weight * self.logits_mask, self.to_logits.bias)
        logits: Tensor = flat.unflatten(1, (self.shape[0], self.levels)).transpose(1, 2)
        return logits

    def context(self) -> Tensor:
        """Which pixels each pixel's logits depend on (`layers/context.py`)."""
        v = h = context.of_input(*self.shape[1:])
        for layer in self.gated:
            v, h = layer.context(v, h)
        return h

    @property
    def passes_in_sequence(self) -> int:
        """As in `Model`, to draw an image: one per colour channel of each pixel."""
        return math.prod(self.shape)

    @torch.no_grad()
    def sample(
        self, given: Tensor, row: int, generator: Generator, allowed: Tensor | None = None, y: Tensor | None = None
    ) -> Tensor:
        """Draw the pixels of row `row` and below, given the rows above: int64 (N, C, H, W).

        Args:
            given: integers, (N, C, H, W).
            row: the first row to draw.
            generator: on the device of `given`.
            allowed: levels that may be drawn, bool (levels,); all if None.
            y: classes of the images, int64 (N,).
        """
        colours, height, width = self.shape
        places = (height - row) * width * colours
        marks = iter(uniform((places, len(given)), generator, given.device, torch.float32, dim=1))

        def draw(logits: Tensor, _: Callable[[Tensor], Tensor]) -> Tensor:
            return draw_at(next(marks), logits)

        return self.in_order(given, row, draw, allowed, y)

    @torch.no_grad()
    def in_order(
        self, given: Tensor, row: int, choose: Choose, allowed: Tensor | None = None, y: Tensor | None = None
    ) -> Tensor:
        """Let `choose` fix the pixels of row `row` and below, given the rows above: int64 (N, C, H, W).

        Features of drawn pixels are cached, so that a pixel costs a few small matrix products instead of a whole
        forward pass: the same logits, many times faster (cf. Ramachandran et al. 2017, Fast Generation for
        Convolutional Autoregressive Models).

        Args:
            given: integers, (N, C, H, W).
            row: the first row to fix.
            choose: chooses levels by their logits.
            allowed: levels that may be chosen, bool (levels,); all if None.
            y: classes of the images, int64 (N,).
        """
        x = given.long().clone()
        x[:, :, row:] = 0
        _, height, width = self.shape
        pen = _Pen(self, len(x), choose, allowed)
        # Padded input of each layer's vertical stack, filled in row by row.
        sizes = [(self.inputs if layer.first else self.features, layer.reach) for layer in self.gated]
        dtype = self.head.weight.dtype
        v = [torch.zeros(len(x), c, height + p, width + 2 * p, device=x.device, dtype=dtype) for c, p in sizes]
        rows = [x.new_zeros((1, 2 * self.features, 1, width), dtype=dtype) for _ in self.gated]
        for i in range(height):
            if i >= row:
                pen.draw_row(x, i, [self.above(*pair, i, y) for pair in zip(self.gated, rows, strict=True)])
            rows = self._finish_row(x, i, v, y)
        return x

    def above(self, layer: GatedLayer, rows: Tensor, i: int, y: Tensor | None) -> Tensor:
        """The contribution to a layer's gates from everything but their own row, (W, C, N or 1, 2 f).

        Args:
            layer: one of `gated`.
            rows: what `_finish_row` returned for the row above.
            i: the row.
            y: classes of the images, int64 (N,).
        """
        assert layer.horizontal.bias is not None
        mixed = _plus(layer.from_above(rows), layer.biases(y, slice(i, i + 1))[1]) + layer.horizontal.bias.view(
            1, -1, 1, 1
        )
        return _by_colour(mixed.squeeze(2), 1, self.shape[0]).permute(3, 1, 0, 2).contiguous()

    def _finish_row(self, x: Tensor, i: int, v: list[Tensor], y: Tensor | None) -> list[Tensor]:
        """Run row i through the vertical stack; returns each layer's output before its gate, (N, 2 F, 1, W)."""
        width, finished = self.shape[2], []
        features = self.embed(x[:, :, i : i + 1])
        for layer, padded in zip(self.gated, v, strict=True):
            padded[:, :, i + layer.reach, layer.reach : layer.reach + width] = features[:, :, 0]
            row = layer.down(padded[:, :, i : i + layer.reach + 1])
            finished.append(row)
            features = _gate(_plus(row, layer.biases(y, slice(i, i + 1))[0]))
        return finished


class _Step(NamedTuple):
    """One layer's computation of one colour's features at one pixel: matrices, and views into `_Pen`'s buffers.

    Made once for all rows: a pixel needs so little computation that indexing a tensor would take as long.
    """

    seen: Sequence[Tensor]  # features of the pixels to the left and the pixel's own, contiguous ones together, (N, ·)
    taps: Sequence[Tensor]  # the matrix for each, (·, 2 f)
    mixed: Tensor  # (N, 2 f), and its halves
    content: Tensor
    gate: Tensor
    gated: Tensor  # (N, f), and the same with the blocks of earlier colours
    known: Tensor
    out: Tensor  # (colours up to this one · f, f)
    bias: Tensor  # (f,)
    features: Tensor  # (N, f): where the next layer, or the head, reads them
    residual: Tensor | None  # (N, f)

    def take(self, above: Tensor) -> None:
        """Compute the features. above: contribution to the gates from everything but their own row, (N or 1, 2 f)."""
        torch.addmm(above, self.seen[0], self.taps[0], out=self.mixed)
        for seen, taps in zip(self.seen[1:], self.taps[1:], strict=True):
            self.mixed.addmm_(seen, taps)
        torch.mul(self.content.tanh_(), self.gate.sigmoid_(), out=self.gated)
        torch.addmm(self.bias, self.known, self.out, out=self.features)
        if self.residual is not None:
            self.features.add_(self.residual)


class _Pen:
    """Draws rows of pixels: the horizontal stack of a `GatedPixelCNN`, one pixel and one colour channel at a time.

    Each layer is two matrix products, because a convolution of a single pixel takes longer to set up than to compute. A
    colour's block of features depends only on earlier blocks, so the pass for a colour computes only that block.

    Args:
        network: to draw from.
        n: number of images.
        choose: chooses levels by their logits.
        allowed: levels that may be chosen, bool (levels,); all if None.
    """

    def __init__(self, network: GatedPixelCNN, n: int, choose: Choose, allowed: Tensor | None) -> None:
        self.network, self.choose, self.allowed = network, choose, allowed
        colours, _, width = network.shape
        self.head = (network.head.weight * network.head_mask)[..., 0, 0]
        self.to_logits = (network.to_logits.weight * network.logits_mask)[..., 0, 0].unflatten(0, (colours, -1))
        assert network.to_logits.bias is not None
        self.logits_bias = network.to_logits.bias.unflatten(0, (colours, -1))
        # Features of a row's pixels that each layer and the head read, after as many zeros as they see to the left.
        # Values that the previous row left to the right of a pixel are never read.
        self.reaches = [*(layer.reach for layer in network.gated), 0]
        sizes = [network.inputs] + [network.features] * len(network.gated)
        self.h = [self.head.new_zeros(n, width + p, c) for p, c in zip(self.reaches, sizes, strict=True)]
        matrices = [layer.matrices(colours) for layer in network.gated]
        self.mixed = self.head.new_empty(n, 2 * network.features // colours)
        self.gated = [self.head.new_zeros(n, network.features) for _ in network.gated]
        self.steps = [[self._steps(matrices, j, colour) for colour in range(colours)] for j in range(width)]

    def draw_row(self, x: Tensor, i: int, above: Sequence[Tensor]) -> None:
        """Draw the pixels of row i into x, int64 (N, C, H, W). above: of each layer, from `GatedPixelCNN.above`."""
        by_pixel = [layer.flatten(0, 1).unbind() for layer in above]
        for j, pixel in enumerate(self.steps):
            for colour, steps in enumerate(pixel):
                for step, layer in zip(steps, by_pixel, strict=True):
                    step.take(layer[j * len(pixel) + colour])
                logits = self._logits(self.h[-1][:, j], colour)
                if self.allowed is not None:
                    logits = logits.masked_fill(~self.allowed, -torch.inf)
                x[:, colour, i, j] = self.choose(logits, partial(_values_at, place=(colour, i, j)))
                # Deeper features of a pixel do not depend on its last colour, but pixels to its right do.
                self.h[0][:, j + self.reaches[0]] = self.network.embed(x[:, :, i, j, None, None]).flatten(1)

    def _steps(self, matrices: Sequence[tuple[Tensor, Tensor, Tensor]], j: int, colour: int) -> list[_Step]:
        """The steps that take a colour's block at pixel j through all layers, from h[0] to h[-1]."""
        size = self.mixed.shape[1] // 2
        block, known = slice(colour * size, (colour + 1) * size), slice((colour + 1) * size)
        steps = []
        for k, (taps, out, bias) in enumerate(matrices):
            before, after, reach = self.h[k], self.h[k + 1], self.reaches[k]
            dilation = self.network.gated[k].dilation
            pixels = before[:, j : j + reach + 1]
            step = _Step(
                seen=[pixels.flatten(1)] if dilation == 1 else pixels[:, ::dilation].unbind(1),
                taps=[taps[colour]] if dilation == 1 else taps[colour].split(before.shape[2]),
                mixed=self.mixed,
                content=self.mixed[:, :size],
                gate=self.mixed[:, size:],
                gated=self.gated[k][:, block],
                known=self.gated[k][:, known],
                out=out[colour, known],
                bias=bias[colour],
                features=after[:, j + self.reaches[k + 1], block],
                residual=before[:, j + reach, block] if k else None,
            )
            steps.append(step)
        return steps

    def _logits(self, h: Tensor, colour: int) -> Tensor:
        """Logits of a colour's level, (N, levels), from features of the last layer, (N, features)."""
        hidden = F.linear(h.relu(), self.head, self.network.head.bias).relu_()
        return F.linear(hidden, self.to_logits[colour], self.logits_bias[colour])
