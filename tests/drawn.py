"""What tests of different networks of masked convolutions ask of how they draw."""

import itertools

import torch
from torch import Generator, Tensor

from workflow.models.layers.common import draw_categorical
from workflow.models.layers.masked import MaskedNetwork, Wave


def assert_draws_as_the_full_forward(network: MaskedNetwork, row: int, y: Tensor | None = None) -> None:
    """Three images in float64: the logits, each pixel's once, and the draws are those of a full pass for each pixel."""
    colours, height, width = network.shape
    given = torch.randint(network.levels, (3, *network.shape), generator=Generator().manual_seed(0))
    found = torch.full((3, height, width, colours, network.levels), torch.nan, dtype=torch.float64)
    chosen = torch.randint(network.levels, (3, height, width, colours), generator=Generator().manual_seed(1))

    def draw(logits: Tensor, wave: Wave, colour: int) -> Tensor:
        assert wave.of(found)[:, :, colour].isnan().all()
        wave.of(found)[:, :, colour] = logits
        return wave.of(chosen)[..., colour]

    x = network.draw_by_waves(given, row, draw, y)
    assert torch.equal(x[:, :, :row], given[:, :, :row])
    assert torch.equal(x[:, :, row:], chosen[:, row:].permute(0, 3, 1, 2))
    full = network(x, y).permute(0, 3, 4, 2, 1)
    torch.testing.assert_close(found[:, row:], full[:, row:], rtol=1e-12, atol=1e-12)

    generator, one_by_one = Generator().manual_seed(2), given.clone()
    one_by_one[:, :, row:] = 0
    for i, j, colour in itertools.product(range(row, height), range(width), range(colours)):
        one_by_one[:, colour, i, j] = draw_categorical(network(one_by_one, y)[:, :, colour, i, j], generator)
    assert torch.equal(network.sample(given, row, Generator().manual_seed(2), y), one_by_one)
    assert network.sample(given[:0], row, Generator(), None if y is None else y[:0]).shape == (0, *network.shape)
