"""MADE: nothing is seen too early in any order, the density sums to one, and samples and completions follow it."""

import itertools
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Generator, Tensor

from workflow.models.layers.common import categorical_log_prob
from workflow.models.layers.dense import Degrees, DenseNetwork, random_degrees, raster_rank, spread_degrees
from workflow.models.made import Made, Orders
from workflow.operations import operations

GREY, COLOUR = ((1, 2, 2), 3), ((3, 1, 2), 2)  # few enough images to list them all
TINY = pytest.mark.parametrize(("shape", "levels"), [GREY, COLOUR], ids=["grey", "colour"])
EVERY_ORDER = pytest.mark.parametrize("orders", ["raster", "random"])


def _generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def _model(
    shape: tuple[int, int, int],
    levels: int,
    orders: Orders = "random",
    masks: int = 3,
    *,
    width: int = 12,
    depth: int = 2,
    direct: bool = False,
) -> Made:
    """In float64, its weights doubled, so that pixels matter to each other."""
    torch.manual_seed(0)
    model = Made(shape, levels, width=width, depth=depth, dropout=0.5, masks=masks, orders=orders, direct=direct)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model.double().eval()


def _all_images(shape: tuple[int, int, int], levels: int) -> Tensor:
    pixels = itertools.product(range(levels), repeat=math.prod(shape))
    return torch.tensor(list(pixels), dtype=torch.uint8).view(-1, *shape)


def _each(model: Made, x: Tensor) -> Tensor:
    """The density of images under each mask, (masks, N)."""
    pixels = x.flatten(1)
    return torch.stack([categorical_log_prob(model(pixels, mask), pixels).exp() for mask in model.masks])


def _assert_drawn_from(probabilities: Tensor, images: Tensor, levels: int) -> None:
    """Chi-squared test of images against the probabilities of all images, in the order of `_all_images`."""
    places = levels ** torch.arange(images[0].numel()).flip(0)
    counts = (images.flatten(1).long() * places).sum(1).bincount(minlength=len(probabilities))
    expected = probabilities * len(images)
    often = expected > 5
    counts, expected = (torch.cat([all_[often], all_[~often].sum()[None]]) for all_ in (counts, expected))
    assert stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-3


def _totals(model: Made, mask: Degrees, pixels: Tensor) -> Tensor:
    """The sum of the logits of each number, (D,), of one image's, (D,)."""
    totals: Tensor = model.network(pixels[None], mask)[0].sum(0)
    return totals


@EVERY_ORDER
@pytest.mark.parametrize(("depth", "width", "direct"), [(1, 40, False), (2, 9, False), (3, 7, False), (2, 3, True)])
def test_jacobians_are_triangular_in_the_order_and_as_full_as_the_degrees_say(
    depth: int, width: int, direct: bool, orders: Orders
) -> None:
    model = _model((3, 2, 2), 4, orders, width=width, depth=depth, direct=direct)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()  # no ReLU ends a path, and none cancels another
    share = 0.0
    for mask in model.masks:
        x = torch.rand(12, dtype=torch.float64, generator=_generator())
        jacobian = torch.autograd.functional.jacobian(partial(_totals, model, mask), x)
        order = mask.rank.argsort()
        assert order.argsort().tolist() == (mask.rank - 1).tolist()
        seen = jacobian[order][:, order] > 0
        reach = torch.arange(12) if direct else mask.reach
        assert torch.equal(seen, torch.arange(12) < reach[:, None])
        assert not seen.triu().any()
        share += float(seen.sum()) / 66 / len(model.masks)
    assert model.context_share == pytest.approx(share)
    assert (model.context_share == 1) == direct or width == 40


def test_orders_are_those_asked_for() -> None:
    reading = torch.tensor([[1, 4], [7, 10]])  # red at the four pixels; green and blue follow at once
    raster = torch.stack([reading, reading + 1, reading + 2]).flatten()
    assert torch.equal(raster_rank((3, 2, 2)), raster)
    model = _model((3, 2, 2), 4, "raster", masks=4)
    assert all(torch.equal(mask.rank, raster) for mask in model.masks)
    assert len({str(mask.hidden.tolist()) for mask in model.masks}) == 4
    ranks = [mask.rank for mask in _model((3, 2, 2), 4, "random", masks=4).masks]
    assert all(rank.sort().values.tolist() == list(range(1, 13)) for rank in ranks)
    assert len({str(rank.tolist()) for rank in ranks}) == 4


def test_degrees_of_hidden_units() -> None:
    """Between 1 and D - 1, none below the lowest of the layer before (section 3), or as equally frequent as can be."""
    degrees = random_degrees(100, 30, 4)
    assert degrees.min() >= 1
    assert degrees.max() < 100
    lowest = degrees.min(1).values.tolist()
    assert lowest == sorted(lowest)
    assert random_degrees(3, 1000, 1).unique(return_counts=True)[1].min() > 400
    assert spread_degrees(5, 8, 2).tolist() == [[1, 1, 2, 2, 3, 3, 4, 4]] * 2
    assert spread_degrees(100, 3, 1).tolist() == [[1, 34, 67]]


def test_the_network_is_that_of_the_papers_masks() -> None:
    """Equations 8 to 14, spelt out: h = max(0, b + (W ⊙ M)x), outputs c + (V ⊙ N)h + (A ⊙ P)x."""
    torch.manual_seed(1)
    d, network = 6, DenseNetwork(6, 3, 10, 2, 0.5, direct=True).double().eval()
    rank, m = torch.randperm(d) + 1, random_degrees(d, 10, 2)
    masks = [
        torch.tensor([[float(m[0, k] >= rank[i]) for i in range(d)] for k in range(10)]),
        torch.tensor([[float(m[1, k] >= m[0, i]) for i in range(10)] for k in range(10)]),
        torch.tensor([[float(rank[k // 3] > m[1, i]) for i in range(10)] for k in range(3 * d)]),
        torch.tensor([[float(rank[k // 3] > rank[i]) for i in range(d)] for k in range(3 * d)]),
    ]
    assert network.direct is not None
    layers = [*network.hidden, network.out, network.direct]
    weights = [layer.weight * mask for layer, mask in zip(layers, masks, strict=True)]
    x = torch.randn(5, d, dtype=torch.float64)
    h = (x @ weights[0].T + network.hidden[0].bias).relu()
    h = (h @ weights[1].T + network.hidden[1].bias).relu()
    expected = (h @ weights[2].T + network.out.bias + x @ weights[3].T).view(5, d, 3).transpose(1, 2)
    torch.testing.assert_close(network(x, Degrees(rank, m)), expected)


@TINY
@EVERY_ORDER
@pytest.mark.parametrize("direct", [False, True])
@torch.no_grad()
def test_density_sums_to_one_for_each_mask_and_is_their_mean(
    shape: tuple[int, int, int], levels: int, orders: Orders, direct: bool
) -> None:
    model, images = _model(shape, levels, orders, direct=direct), _all_images(shape, levels)
    each = _each(model, images)
    assert (each[0] / each[1]).log().abs().max() > 0.1  # the masks differ
    torch.testing.assert_close(each.sum(1), torch.ones(3, dtype=torch.float64), rtol=1e-12, atol=0)
    log_prob = model.log_prob(images, _generator())
    assert log_prob.max() - log_prob.min() > 1  # not by being uniform
    torch.testing.assert_close(log_prob.exp(), each.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(model.validate(images, images, _generator())["loss"], -each.mean(0).log().mean())


def test_two_levels_have_one_logit() -> None:
    model = _model((1, 3, 3), 2, masks=1)
    x = torch.randint(2, (7, 1, 3, 3), dtype=torch.uint8, generator=_generator())
    logits = model.network(x.flatten(1).double(), model.masks[0])
    assert logits.shape == (7, 1, 9)
    expected = -F.binary_cross_entropy_with_logits(logits[:, 0], x.flatten(1).double(), reduction="none").sum(1)
    torch.testing.assert_close(model.log_prob(x, _generator()), expected)


def test_masks_take_turns_in_training_alone() -> None:
    model = _model(*GREY, masks=3)
    x = _all_images(*GREY)
    each = -_each(model, x).log().mean(1)
    found = []
    for _ in range(7):
        found.append(model.loss(x, x, "model", _generator())["loss"])
        model.validate(x, x, _generator())
        model.log_prob(x, _generator())
    torch.testing.assert_close(torch.stack(found), each[[0, 1, 2, 0, 1, 2, 0]])


@pytest.mark.parametrize(("depth", "direct"), [(0, False), (1, False), (3, True)])
@torch.no_grad()
def test_number_after_number_gives_what_a_pass_gives_in_as_many_operations(depth: int, direct: bool) -> None:
    torch.manual_seed(2)
    network = DenseNetwork(11, 3, 7, depth, 0.5, direct=direct).double().eval()
    degrees = Degrees(torch.randperm(11) + 1, random_degrees(11, 7, depth) if depth else torch.zeros(0, 7).long())
    x = torch.randn(4, 11, dtype=torch.float64)
    expected = network(x, degrees)
    step = network.in_order(4, degrees)
    for rank, place in enumerate(degrees.rank.argsort(), start=1):
        known = x.where(degrees.rank < rank, 0.0)
        torch.testing.assert_close(step(rank, known), expected[..., place], rtol=1e-12, atol=1e-12)

    def all_steps() -> None:
        again = network.in_order(4, degrees)
        for rank in range(1, 12):
            again(rank, x)

    assert operations(all_steps) == operations(lambda: network(x, degrees))


@TINY
@EVERY_ORDER
@torch.no_grad()
def test_samples_have_the_density(shape: tuple[int, int, int], levels: int, orders: Orders) -> None:
    model = _model(shape, levels, orders)
    probabilities = model.log_prob(_all_images(shape, levels), _generator()).exp()
    _assert_drawn_from(probabilities, model.sample(20_000, _generator()), levels)


@torch.no_grad()
def test_completions_have_the_density_given_the_upper_rows() -> None:
    """Of the mixture itself: p(lower | upper) is no mean of the masks' conditional densities."""
    model, images = _model(*GREY, "raster"), _all_images(*GREY)
    upper = torch.tensor([2, 1], dtype=torch.uint8)
    possible = (images[:, 0, 0] == upper).all(1)
    joint = model.log_prob(images, _generator()).exp() * possible
    x = torch.stack([upper, torch.tensor([2, 2], dtype=torch.uint8)]).expand(8_000, 1, 2, 2)
    completed = model.complete(x, 1, _generator())
    assert (completed[:, 0, 0] == upper).all()
    _assert_drawn_from(joint / joint.sum(), completed, 3)


@torch.no_grad()
def test_completions_in_random_orders_have_the_known_pixels_first() -> None:
    model, images = _model((1, 3, 2), 2), _all_images((1, 3, 2), 2)
    known, reordered = torch.tensor([1, 1, 1, 1, 0, 0]).bool(), _model((1, 3, 2), 2)
    for i, mask in enumerate(model.masks):
        order = [*(j for j in mask.rank.argsort().tolist() if known[j])]
        order += [j for j in mask.rank.argsort().tolist() if not known[j]]
        reordered.rank[i, torch.tensor(order)] = torch.arange(1, 7)
    joint = reordered.log_prob(images, _generator()).exp() * (images.flatten(1)[:, :4] == images[41].flatten()[:4]).all(
        1
    )
    completed = model.complete(images[41].expand(4_000, 1, 3, 2), 2, _generator())
    _assert_drawn_from(joint / joint.sum(), completed, 2)
    assert torch.equal(model.complete(images, 3, _generator()), images)


@torch.no_grad()
def test_features_are_the_mean_of_the_last_hidden_layer_over_masks() -> None:
    model, x = _model(*GREY), _all_images(*GREY)
    each = [model.network.activations(x.flatten(1).double() / 2, mask) for mask in model.masks]
    torch.testing.assert_close(model.encode(x), (each[0] + each[1] + each[2]) / 3)
    assert model.encode(x).shape == (81, 12)


def test_says_what_its_masks_leave_out_and_how_it_completes() -> None:
    assert _model((1, 8, 8), 2, "raster", width=3000).note == ""
    assert _model((1, 8, 8), 2, "raster", width=3, direct=True).note == ""
    assert _model((1, 8, 8), 2, "raster", width=4).note.startswith("Its hidden units connect ")
    assert _model((1, 8, 8), 2, "random", direct=True).note.startswith("To complete an image, the known pixels come")
    assert _model((1, 1, 1), 2).context_share == 1
