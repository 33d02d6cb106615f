"""Variational diffusion: the bound depends on the ends of the schedule alone, and is tight where the truth is known."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Normal, kl_divergence

from workflow.models.layers.common import to_unit
from workflow.models.layers.learned_schedule import LearnedSchedule
from workflow.models.vdm import Vdm

ENDS = (-6.0, 4.0)
MEAN, SPREAD = 0.1, 0.25  # of the Gaussian data whose best noise prediction is known


class Shaped(nn.Module):
    """A schedule between the same ends with any rise from 0 to 1."""

    def __init__(self, rise: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.ends = nn.Parameter(torch.tensor(ENDS, dtype=torch.float64))
        self.of = rise

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            t = t.detach().requires_grad_()
            rise = self.of(t)
            (slope,) = torch.autograd.grad(rise.sum(), t)
        start, end = ENDS
        return start + (end - start) * rise.detach(), (end - start) * slope


SHAPES = {
    "straight": Shaped(lambda t: t),
    "bent": Shaped(lambda t: (t + 2 * t**3) / 3),
    "steep in the middle": Shaped(lambda t: 0.3 * t + 0.7 * (1 - (math.pi * t).cos()) / 2),
}


def _generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def _tiny(levels: int = 17, sampling_steps: int = 50, bound_times: int = 20, schedule: str = "") -> Vdm:
    """A model with an untrained network, all of it in double precision."""
    torch.manual_seed(1)
    model = Vdm(
        (1, 4, 4), levels, channels=8, dropout=0.1, sampling_steps=sampling_steps, bound_times=bound_times
    ).double()
    if schedule:
        model.schedule = SHAPES[schedule]  # type: ignore[assignment]
    return model.eval()


def _images(n: int, levels: int = 17) -> Tensor:
    return torch.randint(0, levels, (n, 1, 4, 4), dtype=torch.uint8, generator=_generator(7))


def _normal(*size: int, seed: int = 3) -> Tensor:
    return torch.randn(size, dtype=torch.float64, generator=_generator(seed))


def _diffusion_term(model: Vdm, x_0: Tensor, t: Tensor, noise: Tensor, clip: bool = True) -> Tensor:
    gamma, speed = model.schedule(t)
    return model.diffusion_term(x_0, gamma, speed, noise, clip)


def _scales(gamma: Tensor) -> tuple[Tensor, Tensor]:
    """α and σ from the signal-to-noise ratio e^−γ and α² + σ² = 1."""
    snr = (-gamma).exp().view(-1, 1, 1, 1)
    return (snr / (1 + snr)).sqrt(), (1 / (1 + snr)).sqrt()


def _knows_the_gaussian(z: Tensor, gamma: Tensor) -> Tensor:
    """The expected noise in z of data N(MEAN, SPREAD²)."""
    alpha, sigma = _scales(gamma)
    return sigma * (z - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2)


def _knows_two_levels(z: Tensor, gamma: Tensor) -> Tensor:
    """The expected noise in z of pixels that are -1 or 1, equally often."""
    alpha, sigma = _scales(gamma)
    return (z - alpha * (alpha * z / sigma**2).tanh()) / sigma


def test_schedule_rises_between_its_ends_at_the_slope_that_it_says() -> None:
    schedule = LearnedSchedule(-7.0, 5.0).double()
    with torch.no_grad():
        for parameter in (schedule.log_heights, schedule.log_slopes, schedule.offsets):
            parameter.add_(torch.randn(parameter.shape, generator=_generator(), dtype=torch.float64))
    t = torch.linspace(0, 1, 101, dtype=torch.float64, requires_grad=True)
    gamma, slope = schedule(t)
    assert gamma[[0, -1]].tolist() == pytest.approx([-7, 5])
    assert (gamma.diff() > 0).all()
    assert slope.max() > 2 * slope.min()  # far from straight
    torch.testing.assert_close(slope, torch.autograd.grad(gamma.sum(), t)[0])


def test_schedule_starts_nearly_straight() -> None:
    _, slope = LearnedSchedule(-7.0, 5.0)(torch.linspace(0, 1, 101))
    assert slope.min() > 6
    assert slope.max() < 18


def test_bound_of_a_network_depends_on_the_ends_of_the_schedule_alone() -> None:
    """The integral over time of the same network's terms with the same noise, by the midpoint rule."""
    n = 400
    t = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    x_0, noise = to_unit(_images(1), 17).double().expand(n, -1, -1, -1), _normal(1, 1, 4, 4).expand(n, -1, -1, -1)
    found, terms = [], []
    for name in SHAPES:
        model = _tiny(schedule=name)
        with torch.no_grad():
            terms.append(_diffusion_term(model, x_0, t, noise))
        found.append(terms[-1].mean().item())
    assert (terms[0] / terms[1]).max() > 2  # time by time, they differ
    assert found == pytest.approx([found[0]] * 3, rel=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_diffusion_term_of_gaussian_data_is_known_from_the_ends(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """½ ∫ γ'(t) E‖ε − ε̂‖² dt = ½ ∫ s² / (s² + e^γ) dγ for the variance s² of the data, in nats per pixel."""
    model, n = _tiny(schedule=name), 40_000
    monkeypatch.setattr(model, "predict", _knows_the_gaussian)
    t = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    x_0 = MEAN + SPREAD * _normal(n, 1, 4, 4)
    found = _diffusion_term(model, x_0, t, _normal(n, 1, 4, 4, seed=4), clip=False) / 16
    start, end = (gamma - math.log(SPREAD**2 + math.exp(gamma)) for gamma in ENDS)
    assert found.mean().item() == pytest.approx((end - start) / 2, abs=4 * found.std().item() / math.sqrt(n))
    assert found.std().item() / math.sqrt(n) < 0.02


@pytest.mark.parametrize("name", ["straight", "bent"])
def test_bound_is_the_entropy_if_the_network_is_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pixels with two levels: 1 bit each, but for the little that q(z_1|x) differs from the prior by."""
    model = _tiny(2, bound_times=100, schedule=name)
    monkeypatch.setattr(model, "predict", _knows_two_levels)
    with torch.no_grad():
        bits = -model.log_prob(_images(3000, 2), _generator()) / (16 * math.log(2))
    error = bits.std().item() / math.sqrt(3000)
    alpha, sigma = (scale.item() for scale in _scales(torch.tensor(ENDS[1:], dtype=torch.float64)))
    z = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    mixture = (Normal(alpha, sigma).log_prob(z).exp() + Normal(-alpha, sigma).log_prob(z).exp()) / 2
    mismatch = torch.trapezoid(mixture * (mixture.log() - Normal(0.0, 1.0).log_prob(z)), z).item() / math.log(2)
    assert bits.mean().item() == pytest.approx(1 + mismatch, abs=4 * error)
    assert error < 0.003


def test_many_steps_of_discrete_time_approach_the_bound_from_above() -> None:
    """The sum of the divergences of q(z_s|z_t, x) from p(z_s|z_t), Gaussians that are conditioned on z_t here."""
    model, x_0, noise = _tiny(schedule="bent"), to_unit(_images(1), 17).double(), _normal(1, 1, 4, 4)

    def steps(count: int) -> float:
        gammas, _ = SHAPES["bent"](torch.linspace(0, 1, count + 1, dtype=torch.float64))
        total = 0.0
        for s, t in itertools.pairwise(gammas):
            (alpha_s, sigma_s), (alpha_t, sigma_t) = _scales(s), _scales(t)
            z = alpha_t * x_0 + sigma_t * noise
            with torch.no_grad():
                believed = ((z - sigma_t * model.predict(z, t.view(1))) / alpha_t).clamp(-1, 1)
            covariance = alpha_t / alpha_s * sigma_s**2  # of z_s and z_t given x
            gain, deviation = covariance / sigma_t**2, (sigma_s**2 - covariance**2 / sigma_t**2).sqrt()
            means = [alpha_s * end + gain * (z - alpha_t * end) for end in (x_0, believed)]
            total += kl_divergence(*(Normal(mean, deviation) for mean in means)).sum().item()
        return total

    t = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    with torch.no_grad():
        many = (400, -1, -1, -1)
        limit = _diffusion_term(model, x_0.expand(many), t, noise.expand(many)).mean().item()
    few, more = steps(25), steps(200)
    assert few > more > limit
    assert more == pytest.approx(limit, rel=0.05)
    assert (few - limit) / (more - limit) == pytest.approx(8, rel=0.3)  # the excess falls with the length of a step


def test_terms_of_the_ends_are_those_of_their_gaussians() -> None:
    model, x, noise = _tiny(schedule="straight"), _images(6), _normal(6, 1, 4, 4)
    x_0 = to_unit(x, 17).double()
    (alpha_0, sigma_0), (alpha_1, sigma_1) = (_scales(torch.tensor([gamma], dtype=torch.float64)) for gamma in ENDS)
    prior = kl_divergence(Normal(alpha_1 * x_0, sigma_1.expand_as(x_0)), Normal(0.0, 1.0)).sum((1, 2, 3))
    level = to_unit(torch.arange(17), 17).double().view(17, 1, 1, 1, 1)
    each = Normal(alpha_0 * level, sigma_0).log_prob(alpha_0 * x_0 + sigma_0 * noise)  # q(z_0|x) at every level
    chosen = each.gather(0, x.long()[None])[0] - each.logsumexp(0)
    with torch.no_grad():
        torch.testing.assert_close(model.prior_term(x_0), prior)
        torch.testing.assert_close(model.reconstruction_term(x, noise), -chosen.sum((1, 2, 3)))


def test_bound_is_the_sum_of_its_terms_at_stratified_times() -> None:
    model, x, generator = _tiny(bound_times=3), _images(5), _generator(2)
    with torch.no_grad():
        found = model.log_prob(x, _generator(2))
        first = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        expected = -model.prior_term(to_unit(x, 17).double()) - model.reconstruction_term(x, first)
        times = [(k + torch.rand(5, generator=generator).double()) / 3 for k in range(3)]
        for t in times:
            noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            expected -= _diffusion_term(model, to_unit(x, 17).double(), t, noise) / 3
    torch.testing.assert_close(found, expected)


def test_loss_estimates_the_bound_but_for_the_clipping() -> None:
    model, x = _tiny(bound_times=50), _images(1).expand(150, -1, -1, -1)
    with torch.no_grad():
        loss, valid = model.loss(x, x, "model", _generator()), model.validate(x, x, _generator())
        bound = -model.log_prob(x[:20], _generator(1)).mean().item()
    assert valid["loss"].item() == pytest.approx(bound, rel=0.03)
    t = (torch.arange(150, dtype=torch.float64) + 0.5) / 150
    x_0, noise = to_unit(x, 17).double(), _normal(150, 1, 4, 4)
    with torch.no_grad():
        clipped, whole = (_diffusion_term(model, x_0, t, noise, clip) for clip in (True, False))
    assert (clipped <= whole + 1e-9).all()  # images have no pixel outside [-1, 1]
    assert clipped.mean() < whole.mean()
    assert sum(loss[part].item() for part in ("prior", "reconstruction", "diffusion")) == pytest.approx(
        loss["loss"].item()
    )


def test_the_shape_of_the_schedule_learns_from_the_spread_of_the_estimates_and_its_ends_from_the_bound() -> None:
    model, x, generator = _tiny(), _images(50), _generator(2)
    model.loss(x, x, "model", _generator(2))["loss"].backward()
    x_0 = to_unit(x, 17).double()
    t = (torch.arange(50) + torch.rand(50, generator=generator, dtype=torch.float64)) / 50
    noises = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for _ in range(2)]
    terms = _diffusion_term(model, x_0, t, noises[0], clip=False)
    bound = terms.mean() + (model.prior_term(x_0) + model.reconstruction_term(x, noises[1])).mean()
    schedule = model.schedule
    (ends,) = torch.autograd.grad(bound, schedule.ends, retain_graph=True)
    torch.testing.assert_close(schedule.ends.grad, ends)
    shape = [schedule.log_heights, schedule.log_slopes, schedule.offsets]
    spread = torch.autograd.grad(0.5 * terms.square().mean().log(), shape)
    for parameter, expected in zip(shape, spread, strict=True):
        assert expected.any()
        torch.testing.assert_close(parameter.grad, expected)


def test_samples_are_the_data_if_the_network_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _tiny(256, sampling_steps=100, schedule="straight")
    monkeypatch.setattr(model, "predict", _knows_the_gaussian)
    samples = to_unit(model.sample(1000, _generator()), 256).double()
    assert samples.mean().item() == pytest.approx(MEAN, abs=0.008)
    assert samples.std().item() == pytest.approx(SPREAD, rel=0.05)
    two = _tiny(2, sampling_steps=50, schedule="bent")
    monkeypatch.setattr(two, "predict", _knows_two_levels)
    assert two.sample(1000, _generator()).double().mean().item() == pytest.approx(0.5, abs=0.015)


def test_interpolation_begins_and_ends_at_the_very_images(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _tiny(schedule="straight")
    monkeypatch.setattr(model, "predict", _knows_the_gaussian)
    a, b = _images(8).chunk(2)
    walk = model.interpolate(a, b, 5)
    assert torch.equal(walk[:, [0, -1]], torch.stack([a, b], 1))
    assert ((walk[:, 2] != a) & (walk[:, 2] != b)).any()


def test_the_network_sees_where_in_its_level_a_pixel_is() -> None:
    """Images at every level look alike to the waves of one level's length; half a level off, they look opposite."""
    model = _tiny()
    levels = to_unit(torch.arange(17), 17).double().view(17, 1, 1, 1)
    seen = model._seen(levels)
    torch.testing.assert_close(seen[:, 4], torch.ones_like(seen[:, 4]))
    torch.testing.assert_close(seen[:, 2].flatten(), torch.tensor([1.0, -1.0]).double().repeat(9)[:17])
    torch.testing.assert_close(model._seen(levels + 1 / 16)[:, 4], -seen[:, 4])
