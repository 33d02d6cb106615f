"""What RealNVP and Glow share: exact inverses, the right volume, one prior for both directions, dequantisation."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

from workflow.models.glow import Glow
from workflow.models.layers.common import halved
from workflow.models.layers.flow import Equalise, MultiScaleFlow
from workflow.models.realnvp import RealNvp

Shape = tuple[int, int, int]
SETTINGS: list[tuple[type[MultiScaleFlow], Shape, int]] = [
    (RealNvp, (1, 1, 2), 1),
    (RealNvp, (1, 3, 5), 1),
    (RealNvp, (1, 4, 4), 2),
    (RealNvp, (1, 4, 8), 3),
    (RealNvp, (3, 4, 4), 2),
    (Glow, (1, 4, 4), 1),
    (Glow, (1, 4, 8), 2),
    (Glow, (1, 8, 8), 3),
    (Glow, (3, 4, 4), 2),
]
EVERY = pytest.mark.parametrize("setting", SETTINGS, ids=[f"{s[0].__name__}-{s[1]}-{s[2]}" for s in SETTINGS])
SMALLEST = pytest.mark.parametrize("setting", [SETTINGS[0], (Glow, (1, 2, 2), 1)], ids=["RealNvp", "Glow"])


def _model(
    setting: tuple[type[MultiScaleFlow], Shape, int], levels: int = 17, *, alpha: float = 0.05, **others: bool
) -> MultiScaleFlow:
    """A flow far from the identity, as after training."""
    kind, shape, scales = setting
    torch.manual_seed(0)
    depth: dict[str, Any] = {"couplings": 2, "blocks": 1} if kind is RealNvp else {"steps": 2}
    settings: dict[str, Any] = {
        **depth,
        "scales": scales,
        "channels": 6,
        "dropout": 0.3,
        "alpha": alpha,
        "dequantisation_samples": 2,
        **others,
    }
    model: MultiScaleFlow = kind(shape, levels, **settings)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    return model.double().eval()


def _generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def _pixels(model: MultiScaleFlow, n: int) -> Tensor:
    return torch.rand(n, math.prod(model.shape), dtype=torch.float64, generator=_generator(1))


@EVERY
def test_inverse_undoes_forward(setting: Any) -> None:
    model = _model(setting)
    y = _pixels(model, 20)
    with torch.no_grad():
        h, _ = model(y)
        assert h.shape == y.shape
        assert (h - y).abs().min() > 1e-6
        torch.testing.assert_close(model.inverse(h), y, rtol=0, atol=1e-9)
        between = h.lerp(h.flip(0), 0.3)
        torch.testing.assert_close(model(model.inverse(between))[0], between, rtol=0, atol=1e-9)


@EVERY
def test_log_determinant_is_that_of_autograds_jacobian(setting: Any) -> None:
    model = _model(setting)
    y = _pixels(model, 2)
    _, log_determinants = model(y)
    assert log_determinants.shape == (2,)
    for one, log_determinant in zip(y, log_determinants, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v: model(v.unsqueeze(0))[0].squeeze(0), one)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_determinant)
        assert (jacobian - torch.diag(jacobian.diag())).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [RealNvp, Glow])
def test_half_of_the_numbers_leave_before_the_last_group_and_come_last(kind: type[MultiScaleFlow]) -> None:
    model = _model((kind, (1, 8, 8), 3))
    y = _pixels(model, 3)
    with torch.no_grad():
        before, _ = model(y)
        for left, group in ((48, model.groups[2]), (32, model.groups[1])):
            for weight in group.parameters():
                weight.add_(0.1)
            after, _ = model(y)
            assert torch.equal(after[:, -left:], before[:, -left:])
            assert (after[:, :-left] != before[:, :-left]).any(0).float().mean() > 0.4
            before = after


@SMALLEST
@torch.no_grad()
def test_density_is_that_of_what_is_drawn_and_integrates_to_one(setting: Any) -> None:
    """The mean of q(y)/p(y) over draws y from p is the integral of any density q: here uniform on a box."""
    model = _model(setting)
    y = model.inverse(torch.randn(50_000, math.prod(model.shape), dtype=torch.float64, generator=_generator()))
    low, high = y.quantile(0.2, dim=0), y.quantile(0.8, dim=0)
    y = y[((y > low) & (y < high)).all(1)]
    h, log_determinant = model(y)
    log_density = model.latent_log_prob(h).sum(1) + log_determinant
    ratio = (-log_density).exp() / (high - low).prod()
    assert ratio.sum().item() / 50_000 == pytest.approx(1, abs=0.03)


@torch.no_grad()
def test_density_of_two_pixels_integrates_to_one() -> None:
    model, alpha = _model(SETTINGS[0]), 0.05
    beyond = alpha / (1 - 2 * alpha)
    line = (torch.arange(200, dtype=torch.float64) + 0.5) / 200 * (1 + 2 * beyond) - beyond
    h, log_determinant = model(torch.cartesian_prod(line, line))
    density = (torch.from_numpy(stats.norm.logpdf(h)).sum(1) + log_determinant).exp()
    assert density.mean().item() * (1 + 2 * beyond) ** 2 == pytest.approx(1, abs=2e-3)


@SMALLEST
@torch.no_grad()
def test_log_prob_bounds_the_mass_of_the_images_cell_and_rises_with_the_noises(setting: Any) -> None:
    model = _model(setting, levels=3).float()
    d = math.prod(model.shape)
    x = torch.arange(d, dtype=torch.uint8).view(1, *model.shape) % 3
    inside = (x.flatten(1) + torch.rand(100_000, d, generator=_generator(1))) / 3
    h, log_determinant = model(inside)
    exact = (model.latent_log_prob(h).sum(1) + log_determinant).double().exp().mean().log() - d * math.log(3)

    def average(noises: int) -> float:
        model.dequantisation_samples = noises
        return model.log_prob(x.expand(4000, *model.shape), _generator()).double().mean().item()

    one, some, many = average(1), average(4), average(64)
    assert one < some - 0.01 < some < many + 0.001 < exact + 0.004
    assert many == pytest.approx(exact.item(), abs=0.05)


@SMALLEST
def test_without_the_logit_they_act_on_raw_pixels(setting: Any) -> None:
    """The logit alone is between the two: raw pixels give what logits give where those are the pixels."""
    on_logits, raw = _model(setting), _model(setting, alpha=0.0)
    y = _pixels(raw, 20)
    p = 0.05 + 0.9 * y
    with torch.no_grad():
        h, log_determinant = raw(p.logit())
        torch.testing.assert_close(on_logits(y)[0], h)
        of_logit = (math.log(0.9) - (p * (1 - p)).log()).sum(1)
        torch.testing.assert_close(on_logits(y)[1], log_determinant + of_logit)
        torch.testing.assert_close(raw.inverse(h), p.logit())


def test_latents_are_drawn_from_the_distribution_whose_density_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(SETTINGS[2])
    drawn: list[Tensor] = []

    def watch(h: Tensor) -> Tensor:
        drawn.append(h)
        return h

    monkeypatch.setattr(model, "inverse", watch)
    model.sample(1000, _generator())
    assert stats.kstest(drawn[0].flatten().numpy(), stats.norm.cdf).pvalue > 0.01
    h = drawn[0].double()
    torch.testing.assert_close(model.latent_log_prob(h), torch.from_numpy(stats.norm.logpdf(h)))


@EVERY
def test_interpolation_starts_and_ends_at_the_very_images(setting: Any) -> None:
    model = _model(setting).float()
    a, b = torch.randint(0, 17, (2, 6, *model.shape), dtype=torch.uint8, generator=_generator())
    walk = model.interpolate(a, b, 7)
    assert torch.equal(walk[:, 0], a)
    assert torch.equal(walk[:, -1], b)
    assert (walk[:, 3] != a).any()
    centre = (a.flatten(1) + 0.5) / 17
    with torch.no_grad():
        torch.testing.assert_close(model.encode(a), model(centre)[0])


def test_sizes_that_cannot_be_halved_so_often_are_refused() -> None:
    assert halved((3, 8, 12), 2) == (2, 3)
    assert halved((3, 7, 5), 0) == (7, 5)
    assert _model((RealNvp, (1, 6, 2), 2)).last == (2, 3, 1)
    with pytest.raises(ValueError, match="halves images once: 7x4 pixels are not multiples of 2"):
        _model((RealNvp, (1, 7, 4), 2))
    with pytest.raises(ValueError, match="halves images twice: 6x8 pixels are not multiples of 4"):
        _model((Glow, (1, 6, 8), 2))
    with pytest.raises(ValueError, match="halves images 3 times: 4x4 pixels are not multiples of 8"):
        _model((Glow, (1, 4, 4), 3))


@torch.no_grad()
def test_an_equalised_flow_begins_with_the_density_of_independent_pixels(digits: Tensor) -> None:
    """Each level as frequent as in the images and in a hundred more that have the channel's frequencies everywhere."""
    step = Equalise((1, 8, 8), 17).double()
    step.fit(digits)
    x = digits.flatten(1).numpy()
    everywhere = (np.bincount(x.flatten(), minlength=17) + 1) / (x.size + 17)
    counts = np.stack([np.bincount(column, minlength=17) for column in x.T])
    probabilities = (counts + 100 * everywhere) / (len(x) + 100)

    y = (digits.double() + torch.rand(digits.shape, dtype=torch.float64)) / 17
    z, log_determinant = step(y)
    expected = np.log(probabilities[np.arange(64), x]).sum(1) + 64 * math.log(17)
    np.testing.assert_allclose(log_determinant.numpy(), expected)
    torch.testing.assert_close(step.inverse(z), y, rtol=0, atol=1e-12)
    drawn = (step.inverse(torch.rand(20_000, 1, 8, 8, dtype=torch.float64)) * 17).long().flatten(1)
    shares = torch.stack([column.bincount(minlength=17) for column in drawn.T]) / 20_000
    np.testing.assert_allclose(shares.numpy(), probabilities, atol=0.015)


@torch.no_grad()
def test_equalised_realnvp_is_still_invertible_and_its_density_integrates_to_one() -> None:
    model = _model((RealNvp, (1, 1, 2), 1), levels=5, equalise=True, alpha=0.05)
    y = _pixels(model, 50)
    torch.testing.assert_close(model.inverse(model(y)[0]), y, rtol=0, atol=1e-9)
    line = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    h, log_determinant = model(torch.cartesian_prod(line, line))
    density = (torch.from_numpy(stats.norm.logpdf(h)).sum(1) + log_determinant).exp()
    inside = (model.inverse(torch.randn(20_000, 2, dtype=torch.float64)) - 0.5).abs().amax(1) < 0.5
    assert density.mean().item() == pytest.approx(inside.double().mean().item(), abs=0.01)
