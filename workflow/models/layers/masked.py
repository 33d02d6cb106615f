"""Networks of masked convolutions over pixels in reading order, and how they draw them."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workflow.models.layers.common import draw_categorical, to_unit
from workflow.models.layers.masks import group_mask


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
        mask[:, :, up, aside] = group_mask(outputs, inputs, groups, own=own).repeat(gates, 1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, gates · outputs, H, W)."""
        framed = F.pad(x, (self.aside, self.aside, self.up, 0))  # within the zeros that it sees beyond the edges
        return F.conv2d(framed, self.weight * self.mask, self.bias)

    def of_pixel(self) -> Callable[[Tensor], Tensor]:
        """A 1x1 convolution as what it does to the features of one pixel, (N, inputs) to (N, gates · outputs)."""
        return partial(F.linear, weight=(self.weight * self.mask)[..., 0, 0], bias=self.bias)


class Seen:
    """What a masked convolution sees of n images whose pixels become known in order, and what it makes of it.

    A pixel's features lie side by side, and so do pixels: what is seen from a pixel is a row of a matrix product, which
    takes a fraction of the time that a convolution of a single pixel takes to set up.
    """

    def __init__(self, conv: MaskedConv2d, n: int, height: int, width: int) -> None:
        assert conv.bias is not None
        self.up, self.aside, self.bias = conv.up, conv.aside, conv.bias
        self.weight = (conv.weight * conv.mask).permute(2, 3, 1, 0).flatten(0, 2)
        self.features = conv.weight.new_zeros(n, height + self.up, width + 2 * self.aside, conv.in_channels)

    def enter(self, x: Tensor, i: int, j: int) -> None:
        """Features of pixel (i, j), (N, inputs)."""
        self.features[:, i + self.up, j + self.aside] = x

    def convolved(self, i: int, j: int) -> Tensor:
        """The convolution at pixel (i, j), (N, gates · outputs)."""
        patch = self.features[:, i : i + self.up + 1, j : j + 2 * self.aside + 1].flatten(1)
        return torch.addmm(self.bias, patch, self.weight)


# From the features of a pixel, (N, features), and where it is, to a layer's output there.
Step = Callable[[Tensor, int, int], Tensor]


class PixelLayer(nn.Module):
    """Features of all pixels, (N, features, H, W), to as many: each from those of its own pixel and of earlier ones."""

    blank_columns = 0  # how many the layer wants on the right of the image

    def pixel_by_pixel(self, n: int, height: int, width: int) -> Step:
        """What computes `forward` for one pixel of n images after another, in reading order.

        It keeps what it must know of earlier pixels; a pixel whose colours become known one by one comes repeatedly.
        """
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
        steps = [layer.pixel_by_pixel(len(x), height, columns) for layer in layers]
        seen, of_class = Seen(self.first, len(x), height, columns), self.by_class(y) if self.by_class else 0
        head, to_logits = self.head.of_pixel(), self.to_logits.of_pixel()
        for i, j in itertools.product(range(height), range(columns)):
            inside = j < width  # and not in a blank column
            if inside:
                seen.enter(self.embed(x[:, :, i, j]), i, j)
            for colour in range(colours if i >= row and inside else 1):
                h = seen.convolved(i, j) + of_class
                for step in steps:
                    h = step(h, i, j)
                if i >= row and inside:
                    logits = to_logits(F.relu(head(F.relu(h)))).unflatten(1, (colours, self.levels))[:, colour]
                    x[:, colour, i, j] = draw_categorical(logits, generator)
                    seen.enter(self.embed(x[:, :, i, j]), i, j)
        return x
