"""Diffusion: Gaussian algebra against independent derivations, the bound term by term, and both samplers."""

import itertools
import math
from typing import Literal

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor
from torch.distributions import Normal, kl_divergence

from tests.tiny_models import tiny_ddpm
from workflow.models import ddpm
from workflow.models.ddpm import Ddpm
from workflow.models.layers import histogram, reverse
from workflow.models.layers.common import to_unit
from workflow.models.layers.diffusion import (
    Schedule,
    backward_step,
    bound_times,
    clean,
    diffuse,
    flow_step,
    noise_schedule,
    spaced_times,
    spread_times,
    to_noise,
)
from workflow.models.layers.histogram import counted_histograms
from workflow.models.layers.interpolation import great_circle
from workflow.models.layers.pixels import gaussian_log_prob
from workflow.models.layers.reverse import Variances
from workflow.models.layers.unet import UNet

Y = torch.empty(0, dtype=torch.long)  # classes, which a model of p(x) does not look at

DECODERS: tuple[Literal["gaussian", "histogram"], ...] = ("gaussian", "histogram")
SCHEDULES: tuple[Schedule, ...] = ("linear", "cosine")
MEAN, SPREAD = 0.1, 0.25  # of the Gaussian data whose best noise prediction is known


def _generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def _images(model: Ddpm, n: int = 6) -> Tensor:
    return torch.randint(0, model.levels, (n, *model.shape), dtype=torch.uint8, generator=_generator(7))


def _noise(model: Ddpm, n: int, seed: int = 3) -> Tensor:
    return torch.randn(n, *model.shape, dtype=torch.float64, generator=_generator(seed))


def _backward_step(model: Ddpm, x: Tensor, x_0: Tensor, t: Tensor, s: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    return backward_step(x, x_0, model.at(t), model.at(s), eta)


def _alpha_bar(model: Ddpm) -> list[float]:
    """ᾱ of times 0..T, from the β alone."""
    return [math.prod(1 - beta for beta in model.betas.tolist()[:t]) for t in range(model.steps + 1)]


def _knows_the_gaussian(model: Ddpm, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Have `model` predict the expected noise of data N(MEAN, SPREAD²), the best one; returns it as a line.

    At time t that is gain · x_t + offset, with (gain, offset) at place t; place 0 is not used.
    """
    lines = [(0.0, 0.0)]
    for a in _alpha_bar(model)[1:]:
        gain = math.sqrt(1 - a) / (a * SPREAD**2 + 1 - a)
        lines.append((gain, -gain * math.sqrt(a) * MEAN))
    gains, offsets = torch.tensor(lines, dtype=torch.float64).T.contiguous().view(2, -1, 1, 1, 1).unbind()

    def predict(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        noise: Tensor = gains[t] * x + offsets[t]
        return noise

    monkeypatch.setattr(model.network, "forward", predict)
    return lines


def test_schedules_are_those_of_the_papers() -> None:
    linear = noise_schedule("linear", 1000)
    assert linear[[0, -1]].tolist() == pytest.approx([1e-4, 0.02])
    torch.testing.assert_close(linear.diff(), linear.diff()[:1].expand(999))
    assert noise_schedule("linear", 100).sum().item() == pytest.approx(linear.sum().item())

    def f(t: int) -> float:
        return float(math.cos((t / 50 + 0.008) / 1.008 * math.pi / 2) ** 2)

    alpha_bar = (1 - noise_schedule("cosine", 50)).cumprod(0)
    assert alpha_bar[:-1].tolist() == pytest.approx([f(t) / f(0) for t in range(1, 50)])
    assert noise_schedule("cosine", 50)[-1] == 0.999


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_noise_of_many_steps_is_that_of_single_steps_one_after_the_other(schedule: Schedule) -> None:
    model = tiny_ddpm(40, schedule)
    factor, variance = 1.0, 0.0  # of x_t given x_0
    one = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    for t in range(41):
        if t:
            beta = model.betas[t - 1].item()
            factor, variance = factor * math.sqrt(1 - beta), variance * (1 - beta) + beta
        time = torch.tensor([t])
        torch.testing.assert_close(diffuse(0.7 * one, 0 * one, model.at(time)), 0.7 * factor * one)
        torch.testing.assert_close(diffuse(0 * one, one, model.at(time)).square(), variance * one)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [25, 100])
def test_noise_only_grows_and_nothing_is_left_in_the_end(schedule: Schedule, steps: int) -> None:
    model = tiny_ddpm(steps, schedule)
    ratio = torch.tensor([a / (1 - a) for a in _alpha_bar(model)[1:]])
    assert (ratio.diff() < 0).all()
    x = _images(model)
    bits = model.prior_term(x) / (16 * math.log(2))
    assert (bits < 0.01).all()
    a = _alpha_bar(model)[-1]
    last = Normal(math.sqrt(a) * to_unit(x, 17).double(), math.sqrt(1 - a))
    torch.testing.assert_close(model.prior_term(x), kl_divergence(last, Normal(0.0, 1.0)).sum((1, 2, 3)))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ancestral_step_is_bayes_rule(schedule: Schedule) -> None:
    """q(x_s|x_t, x_0) with s = t - 1 as the product of the Gaussians q(x_s|x_0) and q(x_t|x_s), normalised."""
    model = tiny_ddpm(30, schedule)
    x_0, x_t = _noise(model, 1), _noise(model, 1, seed=4)
    a = _alpha_bar(model)
    for t in range(1, 31):
        mean, deviation = _backward_step(model, x_t, x_0, torch.tensor([t]), torch.tensor([t - 1]), eta=1.0)
        beta = model.betas[t - 1].item()
        precision = 1 / max(1 - a[t - 1], 1e-300) + (1 - beta) / beta  # q(x_0|x_0) is a point
        assert deviation.square().item() == pytest.approx(1 / precision, rel=1e-9)
        first = math.sqrt(a[t - 1]) * x_0 / max(1 - a[t - 1], 1e-300)
        expected = (first + math.sqrt(1 - beta) * x_t / beta) / precision
        torch.testing.assert_close(mean, expected)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_steps_of_any_length_and_noise_keep_the_marginals(eta: float) -> None:
    """x_s made from x_t is as if made from x_0: lemma 1 of the DDIM paper."""
    model = tiny_ddpm(30, "cosine")
    x_0, a = _noise(model, 1), _alpha_bar(model)
    for t, s in [(30, 29), (30, 11), (17, 16), (9, 2), (2, 1), (5, 0)]:
        times = torch.tensor([t]), torch.tensor([s])
        centre, deviation = _backward_step(model, math.sqrt(a[t]) * x_0, x_0, *times, eta)
        shifted, _ = _backward_step(model, math.sqrt(a[t]) * x_0 + 1, x_0, *times, eta)
        slope = (shifted - centre).mean()
        torch.testing.assert_close(centre, math.sqrt(a[s]) * x_0)
        assert (slope**2 * (1 - a[t]) + deviation**2).item() == pytest.approx(1 - a[s], abs=1e-12)
        assert (deviation.item() > 0) == (eta > 0 and s > 0)


def test_deterministic_step_is_the_same_in_either_notation() -> None:
    model = tiny_ddpm(30, "cosine")
    x_t, noise, a = _noise(model, 1), 0.1 * _noise(model, 1, seed=4), _alpha_bar(model)
    for t, s in [(20, 19), (20, 7), (5, 0)]:
        x_0 = (x_t - math.sqrt(1 - a[t]) * noise) / math.sqrt(a[t])
        expected, _ = _backward_step(model, x_t, x_0, torch.tensor([t]), torch.tensor([s]), 0.0)
        torch.testing.assert_close(flow_step(x_t, noise, a[t], a[s]), expected)
        torch.testing.assert_close(flow_step(expected, noise, a[s], a[t]), x_t)


def test_what_the_network_believes_undoes_the_noise_and_is_an_image() -> None:
    model = tiny_ddpm()
    x, noise, t = to_unit(_images(model), 17).double(), _noise(model, 6), torch.arange(1, 25, 4)
    x_t = diffuse(x, noise, model.at(t))
    torch.testing.assert_close(clean(x_t, noise, model.at(t)), x)
    assert clean(x_t, -noise, model.at(t)).abs().max() == 1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_terms_are_divergences_of_gaussians(schedule: Schedule) -> None:
    model = tiny_ddpm(25, schedule)
    x, noise = _images(model, 24), _noise(model, 24)
    t = torch.arange(2, 26)
    with torch.no_grad():
        simple, divergence = model.terms(x, t, noise, None)
        x_0 = to_unit(x, 17).double()
        x_t = diffuse(x_0, noise, model.at(t))
        predicted = model.network(x_t, t, None)
        mean, deviation = _backward_step(model, x_t, x_0, t, t - 1, 1.0)
        believed, _ = _backward_step(model, x_t, clean(x_t, predicted, model.at(t)), t, t - 1, 1.0)
    expected = kl_divergence(Normal(mean, deviation), Normal(believed, deviation))
    torch.testing.assert_close(divergence, expected.sum((1, 2, 3)))
    torch.testing.assert_close(simple, kl_divergence(Normal(noise, 1.0), Normal(predicted, 1.0)).sum((1, 2, 3)))


@pytest.mark.parametrize("rows", [1, 20, 10_000], ids=["a time at once", "some", "all"])
def test_bound_is_the_sum_of_all_its_terms(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ddpm, "ROWS", rows)
    model = tiny_ddpm(23, "cosine")
    x = _images(model)
    x_0, generator = to_unit(x, 17).double(), _generator(5)
    with torch.no_grad():
        expected = -model.prior_term(x)
        for t in range(1, 24):
            noise = torch.randn(x.shape, dtype=torch.float64, generator=generator)
            times = torch.full((6,), t)
            x_t = diffuse(x_0, noise, model.at(times))
            believed = clean(x_t, model.network(x_t, times, None), model.at(times))
            if t == 1:
                last = Normal(believed, model.betas[0].sqrt())
                high = torch.where(x == 16, 1.0, last.cdf(x_0 + 1 / 16))
                low = torch.where(x == 0, 0.0, last.cdf(x_0 - 1 / 16))
                expected += (high - low).log().sum((1, 2, 3))
            else:
                means = [_backward_step(model, x_t, end, times, times - 1, 1.0) for end in (x_0, believed)]
                terms = kl_divergence(Normal(*means[0]), Normal(*means[1]))
                expected -= terms.sum((1, 2, 3))
        assert torch.isfinite(expected).all()
        torch.testing.assert_close(model.log_prob(x, _generator(5)), expected)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_decoder_sums_to_one_over_the_levels_and_equals_the_differences_of_its_cdf(levels: int) -> None:
    mean = torch.tensor([-1.0, -0.97, -0.2, 0.0, 0.33, 1.0], dtype=torch.float64).view(1, -1)
    x = torch.arange(levels).view(-1, 1).expand(levels, 6)
    for deviation in (0.003, 0.03, 0.5):
        log_prob = gaussian_log_prob(mean, torch.tensor(deviation, dtype=torch.float64), x, levels)
        torch.testing.assert_close(log_prob.exp().sum(0), torch.ones(6).double(), rtol=0, atol=1e-12)
        centre = 2 * x.double() / (levels - 1) - 1
        high = torch.where(x == levels - 1, math.inf, centre + 1 / (levels - 1))
        low = torch.where(x == 0, -math.inf, centre - 1 / (levels - 1))
        gaussian = stats.norm(mean.numpy(), deviation)
        expected = torch.from_numpy(gaussian.cdf(high) - gaussian.cdf(low))
        torch.testing.assert_close(log_prob.exp(), expected, rtol=1e-9, atol=1e-12)


def test_decoder_is_finite_and_falls_far_from_its_mean() -> None:
    log_prob = gaussian_log_prob(torch.full((17,), -1.0), torch.tensor(0.03), torch.arange(17), 17)
    assert torch.isfinite(log_prob).all()
    assert (log_prob.diff() < 0).all()
    assert log_prob[-1].item() == pytest.approx(stats.norm.logsf((2 - 1 / 16) / 0.03), rel=1e-4)


@pytest.mark.parametrize(
    ("count", "eta", "off"), [(100, 1.0, 0.08), (100, 0.0, 0.05), (20, 0.0, 0.15), (20, 0.5, 0.15)]
)
def test_samples_are_the_data_if_the_network_is_right(
    count: int, eta: float, off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for a spread that is a little too small, the more so the longer the steps."""
    model = tiny_ddpm(100, "cosine", sampling_steps=count, eta=eta, levels=256)
    _knows_the_gaussian(model, monkeypatch)
    samples = to_unit(model.sample(2000, _generator()), 256).double()
    assert samples.mean().item() == pytest.approx(MEAN, abs=0.006)
    assert samples.std().item() == pytest.approx(SPREAD, rel=off)
    assert stats.kstest((samples.flatten()[:2000] - samples.mean()) / samples.std(), "norm").pvalue > 0.001


def _density_of_draws(model: Ddpm, lines: list[tuple[float, float]]) -> Tensor:
    """log p of each level of a pixel under the ancestral walk, all of whose steps are linear, exactly."""
    a, mean, variance = _alpha_bar(model), 0.0, 1.0  # of x_t
    for t in range(model.steps, 0, -1):
        gain, offset = lines[t]
        slope = (1 - math.sqrt(1 - a[t]) * gain) / math.sqrt(a[t])  # of the x_0 that is believed in
        shift = -math.sqrt(1 - a[t]) * offset / math.sqrt(a[t])
        beta = model.betas[t - 1].item()
        on_x_0 = math.sqrt(a[t - 1]) * beta / (1 - a[t])  # eq. 7 of the DDPM paper
        factor = on_x_0 * slope + math.sqrt(1 - beta) * (1 - a[t - 1]) / (1 - a[t])
        mean = factor * mean + on_x_0 * shift
        variance = factor**2 * variance + (beta * (1 - a[t - 1]) / (1 - a[t]) if t > 1 else beta)
    edges = torch.linspace(-1, 1, model.levels, dtype=torch.float64)[:-1] + 1 / (model.levels - 1)
    inner = torch.from_numpy(stats.norm(mean, math.sqrt(variance)).cdf(edges))
    return torch.cat([inner[:1], inner.diff(), 1 - inner[-1:]]).log()


def test_bound_is_below_the_density_of_the_draws_and_near_it_if_the_network_is_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Near it with levels finer than the first step's noise; with coarse ones the network must know the levels, too."""
    model = tiny_ddpm(25, "cosine", levels=256)
    exact = _density_of_draws(model, _knows_the_gaussian(model, monkeypatch))
    assert exact.exp().sum().item() == pytest.approx(1, abs=1e-9)
    level = torch.arange(0, 256, 5)
    x = level.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).repeat(20, 1, 1, 1)
    bound = model.log_prob(x, _generator()).view(20, -1) / 16  # of a pixel, the mean of 16 with noises of their own
    gap, error = exact[level] - bound.mean(0), bound.std(0) / math.sqrt(20)
    assert (gap > -4 * error).all()
    weight = torch.from_numpy(stats.norm(MEAN, SPREAD).pdf(to_unit(level, 256).double()))
    assert 0.1 < (gap * weight / weight.sum()).sum().item() < 0.6


def test_weights_of_paths_have_the_density_of_the_draws_as_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    model, draws = tiny_ddpm(4, "cosine", levels=8), 20_000
    lines = _knows_the_gaussian(model, monkeypatch)
    x = torch.full((1, 1, 4, 4), 4, dtype=torch.uint8)
    x[..., 1] = 3
    exact = _density_of_draws(model, lines)[x.long()].sum()
    log_weights = model.log_weight(x.expand(draws, -1, -1, -1), _generator())
    relative = (log_weights - exact).exp()
    assert relative.mean().item() == pytest.approx(1, abs=4 * relative.std().item() / math.sqrt(draws))
    assert relative.std().item() < 3  # so that the mean is known to a few per cent
    bounds = model.log_prob(x.expand(draws, -1, -1, -1), _generator(1))
    error = math.hypot(log_weights.std().item(), bounds.std().item()) / math.sqrt(draws)
    assert log_weights.mean().item() == pytest.approx(bounds.mean().item(), abs=4 * error)


@pytest.mark.parametrize("variances", ["per pixel", "learned"])
def test_weights_of_paths_have_the_bound_as_their_mean(variances: Variances) -> None:
    model = _finished(variances)
    x = _images(model, 1).expand(300, -1, -1, -1)
    log_weights, bounds = model.log_weight(x, _generator()), model.log_prob(x, _generator(1))
    error = math.hypot(log_weights.std().item(), bounds.std().item()) / math.sqrt(300)
    assert log_weights.mean().item() == pytest.approx(bounds.mean().item(), abs=4 * error)


def test_some_terms_of_the_bound_stand_for_all() -> None:
    """With the first and others drawn at random, the mean of many estimates is the mean of the whole bound."""
    whole, some = (tiny_ddpm(25, "cosine", bound_terms=terms) for terms in (0, 4))
    x = _images(whole, 1).expand(3000, -1, -1, -1)
    exact, estimate = whole.log_prob(x[:300], _generator()), some.log_prob(x, _generator(1))
    error = math.hypot(exact.std().item() / math.sqrt(300), estimate.std().item() / math.sqrt(3000))
    assert abs(exact.mean() - estimate.mean()).item() < 4 * error
    assert error < 0.02 * abs(exact.mean()).item()
    times, weights = bound_times(1000, 25, 4, _generator(), torch.device("cpu"))
    assert (times[0] == 1).all()
    for part, drawn in enumerate(times[1:]):  # of 24 others, 8 in each part
        assert drawn.unique().tolist() == list(range(2 + 8 * part, 10 + 8 * part))
    assert weights.flatten().tolist() == [1, 8, 8, 8]


def test_a_single_term_cannot_stand_for_all() -> None:
    with pytest.raises(ValueError, match="bound_terms 1 leaves no term"):
        tiny_ddpm(25, "cosine", bound_terms=1)


def test_patches_of_pixels_go_back_to_where_they_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that returns what it reads is the identity, whatever the patch."""
    network = UNet(3, 8, 0.0, 0, patch=2)
    assert len(network.down) == len(network.up) == 1
    seen = []
    network.first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    monkeypatch.setattr(network.last, "forward", lambda _: seen[0])
    x = torch.randn(2, 3, 8, 12, generator=_generator())
    assert torch.equal(network(x, torch.tensor([1, 2]), None), x)
    assert torch.equal(seen[0][:, :4, 1, 2], x[:, 0, 2:4, 4:6].flatten(1))


def test_the_training_loss_counts_times_with_little_noise_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that predicts no noise at all errs by D/2 at every time, so that the loss is the mean weight."""
    model = tiny_ddpm(10, "cosine", min_snr=2.0)
    monkeypatch.setattr(model.network, "forward", lambda x, *_: torch.zeros_like(x))
    x = _images(model, 20_000)
    snr = [a / (1 - a) for a in _alpha_bar(model)[1:]]
    weight = sum(min(ratio, 2.0) / ratio for ratio in snr) / 10
    assert 0.3 < weight < 0.9
    assert model.loss(x, Y, "model", _generator())["loss"].item() == pytest.approx(8 * weight, rel=0.02)
    assert model.validate(x[:3000], Y, _generator())["loss"].item() == pytest.approx(8, rel=0.02)


def test_histograms_are_the_shares_of_levels_by_prediction() -> None:
    """Counted by NumPy: 64 equal bins between -1 and 1, and one more at each end, to which predictions are clipped."""
    model = tiny_ddpm(25, "cosine", decoder="histogram")
    gaussian = stats.norm(0.5 + 1 / 64, math.sqrt(model.betas[0]))  # at first, around the middle of each bin
    mass = gaussian.cdf(1 / 2 + 1 / 16) - gaussian.cdf(1 / 2 - 1 / 16)
    assert model.decoder_log_prob[1 + 48, 12].exp().item() == pytest.approx(mass, rel=1e-4)
    believed = torch.randn(400, 1, 4, 4, dtype=torch.float64, generator=_generator(4)).clamp(-1, 1)
    x = ((believed + 1) * 8).round().to(torch.uint8)
    x[::3] = 16
    model.decoder_log_prob.copy_(counted_histograms(x, believed, 17))
    edges = [-1 - 1e-9, -1 + 1e-9, *(np.arange(1, 64) / 32 - 1), 1 - 1e-9, 1 + 1e-9]
    counts = np.histogram2d(believed.flatten().numpy(), x.flatten().numpy(), [edges, np.arange(18) - 0.5])[0] + 0.05
    expected = torch.from_numpy(counts / counts.sum(1, keepdims=True))
    assert expected[0, 16] > 0.3  # of the background, a third is white
    torch.testing.assert_close(model.decoder_log_prob.exp().double(), expected, rtol=1e-5, atol=0)

    levels = torch.arange(17, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    total = model.decoder_log_likelihood(levels, believed[:1].expand(17, -1, -1, -1)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-5, atol=0)


def test_samples_end_with_a_draw_from_the_histograms(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_ddpm(5, "cosine", decoder="histogram")
    monkeypatch.setattr(histogram, "DRAWN", 1000)
    monkeypatch.setattr(model.network, "forward", lambda x, *_: 1e6 * torch.ones_like(x))  # believes in black
    shares = torch.zeros(17)
    shares[[0, 3]] = torch.tensor([0.75, 0.25])
    model.decoder_log_prob[0] = shares.log()
    x = model.sample(1000, _generator())
    assert x.unique().tolist() == [0, 3]
    assert (x == 3).double().mean().item() == pytest.approx(0.25, abs=0.015)


def test_a_histogram_never_makes_the_bound_of_the_images_it_is_fitted_to_worse() -> None:
    """A drawing on a black ground, whose last noise covers several levels."""
    bounds = []
    x = torch.zeros(600, 1, 4, 4, dtype=torch.uint8)
    x[:, :, 1] = torch.randint(0, 256, (600, 1, 4), dtype=torch.uint8, generator=_generator(2))
    for decoder in DECODERS:
        model = tiny_ddpm(5, "cosine", levels=256, variances="per pixel", decoder=decoder)
        model.finish(x, torch.zeros(600).long(), _generator())
        bounds.append(model.log_prob(x, _generator(1)).mean())
    assert bounds[1] > bounds[0] + 4


VARIANCES: tuple[Variances, ...] = ("per step", "per pixel")


def _finished(variances: Variances, steps: int = 25, x: Tensor | None = None) -> Ddpm:
    model = tiny_ddpm(steps, "cosine", variances=variances)
    model.finish(_images(model, 60) if x is None else x, torch.zeros(60).long(), _generator(5))
    return model


@pytest.mark.parametrize("variances", VARIANCES)
def test_fitted_variance_is_the_optimal_one_of_gaussian_data(
    variances: Variances, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the exact score the reverse of a Gaussian process is Gaussian: Bayes' rule for q(x_s) and q(x_t|x_s)."""
    model = tiny_ddpm(25, "cosine", levels=256, variances=variances)
    _knows_the_gaussian(model, monkeypatch)
    monkeypatch.setattr(reverse, "FITTED_TO", 25 * 30_000)
    draws = (MEAN + SPREAD * _noise(model, 30_000)).clamp(-1, 1)
    x = ((draws + 1) * 127.5).round().to(torch.uint8)
    model.finish(x, torch.zeros(len(x)).long(), _generator())
    a = _alpha_bar(model)
    for t, s in [*itertools.pairwise(range(25, 0, -1)), (25, 20), (20, 4)]:
        step = a[t] / a[s]  # of the variance of x_s, what is left in x_t
        prior = a[s] * SPREAD**2 + 1 - a[s]
        optimal = 1 / (1 / prior + step / (1 - step))
        deviation = model.reverse_deviation(torch.tensor([t]), torch.tensor([s]), 1.0)
        assert deviation.shape == (1, 1, 4, 4) if variances == "per pixel" else (1, 1, 1, 1)
        found = deviation.square()
        torch.testing.assert_close(found, torch.full_like(found, optimal), rtol=0.03, atol=0)
        least = a[s] < 1 and (1 - a[s]) / (1 - a[t]) * (1 - step)
        assert (found > least).all()
    assert model.reverse_deviation(torch.tensor([9]), torch.tensor([4]), 0.0).abs().max() < 1e-6


@pytest.mark.parametrize("variances", VARIANCES)
def test_fitting_never_makes_the_bound_of_the_training_images_worse(variances: Variances) -> None:
    """Neither the sum nor any term of a step, with the noises that were fitted to; finer ones are better still."""
    x = _images(tiny_ddpm(), 60)
    x[..., 0] = 3  # so that pixels differ
    fixed, fitted, finest = (_finished(v, x=x) for v in ("fixed", variances, "per pixel"))
    generator = _generator(5)
    for time in range(1, 26):
        t, noise = torch.full((60,), time), torch.randn(x.shape, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            terms = [model.terms(x, t, noise, None)[1].mean() for model in (fixed, fitted, finest)]
        assert terms[0] >= terms[1] - 1e-9
        assert terms[1] >= terms[2] - 1e-9
    with torch.no_grad():
        bounds = [model.log_prob(x, _generator(5)).mean() for model in (fixed, fitted)]
    assert bounds[1] > bounds[0] + 1


@pytest.mark.parametrize("variances", VARIANCES)
def test_terms_with_fitted_variances_are_divergences_of_the_gaussians_that_are_drawn(variances: Variances) -> None:
    model = _finished(variances)
    x, noise, t = _images(model, 24), _noise(model, 24), torch.arange(2, 26)
    with torch.no_grad():
        _, divergence = model.terms(x, t, noise, None)
        x_0 = to_unit(x, 17).double()
        x_t = diffuse(x_0, noise, model.at(t))
        mean, deviation = _backward_step(model, x_t, x_0, t, t - 1, 1.0)
        believed, _ = _backward_step(model, x_t, clean(x_t, model.network(x_t, t, None), model.at(t)), t, t - 1, 1.0)
        drawn = torch.cat([model.reverse_deviation(time, time - 1, 1.0) for time in t.split(1)])
    expected = kl_divergence(Normal(mean, deviation), Normal(believed, drawn.expand_as(believed)))
    torch.testing.assert_close(divergence, expected.sum((1, 2, 3)))


def test_fitted_variances_are_kept_with_the_weights() -> None:
    model, copy = _finished("per pixel"), tiny_ddpm(25, "cosine", variances="per pixel")
    copy.load_state_dict(model.state_dict())
    x = _images(model)
    with torch.no_grad():
        assert torch.equal(copy.log_prob(x, _generator()), model.log_prob(x, _generator()))
    assert torch.equal(copy.sample(3, _generator()), model.sample(3, _generator()))
    assert not {"error", "decoder_deviation"} & set(tiny_ddpm().state_dict())


@pytest.mark.parametrize("variances", VARIANCES)
def test_draws_with_fitted_variances_have_the_spread_of_the_data(
    variances: Variances, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fixed variances are too small in long steps: with them, the spread of 25 steps is 8 % off or more."""
    spreads = []
    for choice in ("fixed", variances):
        model = tiny_ddpm(25, "cosine", levels=256, variances=choice)
        _knows_the_gaussian(model, monkeypatch)
        draws = (MEAN + SPREAD * _noise(model, 3000)).clamp(-1, 1)
        monkeypatch.setattr(reverse, "FITTED_TO", 25 * 3000)
        model.finish(((draws + 1) * 127.5).round().to(torch.uint8), torch.zeros(3000).long(), _generator())
        spreads.append(to_unit(model.sample(4000, _generator()), 256).double().std().item())
    assert spreads[0] < 0.92 * SPREAD
    assert spreads[1] == pytest.approx(SPREAD, rel=0.02)


def test_says_if_samples_are_not_of_the_distribution_whose_density_is_bounded() -> None:
    assert tiny_ddpm(25).note.endswith("Samples and the bound use the same ones.")
    assert "one per step and pixel (Bao et al. 2022)" in tiny_ddpm(25, variances="per pixel").note
    assert "Samples take 25 of 25 steps with η = 0.5 and thus follow another" in tiny_ddpm(25, eta=0.5).note
    assert "The last step draws each pixel from a histogram" in tiny_ddpm(25, decoder="histogram").note
    assert "estimated from 4 of its 25 terms" in tiny_ddpm(25, bound_terms=4).note
    assert "estimated" not in tiny_ddpm(25, bound_terms=25).note
    assert "Samples take 5 of 25 steps with η = 1 " in tiny_ddpm(25, sampling_steps=5).note


def test_loss_and_validation_are_means_over_spread_times() -> None:
    model = tiny_ddpm(22)
    x, generator = _images(model, 1).expand(300, *model.shape), _generator(4)
    t = spread_times(300, 22, generator, torch.device("cpu"))
    noise = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        simple, term = model.terms(x, t, noise, None)
        loss, valid = model.loss(x, Y, "model", _generator(4)), model.validate(x, Y, _generator(5))
        bound = -model.log_prob(x[:50], _generator(2)).mean().item()
    torch.testing.assert_close(loss["loss"], simple.mean())
    torch.testing.assert_close(loss["bound"], model.prior_term(x).mean() + 22 * term.mean())
    assert valid["loss"].item() == pytest.approx(loss["loss"].item(), rel=0.15)
    assert valid["bound"].item() == pytest.approx(bound, rel=0.1)


@pytest.mark.parametrize(("n", "steps"), [(6, 100), (100, 6), (7, 10)])
def test_times_are_spread_evenly_and_all_alike(n: int, steps: int) -> None:
    draws = torch.stack([spread_times(n, steps, _generator(seed), torch.device("cpu")) for seed in range(2000)])
    share = draws.flatten().bincount(minlength=steps + 1).double() / draws.numel()
    assert (len(share), share[0].item()) == (steps + 1, 0)
    torch.testing.assert_close(share[1:], torch.full((steps,), 1 / steps).double(), rtol=0.25, atol=0)
    parts = torch.arange(n + 1) * steps / n
    assert (draws >= parts[:-1].floor() + 1).all()
    assert (draws <= parts[1:].ceil()).all()


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_noise_after_the_first_is_drawn_only_if_eta_asks_for_it(eta: float) -> None:
    model = tiny_ddpm(24, sampling_steps=6, eta=eta)
    model.sample(5, used := _generator())
    expected = _generator()
    for _ in range(6 if eta else 1):  # the last step adds none
        torch.randn(5, *model.shape, dtype=torch.float64, generator=expected)
    assert torch.equal(used.get_state(), expected.get_state())


@pytest.mark.parametrize(("steps", "count"), [(24, 6), (25, 10), (24, 24), (24, 2)])
def test_sampling_visits_as_many_times_as_asked_from_the_last_on(steps: int, count: int) -> None:
    model, visited = tiny_ddpm(steps, sampling_steps=count), list[int]()
    model.network.register_forward_pre_hook(lambda _module, inputs: visited.append(int(inputs[1][0])))
    model.sample(2, _generator())
    assert (len(visited), visited[0]) == (count, steps)
    assert {t - s for t, s in itertools.pairwise([*visited, 0])} <= {steps // count, -(-steps // count)}


def test_interpolation_begins_and_ends_at_the_very_images(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_ddpm(50, "cosine", sampling_steps=2, eta=0.5)
    _knows_the_gaussian(model, monkeypatch)
    a, b = _images(model, 8).chunk(2)
    walk = model.interpolate(a, b, 5)
    assert torch.equal(walk[:, [0, -1]], torch.stack([a, b], 1))
    assert ((walk[:, 2] != a) & (walk[:, 2] != b)).any()


def test_noise_of_data_is_standard_normal_if_the_network_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_ddpm(100, "cosine")
    _knows_the_gaussian(model, monkeypatch)
    times = spaced_times(100, 20)[:-1]
    x = MEAN + SPREAD * _noise(model, 2000)
    noise = to_noise(lambda x, i: model.predict(x, torch.tensor([times[i]])).noise, x, model.alpha_bar[times].tolist())
    assert [noise.mean().item(), noise.std().item()] == pytest.approx([0, 1], rel=0.2, abs=0.03)


def test_great_circle_turns_evenly_and_keeps_the_length() -> None:
    a, b = torch.tensor([[3.0, 0.0], [2.0, 1.0]]).double(), torch.tensor([[0.0, 3.0], [2.0, 1.0]]).double()
    walk = great_circle(a, b, 4)
    angles = torch.tensor([0, 30, 60, 90]).double().deg2rad()
    torch.testing.assert_close(walk[0], 3 * torch.stack([angles.cos(), angles.sin()], 1))
    torch.testing.assert_close(walk[1], a[1].expand(4, 2))  # no angle
    assert torch.equal(great_circle(b, a, 4).flip(1), walk)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="sampling_steps 26 exceeds steps"):
        tiny_ddpm(25, sampling_steps=26)
    with pytest.raises(ValueError, match="20 steps are too few for the linear schedule"):
        tiny_ddpm(20)
    with pytest.raises(ValueError, match="6x8 pixels"):
        tiny_ddpm(shape=(1, 6, 8))
