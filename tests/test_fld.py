"""FLD's generalisation gap: its density and its widths, held against other libraries, and planted copies."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.neighbors import KernelDensity
from torch import Tensor

from workflow.evaluation.metrics import fld as module
from workflow.evaluation.metrics.fld import generalisation_gap, log_density, squared_distances

D = 4


def _drawn(n: int, seed: int, features: int = D) -> Tensor:
    return torch.randn(n, features, generator=torch.Generator().manual_seed(seed))


def _log_normals(points: Any, centres: Any, variances: Any) -> Any:
    return norm.logpdf(points[:, None], centres, np.sqrt(variances)[:, None]).sum(2)


def _fitted(centres: Any, seen: Any) -> Any:
    """Variances by L-BFGS with gradients from finite differences, on the authors' objective."""
    features = seen.shape[1]
    nearest = ((seen[:, None] - centres) ** 2).sum(2).min(0)
    start = np.log([*((nearest + module.NARROWEST) / features), 1.0])
    shortened = 0.9 * (seen - seen.mean(0))  # the background's distances

    def loss(log_variances: Any) -> float:
        *own, background = np.exp(log_variances)
        kernels = _log_normals(seen, centres, own) - np.log(len(centres))
        beside = norm.logpdf(shortened, 0, np.sqrt(background)).sum(1)
        return -float(logsumexp(np.column_stack([kernels, beside]), axis=1).mean())

    return np.exp(minimize(loss, start, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9}).x[:-1])


def test_with_equal_widths_the_density_is_scikit_learns_kernel_density() -> None:
    points, centres = _drawn(40, 0).double(), _drawn(30, 1).double()
    expected = KernelDensity(bandwidth=0.7).fit(centres.numpy()).score_samples(points.numpy())
    found = log_density(squared_distances(points, centres), torch.full((30,), 0.49, dtype=torch.float64), D)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_the_gap_is_that_of_widths_fitted_by_another_optimiser(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feature that is constant on test images is left out; the unit of another does not matter."""
    monkeypatch.setattr(module, "ROUNDS", 1000)
    monkeypatch.setattr(module, "ROWS", 17)
    samples, training, test = (_drawn(n, seed, 3).double() for seed, n in enumerate((6, 50, 40)))
    mean, scale = test.numpy().mean(0), test.numpy().std(0)
    centres, seen, unseen = ((points.numpy() - mean) / scale for points in (samples, training, test))
    variances = _fitted(centres, seen)
    terms = [logsumexp(_log_normals(points, centres, variances), axis=1) - np.log(6) for points in (unseen, seen)]
    expected = 100 * (terms[0].mean() - terms[1].mean()) / 3
    gap, influence = generalisation_gap(samples, training, test)
    assert gap == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(influence, 100 * (terms[0] - terms[0].mean()) / 3, rtol=1e-3, atol=1e-2)
    wide = [torch.cat([points * torch.tensor([1.0, 9.0, 1.0]), points[:, :1] * moved], 1) for points, moved in
            ((samples, 1), (training, 1), (test, 0))]  # fmt: skip
    assert generalisation_gap(*wide)[0] == pytest.approx(gap, rel=1e-9)


def test_few_rounds_are_enough() -> None:
    drawn = _drawn(300, 2, 16), _drawn(400, 0, 16), _drawn(200, 1, 16)
    few, influence = generalisation_gap(*drawn)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROUNDS", 100)
        many, _ = generalisation_gap(*drawn)
    assert few == pytest.approx(many, abs=0.1 * float(influence.std()) / 200**0.5)


def test_copies_are_ranked_by_their_share() -> None:
    training, test = _drawn(600, 0, 16), _drawn(300, 1, 16)
    found = []
    for share in (0, 0.1, 0.5, 1):
        samples, count = _drawn(400, 2, 16), int(400 * share)
        samples[:count] = training[:count] + 0.05 * _drawn(count, 3, 16)
        found.append(generalisation_gap(samples, training, test)[0])
    assert sorted(found, reverse=True) == found
    assert -15 < found[0] < 0  # of unseen samples: their widths suit the training images
    assert found[1] < found[0] - 3
    assert found[-1] < -100


def test_exact_copies_have_a_finite_gap_and_features_that_say_nothing_none() -> None:
    training, test = _drawn(50, 0), _drawn(30, 1)
    gap, influence = generalisation_gap(training, training, test)
    assert -1e9 < gap < -100
    assert influence.isfinite().all()
    nothing, unmoved = generalisation_gap(training, training, torch.ones(30, D))
    assert nothing == 0
    assert not unmoved.any()


def test_the_influence_of_test_images_has_the_variance_over_fresh_ones() -> None:
    samples, training = _drawn(200, 0, 8), _drawn(300, 1, 8)
    values, variances = [], []
    for seed in range(60):
        gap, influence = generalisation_gap(samples, training, _drawn(150, 10 + seed, 8))
        values.append(gap)
        variances.append(float(influence.var()) / 150)
    assert sum(variances) / 60 == pytest.approx(float(torch.tensor(values).var()), rel=0.35)


def test_no_more_images_are_compared_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLES", 20)
    monkeypatch.setattr(module, "TRAINING", 30)
    samples, training, test = _drawn(40, 0), _drawn(90, 1), _drawn(30, 2)
    assert generalisation_gap(samples, training, test)[0] == generalisation_gap(samples[::2], training[::3], test)[0]
