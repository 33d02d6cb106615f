"""WaveNet: van den Oord et al. 2016, A Generative Model for Raw Audio; drawn with queues, Le Paine et al. 2016."""

import math
from collections.abc import Callable
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from workflow.models.base import Choose, Model
from workflow.models.layers.common import (
    categorical_log_prob,
    draw_at,
    draw_categorical,
    draw_classes,
    for_each_class,
    log_frequencies,
    over_classes,
    to_unit,
)
from workflow.models.layers.noise import uniform

# Chooses the number at a place in the sequence, int64 (N,), by its logits, (N, levels).
Draw = Callable[[Tensor, int], Tensor]


class GatedLayer(nn.Module):
    """A gated causal convolution of width 2 with a residual and a skip connection (section 2.3, figure 4).

    Args:
        channels: features that come in and go on to the next layer.
        skipped: features that go to the output at once.
        dilation: how far apart the two times are that it sees.
        classes: number of classes of p(x|y); 0 for p(x).
        last: whether no layer comes after it, so that nothing goes on.
    """

    def __init__(self, channels: int, skipped: int, dilation: int, classes: int, last: bool) -> None:
        super().__init__()
        self.dilation = dilation
        self.gates = nn.Linear(2 * channels, 2 * channels)  # of the features at two times: the kernel
        self.of_class = nn.Embedding(classes, 2 * channels) if classes else None
        self.to_output = nn.Linear(channels, skipped)
        self.to_next = None if last else nn.Linear(channels, channels)

    def forward(self, now: Tensor, before: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features for the next layer, as `now`, and for the output, (N, …, skipped).

        Args:
            now: features, (N, channels) or (N, length, channels).
            before: those `dilation` earlier, of the same shape.
            y: classes, int64 (N,) or (N, 1); only of a model that has some.
        """
        gates = self.gates(torch.cat([before, now], -1))
        if self.of_class is not None:
            gates = gates + self.of_class(y)  # global conditioning, section 2.5
        signal, gate = gates.chunk(2, -1)
        z = signal.tanh() * gate.sigmoid()
        return now if self.to_next is None else now + self.to_next(z), self.to_output(z)


class WaveNet(Model):
    """p(x) or p(x|y) as a product over time, by stacks of dilated causal convolutions.

    Signals have the shape (1, 1, T). An image is read as a sequence: its pixels in reading order, the colours of each
    one after another. A sample is given those before it within the receptive field; only if that covers the whole
    signal is this the chain rule of an arbitrary distribution.

    Args:
        shape: of a signal, (1, 1, T), or of an image, (C, H, W).
        levels: samples are 0..levels-1, as µ-law or another code gives them.
        channels: features of each layer; twice as many in the skip connections.
        layers: of a stack, with dilations 1, 2, 4 and so on.
        stacks: how often these dilations are repeated.
        classes: number of classes of p(x|y); 0 for p(x).
    """

    title = "WaveNet"
    paper = "van den Oord et al. 2016, WaveNet: A Generative Model for Raw Audio"
    family = "autoregressive"
    taxonomy = "explicit tractable"
    likelihood = "exact"
    unranked = ("classes",)  # p(x|y) and p(x) cannot be compared
    objective = "max Σₜ log p(xₜ | x₁, …, xₜ₋₁)"
    about = (
        "The density of a signal is a product of conditional densities, one per sample, each given the earlier samples "
        "in the receptive field, which doubles with each layer: causal convolutions look twice as far back as those "
        "of the layer before. The likelihood is exact, but sampling takes one step per sample. Each layer keeps the "
        "features that it will look back at, so that a step costs the same however long the signal is. There is no "
        "latent code: features are hidden activations. Images are read as signals, row after row."
    )

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        channels: Annotated[int, Field(ge=1)],
        layers: Annotated[int, Field(ge=1, le=16)],
        stacks: Annotated[int, Field(ge=1)] = 1,
        classes: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__(shape, levels)
        self.length, self.classes = math.prod(shape), classes
        self.channels, skipped, dilations = channels, 2 * channels, [2**k for k in range(layers)] * stacks
        self.first = nn.Linear(2, channels)  # a causal convolution of width 2 of the signal itself
        self.layers = nn.ModuleList(
            GatedLayer(channels, skipped, dilation, classes, last=number == len(dilations))
            for number, dilation in enumerate(dilations, 1)
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(skipped, skipped), nn.ReLU(), nn.Linear(skipped, levels))

    @property
    def receptive_field(self) -> int:
        """How many samples before it a sample may depend on."""
        return 2 + sum(layer.dilation for layer in self._layers)

    @property
    def note(self) -> str:
        """The receptive field, unless it covers the whole signal."""
        if self.receptive_field >= self.length - 1:
            return ""
        return (
            f"Its receptive field is {self.receptive_field} of {self.length} samples: given these, a sample is "
            "modelled as independent of those further back."
        )

    @torch.no_grad()
    def initialise(self, x: Tensor, generator: Generator) -> None:
        """Begin with the frequencies of the levels in signals x, uint8 (N, C, H, W), as logits."""
        cast(nn.Linear, self.head[-1]).bias.copy_(log_frequencies(x.reshape(len(x), 1, 1, -1), self.levels)[0])

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """Negative log-likelihood, nats per signal; of p(x|y) if there are classes."""
        return {"loss": -self.log_prob_given(x, y).mean()}

    def log_prob(self, x: Tensor, generator: Generator) -> Tensor:
        """Exact log p(x), nats (N,). x: uint8 (N, C, H, W)."""
        if not self.classes:
            return self.log_prob_given(x, None)
        return over_classes(lambda y: self.log_prob_given(x, y), len(x), self.classes, x.device)

    def log_prob_by_class(self, x: Tensor, generator: Generator) -> Tensor:
        """Exact log p(x|y) for each class y, nats (N, classes). x: uint8 (N, C, H, W)."""
        return for_each_class(lambda y: self.log_prob_given(x, y), len(x), self.classes, x.device).T

    def log_prob_given(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Exact log p(x|y), nats (N,). x: uint8 (N, C, H, W). y: int64 (N,), ignored if there are no classes."""
        numbers = _in_order(x)
        return categorical_log_prob(self.logits(numbers, y), numbers)

    def logits(self, numbers: Tensor, y: Tensor | None) -> Tensor:
        """Logits of each number given those before it, (N, levels, length). numbers: integers (N, length)."""
        logits: Tensor = self.head(self.hidden(numbers, y))
        return logits.transpose(1, 2)

    def hidden(self, numbers: Tensor, y: Tensor | None) -> Tensor:
        """The sum of the skip connections at each place, which knows the numbers before it: (N, length, 2 channels)."""
        signal = self._embed(numbers).unsqueeze(-1)
        h = self.first(torch.cat([_earlier(signal, 2), _earlier(signal, 1)], -1))
        y = y if y is None else y.unsqueeze(1)
        total: Tensor = h.new_zeros(())
        for layer in self._layers:
            h, skipped = layer(h, _earlier(h, layer.dilation), y)
            total = total + skipped
        return total

    @property
    def passes_in_sequence(self) -> int:
        """One per sample."""
        return self.length

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw signals sample by sample, uint8 (n, C, H, W); if there are classes, draw those first."""
        y = draw_classes(n, self.classes, generator, self.device) if self.classes else None
        return self._drawn(n, generator, y)

    @torch.no_grad()
    def sample_given(self, y: Tensor, generator: Generator) -> Tensor:
        """Draw one signal of each class y, int64 (N,), sample by sample: uint8 (N, C, H, W)."""
        return self._drawn(len(y), generator, y)

    @torch.no_grad()
    def in_order(self, n: int, choose: Choose) -> Tensor:
        """As in `HasOrder`."""
        return self._images(self._in_turn(n, lambda logits, i: choose(logits, lambda x: _in_order(x)[:, i]), None))

    @torch.no_grad()
    def complete(self, x: Tensor, rows: int, generator: Generator) -> Tensor:
        """Keep the first `rows` rows of x, uint8 (N, C, H, W), and draw the rest.

        If there are classes, each signal's class is drawn first, from p(y|rows).
        """
        given = _in_order(x[:, :, :rows])
        y = draw_categorical(self._for_each_class(given)[1], generator) if self.classes else None
        return self._drawn(len(x), generator, y, given)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The sum of the skip connections, averaged over each quarter of the signal, (N, 8 channels).

        If there are classes, these are averaged over p(y|x).
        """
        if not self.classes:
            return _quarters(self.hidden(_in_order(x), None))
        features, log_prob = self._for_each_class(_in_order(x))
        return (features * log_prob.softmax(1)[..., None]).sum(1)

    def _for_each_class(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Features given each class, (N, classes, d), and the log-density of numbers (N, i), nats (N, classes)."""
        features, log_prob = [], []
        for y in range(self.classes):
            hidden = self.hidden(numbers, torch.full((len(numbers),), y, device=numbers.device))
            features.append(_quarters(hidden))
            log_prob.append(categorical_log_prob(self.head(hidden).transpose(1, 2), numbers))
        return torch.stack(features, 1), torch.stack(log_prob, 1)

    def _drawn(self, n: int, generator: Generator, y: Tensor | None, given: Tensor | None = None) -> Tensor:
        """Signals whose numbers are drawn in turn, after those that are given, int64 (n, i): uint8 (n, C, H, W)."""
        known = 0 if given is None else given.shape[1]
        marks = uniform((self.length - known, n), generator, self.device, torch.float32, dim=1)

        def draw(logits: Tensor, i: int) -> Tensor:
            return given[:, i] if given is not None and i < known else draw_at(marks[i - known], logits)

        return self._images(self._in_turn(n, draw, y))

    def _in_turn(self, n: int, draw: Draw, y: Tensor | None) -> Tensor:
        """Let `draw` choose the numbers of n sequences one after another, int64 (n, length).

        Each layer has a queue of its inputs, as long as its dilation, so that nothing is computed twice (Le Paine et
        al. 2016, Fast WaveNet Generation Algorithm): a step is a pass through one sample's worth of the network.
        """
        numbers = torch.zeros(n, self.length, dtype=torch.long, device=self.device)
        blank = self.first.bias.new_zeros
        queues = [(layer, layer.dilation, blank(layer.dilation, n, self.channels).unbind()) for layer in self._layers]
        signal, nothing = blank(n, 2), blank(())  # the last two samples, the later one last
        for i in range(self.length):
            h, total = self.first(signal), nothing
            for layer, dilation, queue in queues:
                oldest = queue[i % dilation]
                entered = h
                h, skipped = layer(entered, oldest, y)
                oldest.copy_(entered)
                total = total + skipped
            numbers[:, i] = draw(self.head(total), i)
            signal = torch.stack([signal[:, 1], self._embed(numbers[:, i])], 1)
        return numbers

    def _embed(self, numbers: Tensor) -> Tensor:
        """Integers to numbers in [-1, 1]."""
        return to_unit(numbers, self.levels).to(self.first.weight.dtype)

    def _images(self, numbers: Tensor) -> Tensor:
        """Sequences, int64 (N, length), as uint8 (N, C, H, W)."""
        colours, height, width = self.shape
        return numbers.view(-1, height, width, colours).permute(0, 3, 1, 2).to(torch.uint8).contiguous()

    @property
    def _layers(self) -> list[GatedLayer]:
        return cast(list[GatedLayer], list(self.layers))


def _in_order(x: Tensor) -> Tensor:
    """Signals or images, uint8 (N, C, H, W), as sequences, int64 (N, H·W·C)."""
    return x.permute(0, 2, 3, 1).flatten(1).long()


def _earlier(h: Tensor, steps: int) -> Tensor:
    """Features (N, length, ·) as they were so many steps earlier; zeros before the beginning."""
    return F.pad(h, (0, 0, steps, 0))[:, : h.shape[1]]


def _quarters(hidden: Tensor) -> Tensor:
    """Features (N, length, d) averaged over each quarter of the time, (N, 4 d)."""
    return F.adaptive_avg_pool1d(hidden.transpose(1, 2), 4).flatten(1)


MODEL = WaveNet
