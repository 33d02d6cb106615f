"""Dense networks over numbers in an order: what is computed for a number depends only on those before it."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Degrees(NamedTuple):
    """Who sees whom: a unit of degree m sees the first m inputs of an order (Germain et al. 2015, MADE, section 3).

    rank: the place of each of D inputs in the order, 1..D, int64 (D,). hidden: the degrees of hidden units, int64
    (layers, width).
    """

    rank: Tensor
    hidden: Tensor

    @property
    def reach(self) -> Tensor:
        """How many inputs, from the first on, the output of each rank depends on through the hidden units: (D,).

        At most rank - 1, and fewer if the highest degree that a layer can pass on is lower.
        """
        reach = torch.arange(len(self.rank), device=self.rank.device)
        for layer in reversed(self.hidden):
            ascending = torch.cat([layer.new_zeros(1), layer.sort().values])
            reach = ascending[torch.searchsorted(ascending, reach, right=True) - 1]
        return reach


def raster_rank(shape: tuple[int, int, int]) -> Tensor:
    """The place of each number of an image (C, H, W), flattened, in reading order, its colours together: int64 (D,)."""
    colours, height, width = shape
    return torch.arange(1, colours * height * width + 1).view(height, width, colours).permute(2, 0, 1).flatten()


def spread_degrees(d: int, width: int, depth: int) -> Tensor:
    """Degrees of hidden units that are as equally frequent as possible, of D inputs: int64 (depth, width)."""
    return (1 + torch.arange(width) * max(1, d - 1) // width).expand(depth, width).contiguous()


def random_degrees(d: int, width: int, depth: int) -> Tensor:
    """Uniformly random degrees of hidden units, int64 (depth, width), from torch's own generator.

    None is below the lowest of the layer before, so that no unit is without a connection (Germain et al. 2015, section
    3).
    """
    layers, lowest = [], 1
    for _ in range(depth):
        layers.append(torch.randint(lowest, max(2, d), (width,)))
        lowest = int(layers[-1].min())
    return torch.stack(layers)


class MaskedLinear(nn.Linear):
    """A linear layer whose outputs each see only inputs up to some degree."""

    def forward(  # type: ignore[override] # what it sees is an argument
        self, x: Tensor, degrees: Tensor, most: Tensor
    ) -> Tensor:
        """(N, inputs) to (N, outputs).

        Args:
            x: what it is applied to.
            degrees: of the inputs, int64 (inputs,).
            most: the highest degree that each output sees, int64 (outputs,).
        """
        return F.linear(x, self.weight * (most[:, None] >= degrees), self.bias)


class DenseNetwork(nn.Module):
    """Some numbers for each of d inputs, given those before it in an order (Germain et al. 2015).

    The order, and which hidden unit sees what, are arguments: one network can be used with many.

    Args:
        d: number of inputs.
        outputs: how many numbers for each.
        width: of a hidden layer.
        depth: hidden layers; without any, the numbers are linear in the inputs.
        dropout: in the hidden layers, during training.
        direct: whether inputs are also connected to the outputs directly (section 6 of the paper).
    """

    def __init__(self, d: int, outputs: int, width: int, depth: int, dropout: float, *, direct: bool = False) -> None:
        super().__init__()
        sizes = [d, *[width] * depth]
        self.outputs = outputs
        self.hidden = nn.ModuleList(MaskedLinear(*pair) for pair in itertools.pairwise(sizes))
        self.dropout = nn.Dropout(dropout)
        self.out = MaskedLinear(sizes[-1], d * outputs)
        self.direct = MaskedLinear(d, d * outputs, bias=False) if direct else None

    def forward(self, x: Tensor, degrees: Degrees) -> Tensor:
        """x: (N, D). (N, outputs, D)."""
        return self.numbers(x, self.activations(x, degrees), degrees)

    def activations(self, x: Tensor, degrees: Degrees) -> Tensor:
        """The last hidden layer, (N, width), of x, (N, D); x itself if there is none."""
        h, seen = x, degrees.rank
        for layer, most in zip(self.hidden, degrees.hidden, strict=True):
            h, seen = self.dropout(F.relu(layer(h, seen, most))), most
        return h

    def numbers(self, x: Tensor, h: Tensor, degrees: Degrees) -> Tensor:
        """What it returns for x, (N, D), given the last hidden layer, (N, width): (N, outputs, D)."""
        most = self._most(degrees)
        flat = self.out(h, self._last(degrees), most)
        if self.direct is not None:
            flat = flat + self.direct(x, degrees.rank, most)
        numbers: Tensor = flat.unflatten(1, (-1, self.outputs)).transpose(1, 2)
        return numbers

    def in_order(self, n: int, degrees: Degrees) -> Callable[[int, Tensor], Tensor]:
        """A function that returns the numbers, (n, outputs), for the input of a rank, given x, (n, D).

        It is to be called with the ranks 1..D in this order, and with an x that is 0 from this rank on: what a unit
        must not see is zero, and no weight needs a mask. Each hidden unit is computed once, when the last input that it
        sees is known: all calls together take as many operations as a single `forward`. In evaluation mode only, as
        there is no dropout, and without gradients.
        """
        layers: list[InOrder] = []
        for layer, units in zip(self._layers, degrees.hidden, strict=True):
            layers.append(InOrder(layer, layers[-1].order if layers else None, units, n, len(degrees.rank)))
        places = degrees.rank.argsort().cpu().tolist()
        weight = self.out.weight.detach()
        weights = (weight.index_select(1, layers[-1].order) if layers else weight).split(self.outputs)
        biases = self.out.bias.detach().split(self.outputs)
        direct = None if self.direct is None else self.direct.weight.detach().split(self.outputs)

        def numbers(rank: int, x: Tensor) -> Tensor:
            h = x
            for layer in layers:
                h = layer.extend(h, rank - 1)
            place = places[rank - 1]
            found = torch.addmm(biases[place], h, weights[place].T)
            return found if direct is None else torch.addmm(found, x, direct[place].T)

        return numbers

    @property
    def _layers(self) -> Sequence[MaskedLinear]:
        return cast(Sequence[MaskedLinear], self.hidden)

    def _most(self, degrees: Degrees) -> Tensor:
        """The highest degree that each output sees, (D · outputs,)."""
        return (degrees.rank - 1).repeat_interleave(self.outputs)

    @staticmethod
    def _last(degrees: Degrees) -> Tensor:
        """The degrees of what the outputs are computed from."""
        return degrees.hidden[-1] if len(degrees.hidden) else degrees.rank


class InOrder:
    """A hidden layer for n inputs of which more and more is known: each unit is computed once.

    Args:
        layer: the layer.
        inputs: the order in which what it is applied to comes, int64 (inputs,); None for the layer's own.
        degrees: of its units, int64 (units,).
        n: number of inputs.
        d: numbers in each.

    Attributes:
        order: the units by their degrees, int64 (units,): the order of `values`.
        values: of the units, (n, units).
        units: for each degree, the part of `values` that belongs to it.
    """

    def __init__(self, layer: MaskedLinear, inputs: Tensor | None, degrees: Tensor, n: int, d: int) -> None:
        sizes, self.order = degrees.bincount(minlength=d).cpu().tolist(), degrees.argsort(stable=True)
        weight, bias = layer.weight.detach()[self.order], layer.bias.detach()[self.order]
        weight = weight if inputs is None else weight.index_select(1, inputs)
        self.values = weight.new_zeros(n, len(weight))
        self.units = self.values.split(sizes, 1)
        self.weights, self.biases = [rows.T for rows in weight.split(sizes)], bias.split(sizes)

    def extend(self, x: Tensor, degree: int) -> Tensor:
        """The values, now that units of this degree can be computed from x; those of a higher one are 0."""
        units = self.units[degree]
        if units.shape[1]:
            torch.clamp_min(torch.addmm(self.biases[degree], x, self.weights[degree]), 0.0, out=units)
        return self.values
