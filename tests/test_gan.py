"""GAN: the losses of the paper, the penalty, whose turn it is, and the distance that chooses the checkpoint."""

import itertools
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from workflow.models.gan import (
    Gan,
    Objective,
    accuracy,
    critic_loss,
    energy_distance,
    generator_loss,
    gradient_penalty,
)

Y = torch.empty(0, dtype=torch.long)  # classes, which a model of p(x) does not look at

REAL, FAKE = torch.tensor([[2.0], [-1.0], [0.5]]), torch.tensor([[-3.0], [1.5], [-0.2]])


def _model(objective: Objective = "non-saturating", critic_steps: int = 1, r1: float = 0.0) -> Gan:
    torch.manual_seed(0)
    return Gan(
        (1, 8, 8),
        17,
        latents=4,
        channels=2,
        features=6,
        objective=objective,
        critic_steps=critic_steps,
        r1=r1,
    )


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _images(n: int) -> Tensor:
    return torch.randint(0, 17, (n, 1, 8, 8), dtype=torch.uint8, generator=_generator(5))


def test_losses_are_the_papers_formulas() -> None:
    d_real, d_fake = REAL.double().sigmoid(), FAKE.double().sigmoid()
    formulas = {
        "critic": -d_real.log().mean() - (1 - d_fake).log().mean(),
        "minimax": (1 - d_fake).log().mean(),
        "non-saturating": -d_fake.log().mean(),
    }
    losses = {
        "critic": critic_loss(REAL, FAKE),
        "minimax": generator_loss(FAKE, "minimax"),
        "non-saturating": generator_loss(FAKE, "non-saturating"),
    }
    for name, expected in formulas.items():
        torch.testing.assert_close(losses[name].double(), expected, msg=name)


@pytest.mark.parametrize(("objective", "slope"), [("minimax", 0.0), ("non-saturating", -1.0)])
def test_only_the_minimax_objective_saturates_where_the_critic_is_sure(objective: Objective, slope: float) -> None:
    logit = torch.tensor([[-30.0]], requires_grad=True)
    generator_loss(logit, objective).backward()
    assert logit.grad is not None
    assert abs(logit.grad.item() - slope) < 1e-6


def test_extreme_logits_keep_the_losses_finite() -> None:
    huge = torch.tensor([[1e4], [-1e4]])
    assert torch.isfinite(critic_loss(huge, huge))
    assert torch.isfinite(generator_loss(huge, "minimax"))


@pytest.mark.parametrize("objective", ["minimax", "non-saturating"])
def test_model_plays_its_objective_on_its_own_samples(objective: Objective) -> None:
    model = _model(objective)
    x = _images(6)
    noise = torch.randn(6, 4, generator=_generator())
    on_real, on_fake = model.critic(x.float() / 8 - 1), model.critic(model.generator(noise))
    assert torch.equal(model.loss(x, Y, "generator", _generator())["loss"], generator_loss(on_fake, objective))
    torch.testing.assert_close(model.loss(x, Y, "critic", _generator())["loss"], critic_loss(on_real, on_fake))


def test_penalty_is_the_mean_squared_gradient_and_can_be_trained_on() -> None:
    w = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    x = torch.randn(7, 3, dtype=torch.float64, generator=_generator()).requires_grad_()
    penalty = gradient_penalty((x.square() @ w).unsqueeze(1), x)  # the gradient of row i is 2 w x_i
    torch.testing.assert_close(penalty, (2 * w * x).square().sum(1).mean())
    penalty.backward()
    torch.testing.assert_close(w.grad, (8 * w * x.square()).mean(0))


def test_penalty_of_the_network_equals_finite_differences() -> None:
    model = _model(r1=3.0).double()
    x = _images(3).double() / 8 - 1
    step = 1e-6
    with torch.no_grad():
        columns = [
            (model.critic(x + step * unit) - model.critic(x - step * unit)) / (2 * step)
            for unit in torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8)
        ]
    expected = torch.cat(columns, 1).square().sum(1).mean()
    x.requires_grad_()
    torch.testing.assert_close(gradient_penalty(model.critic(x), x), expected, rtol=1e-4, atol=0)


def test_the_critics_loss_has_half_the_penaltys_weight() -> None:
    x = _images(6)
    without, penalised = (
        _model(r1=0.0).loss(x, Y, "critic", _generator()),
        _model(r1=3.0).loss(x, Y, "critic", _generator()),
    )
    assert penalised["r1"] > 0
    assert "r1" not in without
    torch.testing.assert_close(penalised["loss"], without["loss"] + 1.5 * penalised["r1"])


@pytest.mark.parametrize(("player", "other"), [("critic", "generator"), ("generator", "critic")])
def test_a_turn_reaches_its_player_alone(player: str, other: str) -> None:
    model = _model(r1=0.1)
    model.players[other].requires_grad_(False)
    model.loss(_images(6), Y, player, _generator())["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in model.players[player].parameters())
    assert all(p.grad is None for p in model.players[other].parameters())


def test_the_critic_moves_k_times_for_each_move_of_the_generator() -> None:
    assert _model(critic_steps=1).turns == ("critic", "generator")
    assert _model(critic_steps=3).turns == ("critic", "critic", "critic", "generator")


def test_accuracy_counts_both_sides() -> None:
    shares = accuracy(REAL, FAKE)
    assert abs(shares["accuracy_real"].item() - 2 / 3) < 1e-6
    assert abs(shares["accuracy_fake"].item() - 2 / 3) < 1e-6
    assert accuracy(REAL, REAL + 10)["accuracy_fake"] == 0


def _mean_distance(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    distances = [float((a - b).norm()) for a, b in pairs]
    return sum(distances) / len(distances)


def test_energy_distance_is_its_definition() -> None:
    x, y = torch.randn(7, 1, 2, 3, generator=_generator()), 1 + torch.randn(5, 1, 2, 3, generator=_generator(1))
    between = _mean_distance(itertools.product(x, y))
    within = _mean_distance(itertools.combinations(x, 2)) + _mean_distance(itertools.combinations(y, 2))
    assert abs(energy_distance(x, y).item() - (2 * between - within)) < 1e-5


def test_energy_distance_has_no_bias_and_sees_every_kind_of_failure(digits: Tensor) -> None:
    unit = digits[torch.randperm(len(digits), generator=_generator())] / 16
    real, more = unit[:300], unit[300:1300]
    floor = abs(energy_distance(real, more).item())
    assert floor < 0.02
    noisy = (more + 0.3 * torch.randn(more.shape, generator=_generator())).clamp(0, 1)
    blurred = torch.nn.functional.avg_pool2d(more, 3, 1, 1)
    brightness = more.flatten(1).mean(1)
    half_of_the_modes = more[brightness > brightness.median()]
    collapsed = more[:1].expand(1000, 1, 8, 8)
    for broken in (noisy, blurred, half_of_the_modes, collapsed):
        assert energy_distance(real, broken) > 3 * floor


def test_validation_prefers_the_generator_of_better_images(digits: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()
    untrained = model.validate(digits[:200], Y, _generator())
    assert {"loss", "accuracy_real", "accuracy_fake"} == set(untrained)
    real = digits[200:1200].float() / 8 - 1
    monkeypatch.setattr(model, "_fake", lambda *_: real)
    assert model.validate(digits[:200], Y, _generator())["loss"] < 0.1 * untrained["loss"]


def test_features_are_what_the_critic_decides_on() -> None:
    model = _model()
    x = _images(4)
    features = model.encode(x)
    assert features.shape == (4, 6)
    torch.testing.assert_close(model.critic[-1](features), model.critic(x.float() / 8 - 1))
