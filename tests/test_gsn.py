"""GSN: the chain's stationary distribution where the right one is known, and the training that leads to it."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor, nn

from workflow.models.gsn import Corruption, Gsn

COUNTS = np.array([30, 0, 5, 40, 25])  # of the levels of a single pixel: all that there is to learn
SHARES = COUNTS / COUNTS.sum()


def tiny(corruption: Corruption = "salt and pepper", **more: Any) -> Gsn:
    """For images of one pixel with five levels, whose distribution given a corrupted one has as many probabilities."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "noise": 0.4, "walkback": 1, "width": 20, "depth": 1, "dropout": 0.0, "decoder": "categorical",
        "sampling_steps": 60,
    }  # fmt: skip
    return Gsn((1, 1, 1), 5, corruption=corruption, **(settings | more)).eval()


def _generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def _corruption(corruption: Corruption, noise: float) -> np.ndarray[Any, Any]:
    """C(x̃|x): a row for each level x."""
    if corruption == "salt and pepper":
        extremes = np.array([0.5, 0, 0, 0, 0.5])
        return (1 - noise) * np.eye(5) + noise * extremes
    edges = np.array([-np.inf, 0.5, 1.5, 2.5, 3.5, np.inf])
    return np.array([np.diff(stats.norm(level, 4 * noise).cdf(edges)) for level in range(5)])


class Table(nn.Module):
    """The logits of a level given the corrupted one, exactly: p(x|x̃) ∝ C(x̃|x) p(x)."""

    def __init__(self, joint: np.ndarray[Any, Any]) -> None:
        super().__init__()
        self.logits = torch.tensor(joint.T + 1e-12).log()

    def forward(self, scaled: Tensor) -> Tensor:
        corrupted = ((scaled.flatten() + 1) * 2).round().long()
        return self.logits[corrupted].view(-1, 5, 1, 1, 1)


def _know(model: Gsn, joint: np.ndarray[Any, Any]) -> None:
    """Give the model the right p(x|x̃) of a joint distribution: a row for each level x."""
    model.hidden, model.to_pixels = nn.Sequential(nn.Flatten()), nn.Sequential(Table(joint))
    model.register_parameter("unused", nn.Parameter(torch.zeros(1)))  # the others told the device


@pytest.mark.parametrize("corruption", get_args(Corruption))
def test_corruption_has_its_distribution(corruption: Corruption) -> None:
    model, n = tiny(corruption), 20_000
    for level, expected in enumerate(_corruption(corruption, 0.4)):
        drawn = model.corrupt(torch.full((n, 1, 1, 1), level, dtype=torch.uint8), _generator(level)).flatten()
        counts = drawn.long().bincount(minlength=5).numpy()
        assert not counts[expected == 0].any()
        assert stats.chisquare(counts[expected > 0], n * expected[expected > 0]).pvalue > 0.001


@pytest.mark.parametrize("corruption", get_args(Corruption))
def test_with_the_exact_posterior_the_chain_has_the_distribution_of_the_data(corruption: Corruption) -> None:
    """Bengio et al. 2013, theorem 1: the noise is undone, not added, however strong it is."""
    model, n = tiny(corruption), 20_000
    _know(model, SHARES[:, None] * _corruption(corruption, 0.4))
    drawn = model.sample(n, _generator(7)).flatten().long().bincount(minlength=5).numpy()
    assert drawn[1] == 0
    assert stats.chisquare(drawn[COUNTS > 0], n * SHARES[COUNTS > 0]).pvalue > 0.001


@pytest.mark.parametrize("corruption", get_args(Corruption))
def test_of_a_posterior_that_is_too_wide_the_chain_is_smoother_as_its_matrix_says(corruption: Corruption) -> None:
    model, n, noise = tiny(corruption), 20_000, _corruption(corruption, 0.4)
    smoothed = 0.9 * SHARES + 0.1 / 5
    joint = smoothed[:, None] * noise
    _know(model, joint)
    transition = noise @ (joint / joint.sum(0)).T
    values, vectors = np.linalg.eig(transition.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    np.testing.assert_allclose(stationary / stationary.sum(), smoothed)
    drawn = model.sample(n, _generator(8)).flatten().long().bincount(minlength=5).numpy()
    assert stats.chisquare(drawn, n * smoothed).pvalue > 0.001


@pytest.mark.parametrize("walkback", [1, 3])
def test_training_comes_to_the_distribution_of_the_data(walkback: int) -> None:
    model = tiny(walkback=walkback).train()
    x = torch.arange(5, dtype=torch.uint8).repeat_interleave(torch.tensor(COUNTS)).view(-1, 1, 1, 1)
    optimiser, random = torch.optim.Adam(model.parameters(), 0.02), _generator(1)
    for _ in range(200):
        optimiser.zero_grad()
        model.loss(x, torch.empty(0), "model", random)["loss"].backward()
        optimiser.step()
    drawn = model.eval().sample(5000, _generator(2)).flatten().long().bincount(minlength=5).numpy() / 5000
    assert np.abs(drawn - SHARES).sum() / 2 < 0.08


def test_the_loss_without_noise_is_that_of_the_image_itself() -> None:
    model = tiny(noise=1e-9, corruption="gaussian")
    x = torch.arange(5, dtype=torch.uint8).view(-1, 1, 1, 1)
    with torch.no_grad():
        logits = model(x).view(5, 5)
        found = model.loss(x, torch.empty(0), "model", _generator(0))["loss"]
    assert found.item() == pytest.approx(-logits.log_softmax(1).diagonal().mean().item())


def test_each_step_of_a_walk_begins_where_the_last_one_ended() -> None:
    model = tiny(walkback=3)
    x = torch.arange(5, dtype=torch.uint8).view(-1, 1, 1, 1)
    random, state, losses = _generator(5), x, []
    with torch.no_grad():
        for _ in range(3):
            logits = model(model.corrupt(state, random))
            losses.append(-model.pixels.log_prob(logits, x).mean().item())
            if len(losses) < 3:
                state = model.pixels.draw(logits, random)
        found = model.loss(x, torch.empty(0), "model", _generator(5))["loss"]
    assert found.item() == pytest.approx(np.mean(losses))
