"""Networks of masked convolutions over pixels in raster order, and fast sampling from them."""

from collections.abc import Callable, Iterator, Sequence
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


class MaskedConv2d(nn.Conv2d):
    """A convolution that sees no pixel after its own in raster order.

    Van den Oord et al. 2016a, Pixel Recurrent Neural Networks, section 3.4.

    Args:
        inputs: number of input features.
        outputs: number of output features of each gate.
        groups: blocks that features come in, one per colour channel.
        up: number of rows above that it sees.
        aside: number of columns to either side that it sees.
        own: whether a feature depends on its own colour channel at its own pixel (mask B) or only on earlier ones
            (mask A).
        gates: number of sets of output features, each with one block per colour channel.
    """

    mask: Tensor

    def __init__(
        self, inputs: int, outputs: int, groups: int, up: int = 0, aside: int = 0, *, own: bool = True, gates: int = 1
    ) -> None:
        super().__init__(inputs, gates * outputs, (up + 1, 2 * aside + 1))
        self.up, self.aside = up, aside
        mask = torch.ones_like(self.weight)
        mask[:, :, up, aside + 1 :] = 0
        mask[:, :, up, aside] = group_mask(outputs, inputs, groups, own=own).repeat(gates, 1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, gates · outputs, H, W)."""
        framed = F.pad(x, (self.aside, self.aside, self.up, 0))  # padded with zeros
        return F.conv2d(framed, self.weight * self.mask, self.bias)

    def context(self, seen: Tensor) -> Tensor:
        """The context of its output (`layers/context.py`), from that of its input."""
        return context.gathered(seen, context.kernel_offsets(self.mask, self.up, self.aside))

    def of_pixels(self) -> Callable[[Tensor], Tensor]:
        """A 1x1 convolution as a function of the features of pixels, (N, inputs) to (N, gates · outputs)."""
        return partial(F.linear, weight=(self.weight * self.mask)[..., 0, 0], bias=self.bias)


class Wave(NamedTuple):
    """Pixels that are computed at once: one in each of several rows, `lag` columns further left from row to row.

    row, column: of the first pixel. rows: number of pixels.
    """

    row: int
    column: int
    rows: int
    lag: int

    def of(self, x: Tensor) -> Tensor:
        """View of x, (N, H, W, …), at these pixels: (N, rows, …)."""
        image, row, column, *others = x.stride()
        return self._view(x, (), (image, self._next(row, column), *others))

    def patches(self, x: Tensor, height: int, width: int) -> Tensor:
        """View of the rectangles of x, (N, H, W, …), with upper left corners there: (N, rows, height, width, …)."""
        image, row, column, *others = x.stride()
        return self._view(x, (height, width), (image, self._next(row, column), row, column, *others))

    def _next(self, row: int, column: int) -> int:
        """The stride from pixel to pixel; 0 if there is only one, whose lag may exceed a row."""
        return row - self.lag * column if self.rows > 1 else 0

    def _view(self, x: Tensor, window: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        start = x.storage_offset() + self.row * x.stride(1) + self.column * x.stride(2)
        return x.as_strided((x.shape[0], self.rows, *window, *x.shape[3:]), stride, start)

    def below(self, row: int) -> "Wave":
        """The pixels from this row on."""
        skipped = min(max(row - self.row, 0), self.rows)
        return Wave(self.row + skipped, self.column - skipped * self.lag, self.rows - skipped, self.lag)


def waves(height: int, width: int, lag: int) -> Iterator[Wave]:
    """All pixels, each after those to its left and, in the row above, those up to `lag` - 1 columns to its right."""
    for time in range(lag * (height - 1) + width):
        first = max(0, -(-(time - width + 1) // lag))  # rows above have ended
        rows = min(height - 1, time // lag) - first + 1
        if rows > 0:
            yield Wave(first, time - lag * first, rows, lag)


class Seen:
    """The input of a masked convolution for n images whose pixels become known in order, and its output.

    Features of a pixel are contiguous, and so are pixels: the receptive field of a pixel is a row of a matrix product,
    which takes a fraction of the time that setting up a convolution takes.

    Args:
        conv: the convolution.
        n: number of images.
        height: of an image.
        width: of an image.
    """

    def __init__(self, conv: MaskedConv2d, n: int, height: int, width: int) -> None:
        assert conv.bias is not None
        self.up, self.aside, self.bias = conv.up, conv.aside, conv.bias
        self.weight = (conv.weight * conv.mask).permute(2, 3, 1, 0).flatten(0, 2)
        self.features = conv.weight.new_zeros(n, height + self.up, width + 2 * self.aside, conv.in_channels)
        self.inside = self.features[:, self.up :, self.aside : self.aside + width]

    def enter(self, x: Tensor, wave: Wave) -> None:
        """Enter features x of a wave's pixels, (N · rows, inputs) or (N, rows, inputs)."""
        here = wave.of(self.inside)
        here.copy_(x.view(here.shape))

    def enter_positive(self, x: Tensor, wave: Wave) -> None:
        """Enter the positive part of features, as `enter`."""
        here = wave.of(self.inside)
        torch.clamp_min(x.view(here.shape), 0, out=here)

    def convolved(self, wave: Wave) -> Tensor:
        """The output at a wave's pixels, (N · rows, gates · outputs)."""
        patches = wave.patches(self.features, self.up + 1, 2 * self.aside + 1)
        return torch.addmm(self.bias, patches.reshape(-1, self.weight.shape[0]), self.weight)


# From the features of a wave's pixels, (N · rows, features), and their positions, to a layer's output there.
Step = Callable[[Tensor, Wave], Tensor]

# Chooses the levels of a wave's pixels in one colour, (N, rows), by their logits, (N, rows, levels).
Draw = Callable[[Tensor, Wave, int], Tensor]


class PixelLayer(nn.Module):
    """Features of all pixels, (N, features, H, W), to the same shape: each from its own pixel and earlier ones.

    In the row above, it sees one column to the right or, if `sees_whole_rows`, all columns.
    """

    sees_whole_rows = False
    blank_columns = 0  # that it needs on the right of the image, if it sees whole rows

    def by_waves(self, n: int, height: int, width: int) -> Step:
        """A function that computes `forward` for the pixels of n images, wave by wave.

        It caches what it needs of earlier pixels. A pixel is computed repeatedly, as its colours become known.
        """
        raise NotImplementedError

    def context(self, seen: Tensor) -> Tensor:
        """The context of its output (`layers/context.py`), from that of its input, bool (H, W, P)."""
        raise NotImplementedError


class MaskedNetwork(nn.Module):
    """p(x) of images in raster order: a 7x7 convolution with mask A, layers, and two 1x1 convolutions.

    Van den Oord et al. 2016a, Pixel Recurrent Neural Networks, table 1.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        features: of the layers, a multiple of C.
        layers: between the first convolution and the last two.
        classes: number of classes of p(x|y); 0 for an unconditional model. Not in the paper: an embedding of the class
            is added to the input of the layers.
    """

    def __init__(
        self, shape: tuple[int, int, int], levels: int, features: int, layers: Sequence[PixelLayer], classes: int = 0
    ) -> None:
        super().__init__()
        colours = shape[0]
        self.shape, self.levels, self.features = shape, levels, features
        reach = min(3, max(shape[1:]) - 1)  # beyond a small grid there is only padding
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
        """Features of the last layer, (N, features, H, W)."""
        h = self._given(self.first(F.pad(self.embed(x), (0, self.blank_columns))), y)
        for layer in self.layers:
            h = layer(h)
        return h[..., : self.shape[2]]

    def context(self) -> Tensor:
        """Which pixels each pixel's logits depend on (`layers/context.py`)."""
        seen = self.first.context(F.pad(context.of_input(*self.shape[1:]), (0, 0, 0, self.blank_columns)))
        for layer in cast(Sequence[PixelLayer], self.layers):
            seen = layer.context(seen)
        return seen[:, : self.shape[2]]

    def embed(self, x: Tensor) -> Tensor:
        """Integers (N, C, H, W) to numbers in [-1, 1]."""
        return to_unit(x, self.levels).to(self.head.weight.dtype)

    def logits(self, h: Tensor) -> Tensor:
        """Features of the last layer to logits, (N, levels, C, H, W)."""
        flat = self.to_logits(F.relu(self.head(F.relu(h))))
        logits: Tensor = flat.unflatten(1, (self.shape[0], self.levels)).transpose(1, 2)
        return logits

    def _given(self, h: Tensor, y: Tensor | None) -> Tensor:
        return h if self.by_class is None else h + self.by_class(y)[..., None, None]

    @property
    def passes_in_sequence(self) -> int:
        """As in `Model`, to draw an image: one per colour channel of each wave.

        A blank column, where nothing is drawn, belongs to the pass of the first pixel in the next row.
        """
        return self.shape[0] * sum(wave.column < self.shape[2] for wave in self.in_waves())

    def in_waves(self) -> Iterator[Wave]:
        """All pixels, with those of blank columns, in the order of drawing: independent pixels are drawn at once.

        A pixel is drawn together with the one in the row below that lies further left than the first convolution
        reaches to the right. If a layer sees whole rows, pixels are drawn one at a time.
        """
        columns = self.shape[2] + self.blank_columns
        whole_rows = any(layer.sees_whole_rows for layer in cast(Sequence[PixelLayer], self.layers))
        return waves(self.shape[1], columns, columns if whole_rows else self.first.aside + 1)

    @torch.no_grad()
    def sample(self, given: Tensor, row: int, generator: Generator, y: Tensor | None = None) -> Tensor:
        """Draw the pixels of row `row` and below, given the rows above; arguments as of `GatedPixelCNN.sample`."""
        colours, height, width = self.shape
        marks = given.new_zeros((height, width, colours, len(given)), dtype=torch.float32)
        below = marks[row:].flatten(0, 2)  # in raster order, whatever the order of use
        below.copy_(uniform(below.shape, generator, marks.device, marks.dtype, dim=1))
        marks = marks.permute(3, 0, 1, 2)

        def draw(logits: Tensor, wave: Wave, colour: int) -> Tensor:
            return draw_at(wave.of(marks)[..., colour].flatten(), logits.flatten(0, 1)).view(logits.shape[:2])

        return self.draw_by_waves(given, row, draw, y)

    @torch.no_grad()
    def in_order(self, given: Tensor, row: int, choose: Choose) -> Tensor:
        """Let `choose` fix the pixels of row `row` and below; `given` as of `draw_by_waves`."""

        def draw(logits: Tensor, wave: Wave, colour: int) -> Tensor:
            def at(x: Tensor) -> Tensor:
                return wave.of(x.permute(0, 2, 3, 1))[..., colour].flatten()

            return choose(logits.flatten(0, 1), at).view(logits.shape[:2])

        return self.draw_by_waves(given, row, draw)

    @torch.no_grad()
    def draw_by_waves(self, given: Tensor, row: int, draw: Draw, y: Tensor | None = None) -> Tensor:
        """Let `draw` choose the pixels of row `row` and below: int64 (N, C, H, W).

        Args:
            given: integers, (N, C, H, W), of which the rows above are kept.
            row: the first row to draw.
            draw: chooses levels by their logits.
            y: classes of the images, int64 (N,).
        """
        n, (colours, height, width) = len(given), self.shape
        columns = width + self.blank_columns
        layers = cast(Sequence[PixelLayer], self.layers)
        steps = [layer.by_waves(n, height, columns) for layer in layers]
        seen = Seen(self.first, n, height, columns)
        of_class = self.by_class(y)[:, None] if self.by_class else None
        head, to_logits = self.head.of_pixels(), self.to_logits.of_pixels()
        x = given.long().permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
        x[:, row:] = 0
        for wave in self.in_waves():
            inside = wave.column < width  # not in a blank column; where there are any, a wave is one pixel
            drawn = wave.below(row) if inside else wave.below(height)
            if inside and drawn.rows < wave.rows:
                seen.enter(self.embed(wave.of(x)), wave)
            for colour in range(colours if drawn.rows else 1):
                h = seen.convolved(wave)
                if of_class is not None:
                    h.view(n, wave.rows, self.features).add_(of_class)
                for step in steps:
                    h = step(h, wave)
                if drawn.rows:
                    if drawn.rows < wave.rows:
                        h = h.view(n, wave.rows, self.features)[:, -drawn.rows :].flatten(0, 1)
                    logits = to_logits(head(h.relu()).relu_()).view(n, drawn.rows, colours, self.levels)
                    drawn.of(x)[..., colour] = draw(logits[:, :, colour], drawn, colour)
                    seen.enter(self.embed(wave.of(x)), wave)
        return x.permute(0, 3, 1, 2).contiguous()
