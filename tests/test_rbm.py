"""RBM: every formula against sums over all states of tiny models, and the estimate of log Z against its true value."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.neural_network import BernoulliRBM
from torch import Generator, Tensor

from workflow.models.rbm import ENUMERATED, Rbm


def tiny(
    d: int = 2, levels: int = 3, *, hidden: int = 3, k: int = 1, chains: int = 0, scale: float = 1.0, **more: Any
) -> Rbm:
    """A model in double precision whose units listen to each other."""
    settings = {"sampling_steps": 40, "ais_chains": 50, "ais_steps": 200} | more
    model = Rbm((1, 1, d), levels, hidden=hidden, k=k, chains=chains, **settings).double()
    random = _generator(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64) * scale)
        model.pixel_bias.sub_(0.5)
    model.finish(torch.empty(0), torch.empty(0), _generator(0))
    return model.eval()


def _generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def _all(numbers: int, places: int) -> np.ndarray[Any, Any]:
    return np.array(list(itertools.product(range(numbers), repeat=places)))


def _joint(model: Rbm) -> np.ndarray[Any, Any]:
    """p(x, h) by its definition: a row for each image, a column for each state of the hidden units."""
    weight, bias, pixel_bias = (p.detach().numpy() for p in (model.weight, model.hidden_bias, model.pixel_bias))
    most, d = model.levels - 1, weight.shape[1]
    of_levels = np.hstack([np.zeros((d, 1)), pixel_bias.reshape(d, most)])
    rows = [
        [math.exp(of_levels[range(d), x].sum() + h @ bias + h @ weight @ x / most) for h in _all(2, len(bias))]
        for x in _all(model.levels, d)
    ]
    joint = np.array(rows)
    joint /= joint.sum()
    return joint


def _images(model: Rbm) -> Tensor:
    return torch.tensor(_all(model.levels, math.prod(model.shape)), dtype=torch.uint8).view(-1, *model.shape)


def _each(model: Rbm, images: Tensor) -> Tensor:
    """How often each of all images is among these."""
    base = model.levels ** torch.arange(math.prod(model.shape)).flip(0)
    return (images.flatten(1).long() * base).sum(1).bincount(minlength=model.levels ** len(base))


@pytest.mark.parametrize(("d", "levels", "hidden"), [(4, 2, 3), (3, 3, 4), (2, 5, 2)])
def test_the_density_is_the_sum_over_the_hidden_units(d: int, levels: int, hidden: int) -> None:
    model = tiny(d, levels, hidden=hidden)
    expected = torch.tensor(_joint(model).sum(1)).log()
    found = model.log_prob(_images(model), _generator(0))
    torch.testing.assert_close(found, expected)
    assert found.exp().sum().item() == pytest.approx(1)


def test_free_energy_is_that_of_scikit_learn() -> None:
    model = tiny(6, 2, hidden=5)
    other = BernoulliRBM(n_components=5)
    other.components_, other.intercept_hidden_, other.intercept_visible_ = (
        p.detach().numpy() for p in (model.weight, model.hidden_bias, model.pixel_bias)
    )
    x = _images(model).flatten(1)
    np.testing.assert_allclose(model.free_energy(x).detach(), other._free_energy(x.numpy().astype(float)))


def test_features_are_the_conditional_probabilities_of_the_hidden_units() -> None:
    model = tiny(hidden=4)
    joint, states = _joint(model), _all(2, 4)
    expected = (joint @ states) / joint.sum(1, keepdims=True)
    np.testing.assert_allclose(model.encode(_images(model)), expected)


def test_a_gibbs_step_draws_from_both_conditionals() -> None:
    model, n = tiny(), 40_000
    joint = _joint(model)
    transition = (joint / joint.sum(1, keepdims=True)) @ (joint / joint.sum(0)).T  # from a row to a column
    for i, x in enumerate(_images(model).flatten(1)[::4]):
        drawn = _each(model, model.gibbs(x.expand(n, -1), _generator(i)))
        assert stats.chisquare(drawn, n * transition[4 * i]).pvalue > 0.001


@pytest.mark.parametrize("levels", [2, 3])
def test_samples_follow_the_exact_probabilities(levels: int) -> None:
    model, n = tiny(2, levels), 20_000
    drawn = _each(model, model.sample(n, _generator(3)))
    assert stats.chisquare(drawn, n * _joint(model).sum(1)).pvalue > 0.001


def test_completions_follow_the_exact_conditional_probabilities() -> None:
    model, n = tiny(2), 20_000
    model.shape = (1, 2, 1)  # the first pixel is above the second one
    joint = _joint(model).sum(1).reshape(3, 3)
    for known in range(3):
        drawn = model.complete(torch.full((n, 1, 2, 1), known, dtype=torch.uint8), 1, _generator(known))
        assert (drawn[:, 0, 0, 0] == known).all()
        counts = drawn[:, 0, 1, 0].long().bincount(minlength=3)
        assert stats.chisquare(counts, n * joint[known] / joint[known].sum()).pvalue > 0.001


def test_log_z_over_hidden_units_is_that_over_pixels() -> None:
    for hidden in (1, 14):  # the sum over the latter takes two chunks
        model = tiny(3, 4, hidden=hidden, scale=0.7)
        images = _images(model).flatten(1)
        over_pixels = (-model.free_energy(images)).logsumexp(0)
        assert model.exact_log_z().item() == pytest.approx(over_pixels.item(), rel=1e-6)
        assert model.log_prob_error == 0


def test_the_interval_of_annealed_importance_sampling_covers_log_z() -> None:
    model = tiny(6, 3, hidden=8, scale=0.6)
    model.initialise(torch.randint(0, 3, (50, 1, 1, 6), generator=_generator(2)).to(torch.uint8), _generator(0))
    model.pixel_bias.data.sub_(0.5)
    exact, covered, estimates = model.exact_log_z(), 0, []
    for seed in range(40):
        found, error = model.annealed_log_z(30, _generator(seed))
        covered += bool((found - exact).abs() < 1.96 * error)
        estimates.append(float((found - exact).exp()))
    assert covered >= 34  # of 38 expected
    assert stats.ttest_1samp(estimates, 1).pvalue > 0.001  # of Z, it is unbiased
    assert 0.5 < np.std(estimates) / float(error) < 2


def test_more_intermediate_distributions_are_more_precise() -> None:
    model = tiny(6, 3, hidden=8)
    errors = [float(model.annealed_log_z(steps, _generator(0))[1]) for steps in (4, 400)]
    assert errors[1] < errors[0] / 3


@pytest.mark.parametrize(("chains", "k"), [(0, 1), (0, 3), (5, 2)])
def test_the_gradient_is_that_of_the_free_energies_with_the_chain_held_fixed(chains: int, k: int) -> None:
    model = tiny(chains=chains, k=k).train()
    x = _images(model)[::2]
    model.chain.copy_(_images(model).flatten(1)[:chains])
    state = model.chain.clone() if chains else x.flatten(1)
    random = _generator(4)
    for _ in range(k):
        state = model.gibbs(state, random)

    def contrast() -> float:
        weight, bias, pixel_bias = (p.detach().numpy() for p in (model.weight, model.hidden_bias, model.pixel_bias))

        def mean_energy(values: Tensor) -> float:
            v = values.flatten(1).numpy()
            of_levels = np.hstack([np.zeros((2, 1)), pixel_bias.reshape(2, 2)])
            on = np.logaddexp(0, v / 2 @ weight.T + bias).sum(1)
            return float(np.mean(-of_levels[range(2), v].sum(1) - on))

        return mean_energy(x) - mean_energy(state)

    loss = model.loss(x, torch.empty(0), "model", _generator(4))["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(contrast())
    for parameter in model.parameters():
        assert parameter.grad is not None
        for i in range(parameter.numel()):
            ends = []
            for change in (1e-5, -1e-5):
                parameter.data.view(-1)[i] += change
                ends.append(contrast())
                parameter.data.view(-1)[i] -= change
            assert parameter.grad.view(-1)[i].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-8)
    assert torch.equal(model.chain, state) == bool(chains)


def test_persistent_chains_rest_outside_training() -> None:
    model = tiny(chains=6)
    before = model.chain.clone()
    model.loss(_images(model), torch.empty(0), "model", _generator(0))
    assert torch.equal(model.chain, before)
    assert "chain" in model.state_dict()


@pytest.mark.parametrize("chains", [0, 20])
def test_training_comes_to_the_frequencies_of_the_data(chains: int) -> None:
    torch.manual_seed(0)
    model = Rbm((1, 1, 3), 2, hidden=4, k=5, chains=chains, sampling_steps=1)
    counts = torch.tensor([12, 4, 0, 8, 2, 0, 4, 10])  # of all images
    x = _images(model).repeat_interleave(counts, 0)
    model.initialise(x, _generator(0))
    untrained = model.validate(x, torch.empty(0), _generator(0))["loss"].item()
    optimiser, random = torch.optim.Adam(model.parameters(), 0.1), _generator(1)
    for _ in range(200):
        optimiser.zero_grad()
        model.loss(x, torch.empty(0), "model", random)["loss"].backward()
        optimiser.step()
    model.calibrate(x, random)
    entropy = stats.entropy(counts)
    trained = model.validate(x, torch.empty(0), random)["loss"].item()
    assert entropy < trained < entropy + 0.5 * (untrained - entropy)


def test_log_z_before_training_is_that_of_independent_pixels() -> None:
    x = torch.randint(0, 5, (300, 1, 2, 2), generator=_generator(0)).to(torch.uint8)
    torch.manual_seed(0)
    model = Rbm((1, 2, 2), 5, hidden=3, k=1, chains=7, sampling_steps=1)
    model.initialise(x, _generator(0))
    assert model.log_z.item() == pytest.approx(model.exact_log_z().item(), abs=0.02)
    counts = torch.nn.functional.one_hot(x.flatten(1).long(), 5).sum(0) + 1
    expected = (counts / 305).log()[torch.arange(4), x.flatten(1).long()].sum(1)
    np.testing.assert_allclose(model.log_prob(x, _generator(0)).detach(), expected, atol=0.05)
    assert model.chain.float().mean().item() == pytest.approx(x.float().mean().item(), abs=0.5)


def test_says_whether_its_likelihood_is_exact() -> None:
    few, many = (Rbm((1, 2, 2), 2, hidden=n, k=2, chains=n - 20, sampling_steps=9, ais_steps=20) for n in (20, 21))
    assert ENUMERATED == 20
    assert (few.likelihood, few.title) == ("exact", "RBM (CD-2)")
    assert (many.likelihood, many.title) == ("estimate", "RBM (PCD-2)")
    many.finish(torch.empty(0), torch.empty(0), _generator(0))
    assert many.log_prob_error > 0
    assert f"Log Z is {many.log_z:.2f} ± {1.96 * many.log_z_error:.2f} nats (95 % over 100 chains" in many.note
    assert "the likelihood is exact" in few.note


def test_a_reconstruction_is_the_mean_given_the_hidden_probabilities() -> None:
    model = tiny(4, 5)
    x = _images(model)[::7]
    weight, pixel_bias = model.weight.detach().numpy(), model.pixel_bias.detach().numpy().reshape(4, 4)
    tilt = model.encode(x).numpy() @ weight
    odds = np.exp(np.stack([0 * tilt, *(pixel_bias[:, n] + tilt * (n + 1) / 4 for n in range(4))], -1))
    mean = (odds * np.arange(5)).sum(-1) / odds.sum(-1)
    assert np.abs(model.reconstruct(x).flatten(1).numpy() - mean).max() <= 0.5


def test_exact_draws_have_the_models_probabilities() -> None:
    model = tiny()
    drawn = model.draw_exactly(4000, _generator(0))
    assert (drawn.dtype, tuple(drawn.shape)) == (torch.uint8, (4000, 1, 1, 2))
    counts = np.bincount(drawn.flatten(1).long() @ torch.tensor([3, 1]), minlength=9)
    assert stats.chisquare(counts, 4000 * _joint(model).sum(1)).pvalue > 0.01


def test_binomial_pixels_are_a_special_case() -> None:
    """A pixel of three levels that counts two binary pixels with the same weights."""
    model, binary = tiny(2, 3), tiny(4, 2)
    with torch.no_grad():
        per_copy = torch.tensor([0.3, -0.8], dtype=torch.float64)
        model.pixel_bias.copy_(torch.stack([per_copy + math.log(2), 2 * per_copy], 1).flatten())
        binary.pixel_bias.copy_(per_copy.repeat_interleave(2))
        binary.weight.copy_(model.weight.repeat_interleave(2, 1) / 2)
        binary.hidden_bias.copy_(model.hidden_bias)
    copies = torch.tensor(_joint(binary).sum(1))
    counted = _images(binary).view(-1, 2, 2).sum(2) @ torch.tensor([3, 1])
    expected = torch.zeros(9, dtype=torch.float64).index_add(0, counted, copies)
    np.testing.assert_allclose(_joint(model).sum(1), expected)
