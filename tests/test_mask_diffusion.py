"""Mask diffusion: bound, loss and draws against every order of the pixels of tiny images, and D3PM's own bound."""

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Generator, Tensor, nn

from workflow.models import mask_diffusion
from workflow.models.layers import any_order
from workflow.models.layers.any_order import group_ends
from workflow.models.layers.unet import UNet
from workflow.models.mask_diffusion import MaskDiffusion

SHAPE, LEVELS, NUMBERS = (1, 2, 2), 3, 4
ORDERS = list(itertools.permutations(range(NUMBERS)))
Y = torch.empty(0, dtype=torch.long)  # classes, which a model of p(x) does not look at


def _generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


class _Tiny(nn.Module):
    """A network for images of 2x2 pixels, which are too small for a U-Net; all pixels matter to each other."""

    def __init__(self, inputs: int, *_: object, outputs: int, **__: object) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(4 * inputs, 20), nn.Tanh(), nn.Linear(20, 4 * outputs), nn.Unflatten(1, (-1, 2, 2))
        ).double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(3)

    def forward(self, seen: Tensor, known: Tensor, y: None) -> Tensor:
        logits: Tensor = self.layers(seen) * (1 + 0.1 * known.view(-1, 1, 1, 1))
        return logits


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_diffusion, "UNet", _Tiny)
    monkeypatch.setattr(mask_diffusion, "quarter", lambda _: (1, 1))


def _model(passes: int = 0, **options: object) -> MaskDiffusion:
    torch.manual_seed(1)
    return MaskDiffusion(SHAPE, LEVELS, passes=passes, channels=8, dropout=0.1, **options).eval()  # type: ignore[arg-type]


def _every() -> Tensor:
    """All images, uint8 (81, 1, 2, 2)."""
    return torch.tensor(list(itertools.product(range(LEVELS), repeat=NUMBERS)), dtype=torch.uint8).view(-1, *SHAPE)


def _conditional(model: MaskDiffusion, known: tuple[int, ...]) -> Tensor:
    """log p of each pixel of every image given these ones, (81, 4), which is of no meaning for those themselves."""
    x, hidden = _every(), torch.ones(81, NUMBERS, dtype=torch.bool)
    hidden[:, list(known)] = False
    logits = model.logits(x, hidden.view_as(x)).flatten(2).log_softmax(1)
    return logits.gather(1, x.view(-1, 1, NUMBERS).long()).squeeze(1)


def _in_groups(model: MaskDiffusion, order: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
    """log p(x|order) of every image, (81,), if pixels are drawn in groups of these sizes."""
    total, start = torch.zeros(81, dtype=torch.float64), 0
    for size in sizes:
        total += _conditional(model, order[:start])[:, list(order[start : start + size])].sum(1)
        start += size
    return total


def _contributions(model: MaskDiffusion) -> Tensor:
    """What each order contributes to the bound of every image, (24, 81)."""
    found = []
    for order in ORDERS:
        ranks = torch.empty(NUMBERS, dtype=torch.long)
        ranks[list(order)] = torch.arange(NUMBERS)
        of_order = model.any_order.log_prob_in_order
        found.append(of_order(model._flat_logits, _every().flatten(1), ranks.expand(81, -1)))
    return torch.stack(found)


SIZES = {0: (1, 1, 1, 1), 4: (1, 1, 1, 1), 3: (1, 1, 2), 2: (1, 3), 1: (4,)}


@pytest.mark.parametrize("passes", [0, 4])
@torch.no_grad()
def test_at_one_pixel_a_pass_the_bound_is_the_log_likelihood_averaged_over_orders(passes: int) -> None:
    model = _model(passes)
    expected = torch.stack([_in_groups(model, order, (1, 1, 1, 1)) for order in ORDERS]).mean(0)
    torch.testing.assert_close(_contributions(model).mean(0), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("passes", SIZES)
@torch.no_grad()
def test_the_bound_is_below_a_density_that_sums_to_one(passes: int) -> None:
    """The density is that of a mixture over all orders, of groups of pixels that are drawn at once."""
    model = _model(passes)
    given = torch.stack([_in_groups(model, order, SIZES[passes]) for order in ORDERS])
    log_prob, bound = given.exp().mean(0).log(), _contributions(model).mean(0)
    assert log_prob.exp().sum().item() == pytest.approx(1, rel=1e-12)
    torch.testing.assert_close(bound, given.mean(0), rtol=1e-12, atol=1e-12)
    assert (bound <= log_prob + 1e-12).all()
    assert (log_prob - bound).max() > (0.1 if passes != 1 else -1)


@torch.no_grad()
def test_at_one_pixel_a_pass_the_bound_is_that_of_absorbing_diffusion() -> None:
    """Austin et al. 2021, section 4: each pixel is masked at its own time, uniform in [0, 1].

    The bound is the integral over t of 1/t times the log-probability of what is masked at t, each pixel with
    probability t. Of a set of m masked pixels, the integral of t^(m-1) (1-t)^(4-m) is the beta function.
    """
    model = _model()
    total = torch.zeros(81, dtype=torch.float64)
    for m in range(1, NUMBERS + 1):
        beta = math.gamma(m) * math.gamma(NUMBERS - m + 1) / math.gamma(NUMBERS + 1)
        for masked in itertools.combinations(range(NUMBERS), m):
            known = tuple(set(range(NUMBERS)) - set(masked))
            total += beta * _conditional(model, known)[:, list(masked)].sum(1)
    torch.testing.assert_close(_contributions(model).mean(0), total, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_the_loss_is_the_bound_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = _model(), _every()[37:38].expand(NUMBERS * 24, -1, -1, -1)
    ranks = torch.tensor(ORDERS).repeat(NUMBERS, 1)
    known = torch.arange(NUMBERS).repeat_interleave(24)
    monkeypatch.setattr(any_order, "spread_times", lambda *_: known + 1)
    monkeypatch.setattr(any_order, "random_ranks", lambda *_: ranks)
    expected = -_contributions(model)[:, 37].mean().item()
    assert model.loss(x, Y, "model", _generator())["loss"].item() == pytest.approx(expected, rel=1e-12)


@torch.no_grad()
def test_estimates_of_the_bound_and_validation_are_right_on_average() -> None:
    model, x = _model(), _every()[37:38].expand(4000, -1, -1, -1)
    contributions = _contributions(model)[:, 37]
    error = contributions.std() / 4000**0.5
    assert (model.log_prob(x, _generator()).mean() - contributions.mean()).abs() < 5 * error
    validated = model.validate(x, Y, _generator())["loss"].item()
    assert validated == pytest.approx(-contributions.mean().item(), rel=0.02)


@pytest.mark.parametrize(("passes", "rows"), [(0, 0), (3, 0), (2, 0), (0, 1), (1, 1)])
@torch.no_grad()
def test_draws_follow_the_density_of_all_orders(passes: int, rows: int) -> None:
    """Also of the lower row alone, given the upper one."""
    n, model = 20_000, _model(passes)
    given, first = _every()[50:51].expand(n, -1, -1, -1), 2 * rows
    sizes = SIZES[passes] if not rows else {0: (1, 1), 1: (2,)}[passes]
    densities = []
    for order in itertools.permutations(range(first, NUMBERS)):
        whole = _in_groups(model, (*range(first), *order), (first, *sizes) if first else sizes)
        densities.append((whole - (_conditional(model, ())[:, :first].sum(1) if first else 0)).exp())
    expected = torch.stack(densities).mean(0)
    expected[(_every().flatten(1)[:, :first] != given[:1].flatten(1)[:, :first]).any(1)] = 0
    assert expected.sum().item() == pytest.approx(1, rel=1e-12)
    drawn = model.complete(given, rows, _generator()).flatten(1).long()
    share = (drawn * LEVELS ** torch.arange(NUMBERS - 1, -1, -1)).sum(1).bincount(minlength=81) / n
    assert ((share - expected).abs() <= 5 * (expected / n).sqrt()).all()


def _kept_first(model: MaskDiffusion, n: int, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Which pixel the first of two passes keeps, int64 (n,); each is drawn at its mode."""
    shown: list[Tensor] = []
    logits = model.logits

    def watched(x: Tensor, hidden: Tensor) -> Tensor:
        shown.append(~hidden.flatten(1))
        return logits(x, hidden)

    monkeypatch.setattr(model, "logits", watched)
    monkeypatch.setattr(any_order, "draw_categorical", lambda numbers, _: numbers.argmax(1))
    model.sample(n, _generator())
    assert shown[1].sum(1).tolist() == [1] * n
    return shown[1].long().argmax(1)


@torch.no_grad()
def test_the_confident_order_keeps_what_is_most_probable(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(2, order="confident")
    blank, hidden = torch.zeros(1, *SHAPE, dtype=torch.uint8), torch.ones(1, *SHAPE, dtype=torch.bool)
    surest = int(model.logits(blank, hidden).flatten(2).softmax(1).amax(1).argmax())
    assert _kept_first(model, 20, monkeypatch).tolist() == [surest] * 20


@torch.no_grad()
def test_temperature_is_that_of_a_choice_by_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    """The maximum of log p / T plus Gumbel noise is a draw by p^(1/T); after the first of two passes, T is halved."""
    n, model = 20_000, _model(2, order="confident", temperature=2.0)
    blank, hidden = torch.zeros(1, *SHAPE, dtype=torch.uint8), torch.ones(1, *SHAPE, dtype=torch.bool)
    best = model.logits(blank, hidden).flatten(2).log_softmax(1).amax(1)[0]
    expected = (best / (2.0 / 2)).softmax(0)
    share = _kept_first(model, n, monkeypatch).bincount(minlength=NUMBERS) / n
    assert ((share - expected).abs() <= 5 * (expected / n).sqrt()).all()


def _sizes() -> Iterator[tuple[int, int]]:
    return ((numbers, passes) for numbers in (0, 1, 2, 5, 64) for passes in range(min(1, numbers), numbers + 1))


def test_every_pass_draws_something_and_the_last_one_ends() -> None:
    for numbers, passes in _sizes():
        ends = group_ends(numbers, passes)
        assert (len(ends), ends[0], ends[-1]) == (passes + 1, 0, numbers)
        assert all(after > before for before, after in itertools.pairwise(ends))
    assert group_ends(64, 8) == [0, *(round(64 * (1 - math.cos(math.pi / 2 * j / 8))) for j in range(1, 9))]


@torch.no_grad()
def test_what_is_hidden_plays_no_part_and_what_is_known_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_diffusion, "UNet", UNet)
    torch.manual_seed(0)
    model = MaskDiffusion((3, 8, 8), 5, passes=0, channels=8, dropout=0.1).eval()
    x, other = torch.randint(5, (2, 1, 3, 8, 8), dtype=torch.uint8, generator=_generator())
    hidden = torch.rand(1, 3, 8, 8, generator=_generator(1)) < 0.5
    logits = model.logits(x, hidden)
    assert torch.equal(logits, model.logits(torch.where(hidden, other, x), hidden))
    assert not torch.equal(logits, model.logits(torch.where(hidden, x, other), hidden))
    one_more = hidden.clone()
    one_more[0, 0, 0, int((~hidden[0, 0, 0]).long().argmax())] = True
    assert not torch.equal(logits, model.logits(x, one_more))


def test_says_whose_likelihood_it_is() -> None:
    assert "the bound is that of their distribution" in _model(2).note
    assert "2 passes for the 4 numbers" in _model(2).note
    assert "another distribution" in _model(2, order="confident").note


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="passes 5 exceeds the numbers in an image \\(4\\)"):
        _model(5)
    with pytest.raises(ValueError, match="temperature is for the order"):
        _model(temperature=1.0)
