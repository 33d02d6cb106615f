"""PixelCNN: a density in the stated order of pixels and colours, and a sampler that draws from exactly it."""

import itertools
import math

import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

from workflow.models import layers
from workflow.models.layers import GatedPixelCNN, draw_categorical
from workflow.models.pixelcnn import PixelCNN

TINY = [((1, 2, 2), 3), ((3, 1, 2), 2)]  # few enough images to list them all


def _generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def _network(
    shape: tuple[int, int, int], levels: int, layers: int = 3, *, ordered: bool = True, channels: int = 12
) -> GatedPixelCNN:
    """In float64, its random weights doubled, so that pixels matter to each other."""
    network = GatedPixelCNN(shape, levels, channels, layers, dropout=0.5, ordered=ordered).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    return network


def _model(shape: tuple[int, int, int], levels: int) -> PixelCNN:
    model = PixelCNN(shape, levels, channels=4, layers=3, dropout=0.5).eval()
    model.network = _network(shape, levels)
    return model


def _all_images(shape: tuple[int, int, int], levels: int) -> Tensor:
    pixels = itertools.product(range(levels), repeat=math.prod(shape))
    return torch.tensor(list(pixels), dtype=torch.uint8).view(-1, *shape)


def _rank(x: Tensor, levels: int) -> Tensor:
    """The place of each image in `_all_images`."""
    weights = levels ** torch.arange(x[0].numel()).flip(0)
    return (x.flatten(1).long() * weights).sum(1)


def _assert_drawn_from(probabilities: Tensor, drawn: Tensor) -> None:
    """Chi-squared test of outcomes, int64 (n,), against their probabilities; every outcome must be expected often."""
    expected = (probabilities * len(drawn)).numpy()
    assert expected.min() > 5
    counts = drawn.bincount(minlength=len(probabilities)).numpy()
    assert stats.chisquare(counts, expected).pvalue > 1e-3


@pytest.mark.parametrize(("shape", "levels"), TINY, ids=["grey", "colour"])
def test_density_sums_to_one(shape: tuple[int, int, int], levels: int) -> None:
    with torch.no_grad():
        log_prob = _model(shape, levels).log_prob(_all_images(shape, levels), _generator())
    assert log_prob.dtype == torch.float64
    assert log_prob.max() - log_prob.min() > 1  # not by being uniform
    torch.testing.assert_close(log_prob.exp().sum().item(), 1.0, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("shape", "levels"), TINY, ids=["grey", "colour"])
def test_samples_have_the_density(shape: tuple[int, int, int], levels: int) -> None:
    model = _model(shape, levels)
    with torch.no_grad():
        probabilities = model.log_prob(_all_images(shape, levels), _generator()).exp()
    _assert_drawn_from(probabilities, _rank(model.sample(40_000, _generator()), levels))


def test_completions_have_the_density_given_the_upper_rows() -> None:
    model = _model((1, 2, 2), 3)
    upper = torch.tensor([2, 1], dtype=torch.uint8)
    images = _all_images((1, 2, 2), 3)
    possible = images[(images[:, 0, 0] == upper).all(1)]
    with torch.no_grad():
        conditional = model.log_prob(possible, _generator()).softmax(0)

    lower_unknown = torch.stack([upper, torch.tensor([2, 2], dtype=torch.uint8)]).expand(20_000, 1, 2, 2)
    completed = model.complete(lower_unknown, 1, _generator())
    assert (completed[:, 0, 0] == upper).all()
    _assert_drawn_from(conditional, _rank(completed[:, :, 1:], 3))


@pytest.mark.parametrize("ordered", [True, False], ids=["levels", "codes"])
@pytest.mark.parametrize("shape", [(1, 6, 7), (3, 4, 5)], ids=["grey", "colour"])
def test_a_pixel_sees_all_that_comes_before_it_and_nothing_else(
    shape: tuple[int, int, int], ordered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No blind spot and no look ahead: the Jacobian is strictly lower triangular in drawing order, and full there."""
    colours, height, width = shape
    network = _network(shape, 5, layers=4, ordered=ordered, channels=24)
    direction = torch.randn(1, 5, 1, 1, 1, generator=_generator(), dtype=torch.float64)
    influence = torch.zeros(())
    for seed in range(6):  # several images, as at any one of them a rectifier may block some path
        x = torch.randint(5, (1, *shape), generator=_generator(seed))
        features = network.embed(x).detach()
        with monkeypatch.context() as patched:

            def outputs(embedded: Tensor) -> Tensor:
                patched.setattr(network, "embed", lambda _: embedded)
                logits: Tensor = network(x)  # noqa: B023
                return (logits * direction).sum(1).movedim(1, -1).flatten()

            jacobian = torch.autograd.functional.jacobian(outputs, features).squeeze(1)  # (D, inputs, H, W)
        influence = influence + jacobian.unflatten(1, (colours, -1)).abs().sum(2).movedim(1, -1).flatten(1)
    count = colours * height * width
    assert torch.equal(influence > 0, torch.ones(count, count).tril(-1).bool())


@pytest.mark.parametrize("ordered", [True, False], ids=["levels", "codes"])
@pytest.mark.parametrize("shape", [(1, 9, 8), (3, 4, 5), (1, 2, 2), (1, 1, 1)])
@pytest.mark.parametrize("row", [0, 1])
def test_fast_sampling_has_the_logits_of_the_full_forward(
    shape: tuple[int, int, int], row: int, ordered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def draw(logits: Tensor, generator: Generator) -> Tensor:
        seen.append(logits)
        return draw_categorical(logits, generator)

    monkeypatch.setattr(layers, "draw_categorical", draw)
    network = _network(shape, 4, ordered=ordered)
    given = torch.randint(4, (3, *shape), generator=_generator())
    x = network.sample(given, row, _generator())
    assert torch.equal(x[:, :, :row], given[:, :, :row])
    assert len(seen) == x[:, :, row:].numel() / 3
    if seen:
        full = network(x)[:, :, :, row:].permute(3, 4, 2, 0, 1).flatten(0, 2)  # in the order of drawing
        torch.testing.assert_close(torch.stack(seen), full, rtol=1e-12, atol=1e-12)


def test_what_is_below_the_kept_rows_does_not_matter() -> None:
    model = _model((3, 4, 4), 5)
    x = torch.randint(5, (2, 3, 4, 4), dtype=torch.uint8, generator=_generator())
    other = torch.cat([x[:, :, :2], 4 - x[:, :, 2:]], dim=2)
    assert torch.equal(model.complete(x, 2, _generator()), model.complete(other, 2, _generator()))


def test_draws_only_what_is_allowed() -> None:
    network = _network((1, 2, 3), 4, ordered=False)
    blank = torch.zeros(500, 1, 2, 3, dtype=torch.long)
    allowed = torch.tensor([False, True, False, True])
    assert network.sample(blank, 0, _generator(), allowed).unique().tolist() == [1, 3]
    assert network.sample(blank, 0, _generator()).unique().tolist() == [0, 1, 2, 3]


def test_features_are_means_over_the_quarters() -> None:
    model = _model((1, 4, 6), 3)
    x = torch.randint(3, (2, 1, 4, 6), dtype=torch.uint8, generator=_generator())
    with torch.no_grad():
        hidden = model.network.hidden(x)
    quarters = [hidden[:, :, i : i + 2, j : j + 3].mean((2, 3)) for i in (0, 2) for j in (0, 3)]
    torch.testing.assert_close(model.encode(x), torch.stack(quarters, 2).flatten(1))
