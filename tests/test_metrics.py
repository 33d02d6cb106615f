"""Every metric against an independent oracle: other libraries, the definition spelled out, or a closed form."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workflow.errors import BakeoffError
from workflow.evaluation.metrics import frechet, inception, kernel, manifold
from workflow.evaluation.metrics.frechet import Gaussian, fit_gaussian, frechet_distance
from workflow.evaluation.metrics.inception import inception_score
from workflow.evaluation.metrics.kernel import kernel_distance, squared_mmd
from workflow.evaluation.metrics.manifold import fit_manifold, manifold_scores, overlap

Array = np.ndarray[Any, np.dtype[np.float64]]
few_examples = settings(max_examples=25, derandomize=True, deadline=None)
seeds = st.integers(0, 2**31 - 1)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _features(n: int, d: int, seed: int = 0) -> Tensor:
    """Correlated columns away from the origin, float64 (n, d)."""
    generator = _generator(seed)
    x, mix, shift = (torch.randn(*size, generator=generator, dtype=torch.float64) for size in ((n, d), (d, d), (d,)))
    return x @ mix / math.sqrt(d) + shift


def _fid(a: Tensor, b: Tensor) -> float:
    return frechet_distance(fit_gaussian(a), fit_gaussian(b))


def _with_moments(mean: Array, covariance: Array, n: int, seed: int) -> Tensor:
    """Features whose sample mean and covariance are these: orthonormal columns, centred, then coloured."""
    x = np.random.default_rng(seed).standard_normal((n, len(mean)))
    white = np.linalg.qr(x - x.mean(0))[0] * math.sqrt(n - 1)
    return torch.from_numpy(white @ np.linalg.cholesky(covariance).T + mean)


# Fréchet distance


@pytest.mark.parametrize(("n", "m", "d", "dtype"), [(200, 150, 12, torch.float64), (300, 300, 24, torch.float32)])
def test_frechet_distance_is_torch_fidelitys(n: int, m: int, d: int, dtype: torch.dtype) -> None:
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    a, b = _features(n, d, 1).to(dtype), _features(m, d, 2).to(dtype)
    expected = fid_statistics_to_metric(fid_features_to_statistics(a), fid_features_to_statistics(b), False)
    assert _fid(a, b) == pytest.approx(expected[KEY_METRIC_FID], rel=1e-5)


def test_frechet_distance_is_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    extractor = torch.nn.Flatten()
    extractor.num_features = 10  # type: ignore[assignment]  # else it would try an image first
    metric = FrechetInceptionDistance(feature=extractor).set_dtype(torch.float64)
    a, b = _features(120, 10, 1), _features(80, 10, 2)
    metric.update(a, real=True)
    metric.update(b, real=False)
    assert _fid(a, b) == pytest.approx(metric.compute().item(), rel=1e-7)


@few_examples
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 40), seeds)
def test_frechet_distance_is_the_nuclear_norm_form_even_with_fewer_samples_than_dimensions(
    n: int, m: int, d: int, seed: int
) -> None:
    a, b = _features(n, d, seed), _features(m, d, seed + 1)
    x, y = a.numpy() - a.numpy().mean(0), b.numpy() - b.numpy().mean(0)
    trace = (x**2).sum() / (n - 1) + (y**2).sum() / (m - 1)
    root = scipy.linalg.svdvals(x @ y.T).sum() / math.sqrt((n - 1) * (m - 1))
    expected = ((a.numpy().mean(0) - b.numpy().mean(0)) ** 2).sum() + trace - 2 * root
    assert _fid(a, b) == pytest.approx(expected, rel=1e-9)
    assert _fid(b, a) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    mean_a, mean_b = rng.standard_normal((2, 6))
    mix_a, mix_b = rng.standard_normal((2, 6, 6))
    cov_a, cov_b = mix_a @ mix_a.T + np.eye(6), mix_b @ mix_b.T + np.eye(6)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    a, b = _with_moments(mean_a, cov_a, 30, 1), _with_moments(mean_b, cov_b, 50, 2)
    assert _fid(a, b) == pytest.approx(expected, rel=1e-9)

    # Independent dimensions: the squared differences of the standard deviations.
    wide, narrow = np.array([1.0, 2.0, 3.0]), np.array([0.5, 2.0, 7.0])
    a, b = _with_moments(np.zeros(3), np.diag(wide**2), 10, 1), _with_moments(np.ones(3), np.diag(narrow**2), 9, 2)
    assert _fid(a, b) == pytest.approx(3 + 0.25 + 0 + 16, rel=1e-9)


@few_examples
@given(st.integers(2, 30), st.integers(1, 30), seeds)
def test_frechet_distance_of_a_set_to_itself_is_zero_and_never_below(n: int, d: int, seed: int) -> None:
    a = _features(n, d, seed)
    assert 0 <= _fid(a, a[torch.randperm(n, generator=_generator(seed))]) < 1e-10


def test_gaussian_keeps_the_moments_without_a_covariance_matrix() -> None:
    a = _features(7, 20)
    fitted = fit_gaussian(a.float())
    assert isinstance(fitted, Gaussian)
    assert fitted.factor.shape == (7, 20)
    assert fitted.factor.dtype == fitted.mean.dtype == torch.float64
    np.testing.assert_allclose(fitted.factor.T @ fitted.factor / 6, np.cov(a.float().double().T), atol=1e-12)


@pytest.mark.parametrize("unexplained", [frechet.UNEXPLAINED, 2.0], ids=["Cholesky", "QR"])
def test_parts_do_not_change_the_gaussian(monkeypatch: pytest.MonkeyPatch, unexplained: float) -> None:
    a, b = _features(50, 6, 1), _features(41, 6, 2)
    whole = _fid(a, b)
    monkeypatch.setattr(frechet, "NUMBERS", 6 * 9)
    monkeypatch.setattr(frechet, "UNEXPLAINED", unexplained)
    assert _fid(a, b) == pytest.approx(whole, rel=1e-10)
    assert fit_gaussian(a).factor.shape == (6, 6)


@pytest.mark.parametrize("rest", [0.0, 1e-9, 1e-6, 1e-3])
def test_frechet_distance_of_nearly_dependent_features_is_the_nuclear_norm_form(rest: float) -> None:
    """A feature that is dead and one that others give, but for so much: where squares lose what is left."""
    a, b = _features(60, 12, 1), _features(50, 12, 2)
    for x in (a, b):
        x[:, 4] = 0.0
        x[:, 9] = x[:, 0] - x[:, 7] + rest * x[:, 9]
    x, y = (z.numpy() - z.numpy().mean(0) for z in (a, b))
    root = scipy.linalg.svdvals(x @ y.T).sum() / math.sqrt(59 * 49)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + (x**2).sum() / 59 + (y**2).sum() / 49 - 2 * root
    assert _fid(a, b) == pytest.approx(expected, rel=1e-11)


# Kernel distance


@pytest.mark.parametrize("seed", [0, 2020])
def test_kernel_distance_and_its_deviation_are_torch_fidelitys(seed: int) -> None:
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    a, b = _features(90, 8, 1), _features(70, 8, 2)
    expected = kid_features_to_metric(a, b, kid_subsets=7, kid_subset_size=40, rng_seed=seed, verbose=False)
    mean, std = kernel_distance(a, b, 7, 40, seed)
    assert mean == pytest.approx(expected[KEY_METRIC_KID_MEAN], rel=1e-9)
    assert std == pytest.approx(expected[KEY_METRIC_KID_STD], rel=1e-9)


def test_squared_mmd_is_the_double_loop() -> None:
    a, b = _features(9, 3, 1), _features(9, 3, 2)

    def kernel(x: list[float], y: list[float]) -> float:
        return (sum(p * q for p, q in zip(x, y, strict=True)) / 3 + 1) ** 3

    x, y, places = a.tolist(), b.tolist(), range(9)
    within = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i in places for j in places if i != j) / (9 * 8)
    between = sum(kernel(x[i], y[j]) for i in places for j in places) / 81
    assert squared_mmd(a, b) == pytest.approx(within - 2 * between, rel=1e-12)


def test_blocks_do_not_change_the_squared_mmd(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = _features(20, 3, 1), _features(20, 3, 2)
    whole = squared_mmd(a, b)
    monkeypatch.setattr(kernel, "ROWS", 7)
    assert squared_mmd(a, b) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(("shift", "expected"), [(0.0, 0.0), (1.0, 22.0)])
def test_squared_mmd_is_unbiased(shift: float, expected: float) -> None:
    """Of N(0, 1) and N(1, 1): three times the squared differences of the first and second moments, once the third's."""
    draws = torch.randn(4000, 2, 10, 1, generator=_generator(), dtype=torch.float64)
    values = np.array([squared_mmd(x, y + shift) for x, y in draws])
    assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(len(values))
    assert (values < expected).any()


def test_kernel_distance_takes_all_of_the_smaller_set_at_most() -> None:
    a, b = _features(12, 4, 1), _features(12, 4, 2)
    mean, std = kernel_distance(a.float(), b.float(), 5, 1000)
    assert mean == pytest.approx(squared_mmd(a.float().double(), b.float().double()), rel=1e-9)
    assert std == pytest.approx(0, abs=1e-9)
    more = _features(20, 4, 3)
    assert kernel_distance(a, more, 5, 1000) == kernel_distance(a, more, 5, 12)
    assert kernel_distance(more, a, 5, 1000) == kernel_distance(more, a, 5, 12)


# Inception Score


@pytest.mark.parametrize(("n", "splits", "seed"), [(100, 10, 0), (97, 10, 3), (50, 1, 2020)])
def test_inception_score_and_its_deviation_are_torch_fidelitys(n: int, splits: int, seed: int) -> None:
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    logits = 3 * _features(n, 5)
    expected = isc_features_to_metric(logits, splits, shuffle=True, rng_seed=seed)
    mean, std = inception_score(logits, splits, seed)
    assert mean == pytest.approx(expected[KEY_METRIC_ISC_MEAN], rel=1e-9)
    assert std == pytest.approx(expected[KEY_METRIC_ISC_STD], rel=1e-9)


def test_chunks_do_not_change_the_inception_score(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = 3 * _features(100, 5)
    whole = inception_score(logits, 3)
    monkeypatch.setattr(inception, "LOGITS", 5 * 7)
    assert inception_score(logits, 3) == pytest.approx(whole, rel=1e-12)


def test_inception_score_is_one_for_one_class_and_their_number_for_sure_and_even_predictions() -> None:
    one_hot = 500.0 * torch.eye(7).repeat_interleave(30, 0)
    assert inception_score(one_hot[:30], 3) == pytest.approx((1, 0))
    assert inception_score(one_hot, 1) == pytest.approx((7, 0))
    assert inception_score(torch.zeros(20, 7), 2) == pytest.approx((1, 0))
    assert inception_score(one_hot, 3)[0] > 5  # samples that come sorted are shuffled: no part holds few classes


def test_inception_score_bears_a_classifier_that_is_beyond_doubt() -> None:
    logits = torch.zeros(20, 3)
    logits[:, 0] = 800  # the other classes' probabilities round to zero
    assert inception_score(logits, 2) == pytest.approx((1, 0))


def test_inception_score_refuses_more_splits_than_samples() -> None:
    with pytest.raises(BakeoffError, match=r"^evaluate\.splits: 20: too many for 10 images; set it to 10 or lower$"):
        inception_score(torch.zeros(10, 3), 20)


@few_examples
@given(st.integers(10, 40), st.integers(2, 6), st.integers(1, 10), st.floats(0, 100), seeds)
def test_inception_score_lies_between_one_and_the_number_of_classes(
    n: int, classes: int, splits: int, sharpness: float, seed: int
) -> None:
    score, _ = inception_score(sharpness * _features(n, classes, seed), splits, seed)
    assert 1 - 1e-12 <= score <= classes + 1e-12


# Precision, recall, density and coverage


def _manifold_scores(samples: Tensor, real: Tensor, k: int) -> dict[str, float]:
    return manifold_scores(overlap(fit_manifold(samples, k), fit_manifold(real, k)), k)


def _by_definition(samples: Tensor, real: Tensor, k: int) -> dict[str, float]:
    """The formulas of both papers, one pair of points at a time."""
    x, y = real.tolist(), samples.tolist()

    def radii(points: list[list[float]]) -> list[float]:
        return [sorted(math.dist(p, q) for j, q in enumerate(points) if j != i)[k - 1] for i, p in enumerate(points)]

    ball_x, ball_y = radii(x), radii(y)
    in_real = [[math.dist(p, q) <= r for p, r in zip(x, ball_x, strict=True)] for q in y]
    in_sample = [[math.dist(p, q) <= r for q, r in zip(y, ball_y, strict=True)] for p in x]
    return {
        "precision": sum(any(row) for row in in_real) / len(y),
        "recall": sum(any(row) for row in in_sample) / len(x),
        "density": sum(map(sum, in_real)) / (k * len(y)),
        "coverage": sum(any(column) for column in zip(*in_real, strict=True)) / len(x),
    }


@few_examples
@given(st.integers(6, 40), st.integers(6, 40), st.integers(1, 5), st.integers(1, 5), seeds)
def test_manifold_scores_are_the_papers_definitions(n: int, m: int, d: int, k: int, seed: int) -> None:
    samples, real = _features(n, d, seed), _features(m, d, seed + 1)
    assert _manifold_scores(samples, real, k) == pytest.approx(_by_definition(samples, real, k), rel=1e-12)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_are_torch_fidelitys(k: int) -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    samples, real = _features(80, 3, 1), _features(60, 3, 2)
    expected = prc_features_to_metric(samples, real, prc_neighborhood=k, verbose=False)
    found = _manifold_scores(samples, real, k)
    assert found["precision"] == pytest.approx(expected["precision"], rel=1e-5)
    assert found["recall"] == pytest.approx(expected["recall"], rel=1e-5)
    assert 0 < found["recall"] != found["precision"] > 0


def test_manifold_scores_of_far_and_of_collapsed_samples() -> None:
    real = _features(50, 4)
    assert set(_manifold_scores(real + 100, real, 3).values()) == {0}
    collapsed = _manifold_scores(real[:1] + 1e-3 * _features(50, 4, 1), real, 3)
    assert collapsed["precision"] == 1
    assert max(collapsed["recall"], collapsed["coverage"]) < 0.2


def test_equal_points_are_in_each_others_balls() -> None:
    """A point with k equals has a ball of no size; samples and real images are looked at about different centres."""
    lattice = torch.randn(12, 40, generator=_generator(1))
    samples, real = (lattice[torch.randint(0, 12, (300,), generator=_generator(seed))] for seed in (2, 3))
    samples = samples[(samples != lattice[0]).any(1)]  # one place has no sample
    found = manifold_scores(overlap(fit_manifold(samples, 5), fit_manifold(real, 5)), 5)
    there = (real[:, None] == samples).all(2)
    assert found["recall"] == found["coverage"] == there.any(1).double().mean().item() < 1
    assert found["precision"] == 1
    assert found["density"] == pytest.approx(there.sum(0).double().mean().item() / 5)


def test_chunks_do_not_change_the_manifold_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, real = _features(50, 3, 1), _features(41, 3, 2)
    whole = _manifold_scores(samples, real, 3)
    monkeypatch.setattr(manifold, "ROWS", 7)
    assert _manifold_scores(samples, real, 3) == pytest.approx(whole, rel=1e-12)


def test_too_few_images_for_the_neighbours_are_refused() -> None:
    assert len(_manifold_scores(_features(6, 2, 1), _features(6, 2, 2), 5)) == 4
    for n, m in ((5, 9), (9, 5)):
        with pytest.raises(BakeoffError, match=r"evaluate\.neighbours: 5: too many for 5 images; set it to 4 or lower"):
            _manifold_scores(_features(n, 2), _features(m, 2), 5)
    with pytest.raises(
        BakeoffError, match=r"evaluate\.neighbours: 1: too many for 1 images; at least 2 images are needed$"
    ):
        fit_manifold(torch.zeros(1, 2), 1)
