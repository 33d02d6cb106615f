"""Flow matching: the loss, the pairing, the solvers and the density, against closed forms and brute force."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor
from torchdiffeq import odeint

from workflow.models import flow_matching
from workflow.models.flow_matching import FlowMatching, Pairing, optimal_pairs
from workflow.models.layers.ode import (
    Solver,
    Velocity,
    ascending_times,
    divergence,
    quadrature,
    runge_kutta_step,
    solver_step,
    to_noise,
    travel,
)

SHAPE = (1, 2, 2)
MEAN = torch.tensor([0.5, -0.2, 0.1, 0.9], dtype=torch.float64)
FACTOR = torch.tensor(
    [[0.7, 0.0, 0.0, 0.0], [0.3, 0.4, 0.0, 0.0], [-0.2, 0.1, 0.5, 0.0], [0.1, 0.2, 0.3, 0.6]], dtype=torch.float64
)
COVARIANCE = FACTOR @ FACTOR.T


def _generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def _gaussian_velocity(x: Tensor, t: float) -> Tensor:
    """E[x_1 - x_0 | x_t = x] for independent x_0 ~ N(0, 1) and x_1 ~ N(MEAN, COVARIANCE): linear in x."""
    one = torch.eye(4, dtype=torch.float64)
    together, alone = t * COVARIANCE - (1 - t) * one, t**2 * COVARIANCE + (1 - t) ** 2 * one
    gain: Tensor = together @ torch.linalg.inv(alone)
    return (MEAN + (x.flatten(1) - t * MEAN) @ gain.T).view_as(x)


def _flow(x: Tensor) -> Tensor:
    """Where that velocity takes x from time 0 to time 1: to MEAN + COVARIANCE^½ x, (N, 4)."""
    values, vectors = torch.linalg.eigh(COVARIANCE)
    root: Tensor = vectors @ values.sqrt().diag() @ vectors.T
    return MEAN + x.flatten(1) @ root


def _noise(n: int) -> Tensor:
    return torch.randn(n, *SHAPE, dtype=torch.float64, generator=_generator(1))


def _model(
    shape: tuple[int, int, int] = (1, 4, 4),
    *,
    pairing: Pairing = "independent",
    solver: Solver = "euler",
    sampling_steps: int = 3,
    density_steps: int = 8,
    samples: int = 1,
    alpha: float = 0.0,
) -> FlowMatching:
    """A model in double precision whose velocity is far from that of an untrained one."""
    torch.manual_seed(1)
    model = FlowMatching(
        shape, 17, channels=8, dropout=0.1, solver=solver, sampling_steps=sampling_steps, density_steps=density_steps,
        dequantisation_samples=samples, pairing=pairing, alpha=alpha,
    )  # fmt: skip
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape)).mul_(0.7)
    return model.double().eval()


def _images(model: FlowMatching, n: int) -> Tensor:
    return torch.randint(model.levels, (n, *model.shape), dtype=torch.uint8, generator=_generator(2))


def test_the_steps_go_from_noise_to_data_and_become_shorter() -> None:
    times = ascending_times(4)
    assert times == [0, 7 / 16, 3 / 4, 15 / 16, 1]
    assert ascending_times(1) == [0, 1]


@pytest.mark.parametrize("power", [0, 1, 2, 4])
def test_the_quadrature_integrates_polynomials_exactly(power: int) -> None:
    rule = quadrature(5)
    assert sum(weight * t**power for t, weight in rule) == pytest.approx(1 / (power + 1), abs=1e-14)
    assert [t for t, _ in rule] == sorted((t for t, _ in rule), reverse=True)


STEPS: dict[str, Callable[[Velocity, Tensor, float, float], Tensor]] = {
    "Euler": lambda v, x, t, s: solver_step(v, x, t, s, "euler"),
    "midpoint": lambda v, x, t, s: solver_step(v, x, t, s, "midpoint"),
    "Runge-Kutta": runge_kutta_step,
}


def _order(step: Callable[[Velocity, Tensor, float, float], Tensor], velocity: Velocity, end: Tensor) -> float:
    """By how many powers of two the error shrinks if steps are halved."""
    errors = []
    for steps in (40, 80):
        x = _noise(20)
        for t, s in itertools.pairwise(torch.linspace(0, 1, steps + 1).tolist()):
            x = step(velocity, x, t, s)
        errors.append((x.flatten(1) - end).norm().item())
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize(("name", "order"), [("Euler", 1), ("midpoint", 2), ("Runge-Kutta", 4)])
def test_solvers_have_their_order(name: str, order: int) -> None:
    """dx/dt = cos(t) x takes x to x exp(sin 1)."""
    end = _noise(20).flatten(1) * math.exp(math.sin(1))
    assert _order(STEPS[name], lambda x, t: math.cos(t) * x, end) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("name", "order"), [("Euler", 1), ("midpoint", 3), ("Runge-Kutta", 4)])
def test_solvers_converge_to_the_flow_of_a_gaussian(name: str, order: int) -> None:
    """The variance at time t is a polynomial of degree 2, for which the midpoint method gains an order.

    With a = q'/2q for such a variance q, the leading term of its error, (a'' + 2aa')/24 + a(a' + a²)/6, vanishes.
    """
    assert _order(STEPS[name], _gaussian_velocity, _flow(_noise(20))) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("solver", "steps", "tolerance"), [("euler", 100, 0.03), ("midpoint", 20, 0.005)])
def test_a_models_samples_have_the_mean_and_covariance_of_the_data(
    solver: Solver, steps: int, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that steps can get wrong of a linear flow is where they take the origin and the unit vectors."""
    model = _model(solver=solver, sampling_steps=steps)
    monkeypatch.setattr(model, "velocity", _gaussian_velocity)
    monkeypatch.setattr(model, "shape", SHAPE)
    origin, *units = model.inverse(torch.cat([torch.zeros(1, 4), torch.eye(4)]).double()) * 2 - 1
    factor = torch.stack(units) - origin
    torch.testing.assert_close(origin, MEAN, rtol=0, atol=tolerance)
    torch.testing.assert_close(factor.T @ factor, COVARIANCE, rtol=0, atol=tolerance)


def test_the_density_of_a_gaussian_is_its_own() -> None:
    x = _flow(_noise(20)).view(-1, *SHAPE)
    expected = stats.multivariate_normal(MEAN.numpy(), COVARIANCE.numpy()).logpdf(x.flatten(1).numpy())
    errors = []
    for nodes in (6, 12, 24, 48):
        h, integral = to_noise(_gaussian_velocity, x, nodes)
        log_prob = stats.norm.logpdf(h.flatten(1).numpy()).sum(1) - integral.numpy()
        errors.append(np.abs(log_prob - expected).max())
    assert errors[0] < 0.05
    assert errors[-1] < 1e-5
    assert all(math.log2(a / b) > 3 for a, b in itertools.pairwise(errors[1:]))


@torch.no_grad()
def test_a_models_density_is_that_of_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data in [-1, 1] are Gaussian, and so are the pixels, on half the scale; the cells have volume 17⁻⁴."""
    model = _model(density_steps=32)
    monkeypatch.setattr(model, "velocity", _gaussian_velocity)
    monkeypatch.setattr(model, "shape", SHAPE)
    x = _images(model, 10)
    used, expected = _generator(), _generator()
    pixels = stats.multivariate_normal((MEAN.numpy() + 1) / 2, COVARIANCE.numpy() / 4)
    drawn = (x + torch.rand(x.shape, generator=expected)) / 17
    log_density = pixels.logpdf(drawn.flatten(1).double().numpy())
    torch.testing.assert_close(
        model.log_prob(x, used), torch.from_numpy(log_density) - 4 * math.log(17), rtol=0, atol=1e-4
    )


@torch.no_grad()
def test_noise_and_density_are_those_of_torchdiffeq() -> None:
    """An adaptive solver of fifth order follows the image and the integral of the trace of autograd's Jacobian."""
    model = _model((1, 4, 4), density_steps=32)
    y = torch.rand(1, 16, dtype=torch.float64, generator=_generator(3))
    x, change = model.scale[-1](y)

    def rate(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        def velocity(flat: Tensor) -> Tensor:
            return model.velocity(flat.view(1, 1, 4, 4), float(t)).flatten()

        with torch.enable_grad():
            jacobian = torch.autograd.functional.jacobian(velocity, state[0], vectorize=True)
        return velocity(state[0]), jacobian.trace()

    ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
    start = (x.flatten(), torch.zeros((), dtype=torch.float64))
    noise, integral = (path[-1] for path in odeint(rate, start, ends, rtol=1e-5, atol=1e-5))
    h, log_determinant = model.forward(y)
    torch.testing.assert_close(h[0], noise, rtol=0, atol=1e-3)
    torch.testing.assert_close(log_determinant[0], change[0] + integral, rtol=0, atol=5e-3)


@pytest.mark.parametrize("alpha", [0.0, 0.01])
def test_the_log_determinant_is_that_of_autograds_jacobian(alpha: float) -> None:
    model = _model(alpha=alpha, density_steps=8)
    y = torch.rand(1, 16, dtype=torch.float64, generator=_generator())
    _, log_determinant = model(y)
    jacobian = torch.autograd.functional.jacobian(lambda v: model(v.unsqueeze(0))[0].squeeze(0), y[0])
    torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_determinant[0], rtol=0, atol=0.02)
    assert (jacobian - torch.diag(jacobian.diag())).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 4, 4)], ids=["grey", "colour"])
def test_the_divergence_is_the_trace_of_autograds_jacobian(shape: tuple[int, int, int]) -> None:
    model = _model(shape).to(memory_format=torch.channels_last)
    x = torch.randn(2, *shape, dtype=torch.float64, generator=_generator()).to(memory_format=torch.channels_last)
    with torch.no_grad():
        found = divergence(model.velocity, x, 0.4)
    for one, trace in zip(x, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v: model.velocity(v.unsqueeze(0), 0.4).flatten(), one)
        torch.testing.assert_close(jacobian.flatten(1).trace(), trace)


def test_the_mean_of_hutchinsons_estimates_is_the_trace() -> None:
    """Over all sixteen sign vectors, each as probable as any other."""
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)), dtype=torch.float64).view(-1, *SHAPE)
    x = _noise(1).expand(16, -1, -1, -1)
    estimates = divergence(_gaussian_velocity, x, 0.6, signs)
    torch.testing.assert_close(estimates.mean(), divergence(_gaussian_velocity, x[:1], 0.6)[0])
    assert estimates.std() > 0.1


@torch.no_grad()
def test_an_estimated_log_likelihood_is_right_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(density_steps=3)
    monkeypatch.setattr(model, "dequantised", lambda x, _: ((x + 0.5) / 17).flatten(1))
    x = _images(model, 1)
    exact = model.log_prob(x, _generator())
    monkeypatch.setattr(flow_matching, "EXACT_UP_TO", 0)
    estimates = model.log_prob(x.expand(400, -1, -1, -1), _generator())
    assert estimates.std() > 0.01
    assert stats.ttest_1samp(estimates.numpy(), exact.item()).pvalue > 0.01
    assert "estimated without bias" in model.note


def test_estimates_are_averaged_as_logarithms_and_exact_densities_as_densities(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of densities whose logarithms are noisy would exceed the density."""
    model = _model(samples=3, density_steps=2)
    draws = torch.tensor([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0]], dtype=torch.float64)
    for shape, expected in (((1, 8, 8), math.log((math.e + math.e**3 + math.e**5) / 3)), ((1, 8, 12), 3.0)):
        rows = iter(draws)
        monkeypatch.setattr(model, "shape", shape)
        monkeypatch.setattr(model, "_log_prob_given_noise", lambda *_, rows=rows: next(rows))
        assert model.log_prob(_images(model, 2), _generator()).tolist() == pytest.approx([expected, 2.0])


def test_the_signs_are_fair_and_one_vector_serves_all_times() -> None:
    model = _model((1, 12, 8))
    probe = model._probe(500, _generator())
    assert probe is not None
    assert set(probe.flatten().tolist()) == {-1.0, 1.0}
    assert abs(probe.mean().item()) < 3 / math.sqrt(probe.numel())
    assert _model()._probe(5, _generator()) is None


def test_optimal_pairs_are_those_that_no_permutation_beats() -> None:
    for seed in range(20):
        noise, images = (torch.randn(5, 1, 2, 3, generator=_generator(2 * seed + i)) for i in range(2))
        costs = {
            order: (noise[list(order)] - images).square().sum().item() for order in itertools.permutations(range(5))
        }
        assert tuple(optimal_pairs(noise, images).tolist()) == min(costs, key=costs.__getitem__)


def test_pairing_changes_neither_the_noise_nor_the_images() -> None:
    images = torch.randn(40, 1, 4, 4, dtype=torch.float64, generator=_generator(5))
    independent, _ = _model().paired(images, _generator())
    optimal, same = _model(pairing="optimal").paired(images, _generator())
    assert same is images
    assert not torch.equal(optimal, independent)
    assert sorted(optimal.flatten(1).tolist()) == sorted(independent.flatten(1).tolist())
    assert (optimal - images).square().sum() < 0.9 * (independent - images).square().sum()


@torch.no_grad()
@pytest.mark.parametrize("pairing", ["independent", "optimal"])
def test_the_loss_is_the_halved_squared_error_of_the_velocity(pairing: Pairing) -> None:
    model, n = _model(pairing=pairing), 6
    x = _images(model, n)
    found = model.loss(x, torch.zeros(n), "model", _generator(3))["loss"].item()

    random = _generator(3)
    data = (x + torch.rand(x.shape, generator=random)).double() / 17 * 2 - 1
    noise = torch.randn(data.shape, generator=random, dtype=torch.float64)
    if pairing == "optimal":
        noise = noise[optimal_pairs(noise, data)]
    within = torch.rand(n, generator=random, dtype=torch.float64)
    total = 0.0
    for i in range(n):
        t = (i + within[i].item()) / n
        v = model.velocity((1 - t) * noise[i : i + 1] + t * data[i : i + 1], t)
        total += 0.5 * float((v - data[i] + noise[i]).square().sum())
    assert found == pytest.approx(total / n, rel=1e-6)


def test_the_velocity_of_least_loss_is_the_gaussians(monkeypatch: pytest.MonkeyPatch) -> None:
    """No multiple of the closed form has a lower loss on Gaussian data."""
    model, losses = _model(), []
    images = _flow(_noise(500)).view(-1, *SHAPE)
    for factor in (0.8, 1.0, 1.2):
        monkeypatch.setattr(model, "_velocity", _scaled_velocity(factor))
        losses.append(model._matching([model.paired(images, _generator())], _generator(1))["loss"].item())
    assert losses[1] < min(losses[0], losses[2])


def _scaled_velocity(factor: float) -> Callable[[Tensor, Tensor], Tensor]:
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        each = zip(x.split(1), t.tolist(), strict=True)
        return torch.cat([factor * _gaussian_velocity(one, time) for one, time in each])

    return velocity


@torch.no_grad()
def test_a_single_step_is_the_mean_of_the_data_that_the_noise_points_at() -> None:
    model = _model(sampling_steps=1)
    h = torch.randn(3, 16, dtype=torch.float64, generator=_generator())
    x = h + model.velocity(h.view(3, 1, 4, 4), 0.0).flatten(1)
    torch.testing.assert_close(model.inverse(h), (x + 1) / 2)
    assert (model.passes_in_sequence, _model(solver="midpoint", sampling_steps=4).passes_in_sequence) == (1, 8)


@torch.no_grad()
def test_images_come_back_from_their_noise_however_few_steps_samples_take() -> None:
    model = _model(sampling_steps=1, alpha=0.01)
    a, b = _images(model, 8).chunk(2)
    walk = model.interpolate(a, b, 5)
    assert torch.equal(walk[:, 0], a)
    assert torch.equal(walk[:, -1], b)


def test_travelling_back_undoes_the_way() -> None:
    x, times = _noise(4), ascending_times(32)
    there = travel(_gaussian_velocity, x, times)
    torch.testing.assert_close(there.flatten(1), _flow(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(travel(_gaussian_velocity, there, times[::-1]), x, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_solvers_error_is_measured_and_stated() -> None:
    """Against the likelihood with twice the steps, with the same noise in the pixels."""
    model = _model(density_steps=2)
    assert "bound holds" not in model.note
    x = _images(model, 5)
    model.finish(x, torch.zeros(5), _generator())
    coarse = model.log_prob(x, _generator())
    model.density_steps = 4
    change = (model.log_prob(x, _generator()) - coarse) / (16 * math.log(2))
    assert model.solver_error.item() == pytest.approx(change.square().mean().sqrt().item(), rel=1e-6)
    assert f"bits/dim changes by ±{model.solver_error.item():.1g} " in model.note
    assert "Samples take 3 steps of the euler method" in model.note
    assert "its divergence is exact" in model.note
