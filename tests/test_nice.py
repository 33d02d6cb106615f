"""NICE: an exact inverse, the right volume, a density that integrates to one, and one prior for both directions."""

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from workflow.models.layers.flow import Equalise
from workflow.models.nice import Nice, Prior, draw_prior, prior_log_prob

PRIORS: tuple[Prior, ...] = ("logistic", "gaussian")
DISTRIBUTIONS: dict[str, Any] = {"logistic": stats.logistic, "gaussian": stats.norm}


ALPHAS = pytest.mark.parametrize("alpha", [0.0, 0.05], ids=["raw pixels", "logits"])
EQUALISE = pytest.mark.parametrize("equalise", [False, True], ids=["as they are", "equalised"])


def _model(
    shape: tuple[int, int, int],
    levels: int,
    prior: Prior = "logistic",
    couplings: int = 4,
    *,
    alpha: float = 0.0,
    equalise: bool = False,
) -> Nice:
    """A flow far from the identity, as after training."""
    torch.manual_seed(0)
    model = Nice(
        shape, levels, prior=prior, couplings=couplings, width=16, depth=2, dropout=0.3, alpha=alpha,
        dequantisation_samples=2, equalise=equalise,
    )  # fmt: skip
    for step in model.first:
        if isinstance(step, Equalise):
            torch.nn.init.normal_(step.logits)
    with torch.no_grad():
        for coupling in model.couplings:
            for weight in coupling.parameters():
                weight.mul_(2)
        model.log_scale.add_(torch.linspace(0.5, 1.5, len(model.log_scale)))
    return model.double().eval()


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@ALPHAS
@EQUALISE
@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 1, 3)], ids=["even", "odd"])
def test_inverse_undoes_forward(shape: tuple[int, int, int], alpha: float, equalise: bool) -> None:
    model = _model(shape, 17, alpha=alpha, equalise=equalise)
    y = torch.rand(20, math.prod(shape), dtype=torch.float64)
    h, _ = model(y)
    assert (h - y).abs().min() > 1e-6
    torch.testing.assert_close(model.inverse(h), y, rtol=0, atol=1e-12)
    torch.testing.assert_close(model(model.inverse(y))[0], y, rtol=0, atol=1e-12)


@ALPHAS
@EQUALISE
def test_log_determinant_is_that_of_autograds_jacobian(alpha: float, equalise: bool) -> None:
    model = _model((1, 2, 3), 17, alpha=alpha, equalise=equalise)
    for y in torch.rand(5, 1, 6, dtype=torch.float64):
        jacobian = torch.autograd.functional.jacobian(lambda v: model(v)[0].squeeze(0), y).squeeze(1)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, model(y)[1].squeeze())
        assert (jacobian != 0).all()  # both halves move and each reaches the other


def test_a_coupling_moves_one_half_and_couplings_alternate() -> None:
    model = _model((1, 2, 3), 17)
    y = torch.randn(8, 6, dtype=torch.float64)
    for i, coupling in enumerate(model.couplings):
        moved = (coupling(y) != y).any(0)
        assert moved.tolist() == [component % 2 == i % 2 for component in range(6)]


def _grid(low: float, high: float, count: int) -> tuple[Tensor, float]:
    """Midpoints of count² cells of a square, and a cell's area."""
    step = (high - low) / count
    line = low + (torch.arange(count, dtype=torch.float64) + 0.5) * step
    return torch.cartesian_prod(line, line), step**2


@torch.no_grad()
def _density(model: Nice, y: Tensor) -> Tensor:
    h, log_determinant = model.forward(y)
    return (prior_log_prob(model.prior, h).sum(1) + log_determinant).exp().double()


@pytest.mark.parametrize("prior", PRIORS)
def test_density_integrates_to_one(prior: Prior) -> None:
    y, area = _grid(-25, 25, 1000)
    assert abs(_density(_model((1, 1, 2), 3, prior), y).sum().item() * area - 1) < 1e-3


@pytest.mark.parametrize("prior", PRIORS)
def test_density_on_logits_integrates_to_one(prior: Prior) -> None:
    """Over all pixels whose logit is finite: slightly more than [0, 1]."""
    alpha = 0.05
    beyond = alpha / (1 - 2 * alpha)
    y, area = _grid(-beyond, 1 + beyond, 700)
    assert abs(_density(_model((1, 1, 2), 3, prior, alpha=alpha), y).sum().item() * area - 1) < 2e-3


@pytest.mark.parametrize(("prior", "alpha"), [("logistic", 0.0), ("gaussian", 0.0), ("logistic", 0.05)])
def test_log_prob_bounds_the_mass_of_the_images_cell_and_meets_it_with_many_noises(prior: Prior, alpha: float) -> None:
    model = _model((1, 1, 2), 3, prior, alpha=alpha).float()
    images = torch.tensor([[0, 0], [2, 1], [1, 2]], dtype=torch.uint8)
    inside, area = _grid(0, 1 / 3, 200)
    exact = torch.stack([(_density(model, (image / 3 + inside).float()).sum() * area).log() for image in images])

    def average(noises: int) -> Tensor:
        model.dequantisation_samples = noises
        x = images.view(3, 1, 1, 1, 2).expand(3, 2000, 1, 1, 2).flatten(0, 1)
        with torch.no_grad():
            return model.log_prob(x, _generator()).double().view(3, 2000).mean(1)

    one, many = average(1), average(64)
    assert (one < many).all()
    assert (many < exact + 0.003).all()
    torch.testing.assert_close(many, exact, rtol=0, atol=0.1)
    assert (exact - one).max() > 0.05  # else the bound was tight to begin with and nothing was tested


@pytest.mark.parametrize("prior", PRIORS)
def test_samples_come_from_the_prior_that_is_trained(prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    h = draw_prior(prior, (20000,), _generator(), torch.device("cpu"))
    assert torch.isfinite(h).all()
    assert stats.kstest(h.numpy(), DISTRIBUTIONS[prior].cdf).pvalue > 0.01
    torch.testing.assert_close(prior_log_prob(prior, h.double()).numpy(), DISTRIBUTIONS[prior].logpdf(h.double()))

    model = _model((1, 2, 2), 5, prior)
    latents: list[Tensor] = []

    def watch(h: Tensor) -> Tensor:
        latents.append(h)
        return h

    monkeypatch.setattr(model, "inverse", watch)
    model.sample(2000, _generator())
    assert stats.kstest(latents[0].flatten().numpy(), DISTRIBUTIONS[prior].cdf).pvalue > 0.01


@ALPHAS
@pytest.mark.parametrize("prior", PRIORS)
def test_initialisation_gives_latents_the_priors_spread(prior: Prior, alpha: float, digits: Tensor) -> None:
    model = Nice(
        (1, 8, 8), 17, prior=prior, couplings=2, width=8, depth=1, dropout=0, alpha=alpha, dequantisation_samples=1
    )
    model.initialise(digits[:500], _generator(1))
    h, _ = model((digits[:500].flatten(1) + torch.rand(500, 64, generator=_generator(2))) / 17)
    torch.testing.assert_close(h.std(0), torch.full((64,), DISTRIBUTIONS[prior].std()).float(), rtol=0.15, atol=0)


@ALPHAS
def test_interpolation_starts_and_ends_at_the_very_images(alpha: float) -> None:
    model = _model((1, 4, 4), 17, alpha=alpha).float()
    a, b = torch.randint(0, 17, (2, 6, 1, 4, 4), dtype=torch.uint8, generator=_generator())
    walk = model.interpolate(a, b, 7)
    assert torch.equal(walk[:, 0], a)
    assert torch.equal(walk[:, -1], b)
    assert (walk[:, 3] != a).any()
