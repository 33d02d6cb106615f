"""The training loop, watched through models so small that every number is known beforehand."""

import itertools
import math
import os
import subprocess
import sys
import termios
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from workflow.data.tensors import ImageSet
from workflow.errors import BakeoffError
from workflow.evaluation.classifier import one_cycle
from workflow.models import registry
from workflow.models.base import Model
from workflow.params import Train
from workflow.random_streams import Stream, make_generator
from workflow.training.checkpoint import CheckpointFile
from workflow.training.history import Record
from workflow.training.loop import PROGRESS, fit
from workflow.training.optimizer import AdamW
from workflow.training.validation import Fitted

IMAGES = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1)  # each one is known by its only pixel
LR = 0.01


class Slope(Model):
    """One weight w and the loss slope(call) · w. Adam moves w by exactly the learning rate if the slope is constant."""

    def __init__(self, slope: Callable[[int], float] = lambda _: 1.0) -> None:
        super().__init__((1, 1, 1), 256)
        self.w = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.slope = slope
        self.seen: list[Tensor] = []  # x of each turn
        self.weights: list[float] = []  # w before each turn
        self.gradients: list[float] = []  # what each turn stepped on
        self.modes: list[bool] = []
        self.initialised: list[Tensor] = []
        self.calibrated: list[tuple[Tensor, float]] = []  # x, w
        self.projected: list[float] = []  # w after each turn
        self.drawn: list[float] = []  # w at each snapshot

    def initialise(self, x: Tensor, generator: Generator) -> None:
        assert not self.seen
        self.initialised.append(x)

    def calibrate(self, x: Tensor, generator: Generator) -> None:
        self.calibrated.append((x, self.w.item()))

    def project(self, player: str) -> None:
        assert player == "model"
        self.projected.append(self.w.item())
        assert self.w.grad is not None
        self.gradients.append(self.w.grad.item())

    def sample(self, n: int, generator: Generator) -> Tensor:
        assert not self.training
        self.drawn.append(self.w.item())
        return torch.randint(256, (n, 1, 1, 1), generator=generator, dtype=torch.uint8)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        assert torch.equal(x[:, 0, 0, 0].long(), y)
        self.seen.append(x)
        self.weights.append(self.w.item())
        self.modes.append(self.training)
        return {"loss": self.slope(len(self.seen)) * self.w.sum(), "pixel": x.double().mean()}

    def validate(self, x: Tensor, y: Tensor, generator: Generator) -> dict[str, Tensor]:
        assert torch.equal(x[:, 0, 0, 0].long(), y)
        self.modes.append(self.training)
        noise = torch.rand(1, generator=generator)
        return {"loss": self.w.detach().sum(), "pixel": x.double().mean(), "noise": noise.sum()}


class Duel(Model):
    """Two players with a weight each; both losses depend on both weights."""

    def __init__(self) -> None:
        super().__init__((1, 1, 1), 256)
        self.left, self.right = nn.Linear(1, 1), nn.Linear(1, 1)
        self.before: list[tuple[str, float, float]] = []

    @property
    def players(self) -> dict[str, nn.Module]:
        return {"left": self.left, "right": self.right}

    @property
    def turns(self) -> tuple[str, ...]:
        return ("left", "left", "right")

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        other = self.right if player == "left" else self.left
        assert all(p.requires_grad for p in self.players[player].parameters())
        assert not any(p.requires_grad for p in other.parameters())
        self.before.append((player, self.left.weight.item(), self.right.weight.item()))
        return {"loss": (self.left(x.float()) - self.right(x.float())).square().mean()}

    def sample(self, n: int, generator: Generator) -> Tensor:
        return torch.zeros(n, 1, 1, 1, dtype=torch.uint8)

    def validate(self, x: Tensor, y: Tensor, generator: Generator) -> dict[str, Tensor]:
        return {"loss": self.left.weight.detach().sum()}


class Line(Model):
    """One matrix product of 12 numbers with 5 rows of weights, after dropout."""

    def __init__(self) -> None:
        super().__init__((1, 1, 1), 256)
        self.line = nn.Linear(12, 5, bias=False)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        noise = torch.randn(len(x), 12, generator=generator)
        return {"loss": self.line(nn.functional.dropout(noise, 0.5, self.training)).square().mean()}

    def sample(self, n: int, generator: Generator) -> Tensor:
        return torch.zeros(n, 1, 1, 1, dtype=torch.uint8)


def _set(images: Tensor) -> ImageSet:
    """Images labelled with their pixel, by which each is known."""
    return ImageSet(images, images[:, 0, 0, 0].long())


def _train(**options: Any) -> Train:
    return Train(**{"epochs": 2, "batch_size": 8, "lr": LR, **options})


def _fit(model: Model, valid: Tensor = IMAGES[:6], seed: int = 0, **options: Any) -> tuple[Fitted, list[Record]]:
    history: list[Record] = []
    return fit(model, _set(IMAGES), _set(valid), _train(**options), seed, history.append), history


def test_the_progress_bar_goes_to_the_terminal_beside_a_log(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    screen, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    monkeypatch.setenv(PROGRESS, str(terminal))
    fit(Line(), _set(IMAGES), _set(IMAGES[:6]), _train(), 0, lambda _: None, "line seed 0")
    shown = b""
    while b"line seed 0: 100%" not in shown:  # what has been written may come in parts
        shown += os.read(screen, 100_000)
    os.close(terminal)
    fit(Line(), _set(IMAGES), _set(IMAGES[:6]), _train(), 0, lambda _: None, "line seed 0")  # no terminal: no bar
    assert capfd.readouterr().err == ""
    os.close(screen)


# A step on 8 images, 5 of them an epoch: 2 · 8 · 12 · 5 operations forwards, and as many for the weights' gradient.
STEP = 2 * 2 * 8 * 12 * 5 / 1e9


@pytest.mark.parametrize(("budget", "steps"), [(0.1, 1), (3, 3), (7.4, 7), (7.6, 8), (60, 60)])
def test_a_budget_is_spent_on_the_nearest_number_of_steps(budget: float, steps: int) -> None:
    fitted, history = _fit(Line(), epochs=None, gflops=budget * STEP)
    assert fitted.steps == steps
    assert fitted.gflops == pytest.approx(steps * STEP)
    validated = [line["step"] for line in history if "valid_loss" in line]
    assert validated == sorted({*range(5, steps + 1, 5), steps})  # at the end of each epoch, and at the end
    assert history[-2]["step"] == steps  # the losses since the last record are not lost
    assert history[-1]["epoch"] == steps / 5


def test_counting_the_operations_of_a_step_changes_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, _ = _fit(Line())
    monkeypatch.setattr("workflow.training.steps.Steps._cost", lambda _: 1)
    torch.manual_seed(0)
    plain, _ = _fit(Line())
    assert torch.equal(counted.state["line.weight"], plain.state["line.weight"])


def test_a_budget_counts_the_turns_of_all_players() -> None:
    fitted, _ = _fit(Duel(), epochs=None, gflops=1e-9)
    # Two turns of the one, one of the other; in each, both lines compute, and one of them its gradient. One step.
    assert fitted.gflops == pytest.approx(3 * (2 + 1) * 2 * 8 / 1e9)


def test_a_budget_needs_something_to_count() -> None:
    with pytest.raises(BakeoffError, match=r"train\.gflops: a step of this model has no matrix product"):
        _fit(Slope(), epochs=None, gflops=1.0)


def _moves(model: Slope) -> list[float]:
    """How far w went in each turn, in learning rates."""
    path = [*model.weights, model.w.item()]
    return [(a - b) / LR for a, b in itertools.pairwise(path)]


def _cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


@pytest.mark.parametrize(
    ("options", "factors"),
    [
        ({}, [1.0] * 10),
        ({"eps": 3.0}, [0.25] * 10),  # a slope of 1 over 1 + eps
        ({"warmup": 0.4}, [0.25, 0.5, 0.75, *[1.0] * 7]),
        ({"schedule": "cosine"}, [_cosine((step - 1) / 9) for step in range(1, 11)]),
        (
            {"schedule": "cosine", "warmup": 0.4},
            [0.25, 0.5, 0.75, *[_cosine((step - 4) / 6) for step in range(4, 11)]],
        ),
    ],
    ids=["constant", "eps", "warm-up", "cosine", "both"],
)
def test_steps_follow_eps_and_the_schedule(options: dict[str, Any], factors: list[float]) -> None:
    model = Slope()
    _fit(model, **options)
    assert _moves(model) == pytest.approx(factors, abs=1e-5)


def test_average_of_weights_is_what_is_validated_and_returned() -> None:
    model = Slope()
    fitted, history = _fit(model, ema=0.9)
    w = [*model.weights[1:], model.w.item()]
    average = w[0]
    expected = []
    for step, value in enumerate(w, 1):
        average = average if step == 1 else 0.9 * average + 0.1 * value
        expected += [average] if step % 5 == 0 else []
    assert [line["valid_loss"] for line in history if "valid_loss" in line] == pytest.approx(expected)
    assert fitted.state["w"].item() == pytest.approx(expected[-1])
    assert model.w.item() == pytest.approx(-10 * LR)  # the model itself ends where the last step took it


def test_gradients_are_clipped_to_the_norm_and_their_norm_is_logged() -> None:
    def slope(call: int) -> float:
        return 100.0 if call == 3 else 0.5

    clipped, free = Slope(slope), Slope(slope)
    _, history = _fit(clipped, clip=2.0)
    _fit(free)
    assert clipped.gradients == pytest.approx([0.5, 0.5, 2.0, *[0.5] * 7], abs=1e-5)
    assert free.gradients == [0.5, 0.5, 100.0, *[0.5] * 7]
    assert max(line["gradient_norm"] for line in history if "gradient_norm" in line) > 2


def test_the_best_epoch_on_the_validation_images_is_returned() -> None:
    model = Slope(lambda call: 1.0 if call <= 10 else -1.0)  # w falls for two epochs, then rises
    fitted, history = _fit(model, epochs=4, betas=(0.01, 0.01))
    losses = {line["step"]: line["valid_loss"] for line in history if "valid_loss" in line}
    assert list(losses) == [5, 10, 15, 20]
    assert (fitted.step, fitted.steps) == (10, 20)
    assert fitted.valid_loss == losses[10] == min(losses.values())
    assert fitted.state["w"].item() == fitted.valid_loss
    assert model.w.item() > fitted.valid_loss


def test_an_epoch_visits_every_image_at_most_once_and_each_in_a_new_order() -> None:
    model = Slope()
    _fit(model, epochs=3, batch_size=12)
    epochs = [torch.cat(model.seen[i : i + 3]).flatten().tolist() for i in (0, 3, 6)]
    assert len(model.seen) == 9
    for epoch in epochs:
        assert len(epoch) == len(set(epoch)) == 36  # of 40: the incomplete batch is left out
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert set().union(*epochs) == set(range(40))  # but not the same images each time


class Binary(Model):
    """Sees pixels that are black or white; has no weights to speak of."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__((1, 20, 20), 2)
        self.w, self.stop_at = nn.Parameter(torch.zeros(1)), stop_at
        self.seen: list[Tensor] = []

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        if len(self.seen) == self.stop_at:
            raise KeyboardInterrupt
        self.seen.append(x[y.argsort()])
        return {"loss": self.w.sum()}

    def validate(self, x: Tensor, y: Tensor, generator: Generator) -> dict[str, Tensor]:
        return {"loss": self.w.detach().sum()}

    def sample(self, n: int, generator: Generator) -> Tensor:
        return torch.zeros(n, 1, 20, 20, dtype=torch.uint8)


def test_binary_images_are_drawn_anew_for_each_batch_and_the_same_again_after_a_stop(tmp_path: Path) -> None:
    brightness = torch.tensor([0, 51, 204, 255], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 20, 20)
    images = ImageSet(torch.zeros(4, 1, 20, 20, dtype=torch.uint8), torch.arange(4), brightness)
    settings = Train(epochs=50, batch_size=4, lr=0.1, valid_every=50)

    def train(model: Binary, file: CheckpointFile | None = None) -> Binary:
        fit(model, images, images, settings, 0, lambda _: None, file=file)
        return model

    whole = torch.stack(train(Binary()).seen)  # (50, 4, 1, 20, 20)
    assert len({draw.numpy().tobytes() for draw in whole[:, 1]}) == 50
    share = whole.double().mean((0, 2, 3, 4))
    assert share[[0, 3]].tolist() == [0, 1]
    assert share[1:3].tolist() == pytest.approx([0.2, 0.8], abs=4 * (0.16 / 20_000) ** 0.5)

    def file() -> CheckpointFile:
        return CheckpointFile(tmp_path / "state", "key", every=0)

    stopped = Binary(stop_at=29)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, file())
    resumed = train(Binary(), file())
    seen = torch.stack([*stopped.seen[: 50 - len(resumed.seen)], *resumed.seen])
    assert 0 < len(resumed.seen) < 50
    assert torch.equal(seen, whole)


def test_a_batch_larger_than_the_data_is_all_of_it() -> None:
    model = Slope()
    _fit(model, batch_size=1000)
    assert [sorted(x.flatten().tolist()) for x in model.seen] == [list(range(40))] * 2


def test_each_turn_moves_its_player_alone_on_fresh_images() -> None:
    torch.manual_seed(0)
    model = Duel()
    _, history = _fit(model, batch_size=4)
    assert [player for player, _, _ in model.before] == ["left", "left", "right"] * 6  # 40 // (4 · 3) steps an epoch
    path = [*model.before, ("", model.left.weight.item(), model.right.weight.item())]
    for (player, left, right), (_, next_left, next_right) in itertools.pairwise(path):
        assert (left != next_left) == (player == "left")
        assert (right != next_right) == (player == "right")
    assert {"left_loss", "right_loss"} <= set(history[0])
    assert all(p.requires_grad for p in model.parameters())


def test_validation_averages_over_all_images_with_the_same_noise_each_time() -> None:
    model = Slope()
    valid = torch.arange(600).remainder(250).to(torch.uint8).view(600, 1, 1, 1)  # batches of 256, 256 and 88
    _, history = _fit(model, valid)
    lines = [line for line in history if "valid_loss" in line]
    assert [line["valid_pixel"] for line in lines] == pytest.approx([valid.double().mean().item()] * 2)
    assert lines[0]["valid_noise"] == lines[1]["valid_noise"]
    assert model.modes == [*[True] * 5, *[False] * 3] * 2


def test_validates_as_often_as_asked_and_always_at_the_end() -> None:
    _, history = _fit(Slope(), epochs=5, valid_every=2)
    assert [line["epoch"] for line in history if "valid_loss" in line] == [2, 4, 5]


def test_history_has_means_since_the_last_line() -> None:
    model = Slope()
    _, history = _fit(model, epochs=1)
    lines = [line for line in history if "loss" in line]
    assert [line["step"] for line in lines] == [2, 4, 5]
    assert [line["epoch"] for line in lines] == pytest.approx([0.4, 0.8, 1.0])
    pixels = [x.double().mean().item() for x in model.seen]
    expected = [(pixels[0] + pixels[1]) / 2, (pixels[2] + pixels[3]) / 2, pixels[4]]
    assert [line["pixel"] for line in lines] == pytest.approx(expected)


def test_calibrates_on_all_training_images_before_each_validation_and_projects_after_each_step() -> None:
    model = Slope()
    _fit(model, epochs=3)
    assert [w for _, w in model.calibrated] == model.projected[4::5] == pytest.approx([-5 * LR * k for k in (1, 2, 3)])
    assert all(torch.equal(x, IMAGES) for x, _ in model.calibrated)
    assert len(model.projected) == 15


class Finished(Slope):
    """Its best weights are not its last: the loss falls for seven steps and then rises. w + 1 is fitted to them."""

    fitted: Tensor

    def __init__(self) -> None:
        super().__init__(lambda call: 1.0 if call <= 7 else -3.0)
        self.register_buffer("fitted", torch.zeros(1, dtype=torch.float64))

    def finish(self, x: Tensor, y: Tensor, generator: Generator) -> None:
        assert not self.training
        assert torch.equal(x, IMAGES)
        assert torch.equal(y, IMAGES.flatten().long())
        assert not self.fitted
        self.fitted.copy_(self.w + 1 + torch.rand(1, generator=generator))


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_what_is_fitted_in_the_end_is_fitted_to_the_best_weights_alone(ema: float) -> None:
    model = Finished()
    fitted, _ = _fit(model, epochs=3, ema=ema)
    assert fitted.step < 15
    noise = torch.rand(1, generator=make_generator(torch.device("cpu"), 0, Stream.FINISH))
    assert fitted.state["fitted"].item() == pytest.approx((fitted.state["w"] + 1 + noise).item())
    assert not model.fitted  # the model that was trained stays as it was


@pytest.mark.parametrize(("epochs", "expected"), [(3, [0, 1, 2, 3]), (80, range(0, 81, 10))])
def test_draws_samples_over_training_from_the_same_noise(epochs: int, expected: Sequence[int]) -> None:
    """One before the first step, and up to eight at evenly spaced validations; an epoch has five steps."""
    model = Slope()
    fitted, _ = _fit(model, epochs=epochs)
    assert list(fitted.snapshot_steps) == [5 * epoch for epoch in expected]
    assert model.drawn == pytest.approx([-LR * step for step in fitted.snapshot_steps])
    assert (fitted.snapshots.shape, fitted.snapshots.dtype) == ((len(expected), 1024, 1, 1, 1), torch.uint8)
    assert (fitted.snapshots == fitted.snapshots[0]).all()


def test_initialises_once_before_the_first_step() -> None:
    model = Slope()
    _fit(model)
    assert len(model.initialised) == 1
    assert torch.equal(model.initialised[0], IMAGES)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_one_clear_line(bad: float) -> None:
    with pytest.raises(
        BakeoffError, match=r"^training diverged: loss is -?\w+ at step 3; try train.lr below 0.01"
    ) as error:
        _fit(Slope(lambda call: bad if call == 3 else 1.0))
    assert "\n" not in str(error.value)


NICE = {"prior": "logistic", "couplings": 2, "width": 16, "depth": 1, "dropout": 0.2, "dequantisation_samples": 1}


def _fit_nice(digits: Tensor, seed: int = 0, draws: int = 0, **options: Any) -> tuple[Fitted, list[Record]]:
    model = registry.build("nice", (1, 8, 8), 17, NICE)
    torch.rand(draws)  # what other code draws must not matter
    history: list[Record] = []
    return fit(
        model, _set(digits[:256]), _set(digits[256:356]), _train(batch_size=32, **options), seed, history.append
    ), history


@pytest.mark.parametrize("options", [{}, {"ema": 0.9, "clip": 10.0, "schedule": "cosine"}], ids=["plain", "options"])
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(digits: Tensor, options: dict[str, Any]) -> None:
    first, history = _fit_nice(digits, **options)
    again, history_again = _fit_nice(digits, draws=7, **options)
    other, _ = _fit_nice(digits, seed=1, **options)
    assert all(torch.equal(first.state[key], again.state[key]) for key in first.state)
    assert history == history_again
    assert not all(torch.equal(first.state[key], other.state[key]) for key in first.state)


def test_bf16_trains_with_half_the_bits_and_keeps_full_weights(digits: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[bool, torch.dtype]] = []
    forward = nn.Linear.forward

    def watch(self: nn.Linear, x: Tensor) -> Tensor:
        out = forward(self, x)
        used.append((self.training, out.dtype))
        return out

    monkeypatch.setattr(nn.Linear, "forward", watch)
    full, _ = _fit_nice(digits, epochs=4)
    assert {dtype for _, dtype in used} == {torch.float32}
    used.clear()
    half, history = _fit_nice(digits, epochs=4, bf16=True)
    assert {dtype for training, dtype in used[used.index((True, torch.bfloat16)) :] if training} == {torch.bfloat16}
    assert {dtype for training, dtype in used if not training} == {torch.float32}
    assert {value.dtype for value in half.state.values()} == {torch.float32}
    losses = [line["valid_loss"] for line in history if "valid_loss" in line]
    assert losses[-1] < losses[0] - 5
    assert half.valid_loss == pytest.approx(full.valid_loss, rel=0.02)


def _parameters() -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(0)
    sizes: list[tuple[int, ...]] = [(5, 7), (3,), (), (2, 3, 4, 4)]
    return [nn.Parameter(torch.randn(size, generator=random)) for size in sizes]


def _give_gradients(parameters: list[nn.Parameter], step: int) -> None:
    """Random ones, the same for the same step; the second parameter has none in the first and the fourth step."""
    random = torch.Generator().manual_seed(step)
    for i, parameter in enumerate(parameters):
        gradient = torch.randn(parameter.shape, generator=random)
        laid_out = torch.empty_like(parameter).copy_(gradient)  # as the backward pass does it
        parameter.grad = None if i == 1 and step % 3 == 0 else laid_out


@pytest.mark.parametrize(
    ("betas", "eps", "weight_decay"),
    [((0.9, 0.999), 1e-8, 0.0), ((0.0, 0.99), 1e-4, 0.1), ((0.5, 0.9), 1e-1, 1e-4)],
)
def test_the_optimiser_comes_to_the_bytes_of_torchs_own(
    betas: tuple[float, float], eps: float, weight_decay: float
) -> None:
    """With another learning rate each time, and from the fourth step on with its state in a new one.

    The convolution's weights are in another memory format than torch's, and the state comes in neither's.
    """
    ours, theirs = _parameters(), _parameters()
    ours[-1].data = ours[-1].data.to(memory_format=torch.channels_last)
    optimiser = AdamW(ours)
    reference = torch.optim.AdamW(theirs, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
    for step in range(8):
        if step == 3:
            state = {i: {k: v.contiguous() for k, v in one.items()} for i, one in optimiser.state.items()}
            optimiser = AdamW(ours)
            optimiser.restore(state)
        _give_gradients(ours, step)
        _give_gradients(theirs, step)
        reference.param_groups[0]["lr"] = LR / (1 + step)
        optimiser.step(LR / (1 + step), betas, weight_decay, eps)
        reference.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    expected = reference.state_dict()["state"]
    assert set(optimiser.state) == set(expected)
    for i, moments in expected.items():
        assert set(optimiser.state[i]) == set(moments)
        assert all(torch.equal(optimiser.state[i][name], moments[name]) for name in moments)


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 460])
def test_one_cycle_is_torchs(steps: int) -> None:
    optimiser = torch.optim.AdamW(_parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, total_steps=steps)
    expected = []
    for _ in range(steps):
        expected.append((optimiser.param_groups[0]["lr"], optimiser.param_groups[0]["betas"][0]))
        optimiser.step()
        schedule.step()
    assert list(one_cycle(LR, steps)) == expected


COMPILER = """
import sys
import torch
from workflow.evaluation.classifier import fit_classifier
from workflow.data.tensors import ImageSet
from workflow.models import registry
from workflow.params import Extractor, Train
from workflow.training.loop import fit

images = ImageSet(torch.arange(64 * 64).remainder(17).byte().view(64, 1, 8, 8), torch.arange(64) % 4)
hyperparameters = {"latents": 2, "channels": 4, "features": 4, "objective": "minimax", "critic_steps": 1, "r1": 0.1}
settings = Train(epochs=2, batch_size=32, lr=0.01, ema=0.9, clip=1.0)
fit(registry.build("gan", (1, 8, 8), 17, hyperparameters), images, images, settings, 0, lambda record: None)
classifier = Extractor(channels=4, features=4, dropout=0.1, epochs=1, batch_size=32, lr=0.01, seeds=[0])
fit_classifier(images, images, 17, 4, classifier, torch.device("cpu"), seed=0)
print("torch._dynamo" in sys.modules, "sympy" in sys.modules)
"""


def test_training_does_not_load_the_compiler() -> None:
    """It takes twice as long as torch itself does to be loaded, in each process, and is not used."""
    done = subprocess.run([sys.executable, "-c", COMPILER], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
