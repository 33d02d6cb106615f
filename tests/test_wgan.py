"""Wasserstein GAN: the losses, both ways to keep the critic from being steep, and what its distance is worth."""

import math

import pytest
import torch
from torch import Tensor

from workflow.data.tensors import ImageSet
from workflow.models.layers.adversarial import Network, energy_distance
from workflow.models.wgan import Wgan, gradient_penalty, interpolates
from workflow.params import Train
from workflow.training.loop import fit

Y = torch.empty(0, dtype=torch.long)  # classes, which a model of p(x) does not look at


def _model(
    shape: tuple[int, int, int] = (1, 8, 8),
    levels: int = 17,
    clipping: float = 0.0,
    penalty: float = 0.0,
    critic_steps: int = 2,
    network: Network = "convolutional",
    channels: int = 2,
) -> Wgan:
    torch.manual_seed(0)
    return Wgan(
        shape, levels, latents=4, channels=channels, features=6, critic_steps=critic_steps, clipping=clipping,
        penalty=penalty, network=network,
    )  # fmt: skip


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _images(n: int) -> Tensor:
    return torch.randint(0, 17, (n, 1, 8, 8), dtype=torch.uint8, generator=_generator(5))


@pytest.mark.parametrize(("clipping", "penalty"), [(0.0, 0.0), (0.1, 10.0)])
def test_exactly_one_way_to_bound_the_critic_is_chosen(clipping: float, penalty: float) -> None:
    with pytest.raises(ValueError, match="exactly one of clipping and penalty"):
        _model(clipping=clipping, penalty=penalty)


def test_clipped_losses_are_differences_of_means() -> None:
    model = _model(clipping=0.5)
    x, noise = _images(6), torch.randn(6, 4, generator=_generator())
    on_real, on_fake = model.critic(x.float() / 8 - 1), model.critic(model.generator(noise))
    critic = model.loss(x, Y, "critic", _generator())
    torch.testing.assert_close(critic["distance"], on_real.mean() - on_fake.mean())
    assert torch.equal(critic["loss"], -critic["distance"])
    assert set(critic) == {"loss", "distance"}
    assert torch.equal(model.loss(x, Y, "generator", _generator())["loss"], -on_fake.mean())


def test_penalised_loss_is_equation_3_one_image_at_a_time() -> None:
    """L = E f(G(z)) - E f(x) + λ E (‖∇f(x̂)‖ - 1)², the gradient of each image by finite differences."""
    model = _model(penalty=7.0).double()
    x = _images(3)
    random = _generator()
    noise = torch.randn(3, 4, generator=random).double()
    real, fake = x.double() / 8 - 1, model.generator(noise).detach()
    share = torch.rand(3, 1, 1, 1, generator=random).double()
    between = share * real + (1 - share) * fake
    step, units = 1e-6, torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8)
    penalties = []
    with torch.no_grad():
        for image in between:
            slopes = (model.critic(image + step * units) - model.critic(image - step * units)) / (2 * step)
            penalties.append((math.sqrt(slopes.square().sum().item()) - 1) ** 2)
        distance = model.critic(real).mean() - model.critic(fake).mean()
    found = model.loss(x, Y, "critic", _generator())
    assert found["penalty"].item() == pytest.approx(sum(penalties) / 3, rel=1e-4)
    assert found["distance"].item() == pytest.approx(distance.item(), rel=1e-5)
    assert found["loss"].item() == pytest.approx(7 * sum(penalties) / 3 - distance.item(), rel=1e-4)


def test_penalty_of_an_analytic_critic_and_its_gradient() -> None:
    """f(x) = w · x²: the gradient at x is 2 w x. And f(x) = w · x, whose steepness is ‖w‖ everywhere."""
    w = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    x = torch.randn(7, 3, dtype=torch.float64, generator=_generator()).requires_grad_()
    penalty = gradient_penalty((x.square() @ w).unsqueeze(1), x)
    torch.testing.assert_close(penalty, ((2 * w * x).norm(dim=1) - 1).square().mean())

    linear = gradient_penalty((x @ w).unsqueeze(1), x)
    norm = math.sqrt(5.25)
    assert linear.item() == pytest.approx((norm - 1) ** 2)
    linear.backward()
    torch.testing.assert_close(w.grad, 2 * (norm - 1) / norm * w.detach())


def test_interpolates_are_on_the_line_between_each_pair() -> None:
    real, fake = (
        torch.randn(2000, 1, 2, 3, generator=_generator(1)),
        torch.randn(2000, 1, 2, 3, generator=_generator(2)),
    )
    torch.manual_seed(3)
    between = interpolates(real, fake, _generator())
    torch.manual_seed(4)
    assert torch.equal(between, interpolates(real, fake, _generator()))
    shares = ((between - fake) / (real - fake)).flatten(1).double().median(1).values
    line = torch.lerp(fake.double(), real.double(), shares.view(-1, 1, 1, 1))
    torch.testing.assert_close(between.double(), line, rtol=0, atol=1e-4)
    deciles = torch.histc(shares, 10, 0, 1)
    assert deciles.sum() == 2000
    assert (deciles - 200).abs().max() < 60  # uniform: four standard deviations


def test_weights_are_within_bounds_whenever_the_critic_is_used(digits: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(clipping=0.1)
    plain, widest = model.loss, []

    def watched(x: Tensor, y: Tensor, player: str, generator: torch.Generator) -> dict[str, Tensor]:
        widest.append(_widest(model))
        return plain(x, y, player, generator)

    monkeypatch.setattr(model, "loss", watched)
    data = ImageSet(digits[:320], torch.zeros(320, dtype=torch.long))
    fit(model, data, data, Train(epochs=3, batch_size=32, lr=0.05), 0, lambda _: None)
    # Turns: nine steps of two for the critic and one for the generator, and one whose operations are counted.
    assert len(widest) == 30
    assert max(*widest, _widest(model)) <= 0.1 * (1 + 1e-6)
    assert min(widest) > 0.0999  # it does push against them
    assert max(float(p.detach().abs().max()) for p in model.generator.parameters()) > 0.2


def _widest(model: Wgan) -> float:
    return max(float(p.detach().abs().max()) for p in model.critic.parameters())


def test_nothing_is_clipped_beside_a_penalty_or_after_the_generators_step() -> None:
    for model, player in ((_model(penalty=10.0), "critic"), (_model(clipping=0.1), "generator")):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(5)
        model.project(player)
        assert min(float(p.detach().min()) for p in model.parameters()) > 1


def test_penalised_critic_finds_the_distance_of_two_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between point masses d apart, the steepness s of least λ (s - 1)² - s d is 1 + d / 2λ, and the distance s d."""
    model = _model((1, 1, 2), 256, penalty=20.0, network="dense", channels=32)
    x = torch.tensor([[[[51, 204]]]], dtype=torch.uint8).expand(32, 1, 1, 2)
    other = torch.tensor([[[[0.5, 0.1]]]])
    apart = math.dist((51 / 127.5 - 1, 204 / 127.5 - 1), (0.5, 0.1))
    monkeypatch.setattr(model, "_fake", lambda n, _: other.expand(n, 1, 1, 2))
    optimiser, random = torch.optim.Adam(model.critic.parameters(), lr=0.01), _generator()
    found = []
    for _ in range(500):
        terms = model.loss(x, Y, "critic", random)
        optimiser.zero_grad()
        terms["loss"].backward()
        optimiser.step()
        found.append(terms["distance"].item())
    assert sum(found[-50:]) / 50 == pytest.approx(apart * (1 + apart / 40), rel=0.02)
    assert model.validate(x, Y, random)["distance"].item() == pytest.approx(found[-1], rel=0.05)


@pytest.mark.parametrize(("player", "other"), [("critic", "generator"), ("generator", "critic")])
def test_a_turn_reaches_its_player_alone(player: str, other: str) -> None:
    model = _model(penalty=10.0)
    model.players[other].requires_grad_(False)
    model.loss(_images(6), Y, player, _generator())["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in model.players[player].parameters())
    assert all(p.grad is None for p in model.players[other].parameters())


def test_the_critic_moves_first_and_several_times() -> None:
    assert _model(penalty=1.0, critic_steps=5).turns == ("critic",) * 5 + ("generator",)


def test_validation_is_the_energy_distance_of_what_is_shown(digits: Tensor) -> None:
    model = _model(penalty=1.0)
    shown = model.sample(1000, _generator())
    found = model.validate(digits[:200], Y, _generator())
    torch.testing.assert_close(found["loss"], energy_distance(digits[:200] / 16, shown / 16))
    assert set(found) == {"loss", "distance"}


def test_dense_network_takes_images_of_any_size() -> None:
    model = _model((3, 7, 5), 4, penalty=1.0, network="dense")
    x = torch.randint(0, 4, (6, 3, 7, 5), dtype=torch.uint8, generator=_generator(5))
    for player in model.turns:
        assert torch.isfinite(model.loss(x, Y, player, _generator())["loss"])
    assert model.sample(9, _generator()).shape == (9, 3, 7, 5)
    assert model.encode(x).shape == (6, 6)
