"""Masked prior of codes: its bound and its draws against every order of the codes of a tiny grid."""

import itertools

import pytest
import torch
from torch import Generator, Tensor

from workflow.models.layers.any_order import AnyOrder
from workflow.models.layers.priors import MaskedPrior

GRID, CODES, PLACES = (2, 2), 3, 4
ORDERS = list(itertools.permutations(range(PLACES)))
EVERY = torch.tensor(list(itertools.product(range(CODES), repeat=PLACES)))
SIZES = {4: (1, 1, 1, 1), 2: (1, 3)}
ALL, NOT_ONE = [True, True, True], [True, False, True]


def _prior(passes: int = 4) -> MaskedPrior:
    """Its weights enlarged, so that the codes make a difference."""
    torch.manual_seed(1)
    prior = MaskedPrior(GRID, CODES, 20, 2, 0.2, AnyOrder(PLACES, passes)).double().eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.mul_(2)
    return prior


def _in_groups(prior: MaskedPrior, available: Tensor, order: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
    """log p(z|order) of every grid, (81,), if codes are drawn in groups of these sizes."""
    total, start = torch.zeros(len(EVERY), dtype=torch.float64), 0
    for size in sizes:
        hidden = torch.ones(len(EVERY), PLACES, dtype=torch.bool)
        hidden[:, list(order[:start])] = False
        logits = prior(EVERY, hidden).masked_fill(~available.view(1, -1, 1), -torch.inf).log_softmax(1)
        for place in order[start : start + size]:
            total += logits[torch.arange(len(EVERY)), EVERY[:, place], place]
        start += size
    return total


@pytest.mark.parametrize("available", [torch.tensor(ALL), torch.tensor(NOT_ONE)], ids=["all", "one on trial"])
@torch.no_grad()
def test_at_one_code_a_pass_the_bound_is_the_log_likelihood_averaged_over_orders(
    available: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior, every = _prior(), EVERY.view(-1, *GRID)
    given = torch.stack([_in_groups(prior, available, order, SIZES[4]) for order in ORDERS])
    found = []
    for order in ORDERS:
        ranks = torch.tensor(order).argsort().expand(len(EVERY), -1)
        monkeypatch.setattr("workflow.models.layers.any_order.random_ranks", lambda *_, ranks=ranks: ranks)
        found.append(prior.log_prob(every, available, Generator()))
    bound = torch.stack(found).mean(0)
    torch.testing.assert_close(bound, given.mean(0), rtol=1e-10, atol=1e-10)
    log_prob = given.exp().mean(0).log()
    assert log_prob.exp().sum().item() == pytest.approx(1, rel=1e-10)
    assert (bound <= log_prob + 1e-10).all()
    assert (log_prob - bound)[log_prob.isfinite()].max() > 0.01
    assert torch.equal(log_prob.isfinite(), available[EVERY].all(1))


@torch.no_grad()
def test_what_is_trained_on_is_the_same_bound_on_average() -> None:
    prior, n = _prior(), 8000
    available, grid = torch.tensor(ALL), EVERY[37:38]
    given = torch.stack([_in_groups(prior, available, order, SIZES[4])[37] for order in ORDERS])
    estimate = prior.mean_bound(grid.view(1, *GRID).expand(n, -1, -1), available, Generator().manual_seed(0))
    assert estimate.item() == pytest.approx(given.mean().item(), rel=0.01)


@pytest.mark.parametrize("passes", SIZES)
@torch.no_grad()
def test_draws_follow_the_density_of_all_orders_and_leave_out_codes_on_trial(passes: int) -> None:
    prior, n, available = _prior(passes), 20_000, torch.tensor(NOT_ONE)
    expected = torch.stack([_in_groups(prior, available, order, SIZES[passes]).exp() for order in ORDERS]).mean(0)
    drawn = prior.draw(n, available, Generator().manual_seed(0)).flatten(1)
    share = (drawn * CODES ** torch.arange(PLACES - 1, -1, -1)).sum(1).bincount(minlength=len(EVERY)) / n
    assert expected.sum().item() == pytest.approx(1, rel=1e-10)
    assert ((share - expected).abs() <= 5 * (expected / n).sqrt()).all()
    assert prior.passes_in_sequence == passes


@torch.no_grad()
def test_what_is_hidden_plays_no_part_and_what_is_known_does() -> None:
    prior, hidden = _prior(), torch.tensor([[True, False, True, False]])
    logits = [prior(torch.tensor([codes]), hidden) for codes in ([0, 1, 2, 0], [2, 1, 0, 0], [0, 1, 2, 1])]
    assert torch.equal(logits[0], logits[1])
    assert (logits[0] != logits[2]).any(1)[0, [0, 2]].all()
