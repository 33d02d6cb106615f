"""Autoregressive sampling that caches what earlier pixels determine, against one full forward pass per pixel.

Both draw from the same logits with the same random numbers. A full pass takes as long for the last pixel as for the
first, so only some passes of the alternative are timed, draws included, and the time is scaled to all of them (column
`timed`). `passes` is the distance to the floor: our time for a batch, in units of the one forward pass that does the
same arithmetic. `off` is the largest difference between our logits and those of a full pass over the finished images;
`same` is the share of our draws that these logits reproduce with the same random numbers. The transformer is that of
codes and of pixels, which are drawn alike.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from unittest.mock import patch

import torch
from torch import Generator, Tensor

from benchmarks.compare import Row, compare, seconds
from workflow.models import wavenet
from workflow.models.layers import codes, gated
from workflow.models.layers.codes import CausalTransformer
from workflow.models.layers.common import draw_at, draw_categorical
from workflow.models.layers.gated import GatedPixelCNN
from workflow.models.layers.masked import MaskedNetwork, Wave
from workflow.models.made import Made
from workflow.models.pixelcnn import PixelCNN
from workflow.models.pixelrnn import PixelRNN
from workflow.models.wavenet import WaveNet

SIZES = {"8x8, 17 levels": ((1, 8, 8), 17), "28x28": ((1, 28, 28), 256), "32x32x3": ((3, 32, 32), 256)}
BATCHES = (1, 16, 64)
SPENT = 3.0  # seconds on full passes in each comparison
LONGEST = 100_000  # codes in a batch of the transformer's sequences: a pass over more takes minutes


@dataclass(frozen=True)
class Sampler:
    """logits: of all places in reading order, (places, N, levels), given images or sequences.

    seen: the same as drawing has them. order: what was drawn, in the same order, (places, N). marks: the random numbers
    of n draws, (places, n), as drawing gets them from a generator.
    """

    draw: Callable[[int, Generator], Tensor]
    logits: Callable[[Tensor], Tensor]
    seen: Callable[[Tensor], Tensor]
    order: Callable[[Tensor], Tensor]
    blank: Callable[[int], Tensor]
    marks: Callable[[int, Generator], Tensor]


def measure() -> Iterator[Row]:
    for size, (shape, levels) in SIZES.items():
        for name, make in NETWORKS.items():
            torch.manual_seed(0)
            sampler = make(shape, levels)
            for n in BATCHES:
                places = shape[0] * shape[1] * shape[2]
                if "transformer" not in name or n * places <= LONGEST:
                    yield _row(f"{name}, {size}, batch {n}", sampler, n, places)


@torch.no_grad()
def _row(what: str, sampler: Sampler, n: int, places: int) -> Row:
    blank = sampler.blank(n)
    timed = min(places, max(1, int(SPENT / seconds(lambda: sampler.logits(blank)))))

    def full_passes() -> None:
        generator = Generator().manual_seed(0)
        for place in range(timed):
            draw_categorical(sampler.logits(blank)[place], generator)

    row = compare(what, "a full pass a pixel", lambda: sampler.draw(n, Generator().manual_seed(0)), full_passes, 3)
    for column in ("theirs", "ratio", "lowest", "highest"):
        row[column] = float(row[column]) * places / timed
    off, same = _check(sampler, n)
    a_pass = min(seconds(lambda: sampler.logits(blank)) for _ in range(3))
    return row | {"timed": f"{timed} of {places}", "passes": float(row["ours"]) / a_pass, "off": off, "same": same}


def _check(sampler: Sampler, n: int) -> tuple[float, float]:
    """How far our logits are from those of a full pass, and the share of our draws that a full pass gives."""
    x = sampler.draw(n, Generator().manual_seed(0))
    ours, full, marks = sampler.seen(x), sampler.logits(x), sampler.marks(n, Generator().manual_seed(0))
    theirs = torch.stack([draw_at(*both) for both in zip(marks, full, strict=True)])
    return float((ours - full).abs().max()), float((theirs == sampler.order(x)).double().mean())


def _recorded(module: ModuleType, draw: Callable[[], object], chosen: Iterator[Tensor]) -> Tensor:
    """The logits by which a module draws, (places, N, levels), if it draws what is given in place of what it would."""
    seen: list[Tensor] = []

    def note(_: Tensor, logits: Tensor) -> Tensor:
        seen.append(logits)
        return next(chosen)

    with patch.object(module, "draw_at", note):
        draw()
    return torch.stack(seen)


def _of_pixels(network: GatedPixelCNN | MaskedNetwork, shape: tuple[int, int, int]) -> Sampler:
    def in_order(x: Tensor) -> Tensor:
        return x.permute(2, 3, 1, 0).flatten(0, 2)

    def blank(n: int) -> Tensor:
        return torch.zeros(n, *shape, dtype=torch.long)

    def seen(x: Tensor) -> Tensor:
        if isinstance(network, GatedPixelCNN):
            generator = Generator()
            return _recorded(gated, lambda: network.sample(blank(len(x)), 0, generator), iter(in_order(x)))
        chosen = x.permute(0, 2, 3, 1)
        by_place = torch.empty(*chosen.shape, network.levels)

        def draw(logits: Tensor, wave: Wave, colour: int) -> Tensor:
            wave.of(by_place)[:, :, colour] = logits
            return wave.of(chosen)[..., colour]

        network.draw_by_waves(blank(len(x)), 0, draw)
        return by_place.permute(1, 2, 3, 0, 4).flatten(0, 2)

    return Sampler(
        draw=lambda n, generator: network.sample(blank(n), 0, generator),
        logits=lambda x: network(x).permute(3, 4, 2, 0, 1).flatten(0, 2),
        seen=seen,
        order=in_order,
        blank=blank,
        marks=_one_after_another(math.prod(shape)),
    )


def _one_after_another(places: int) -> Callable[[int, Generator], Tensor]:
    return lambda n, generator: torch.rand(places, n, generator=generator)


def _gated(shape: tuple[int, int, int], levels: int) -> Sampler:
    network = GatedPixelCNN(shape, levels, channels=24, layers=5, dropout=0.0, ordered=True).eval()
    return _of_pixels(network, shape)


def _masked(shape: tuple[int, int, int], levels: int) -> Sampler:
    network = PixelCNN(shape, levels, channels=24, layers=5, dropout=0.0, stack="masked").eval().network
    return _of_pixels(network, shape)


def _row_lstm(shape: tuple[int, int, int], levels: int) -> Sampler:
    network = PixelRNN(shape, levels, cell="row", channels=24, layers=3, dropout=0.0).eval().network
    return _of_pixels(network, shape)


def _diagonal(shape: tuple[int, int, int], levels: int) -> Sampler:
    network = PixelRNN(shape, levels, cell="diagonal", channels=24, layers=3, dropout=0.0).eval().network
    return _of_pixels(network, shape)


def _transformer(shape: tuple[int, int, int], levels: int) -> Sampler:
    length = shape[0] * shape[1] * shape[2]
    model = CausalTransformer(length, levels, width=32, layers=3, dropout=0.0).eval()
    allowed = torch.ones(levels, length, dtype=torch.bool)
    return Sampler(
        draw=lambda n, generator: model.sample(n, generator, allowed),
        logits=lambda x: model(x).permute(2, 0, 1),
        seen=lambda x: _recorded(codes, lambda: model.sample(len(x), Generator(), allowed), iter(x.T)),
        order=lambda x: x.T,
        blank=lambda n: torch.zeros(n, length, dtype=torch.long),
        marks=_one_after_another(length),
    )


def _made(shape: tuple[int, int, int], levels: int) -> Sampler:
    """A full pass computes all hidden units and the logits of all pixels, with the weights masked anew."""
    model, length = Made(shape, levels, width=256, depth=1, dropout=0.0).eval(), math.prod(shape)
    (mask,) = model.masks

    def seen(x: Tensor) -> Tensor:
        network, pixels = model.network.in_order(len(x), mask), x.flatten(1) / (levels - 1)
        return torch.stack([network(rank, pixels.where(mask.rank < rank, 0.0)) for rank in range(1, length + 1)])

    def marks(n: int, generator: Generator) -> Tensor:
        torch.randint(1, (n,), generator=generator)  # which mask: there is only one
        return torch.rand(n, length, generator=generator).T

    order = mask.rank.argsort()
    return Sampler(
        draw=model.sample,
        logits=lambda x: model(x.flatten(1), mask).permute(2, 0, 1)[order],
        seen=seen,
        order=lambda x: x.flatten(1).T[order],
        blank=lambda n: torch.zeros(n, *shape, dtype=torch.long),
        marks=marks,
    )


def _wavenet(shape: tuple[int, int, int], levels: int) -> Sampler:
    model, length = WaveNet(shape, levels, channels=32, layers=8).eval(), math.prod(shape)

    def in_order(x: Tensor) -> Tensor:
        return x.permute(2, 3, 1, 0).flatten(0, 2)

    return Sampler(
        draw=model.sample,
        logits=lambda x: model.logits(in_order(x).T, None).permute(2, 0, 1),
        seen=lambda x: _recorded(wavenet, lambda: model.sample(len(x), Generator()), iter(in_order(x))),
        order=in_order,
        blank=lambda n: torch.zeros(n, *shape, dtype=torch.long),
        marks=_one_after_another(length),
    )


NETWORKS = {
    "gated PixelCNN": _gated,
    "masked PixelCNN": _masked,
    "Row LSTM": _row_lstm,
    "diagonal BiLSTM": _diagonal,
    "transformer": _transformer,
    "MADE": _made,
    "WaveNet": _wavenet,
}
