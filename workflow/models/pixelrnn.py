"""PixelRNN: van den Oord, Kalchbrenner & Kavukcuoglu 2016, Pixel Recurrent Neural Networks."""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from workflow.models.base import Choose, Model
from workflow.models.layers import context
from workflow.models.layers.common import categorical_log_prob
from workflow.models.layers.masked import MaskedConv2d, MaskedNetwork, PixelLayer, Seen, Step, Wave

Cell = Literal["row", "diagonal"]


def lstm(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The next state and memory of an LSTM (equation 3).

    Args:
        gates: before their non-linearities, (N, 4 features, …).
        c: memory, (N, features, …).
    """
    features = c.shape[1]
    opened, content = gates.split([3 * features, features], dim=1)
    out, forget, write = opened.sigmoid().chunk(3, dim=1)
    c = forget * c + write * content.tanh()
    return out * c.tanh(), c


class RowLstm(PixelLayer):
    """The row LSTM (section 3.1): row by row from the top, each state depends on the three states above it.

    The receptive field is a triangle above the pixel. Like all layers here, it narrows to half the features, widens
    again and has a residual connection (figure 5).

    Args:
        channels: of an LSTM's state; twice as many outside.
        groups: blocks that features come in, one per colour channel.
        dropout: on the states, during training.
    """

    def __init__(self, channels: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.channels = channels
        self.from_input = MaskedConv2d(2 * channels, channels, groups, aside=1, gates=4)
        self.from_state = nn.Conv2d(channels, 4 * channels, (1, 3), bias=False)
        self.widen = MaskedConv2d(channels, 2 * channels, groups)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, 2 channels, H, W) to the same shape."""
        h = c = x.new_zeros(len(x), self.channels, 1, x.shape[3])
        states = []
        for gates in self.from_input(x).split(1, dim=2):
            h, c = lstm(gates + self.from_state(F.pad(h, (1, 1))), c)
            states.append(h)
        out: Tensor = self.widen(self.dropout(torch.cat(states, 2)))
        return out + x

    def context(self, seen: Tensor) -> Tensor:
        """As `PixelLayer.context`."""
        rows = [self.from_input.context(seen)[:1]]
        for row in self.from_input.context(seen)[1:].split(1):
            rows.append(row | context.gathered(rows[-1], [(0, -1), (0, 0), (0, 1)]))
        return torch.cat(rows) | seen

    def by_waves(self, n: int, height: int, width: int) -> Step:
        """As `PixelLayer.by_waves`; caches the input, the states and the memories."""
        given, widen = Seen(self.from_input, n, height, width), self.widen.of_pixels()
        from_state = self.from_state.weight[:, :, 0].permute(2, 1, 0).flatten(0, 1)
        # Padded with zeros above and, for the states, on either side.
        h = from_state.new_zeros(n, height + 1, width + 2, self.channels)
        c = from_state.new_zeros(n, height + 1, width, self.channels)

        new_h, new_c = h[:, 1:, 1:], c[:, 1:]

        def step(x: Tensor, wave: Wave) -> Tensor:
            given.enter(x, wave)
            above = wave.patches(h, 1, 3).reshape(len(x), len(from_state))
            gates = torch.addmm(given.convolved(wave), above, from_state)
            state, memory = lstm(gates, wave.of(c).reshape(len(x), self.channels))
            for kept, made in ((new_h, state), (new_c, memory)):
                wave.of(kept).copy_(made.view(n, wave.rows, self.channels))
            return widen(state) + x

        return step


def skew(x: Tensor) -> Tensor:
    """Shift each row one place further to the right than the one above: (…, H, W) to (…, H, W + H - 1).

    Diagonals from the lower left to the upper right become columns (figure 3); the rest is filled with zeros.
    """
    height, width = x.shape[-2:]
    flat = F.pad(x, (0, height)).flatten(-2)[..., :-height]
    skewed: Tensor = flat.unflatten(-1, (height, width + height - 1))
    return skewed


def unskew(x: Tensor) -> Tensor:
    """Inverse of `skew`: (…, H, W + H - 1) to (…, H, W)."""
    height, skewed = x.shape[-2:]
    rows: Tensor = F.pad(x.flatten(-2), (0, height)).unflatten(-1, (height, skewed + 1))
    return rows[..., : skewed + 1 - height]


class DiagonalLstm(nn.Module):
    """One direction of the diagonal BiLSTM: a state depends on the states to its left and above (section 3.2).

    `along_diagonals` computes the states of all pixels, a step of `pixel_by_pixel` that of one pixel.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.channels = channels
        self.from_input = MaskedConv2d(2 * channels, channels, groups, gates=4)
        self.from_states = nn.Linear(2 * channels, 4 * channels, bias=False)  # a 2x1 convolution of a skewed column

    def pixel_by_pixel(self, n: int, height: int, width: int) -> tuple[Callable[[Tensor, int, int], Tensor], Tensor]:
        """A function that computes the state of a pixel, (N, channels), and its cache, (N, H + 1, W + 1, channels)."""
        from_input, from_states = self.from_input.of_pixels(), self.from_states.weight.T
        # Padded with zeros on the left and above.
        h, c = (from_states.new_zeros(n, height + 1, width + 1, self.channels) for _ in range(2))

        def step(x: Tensor, i: int, j: int) -> Tensor:
            before = torch.cat([h[:, i + 1, j], h[:, i, j + 1]], 1)
            state, memory = lstm(torch.addmm(from_input(x), before, from_states), c[:, i + 1, j])
            h[:, i + 1, j + 1], c[:, i + 1, j + 1] = state, memory
            return state

        return step, h


def along_diagonals(directions: Sequence[DiagonalLstm], inputs: Sequence[Tensor]) -> Tensor:
    """The states of all directions, computed together for speed: (directions, N, channels, H, W).

    Args:
        directions: LSTMs.
        inputs: of each, (N, 2 channels, H, W), flipped so that the direction goes from the upper left to the lower
            right.
    """
    skewed = torch.stack([skew(one.from_input(x)) for one, x in zip(directions, inputs, strict=True)])
    # Before the first pixel of a row all gates are zero, so nothing is written and states stay zero; states after its
    # last pixel are never used.
    gates = skewed.permute(4, 0, 2, 1, 3).contiguous()  # (steps, directions, 4 channels, N, H)
    weights = torch.stack([one.from_states.weight for one in directions])
    h = c = torch.zeros_like(gates[0, :, : directions[0].channels])
    states = []
    for of_input in gates:
        above = torch.cat([torch.zeros_like(h[..., :1]), h[..., :-1]], 3)
        before = torch.cat([h, above], 1)
        h, c = lstm(of_input + (weights @ before.flatten(2)).view(of_input.shape), c)
        states.append(h)
    return unskew(torch.stack(states).permute(1, 3, 2, 4, 0))


class DiagonalBiLstm(PixelLayer):
    """The diagonal BiLSTM: from both upper corners, diagonal by diagonal. Together they see all earlier pixels.

    The direction from the right is delayed by one row, because it sees later pixels of its own row. Not in the paper:
    features do not depend on their own pixel's last colour, so the next row would miss the last pixel of a row, except
    where the first convolution reaches it. A blank column on the right, whose features do depend on it, fixes this.

    Args:
        channels: of an LSTM's state; twice as many outside.
        groups: blocks that features come in, one per colour channel.
        dropout: on the states, during training.
    """

    sees_whole_rows = True
    blank_columns = 1

    def __init__(self, channels: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.left, self.right = DiagonalLstm(channels, groups), DiagonalLstm(channels, groups)
        self.widen = MaskedConv2d(channels, 2 * channels, groups)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, 2 channels, H, W) to the same shape."""
        from_left, from_right = along_diagonals([self.left, self.right], [x, x.flip(3)])
        late = F.pad(from_right.flip(3), (0, 0, 1, 0))[:, :, :-1]
        out: Tensor = self.widen(self.dropout(from_left + late))
        return out + x

    def context(self, seen: Tensor) -> Tensor:
        """As `PixelLayer.context`: everything above and to the left, and everything above the row and to the right."""
        above = seen.byte().cummax(0).values
        from_left, from_right = above.cummax(1).values, above.flip(1).cummax(1).values.flip(1)
        return (from_left | F.pad(from_right, (0, 0, 0, 0, 1, 0))[:-1]).bool() | seen

    def by_waves(self, n: int, height: int, width: int) -> Step:
        """As `PixelLayer.by_waves`, one pixel at a time; caches the row's features and both directions' states."""
        left, _ = self.left.pixel_by_pixel(n, height, width)
        right, late = self.right.pixel_by_pixel(n, height, width)  # its columns in reverse
        widen, row = self.widen.of_pixels(), self.widen.weight.new_zeros(n, width, self.widen.out_channels)

        def step(x: Tensor, wave: Wave) -> Tensor:
            i, j = wave.row, wave.column
            row[:, j] = x
            if j == width - 1:  # the blank column: the row is complete
                for k in range(width):
                    right(row[:, j - k], i, k)
            return widen(left(x, i, j) + late[:, i, width - j]) + x

        return step


LAYERS: dict[Cell, type[RowLstm] | type[DiagonalBiLstm]] = {"row": RowLstm, "diagonal": DiagonalBiLstm}


class PixelRNN(Model):
    """p(x) as a product over pixels in raster order, and over R, G, B within a pixel, by two-dimensional LSTMs.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        cell: the row LSTM, or the diagonal BiLSTM.
        channels: features of an LSTM's state; twice as many between the layers.
        layers: of LSTMs, after a masked 7x7 convolution.
        dropout: on the states, during training.
    """

    title = "PixelRNN"
    paper = "van den Oord et al. 2016, Pixel Recurrent Neural Networks"
    family = "autoregressive"
    taxonomy = "explicit tractable"
    likelihood = "exact"
    objective = "max Σᵢ log p(xᵢ | x₁, …, xᵢ₋₁)"
    about = (
        "The density of an image is a product of conditional densities, one per pixel, as in a PixelCNN, but the "
        "states of an LSTM carry the information from earlier pixels over any distance. The likelihood is exact. "
        "Training proceeds row by row or diagonal by diagonal, sampling pixel by pixel. The model can complete images, "
        "and its states serve as features, but it cannot reconstruct or interpolate."
    )

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        cell: Cell,
        channels: Annotated[int, Field(ge=1)],
        layers: Annotated[int, Field(ge=1)],
        dropout: Annotated[float, Field(ge=0, lt=1)],
    ) -> None:
        super().__init__(shape, levels)
        colours = shape[0]
        channels = -(-channels // colours) * colours
        lstms = [LAYERS[cell](channels, colours, dropout) for _ in range(layers)]
        self.network = MaskedNetwork(shape, levels, 2 * channels, lstms)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """Negative log-likelihood, nats per image."""
        return {"loss": -self.log_prob(x, generator).mean()}

    def log_prob(self, x: Tensor, generator: Generator) -> Tensor:
        """Exact log p(x), nats (N,). x: uint8 (N, C, H, W)."""
        return categorical_log_prob(self.network(x), x)

    @property
    def passes_in_sequence(self) -> int:
        """As many as its network takes."""
        return self.network.passes_in_sequence

    @property
    def note(self) -> str:
        """The share of earlier pixels within the receptive field, unless it is all."""
        return context.note_on(self.network.context())

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw images pixel by pixel, uint8 (n, C, H, W)."""
        blank = torch.zeros(n, *self.shape, dtype=torch.long, device=self.device)
        return self.network.sample(blank, 0, generator).to(torch.uint8)

    @torch.no_grad()
    def in_order(self, n: int, choose: Choose) -> Tensor:
        """As in `HasOrder`."""
        blank = torch.zeros(n, *self.shape, dtype=torch.long, device=self.device)
        return self.network.in_order(blank, 0, choose).to(torch.uint8)

    @torch.no_grad()
    def complete(self, x: Tensor, rows: int, generator: Generator) -> Tensor:
        """Keep the first `rows` rows of x, uint8 (N, C, H, W), and draw the rest."""
        return self.network.sample(x, rows, generator).to(torch.uint8)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Hidden activations averaged over each quarter of the image, (N, 8 channels)."""
        return F.adaptive_avg_pool2d(self.network.hidden(x), 2).flatten(1)


MODEL = PixelRNN
