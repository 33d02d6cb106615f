"""PixelCNN: a density in the stated order of pixels and colours, and a sampler that draws from exactly it."""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Generator, Tensor

from tests.drawn import assert_draws_as_the_full_forward
from workflow.models.layers import gated
from workflow.models.layers.common import draw_at, draw_categorical
from workflow.models.layers.gated import GatedLayer, GatedPixelCNN
from workflow.models.layers.masked import MaskedNetwork
from workflow.models.pixelcnn import PixelCNN, Stack

STACKS: tuple[Stack, ...] = ("gated", "masked")
TINY = [((1, 2, 2), 3), ((3, 1, 2), 2)]  # few enough images to list them all


def _generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def _network(
    shape: tuple[int, int, int],
    levels: int,
    layers: int = 3,
    *,
    ordered: bool = True,
    channels: int = 12,
    dilations: Sequence[int] = (1,),
    positions: bool = False,
) -> GatedPixelCNN:
    """In float64, its random weights doubled, so that pixels matter to each other."""
    network = GatedPixelCNN(
        shape, levels, channels, layers, dropout=0.5, ordered=ordered, dilations=dilations, positions=positions
    )
    network.double().eval()
    with torch.no_grad():
        if network.gated[0].by_position is not None:
            network.gated[0].by_position.normal_(generator=_generator(2))
        for parameter in network.parameters():
            parameter.mul_(2)
    return network


def _model(
    shape: tuple[int, int, int],
    levels: int,
    stack: Stack = "gated",
    classes: int = 0,
    *,
    layers: int = 3,
    channels: int = 6,
    dilations: list[int] | None = None,
) -> PixelCNN:
    """In float64, its weights doubled as in `_network`, but for what classes add."""
    torch.manual_seed(0)
    model = PixelCNN(
        shape, levels, channels=channels, layers=layers, dropout=0.5, stack=stack, classes=classes, dilations=dilations
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(1 if "by_class" in name else 2)
    return model.double().eval()


def _by_autograd(model: PixelCNN, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Which pixels each pixel's logits depend on, bool (H, W, H·W), from gradients with respect to the features."""
    pixels = torch.zeros(1, *model.shape, dtype=torch.double, requires_grad=True)
    monkeypatch.setattr(model.network, "embed", lambda _: pixels)
    logits = model.network(torch.zeros(1, *model.shape, dtype=torch.long))
    noise = torch.rand(logits.shape, dtype=torch.double, generator=_generator(3))
    totals = (noise * logits).sum((0, 1, 2)).flatten()
    rows = [torch.autograd.grad(total, pixels, retain_graph=True)[0][0].abs().sum(0).flatten() for total in totals]
    return (torch.stack(rows) > 0).view(*model.shape[1:], -1)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(
    ("shape", "layers"), [((1, 9, 11), 1), ((1, 9, 11), 2), ((1, 12, 9), 4), ((3, 6, 8), 2), ((1, 2, 3), 3)]
)
def test_context_is_that_of_the_gradients(
    stack: Stack, shape: tuple[int, int, int], layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _model(shape, 4, stack, layers=layers, channels=9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_().mul_(0.1)  # no ReLU or saturated gate ends a path, and none cancels another
    context, pixels = model.network.context(), math.prod(shape[1:])
    assert torch.equal(context, _by_autograd(model, monkeypatch))
    pairs = [(i, j) for i in range(pixels) for j in range(i)]
    known = sum(bool(context.flatten(0, 1)[i, j]) for i, j in pairs)
    assert model.context_share == pytest.approx(known / len(pairs))
    assert not context.flatten(0, 1).triu(1).any()  # of no later pixel


def test_context_of_dilated_layers_is_that_of_the_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model((1, 12, 13), 4, layers=3, channels=9, dilations=[3, 2])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_().mul_(0.1)
    context = model.network.context()
    assert torch.equal(context, _by_autograd(model, monkeypatch))
    assert context[10, 6].view(12, 13).any(1).tolist() == [False] + [True] * 10 + [False]  # 3 + 3 + 2 rows, and one


@torch.no_grad()
def test_only_a_network_that_knows_positions_tells_apart_pixels_with_equal_surroundings() -> None:
    x = torch.zeros(1, 1, 20, 20, dtype=torch.long)
    for positions in (False, True):
        logits = _network((1, 20, 20), 4, layers=2, positions=positions)(x)
        one, other = logits[..., 10, 10], logits[..., 13, 12]  # both far from the edges
        assert torch.allclose(one, other) is not positions


def test_begins_with_the_frequencies_of_the_levels() -> None:
    """A network without weights in its last layer then has the entropy of the pixels of each channel as its loss."""
    model = _model((3, 2, 2), 4)
    x = torch.randint(2, (500, 3, 2, 2), dtype=torch.uint8, generator=_generator())
    x[:, 1] = 3
    model.initialise(x, _generator())
    with torch.no_grad():
        model.network.to_logits.weight.zero_()
    loss = model.loss(x, torch.empty(0), "model", _generator())["loss"].item()
    assert loss == pytest.approx(8 * math.log(2), rel=0.02)  # one channel is always 3, two are like coins


def test_the_masked_stack_takes_no_dilations() -> None:
    with pytest.raises(ValueError, match="dilations and positions are for the gated stack"):
        _model((1, 4, 4), 2, "masked", dilations=[2])


def test_says_how_much_of_the_image_a_pixel_sees() -> None:
    assert _model((1, 8, 8), 2, layers=5).note == ""
    assert _model((1, 28, 28), 2, layers=7).note.startswith("Its receptive field covers 34 % of all pairs of a pixel")
    assert _model((1, 1, 1), 2).context_share == 1


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


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(("shape", "levels"), TINY, ids=["grey", "colour"])
def test_density_sums_to_one(shape: tuple[int, int, int], levels: int, stack: Stack) -> None:
    with torch.no_grad():
        log_prob = _model(shape, levels, stack).log_prob(_all_images(shape, levels), _generator())
    assert log_prob.dtype == torch.float64
    assert log_prob.max() - log_prob.min() > 1  # not by being uniform
    torch.testing.assert_close(log_prob.exp().sum().item(), 1.0, rtol=1e-12, atol=0)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(("shape", "levels"), TINY, ids=["grey", "colour"])
@torch.no_grad()
def test_density_sums_to_one_for_each_class_and_is_their_mean(
    shape: tuple[int, int, int], levels: int, stack: Stack
) -> None:
    model, images = _model(shape, levels, stack, classes=3), _all_images(shape, levels)
    given = torch.stack([model.log_prob_given(images, torch.full((len(images),), y)).exp() for y in range(3)])
    torch.testing.assert_close(given.sum(1), torch.ones(3, dtype=torch.float64), rtol=1e-12, atol=0)
    assert (given[0] / given[1]).log().abs().max() > 0.3  # the classes differ
    torch.testing.assert_close(model.log_prob(images, _generator()).exp(), given.mean(0), rtol=1e-12, atol=0)

    y = torch.arange(len(images)) % 3  # classes side by side in one batch
    mixed = -given[y, torch.arange(len(images))].log().mean()
    torch.testing.assert_close(model.loss(images, y, "model", _generator())["loss"], mixed)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(("shape", "levels"), TINY, ids=["grey", "colour"])
def test_samples_have_the_density(shape: tuple[int, int, int], levels: int, stack: Stack) -> None:
    model = _model(shape, levels, stack)
    with torch.no_grad():
        probabilities = model.log_prob(_all_images(shape, levels), _generator()).exp()
    _assert_drawn_from(probabilities, _rank(model.sample(25_000, _generator()), levels))


@pytest.mark.parametrize("stack", STACKS)
@torch.no_grad()
def test_samples_have_the_density_of_the_class_asked_for_and_all_together_the_mean(stack: Stack) -> None:
    (shape, levels), n = TINY[1], 8_000
    model, images = _model(shape, levels, stack, classes=2), _all_images(shape, levels)
    y = torch.arange(n) % 2
    drawn = _rank(model.sample_given(y, _generator()), levels)
    for given in range(2):
        probabilities = model.log_prob_given(images, torch.full((len(images),), given)).exp()
        _assert_drawn_from(probabilities, drawn[y == given])
    _assert_drawn_from(model.log_prob(images, _generator()).exp(), _rank(model.sample(n, _generator()), levels))


@pytest.mark.parametrize("classes", [0, 3])
def test_completions_have_the_density_given_the_upper_rows(classes: int) -> None:
    model = _model((1, 2, 2), 3, classes=classes)
    upper = torch.tensor([2, 1], dtype=torch.uint8)
    images = _all_images((1, 2, 2), 3)
    possible = images[(images[:, 0, 0] == upper).all(1)]
    with torch.no_grad():
        conditional = model.log_prob(possible, _generator()).softmax(0)

    lower_unknown = torch.stack([upper, torch.tensor([2, 2], dtype=torch.uint8)]).expand(4_000, 1, 2, 2)
    completed = model.complete(lower_unknown, 1, _generator())
    assert (completed[:, 0, 0] == upper).all()
    _assert_drawn_from(conditional, _rank(completed[:, :, 1:], 3))


@torch.no_grad()
def test_completing_draws_a_class_as_probable_as_the_upper_rows_make_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """p(y | upper) ∝ p(upper | y), the sum of p(x|y) over all images x with these upper rows."""
    model, images = _model((1, 2, 2), 3, classes=3), _all_images((1, 2, 2), 3)
    drawn: list[Tensor] = []

    def draw(logits: Tensor, generator: Generator) -> Tensor:
        drawn.append(logits.softmax(1))
        return draw_categorical(logits, generator)

    monkeypatch.setattr("workflow.models.pixelcnn.draw_categorical", draw)
    model.complete(images[::9], 1, _generator())  # each of the upper rows, once
    given = torch.stack([model.log_prob_given(images, torch.full((81,), y)).exp() for y in range(3)], 1)
    upper = given.view(9, 9, 3).sum(1)
    torch.testing.assert_close(drawn[0], upper / upper.sum(1, keepdim=True))
    assert (drawn[0] - 1 / 3).abs().max() > 0.1


def test_completing_from_nothing_is_sampling_from_any_class() -> None:
    model = _model((1, 1, 2), 3, classes=2)
    with torch.no_grad():
        probabilities = model.log_prob(_all_images((1, 1, 2), 3), _generator()).exp()
    blank = torch.zeros(4_000, 1, 1, 2, dtype=torch.uint8)
    _assert_drawn_from(probabilities, _rank(model.complete(blank, 0, _generator()), 3))


def _influence(network: MaskedNetwork | GatedPixelCNN, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Which number of an image has an influence on the logits of which other, bool (D, D), in the order of reading."""
    direction = torch.randn(1, network.levels, 1, 1, 1, generator=_generator(), dtype=torch.float64)
    # Several images, as at any one of them a rectifier may block some path.
    x = torch.randint(network.levels, (6, *network.shape), generator=_generator())

    def outputs(embedded: Tensor) -> Tensor:
        with monkeypatch.context() as patched:
            patched.setattr(network, "embed", lambda _: embedded)
            logits: Tensor = network(x, torch.arange(6) % 2)
        return (logits * direction).sum((0, 1)).movedim(0, -1).flatten()

    jacobian: Tensor = torch.autograd.functional.jacobian(outputs, network.embed(x).detach())
    influence: Tensor = jacobian.unflatten(2, (network.shape[0], -1)).abs().sum((1, 3))
    return influence.movedim(1, -1).flatten(1) > 0


@pytest.mark.parametrize("ordered", [True, False], ids=["levels", "codes"])
@pytest.mark.parametrize("shape", [(1, 6, 7), (3, 4, 5)], ids=["grey", "colour"])
def test_a_pixel_sees_all_that_comes_before_it_and_nothing_else(
    shape: tuple[int, int, int], ordered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No blind spot and no look ahead: the Jacobian is strictly lower triangular in drawing order, and full there."""
    influence = _influence(_network(shape, 5, layers=4, ordered=ordered, channels=24), monkeypatch)
    assert torch.equal(influence, torch.ones_like(influence).tril(-1))


@pytest.mark.parametrize("shape", [(1, 4, 10), (3, 2, 8)], ids=["grey", "colour"])
@pytest.mark.parametrize("classes", [0, 2])
def test_the_masked_stack_has_a_blind_spot_that_the_gated_one_has_not(
    shape: tuple[int, int, int], classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many layers: d rows above, a pixel further than d + 2 columns to the right is never seen.

    The first convolution reaches 3 to the right in the row above, and each row further up one more.
    """
    colours, height, width = shape
    influence = {
        stack: _influence(_model(shape, 5, stack, classes, layers=8, channels=24).network, monkeypatch)
        for stack in STACKS
    }
    past = torch.ones_like(influence["gated"]).tril(-1)
    assert torch.equal(influence["gated"], past)

    place = torch.arange(height * width).repeat_interleave(colours)
    rows, columns = place // width, place % width
    above, aside = rows[:, None] - rows, columns - columns[:, None]
    blind = (above > 0) & (aside > above + 2)
    assert blind.any()
    assert torch.equal(influence["masked"], past & ~blind)


GATED: dict[str, Callable[..., GatedPixelCNN | MaskedNetwork]] = {
    "levels": _network,
    "codes": partial(_network, ordered=False),
    "classes": lambda shape, levels: _model(shape, levels, classes=3).network,
    "dilated": partial(_network, layers=4, dilations=[2, 3]),
    "positions": partial(_network, positions=True),
}


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("shape", [(1, 9, 8), (3, 4, 5), (1, 2, 2), (1, 1, 1)])
@pytest.mark.parametrize("row", [0, 1])
def test_fast_sampling_has_the_logits_of_the_full_forward(
    shape: tuple[int, int, int], row: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def draw(marks: Tensor, logits: Tensor) -> Tensor:
        seen.append(logits)
        return draw_at(marks, logits)

    monkeypatch.setattr(gated, "draw_at", draw)
    network, y = GATED[name](shape, 4), torch.tensor([2, 0, 1])
    given = torch.randint(4, (3, *shape), generator=_generator())
    x = network.sample(given, row, _generator(), y=y)
    assert torch.equal(x[:, :, :row], given[:, :, :row])
    assert len(seen) == x[:, :, row:].numel() / 3
    if seen:
        full = network(x, y)[:, :, :, row:].permute(3, 4, 2, 0, 1).flatten(0, 2)  # in the order of drawing
        torch.testing.assert_close(torch.stack(seen), full, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("shape", [(1, 9, 8), (1, 6, 17), (3, 4, 5), (1, 2, 2), (1, 1, 1)])
@pytest.mark.parametrize("row", [0, 1])
def test_the_masked_stack_draws_as_the_full_forward_would(shape: tuple[int, int, int], row: int, classes: int) -> None:
    network = _model(shape, 4, "masked", classes=classes).network
    assert isinstance(network, MaskedNetwork)
    assert_draws_as_the_full_forward(network, row, torch.tensor([2, 0, 1]))


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("stack", STACKS)
def test_what_is_below_the_kept_rows_does_not_matter(stack: Stack, classes: int) -> None:
    model = _model((3, 4, 4), 5, stack, classes)
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


def test_features_are_means_over_classes_as_probable_as_the_image_makes_them() -> None:
    model = _model((1, 4, 6), 3, classes=3)
    x = torch.randint(3, (2, 1, 4, 6), dtype=torch.uint8, generator=_generator())
    expected, total = torch.zeros(()), torch.zeros(())
    with torch.no_grad():
        for y in (torch.full((2,), given) for given in range(3)):
            hidden = model.network.hidden(x, y)
            quarters = [hidden[:, :, i : i + 2, j : j + 3].mean((2, 3)) for i in (0, 2) for j in (0, 3)]
            density = model.log_prob_given(x, y).exp()[:, None]
            expected, total = expected + density * torch.stack(quarters, 2).flatten(1), total + density
    torch.testing.assert_close(model.encode(x), expected / total)


def test_classes_are_added_to_the_gates_of_both_stacks() -> None:
    """Equation 4: tanh(W_f ∗ x + V_f h) ⊙ σ(W_g ∗ x + V_g h), V h a bias that the class picks."""
    torch.manual_seed(0)
    layer = GatedLayer(4, 6, 1, 3, 0.5, first=True, classes=3).double().eval()
    v, h = (torch.randn(2, 4, 5, 6, dtype=torch.float64) for _ in range(2))
    both = layer(v, h, torch.tensor([2, 0]))
    assert layer.by_class is not None
    for image, y in enumerate([2, 0]):
        bias = layer.by_class.weight[y].view(2, 2, 6, 1, 1)  # of the stacks, and of the halves of their gates
        rows = layer.vertical(F.pad(v[image], (1, 1, 1, 0)))
        expected = torch.tanh(rows[:6] + bias[0, 0]) * torch.sigmoid(rows[6:] + bias[0, 1])
        torch.testing.assert_close(both[0][image], expected)

        unconditional = copy.deepcopy(layer)
        unconditional.by_class = None
        with torch.no_grad():
            unconditional.horizontal.bias += bias[1].flatten()  # type: ignore[operator]
        torch.testing.assert_close(both[1][image], unconditional(v, h)[1][image])


def test_without_classes_labels_are_not_looked_at() -> None:
    model = _model((1, 4, 4), 3)
    x = torch.randint(3, (4, 1, 4, 4), dtype=torch.uint8, generator=_generator())
    losses = [model.loss(x, torch.full((4,), y), "model", _generator())["loss"] for y in (0, 1000)]
    assert torch.equal(losses[0], losses[1])


@pytest.mark.parametrize("stack", STACKS)
def test_training_with_classes_teaches_which_images_they_are(
    stack: Stack, digits: Tensor, digit_labels: Tensor
) -> None:
    """The class that makes an unseen digit most probable is its own far more often than by chance."""
    torch.manual_seed(0)
    model = PixelCNN((1, 8, 8), 17, channels=8, layers=2, dropout=0.0, stack=stack, classes=10)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for start in range(0, 1500, 15):
        x, y = digits[start : start + 15], digit_labels[start : start + 15]
        optimiser.zero_grad()
        model.loss(x, y, "model", _generator())["loss"].backward()
        optimiser.step()
    x, y = digits[1500:], digit_labels[1500:]
    with torch.no_grad():
        given = torch.stack([model.log_prob_given(x, torch.full_like(y, label)) for label in range(10)])
    assert (given.argmax(0) == y).double().mean() > 0.4  # by chance: 0.1
