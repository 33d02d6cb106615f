"""PixelRNN: two-dimensional recurrences, what their states see, and a density in the order of reading."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Generator, Tensor, nn

from tests.drawn import assert_draws_as_the_full_forward
from workflow.models.layers.masked import MaskedNetwork
from workflow.models.pixelrnn import (
    Cell,
    DiagonalBiLstm,
    DiagonalLstm,
    PixelRNN,
    RowLstm,
    along_diagonals,
    lstm,
    skew,
    unskew,
)

CELLS: tuple[Cell, ...] = ("row", "diagonal")
TINY = [((1, 2, 2), 3), ((3, 1, 2), 2)]  # few enough images to list them all


def _generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def _model(shape: tuple[int, int, int], levels: int, cell: Cell, *, channels: int = 6, layers: int = 2) -> PixelRNN:
    """In float64, its random weights magnified, so that pixels matter to each other."""
    torch.manual_seed(0)
    model = PixelRNN(shape, levels, cell=cell, channels=channels, layers=layers, dropout=0.5).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.6)
    return model


def _all_images(shape: tuple[int, int, int], levels: int) -> Tensor:
    pixels = itertools.product(range(levels), repeat=math.prod(shape))
    return torch.tensor(list(pixels), dtype=torch.uint8).view(-1, *shape)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("shape", "levels"), TINY, ids=["grey", "colour"])
def test_density_sums_to_one(shape: tuple[int, int, int], levels: int, cell: Cell) -> None:
    with torch.no_grad():
        log_prob = _model(shape, levels, cell).log_prob(_all_images(shape, levels), _generator())
    assert log_prob.dtype == torch.float64
    assert log_prob.max() - log_prob.min() > 0.5  # not by being uniform
    torch.testing.assert_close(log_prob.exp().sum().item(), 1.0, rtol=1e-12, atol=0)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("shape", "levels"), TINY, ids=["grey", "colour"])
def test_samples_have_the_density(shape: tuple[int, int, int], levels: int, cell: Cell) -> None:
    model = _model(shape, levels, cell)
    images = _all_images(shape, levels)
    with torch.no_grad():
        expected = model.log_prob(images, _generator()).exp() * 10_000
    assert expected.min() > 5
    weights = levels ** torch.arange(math.prod(shape)).flip(0)
    drawn = (model.sample(10_000, _generator()).flatten(1).long() * weights).sum(1)
    counts = drawn.bincount(minlength=len(images))
    assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


def _influence(network: MaskedNetwork, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Which number of an image has an influence on the logits of which other, bool (D, D), in the order of reading."""
    direction = torch.randn(1, network.levels, 1, 1, 1, generator=_generator(), dtype=torch.float64)
    # Several images, as at any one of them a rectifier may block some path.
    x = torch.randint(network.levels, (4, *network.shape), generator=_generator())

    def outputs(embedded: Tensor) -> Tensor:
        with monkeypatch.context() as patched:
            patched.setattr(network, "embed", lambda _: embedded)
            logits: Tensor = network(x)
        return (logits * direction).sum((0, 1)).movedim(0, -1).flatten()

    jacobian: Tensor = torch.autograd.functional.jacobian(outputs, network.embed(x))
    return jacobian.abs().sum(1).movedim(1, -1).flatten(1) > 0


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("shape", [(1, 3, 8), (3, 2, 6)], ids=["grey", "colour"])
def test_the_diagonal_cells_see_all_that_comes_before_a_pixel_and_nothing_else(
    shape: tuple[int, int, int], layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Jacobian is strictly lower triangular in the order of reading, and full there."""
    influence = _influence(_model(shape, 3, "diagonal", channels=12, layers=layers).network, monkeypatch)
    assert torch.equal(influence, torch.ones_like(influence).tril(-1))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("shape", [(1, 4, 13), (3, 2, 11)], ids=["grey", "colour"])
def test_the_row_cells_see_a_triangle_and_nothing_else(
    shape: tuple[int, int, int], layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """d rows above, the states of a layer reach d columns to either side, the convolutions in front as far as theirs.

    That is 3 columns to the left and, from the row above on, 3 to the right, and one to the left for each LSTM.
    """
    influence = _influence(_model(shape, 3, "row", channels=12, layers=layers).network, monkeypatch)
    colours, height, width = shape
    expected = torch.zeros(height, width, colours, height, width, colours, dtype=torch.bool)
    for i, j, k, m in itertools.product(range(height), range(width), range(height), range(width)):
        d, aside = i - k, m - j
        if d > 0:
            expected[i, j, :, k, m] = -d - 3 - layers <= aside <= d + 2
        elif d == 0:
            expected[i, j, :, k, m] = -3 - layers <= aside < 0
        if d == aside == 0:
            expected[i, j, :, k, m] = torch.ones(colours, colours).tril(-1).bool()
    assert torch.equal(influence, expected.view(influence.shape))
    assert (expected.view(influence.shape) != torch.ones_like(influence).tril(-1)).any()  # it is not the whole past


@pytest.mark.parametrize("cell", ["row", "diagonal"])
@pytest.mark.parametrize("shape", [(1, 9, 11), (3, 5, 12)])
def test_context_is_that_of_the_gradients(
    cell: Cell, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = PixelRNN(shape, 3, cell=cell, channels=6, layers=1, dropout=0).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()  # no ReLU switches a path off, and none cancels another
    pixels = torch.zeros(1, *shape, dtype=torch.double, requires_grad=True)
    monkeypatch.setattr(model.network, "embed", lambda _: pixels)
    totals = model.network(torch.zeros(1, *shape, dtype=torch.long))[:, 1].sum((0, 1)).flatten()
    rows = [torch.autograd.grad(total, pixels, retain_graph=True)[0][0].abs().sum(0).flatten() for total in totals]
    found = (torch.stack(rows) > 0).view(*shape[1:], -1)
    assert torch.equal(model.network.context(), found)
    assert (model.note == "") == (cell == "diagonal")


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4), (4, 1), (3, 5), (5, 3)])
def test_skewing_moves_each_row_one_further_and_unskewing_undoes_it(height: int, width: int) -> None:
    x = torch.randn(2, 3, height, width)
    skewed = skew(x)
    assert skewed.shape == (2, 3, height, width + height - 1)
    for i in range(height):
        assert torch.equal(skewed[:, :, i, i : i + width], x[:, :, i])
    torch.testing.assert_close(skewed.sum(), x.sum())
    assert (skewed != 0).sum() == x.numel()
    assert torch.equal(unskew(skewed), x)


def test_the_lstm_is_the_usual_one() -> None:
    """Against torch's cell, which has its gates in another order: in, forget, content, out."""
    torch.manual_seed(0)
    cell = nn.LSTMCell(5, 4).double()
    x, h, c = (torch.randn(3, n, dtype=torch.float64) for n in (5, 4, 4))
    gates = F.linear(x, cell.weight_ih, cell.bias_ih) + F.linear(h, cell.weight_hh, cell.bias_hh)
    write, forget, content, out = gates.chunk(4, 1)
    torch.testing.assert_close(lstm(torch.cat([out, forget, write, content], 1), c), cell(x, (h, c)))


def _cell_by_cell(direction: DiagonalLstm, x: Tensor) -> Tensor:
    """The recurrence of section 3.2, a pixel at a time in the order of reading: from the left and from above."""
    n, _, height, width = x.shape
    weight, bias = (direction.from_input.weight * direction.from_input.mask)[..., 0, 0], direction.from_input.bias
    assert bias is not None
    nothing = x.new_zeros(n, direction.channels)
    h: dict[tuple[int, int], Tensor] = {}
    c: dict[tuple[int, int], Tensor] = {}
    for i, j in itertools.product(range(height), range(width)):
        left, above = h.get((i, j - 1), nothing), h.get((i - 1, j), nothing)
        recurrent = torch.cat([left, above], 1) @ direction.from_states.weight.T
        out, forget, write, content = (x[:, :, i, j] @ weight.T + bias + recurrent).chunk(4, 1)
        c[i, j] = forget.sigmoid() * c.get((i, j - 1), nothing) + write.sigmoid() * content.tanh()
        h[i, j] = out.sigmoid() * c[i, j].tanh()
    rows = [torch.stack([h[i, j] for j in range(width)], 2) for i in range(height)]
    return torch.stack(rows, 2)


@pytest.mark.parametrize(("height", "width"), [(4, 5), (5, 2), (1, 3), (3, 1)])
@pytest.mark.parametrize("colours", [1, 3])
@torch.no_grad()
def test_diagonals_compute_what_pixel_after_pixel_would(height: int, width: int, colours: int) -> None:
    torch.manual_seed(0)
    layer = DiagonalBiLstm(6, colours, dropout=0.5).double().eval()
    for parameter in layer.parameters():
        parameter.mul_(2)
    x = torch.randn(2, 12, height, width, dtype=torch.float64)
    left, right = _cell_by_cell(layer.left, x), _cell_by_cell(layer.right, x.flip(3))
    torch.testing.assert_close(along_diagonals([layer.left], [x])[0], left, rtol=1e-12, atol=1e-12)
    right = right.flip(3)
    both = left + torch.cat([torch.zeros_like(right[:, :, :1]), right[:, :, :-1]], 2)  # one row late
    widened = F.conv2d(both, layer.widen.weight * layer.widen.mask, layer.widen.bias)
    torch.testing.assert_close(layer(x), x + widened, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_rows_compute_what_pixel_after_pixel_would() -> None:
    torch.manual_seed(0)
    layer = RowLstm(4, 1, dropout=0.5).double().eval()
    n, height, width = 2, 4, 5
    x = torch.randn(n, 8, height, width, dtype=torch.float64)
    weight, bias = layer.from_input.weight[:, :, 0], layer.from_input.bias  # of the pixel to the left and the own one
    assert bias is not None
    assert layer.widen.bias is not None
    nothing = x.new_zeros(n, 4)
    h: dict[tuple[int, int], Tensor] = {}
    c: dict[tuple[int, int], Tensor] = {}
    for i, j in itertools.product(range(height), range(width)):
        gates = x[:, :, i, j] @ weight[..., 1].T + bias
        gates += x[:, :, i, j - 1] @ weight[..., 0].T if j else 0
        for k in range(3):
            gates += h.get((i - 1, j + k - 1), nothing) @ layer.from_state.weight[:, :, 0, k].T
        out, forget, write, content = gates.chunk(4, 1)
        c[i, j] = forget.sigmoid() * c.get((i - 1, j), nothing) + write.sigmoid() * content.tanh()
        h[i, j] = out.sigmoid() * c[i, j].tanh()
        expected = x[:, :, i, j] + h[i, j] @ layer.widen.weight[..., 0, 0].T + layer.widen.bias
        torch.testing.assert_close(layer(x)[:, :, i, j], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", [(1, 5, 6), (1, 4, 13), (3, 3, 4), (1, 1, 1)])
@pytest.mark.parametrize("row", [0, 1])
def test_draws_as_the_full_forward_would(shape: tuple[int, int, int], row: int, cell: Cell) -> None:
    assert_draws_as_the_full_forward(_model(shape, 4, cell).network, row)


@pytest.mark.parametrize("cell", CELLS)
def test_what_is_below_the_kept_rows_does_not_matter(cell: Cell) -> None:
    model = _model((3, 4, 4), 5, cell)
    x = torch.randint(5, (2, 3, 4, 4), dtype=torch.uint8, generator=_generator())
    other = torch.cat([x[:, :, :2], 4 - x[:, :, 2:]], dim=2)
    assert torch.equal(model.complete(x, 2, _generator()), model.complete(other, 2, _generator()))


@pytest.mark.parametrize("cell", CELLS)
def test_features_are_means_over_the_quarters(cell: Cell) -> None:
    model = _model((1, 4, 6), 3, cell)
    x = torch.randint(3, (2, 1, 4, 6), dtype=torch.uint8, generator=_generator())
    with torch.no_grad():
        hidden = model.network.hidden(x)
    assert hidden.shape == (2, 12, 4, 6)
    quarters = [hidden[:, :, i : i + 2, j : j + 3].mean((2, 3)) for i in (0, 2) for j in (0, 3)]
    torch.testing.assert_close(model.encode(x), torch.stack(quarters, 2).flatten(1))
