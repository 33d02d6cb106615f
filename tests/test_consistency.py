"""Consistency distillation: against Gaussian data, for which the flow, its ends and the teacher have closed forms."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Generator, Tensor, nn
from torchdiffeq import odeint

from workflow.models.consistency import Consistency, between

SHAPE = (1, 2, 2)
MEAN = torch.tensor([0.5, -0.2, 0.1, 0.4], dtype=torch.float64)
FACTOR = torch.tensor(
    [[0.7, 0.0, 0.0, 0.0], [0.3, 0.4, 0.0, 0.0], [-0.2, 0.1, 0.5, 0.0], [0.1, 0.2, 0.3, 0.6]], dtype=torch.float64
)
COVARIANCE = FACTOR @ FACTOR.T
VARIANCES, AXES = torch.linalg.eigh(COVARIANCE)


def _generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def _model(*, steps: int = 5, sampling_steps: int = 1, decay: float = 0.9) -> Consistency:
    """A model in double precision whose networks are far from untrained ones."""
    torch.manual_seed(1)
    model = Consistency(
        (1, 4, 4), 17, channels=8, steps=steps, sampling_steps=sampling_steps, target_decay=decay
    ).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model.eval()


def _along(x: Tensor, gains: Tensor) -> Tensor:
    """MEAN, and what x differs by from it, multiplied by the gain, (N, 4) or (4,), of each axis of COVARIANCE."""
    stretched: Tensor = (x.flatten(1) - MEAN) @ AXES * gains @ AXES.T
    return (MEAN + stretched).view_as(x)


class Gaussian(Consistency):
    """Knows the data to be N(MEAN, COVARIANCE): both networks are replaced by what they should learn."""

    def __init__(self, steps: int, sampling_steps: int = 1) -> None:
        super().__init__((1, 4, 4), 17, channels=8, steps=steps, sampling_steps=sampling_steps, target_decay=0.9)
        self.double()
        self.shape = SHAPE

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t = x]."""
        return _along(x, VARIANCES / (VARIANCES + t.view(-1, 1).square()))

    def consistent(self, x: Tensor, t: Tensor, weights: dict[str, Tensor] | None = None) -> Tensor:
        """On the flow, distances from the mean are as the standard deviations of x_t."""
        first = self.times[0].square()
        return _along(x, ((VARIANCES + first) / (VARIANCES + t.view(-1, 1).square())).sqrt())


def _gaussian_data(n: int) -> tuple[Tensor, Tensor]:
    x, z = torch.randn(2, n, 4, dtype=torch.float64, generator=_generator(1))
    return (MEAN + x @ FACTOR.T).view(-1, *SHAPE), z.view(-1, *SHAPE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_has_no_noise_stays_as_it_is_to_the_last_bit(dtype: torch.dtype) -> None:
    model = _model().to(dtype)
    x = torch.randn(50, 1, 4, 4, dtype=dtype, generator=_generator())
    assert torch.equal(model.consistent(x, model.times[0].expand(50)), x)
    assert not torch.allclose(model.consistent(x, model.times[1].expand(50)), x, atol=0.1)


def test_the_scales_of_the_student_are_those_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network whose output is 1, from two inputs: c_skip and c_out of appendix C, and c_in of Karras et al."""
    model, t, inputs = _model(), torch.tensor([0.03125, 0.2, 1.7, 11.0], dtype=torch.float64), list[Tensor]()

    class One(nn.Module):
        def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
            inputs.append(x)
            return torch.ones_like(x)

    monkeypatch.setattr(model, "teacher", One())
    monkeypatch.setattr(model, "student_weights", dict)
    zero, one = (model.consistent(torch.full((4, 1, 4, 4), v).double(), t)[:, 0, 0, 0] for v in (0.0, 1.0))
    for place, (level, out, both) in enumerate(zip(t.tolist(), zero.tolist(), one.tolist(), strict=True)):
        after = level - 0.03125  # a quarter of the distance of two of 17 levels in [-1, 1]
        assert out == pytest.approx(0.5 * after / math.hypot(0.5, level), abs=1e-7)  # times have single precision
        assert both - out == pytest.approx(0.25 / (after**2 + 0.25))
        assert inputs[1][place, 0, 0, 0].item() == pytest.approx(1 / math.hypot(0.5, level))


def test_times_are_those_of_the_paper() -> None:
    """Its ε and T for CIFAR-10, and equal steps of the seventh root."""
    model = Consistency((3, 32, 32), 256, channels=4, steps=17, sampling_steps=1, target_decay=0.0)
    assert model.times[0].item() == pytest.approx(0.00196, abs=1e-5)
    assert model.times[-1].item() == pytest.approx(80)
    roots = model.times.double() ** (1 / 7)
    torch.testing.assert_close(roots.diff(), roots.diff()[:1].expand(17), rtol=1e-4, atol=0)
    assert between(1.0, 128.0, torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([1, 1.5**7, 128])


def test_the_teachers_loss_is_the_squared_error_of_a_network_with_outputs_of_variance_one() -> None:
    """Karras et al. 2022, eq. 8: the network's target is (x_0 - c_skip x_t) / c_out."""
    model = _model()
    x, z = torch.randn(2, 30, 1, 4, 4, dtype=torch.float64, generator=_generator())
    t = between(0.05, 20.0, torch.linspace(0, 1, 30).double())
    wide = t.view(-1, 1, 1, 1)
    x_t, total = x + wide * z, wide.square() + 0.25
    target = (x - 0.25 / total * x_t) / (0.5 * wide / total.sqrt())
    output = model.teacher(x_t / total.sqrt(), 6 * t.log(), None)
    expected = 0.5 * (output - target).square().flatten(1).sum(1)
    torch.testing.assert_close(model.denoising_error(x, z, t), expected)
    drawn = 0.5 * torch.randn(50_000, generator=_generator(2)).double().view(-1, 1, 1, 1)
    noise, at = torch.randn(drawn.shape, generator=_generator(3)).double(), torch.tensor(1.3).double()
    seen = drawn + at * noise
    wanted = (drawn - 0.25 / (at**2 + 0.25) * seen) / (0.5 * at / (at**2 + 0.25).sqrt())
    assert wanted.var().item() == pytest.approx(1, abs=0.02)  # of images of the standard deviation assumed


def test_a_step_of_the_solver_has_second_order_and_follows_the_flow_of_the_teacher() -> None:
    """The end is that of torchdiffeq's solver, and of the closed form."""
    model, x = Gaussian(5), 4 * _gaussian_data(20)[1]
    start, end = torch.tensor(4.0).double(), torch.tensor(0.05).double()

    def slope(t: Tensor, x: Tensor) -> Tensor:
        return (x - model.denoise(x, t.expand(len(x)))) / t

    exact = odeint(slope, x, torch.stack([start, end]), rtol=1e-10, atol=1e-12)[-1]
    gains = ((VARIANCES + end.square()) / (VARIANCES + start.square())).sqrt()
    torch.testing.assert_close(_along(x, gains), exact, rtol=0, atol=1e-8)
    errors = []
    for steps in (40, 80):
        found = x
        for t, s in pairwise(between(0.05, 4.0, torch.linspace(1, 0, steps + 1).double())):
            found = model.flow_step(found, t.expand(20), s.expand(20))
        errors.append((found - exact).norm().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)


def test_neighbours_agree_where_the_student_is_right_but_for_the_solver_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, z = _gaussian_data(200)

    def disagreement(steps: int) -> Tensor:
        i = torch.arange(200) % steps + 1
        return Gaussian(steps).disagreement(x, z, i).mean()

    few, many = disagreement(80), disagreement(160)
    assert few < 1e-8
    assert math.log2(few / many) == pytest.approx(6, abs=0.3)  # the square of an error of third order in one step
    for power in (0.9, 1.1, 2.0):  # the last is the denoiser, and all are right where there is no noise

        def wrong(model: Gaussian, x: Tensor, t: Tensor, _: object = None, power: float = power) -> Tensor:
            gains = (VARIANCES + model.times[0].square()) / (VARIANCES + t.view(-1, 1).square())
            return _along(x, gains ** (power / 2))

        monkeypatch.setattr(Gaussian, "consistent", wrong)
        assert disagreement(80) > 1000 * few


def test_what_the_student_has_to_agree_with_has_no_gradient_and_follows_its_weights() -> None:
    model = _model(decay=0.75)
    x, z = torch.randn(2, 12, 1, 4, 4, dtype=torch.float64, generator=_generator())
    i = torch.arange(12) % 5 + 1
    t, s = model.times[i], model.times[i - 1]
    with torch.no_grad():
        x_t = x + t.view(-1, 1, 1, 1) * z
        goal = model.consistent(model.flow_step(x_t, t, s), s, model._target_weights())
    weights = list(model.changes)
    expected = torch.autograd.grad(0.5 * (model.consistent(x_t, t) - goal).square().sum(), weights)
    model.disagreement(x, z, i).sum().backward()
    for weight, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)
    assert all(weight.grad is None for weight in model.teacher.parameters())
    images, before = torch.zeros(4, 1, 4, 4, dtype=torch.uint8), model.target.clone()
    model.loss(images, images, "student", _generator())
    assert torch.equal(model.target, before)  # not training
    pairs = zip(model.teacher.parameters(), weights, strict=True)
    now = torch.cat([(weight + change).detach().flatten() for weight, change in pairs])
    model.train().loss(images, images, "student", _generator())
    torch.testing.assert_close(model.target, 0.75 * before + 0.25 * now)
    model.loss(images, images, "teacher", _generator())
    torch.testing.assert_close(model.target, 0.75 * before + 0.25 * now)


@pytest.mark.parametrize("sampling_steps", [1, 2, 5])
def test_samples_of_the_right_student_are_the_data(sampling_steps: int) -> None:
    """A pass takes the covariance C to that times the squares of the gains, along each axis, and the mean likewise."""
    model, n = Gaussian(5, sampling_steps), 40_000
    drawn = model.generate(n, _generator()).flatten(1)
    variance, offset = torch.zeros(4).double(), -MEAN @ AXES  # of what is drawn from the mean, along the axes
    for place in {1: [5], 2: [5, 2], 5: [5, 4, 3, 2, 1]}[sampling_steps]:
        t, first = model.times[place].square(), model.times[0].square()
        gains = (VARIANCES + first) / (VARIANCES + t)
        variance, offset = gains * (variance + t - (0 if place == 5 else first)), gains.sqrt() * offset
    error = (VARIANCES.max() / n).sqrt().item()
    torch.testing.assert_close(drawn.mean(0), MEAN + offset @ AXES.T, rtol=0, atol=4 * error)
    torch.testing.assert_close(drawn.T.cov(), AXES @ variance.diag() @ AXES.T, rtol=0, atol=5 * error)
    torch.testing.assert_close(AXES @ variance.diag() @ AXES.T, COVARIANCE, rtol=0, atol=0.03)
    assert offset.norm() < {1: 0.15, 2: 0.1, 5: 0.02}[sampling_steps]


def test_more_sampling_steps_than_the_solver_has_are_refused() -> None:
    with pytest.raises(ValueError, match="sampling_steps 6 exceeds steps"):
        _model(steps=5, sampling_steps=6)
