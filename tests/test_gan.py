"""GAN: the losses of the paper, the penalty, whose turn it is, and the distance that chooses the checkpoint."""

import itertools
from collections.abc import Iterable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from workflow.data.tensors import ImageSet
from workflow.models.gan import (
    Gan,
    Objective,
    OfFakes,
    accuracy,
    critic_loss,
    generator_loss,
    gradient_penalty,
    relativistic_loss,
)
from workflow.models.layers.adversarial import energy_distance
from workflow.params import Train
from workflow.training.loop import fit

Y = torch.empty(0, dtype=torch.long)  # classes, which a model of p(x) does not look at

REAL, FAKE = torch.tensor([[2.0], [-1.0], [0.5]]), torch.tensor([[-3.0], [1.5], [-0.2]])


def _model(
    objective: Objective = "non-saturating",
    critic_steps: int = 1,
    r1: float = 0.0,
    classes: int = 0,
    unrolled_steps: int = 0,
    unrolled_lr: float = 0.0,
    r2: float = 0.0,
) -> Gan:
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
        classes=classes,
        unrolled_steps=unrolled_steps,
        unrolled_lr=unrolled_lr,
        r2=r2,
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
def test_only_the_minimax_objective_saturates_where_the_critic_is_sure(objective: OfFakes, slope: float) -> None:
    logit = torch.tensor([[-30.0]], requires_grad=True)
    generator_loss(logit, objective).backward()
    assert logit.grad is not None
    assert abs(logit.grad.item() - slope) < 1e-6


def test_extreme_logits_keep_the_losses_finite() -> None:
    huge = torch.tensor([[1e4], [-1e4]])
    assert torch.isfinite(critic_loss(huge, huge))
    assert torch.isfinite(generator_loss(huge, "minimax"))


def test_relativistic_loss_and_its_gradient_are_those_of_the_paper() -> None:
    """Huang et al. 2024, eq. 2: f(D(G(z)) - D(x)) with f(t) = -log(1 + exp(-t)), of pairs; its slope by hand."""
    real, fake = REAL.double().requires_grad_(), FAKE.double().requires_grad_()
    difference = (real - fake).detach()
    for mine, loss, sign in ((real, relativistic_loss(real, fake), 1), (fake, relativistic_loss(fake, real), -1)):
        torch.testing.assert_close(loss, (1 + (-sign * difference).exp()).log().mean())
        (slope,) = torch.autograd.grad(loss, mine)
        torch.testing.assert_close(slope, -1 / (1 + (sign * difference).exp()) / 3)
    assert torch.isfinite(relativistic_loss(torch.tensor([[-1e4]]), torch.tensor([[1e4]])))


def test_the_relativistic_game_is_about_pairs_of_a_real_and_a_fake_image() -> None:
    model = _model("relativistic", r1=2.0, r2=6.0).double()
    x = _images(6)
    noise = torch.randn(6, 4, generator=_generator()).double()
    real = (x.double() / 8 - 1).requires_grad_()
    fake = model.generator(noise).detach().requires_grad_()
    on_real, on_fake = model.critic(real), model.critic(fake)
    terms = model.loss(x, Y, "critic", _generator())
    slopes = [torch.autograd.grad(out.sum(), images)[0] for out, images in ((on_real, real), (on_fake, fake))]
    r1, r2 = (slope.square().sum() / 6 for slope in slopes)
    expected = -(on_real - on_fake).sigmoid().log().mean() + 1.0 * r1 + 3.0 * r2
    torch.testing.assert_close(terms["r1"], r1, rtol=1e-5, atol=0)  # images are made floats of single precision
    torch.testing.assert_close(terms["r2"], r2, rtol=1e-5, atol=0)
    torch.testing.assert_close(terms["loss"], expected, rtol=1e-5, atol=0)
    assert terms["accuracy"] == (on_real > on_fake).double().mean()
    of_generator = -(on_fake - on_real).sigmoid().log().mean()
    torch.testing.assert_close(model.loss(x, Y, "generator", _generator())["loss"], of_generator, rtol=1e-5, atol=0)
    assert [name for name, _ in model.critic[-1].named_parameters()] == ["weight"]  # a bias would cancel
    assert (model.title, "𝔼ₓ,z" in model.objective) == ("GAN (relativistic, R1, R2)", True)


@pytest.mark.parametrize("objective", ["non-saturating", "relativistic"])
def test_both_penalties_and_all_slopes_of_the_critic_equal_finite_differences(objective: Objective) -> None:
    """Of the penalties over every pixel, of the loss along a random direction of the critic's weights."""
    model = _model(objective, r1=0.7, classes=3, r2=1.9).double()
    x, y, step = _images(6), torch.arange(6) % 3, 1e-6
    terms = model.loss(x, y, "critic", _generator())
    with torch.no_grad():
        for name, images in (("r1", x.double() / 8 - 1), ("r2", model._fake(6, y, _generator()))):
            slopes = [
                (model._logit(images + step * unit, y, {}) - model._logit(images - step * unit, y, {})) / (2 * step)
                for unit in torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8)
            ]
            expected = torch.cat(slopes, 1).square().sum(1).mean()
            torch.testing.assert_close(terms[name], expected, rtol=1e-5, atol=0)
    weights = list(model.critic.parameters())
    direction = [torch.randn(p.shape, generator=_generator(1)).double() for p in weights]
    terms["loss"].backward()
    slope = sum(float((p.grad * d).sum()) for p, d in zip(weights, direction, strict=True) if p.grad is not None)
    sides = []
    for move in (step, -2 * step):
        with torch.no_grad():
            for p, d in zip(weights, direction, strict=True):
                p.add_(move * d)
        sides.append(model.loss(x, y, "critic", _generator())["loss"].item())
    assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(slope, rel=1e-4)


def test_relativistic_accuracy_is_the_share_of_all_pairs_of_a_class(
    digits: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _model("relativistic", classes=2)
    values = iter([torch.tensor([[1.0], [5.0], [3.0]]), torch.tensor([[0.0], [4.0], [2.0], [6.0]])])
    monkeypatch.setattr(model, "_logit", lambda *_: next(values))
    monkeypatch.setattr("workflow.models.gan.VALIDATION_SAMPLES", 4)  # of classes 0, 1, 0, 1
    validated = model.validate(digits[:3], torch.tensor([0, 1, 0]), _generator())
    assert validated["accuracy"].item() == pytest.approx(4 / 6)  # 1 > 0; 5 > 4; 3 > 0 and 3 > 2
    assert {"loss", "accuracy"} == set(validated)


@pytest.mark.parametrize("objective", ["minimax", "non-saturating"])
def test_model_plays_its_objective_on_its_own_samples(objective: OfFakes) -> None:
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


def _dense(shape: tuple[int, int, int], levels: int, unrolled_steps: int = 0, r1: float = 0.0) -> Gan:
    torch.manual_seed(0)
    return Gan(
        shape, levels, latents=3, channels=7, features=5, objective="non-saturating", critic_steps=1, r1=r1,
        unrolled_steps=unrolled_steps, unrolled_lr=0.3 if unrolled_steps else 0.0, network="dense",
    )  # fmt: skip


def _points(n: int) -> Tensor:
    return torch.randint(0, 256, (n, 1, 1, 2), dtype=torch.uint8, generator=_generator(5))


def _by_hand(w: list[Tensor], x: Tensor) -> Tensor:
    """The dense critic's logits, written out."""
    hidden = F.leaky_relu(x.flatten(1) @ w[0].T + w[1], 0.2)
    hidden = F.leaky_relu(hidden @ w[2].T + w[3], 0.2)
    return hidden @ w[4].T + w[5]


@pytest.mark.parametrize("steps", [0, 2])
def test_the_generators_gradient_goes_through_the_unrolled_steps(steps: int) -> None:
    """Against both steps written out, and without unrolling against none."""
    model = _dense((1, 1, 2), 256, steps).double()
    x = _points(9)
    noise = torch.randn(9, 3, generator=_generator()).double()
    real, fake = x.double() / 127.5 - 1, model.generator(noise)

    zero = [p.detach().clone().requires_grad_() for p in model.critic.parameters()]
    one = two = zero
    if steps:
        d_real, d_fake = _by_hand(zero, real).sigmoid(), _by_hand(zero, fake).sigmoid()
        first = torch.autograd.grad(-(d_real.log() + (1 - d_fake).log()).mean(), zero, create_graph=True)
        one = [p - 0.3 * g for p, g in zip(zero, first, strict=True)]
        d_real, d_fake = _by_hand(one, real).sigmoid(), _by_hand(one, fake).sigmoid()
        second = torch.autograd.grad(-(d_real.log() + (1 - d_fake).log()).mean(), one, create_graph=True)
        two = [p - 0.3 * g for p, g in zip(one, second, strict=True)]
    loss = -_by_hand(two, fake).sigmoid().log().mean()
    if steps:
        loss = loss + _by_hand(two, real).sigmoid().log().mean()
    expected = torch.autograd.grad(loss, list(model.generator.parameters()), retain_graph=True)
    if steps:  # what one would get if the critic's next steps did not answer the generator
        deaf = -_by_hand([p.detach() for p in two], fake).sigmoid().log().mean()
        short = torch.autograd.grad(deaf, list(model.generator.parameters()))
        assert all((a - b).norm() > 0.02 * a.norm() for a, b in zip(expected, short, strict=True))

    found = model.loss(x, Y, "generator", _generator())["loss"]
    torch.testing.assert_close(found, loss, rtol=1e-6, atol=0)  # images are made floats of single precision
    found.backward()
    for parameter, gradient in zip(model.generator.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("objective", "r2"), [("minimax", 0.0), ("non-saturating", 0.0), ("non-saturating", 0.8), ("relativistic", 0.8)]
)
def test_unrolled_gradient_of_the_whole_model_equals_finite_differences(objective: Objective, r2: float) -> None:
    """Convolutions, classes and the penalties in every step; along a random direction of all generator weights."""
    model = _model(objective, r1=0.5, classes=3, unrolled_steps=3, unrolled_lr=0.2, r2=r2).double()
    x, y = _images(6), torch.arange(6) % 3
    weights = list(model.generator.parameters())
    direction = [torch.randn(p.shape, generator=_generator(1)).double() for p in weights]
    model.loss(x, y, "generator", _generator())["loss"].backward()
    slope = sum(float((p.grad * d).sum()) for p, d in zip(weights, direction, strict=True) if p.grad is not None)
    sides = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for p, d in zip(weights, direction, strict=True):
                p.add_(step * d)
        sides.append(model.loss(x, y, "generator", _generator())["loss"].item())
    assert (sides[0] - sides[1]) / 2e-6 == pytest.approx(slope, rel=1e-4)


def test_unrolling_leaves_the_critic_as_it_is() -> None:
    model = _model(r1=0.1, unrolled_steps=3, unrolled_lr=0.5)
    model.critic.requires_grad_(False)  # as in the generator's turn
    before = [p.clone() for p in model.critic.parameters()]
    model.loss(_images(6), Y, "generator", _generator())["loss"].backward()
    assert all(torch.equal(p, q) for p, q in zip(model.critic.parameters(), before, strict=True))
    assert all(p.grad is None and not p.requires_grad for p in model.critic.parameters())
    assert all(p.grad is not None and p.grad.any() for p in model.generator.parameters())
    plain = _model(r1=0.1)
    for name in ("critic", "generator"):
        same = (
            model.loss(_images(6), Y, name, _generator())["loss"]
            == plain.loss(_images(6), Y, name, _generator())["loss"]
        )
        assert same == (name == "critic")


@pytest.mark.parametrize(("steps", "rate"), [(3, 0.0), (0, 0.1)])
def test_unrolling_by_half_is_refused(steps: int, rate: float) -> None:
    with pytest.raises(ValueError, match="unrolled_steps and unrolled_lr go together"):
        _model(unrolled_steps=steps, unrolled_lr=rate)


@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 7, 5)])
def test_dense_network_takes_images_of_any_size(shape: tuple[int, int, int]) -> None:
    model = _dense(shape, 256, r1=0.1)
    x = torch.randint(0, 256, (6, *shape), dtype=torch.uint8, generator=_generator(5))
    for player in model.turns:
        assert torch.isfinite(model.loss(x, Y, player, _generator())["loss"])
    samples = model.sample(400, _generator())
    assert samples.shape == (400, *shape)
    assert len(samples.unique()) > 20
    assert model.encode(x).shape == (6, 5)
    torch.testing.assert_close(_by_hand(list(model.critic.parameters()), x / 127.5 - 1), model.critic(x / 127.5 - 1))


def test_conditional_critic_adds_the_projection_of_the_class() -> None:
    """Eq. 3 of Miyato & Koyama: ψ(φ(x)) + v_y · φ(x), whose features do not depend on the class."""
    model = _model(classes=3)
    x, y = _images(6), torch.tensor([0, 1, 2, 2, 1, 0])
    last = model.critic[-1]
    assert isinstance(last, torch.nn.Linear)

    def logits(features: Tensor) -> Tensor:
        rows = zip(features, y.tolist(), strict=True)
        return torch.stack([(last.weight[[0, 1 + k]] @ phi + last.bias[[0, 1 + k]]).sum() for phi, k in rows])

    noise = torch.cat([torch.randn(6, 4, generator=_generator()), torch.eye(3)[y]], 1)
    on_real, on_fake = logits(model.encode(x)), logits(model.critic[:-1](model.generator(noise)))
    torch.testing.assert_close(model.loss(x, y, "critic", _generator())["loss"], critic_loss(on_real, on_fake))
    torch.testing.assert_close(
        model.loss(x, y, "generator", _generator())["loss"], generator_loss(on_fake, "non-saturating")
    )


def test_conditional_samples_are_of_classes_as_frequent_as_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(classes=3)
    drawn: list[Tensor] = []
    plain = model.sample_given

    def watched(y: Tensor, generator: torch.Generator) -> Tensor:
        drawn.append(y)
        return plain(y, generator)

    monkeypatch.setattr(model, "sample_given", watched)
    assert model.sample(900, _generator()).shape == (900, 1, 8, 8)
    assert (torch.bincount(drawn[0], minlength=3) - 300).abs().max() < 60
    y = torch.tensor([1, 1])
    assert torch.equal(model.sample_given(y, _generator()), model.sample_given(y, _generator()))
    assert not torch.equal(model.sample_given(y, _generator()), model.sample_given(y + 1, _generator()))


def test_conditional_validation_sees_images_of_the_wrong_class(
    digits: Tensor, digit_labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real images under their labels, or under those of others, which are the same images all in all."""
    model = _model(classes=10)
    order = torch.randperm(len(digits), generator=_generator())
    x, y = digits[order[:200]], digit_labels[order[:200]]
    pool, labels = digits[order[200:]], digit_labels[order[200:]]

    def validated(shift: int) -> float:
        def real(n: int, given: Tensor, generator: torch.Generator) -> Tensor:
            found = [pool[labels == (k + shift) % 10] for k in range(10)]
            turn = {k: itertools.cycle(found[k]) for k in range(10)}
            return torch.stack([next(turn[k]) for k in given.tolist()]).float() / 8 - 1

        monkeypatch.setattr(model, "_fake", real)
        return model.validate(x, y, _generator())["loss"].item()

    right = validated(0)
    assert abs(right) < 0.02
    assert validated(1) > 10 * abs(right)


def test_label_steers_a_trained_conditional_model(digits: Tensor, digit_labels: Tensor) -> None:
    torch.manual_seed(0)
    model = Gan(
        (1, 8, 8), 17, latents=8, channels=64, features=32, objective="non-saturating", critic_steps=1, r1=0.1,
        classes=10, network="dense",
    )  # fmt: skip
    settings = Train(epochs=20, batch_size=32, lr=0.004, betas=(0.0, 0.99), valid_every=20)
    train, valid = ImageSet(digits[:1400], digit_labels[:1400]), ImageSet(digits[1400:], digit_labels[1400:])
    fit(model, train, valid, settings, 0, lambda _: None)
    means = torch.stack([train.images[train.labels == k].float().mean(0).flatten() for k in range(10)])
    y = torch.arange(500) % 10
    nearest = torch.cdist(model.eval().sample_given(y, _generator()).flatten(1).float(), means).argmin(1)
    assert (nearest == y).float().mean() > 0.6  # a tenth by chance, about 0.9 of the real digits
