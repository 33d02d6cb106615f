"""Metrics of classes, pixels and features for a probe against independent oracles."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from workflow.evaluation.metrics import baseline, neighbours
from workflow.evaluation.metrics.baseline import PixelHistogram
from workflow.evaluation.metrics.modes import class_shares, kl_divergence, mode_coverage
from workflow.evaluation.metrics.neighbours import memorisation, nearest
from workflow.evaluation.metrics.probe import probe_hits

few_examples = settings(max_examples=25, derandomize=True, deadline=None)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Classes


@few_examples
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_mode_coverage_counts_classes_and_has_a_finite_divergence(fake: list[int], real: list[int]) -> None:
    found = mode_coverage(torch.tensor(fake), torch.tensor(real), 5)
    assert found["histogram"] == [fake.count(i) / len(fake) for i in range(5)]
    assert found["test_histogram"] == [real.count(i) / len(real) for i in range(5)]
    smoothed = [(real.count(i) + 1) / (len(real) + 5) for i in range(5)]
    assert found["kl"] == pytest.approx(stats.entropy(found["histogram"], smoothed), abs=1e-12)
    assert math.isfinite(found["kl"])
    assert found["found"] == len(set(fake))


def test_divergence_is_scipys_and_infinite_where_only_the_second_lacks_a_class() -> None:
    p, q = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    assert kl_divergence(p, q) == pytest.approx(stats.entropy(p, q), rel=1e-12)
    assert kl_divergence(q, p) == math.inf
    assert kl_divergence(p, p) == 0
    shares = class_shares(torch.tensor([2, 2, 0, 2]), 5)
    assert shares.tolist() == [0.25, 0, 0.75, 0, 0]
    assert shares.dtype == torch.float64


# Nearest neighbours


def test_nearest_is_the_brute_force_minimum(digits: Tensor) -> None:
    queries, images = digits[:12], digits[100:160]
    distance, index = nearest(queries, images, 17)
    loop = [[math.dist(q, x) / 16 for x in images.flatten(1).tolist()] for q in queries.flatten(1).tolist()]
    assert distance.tolist() == pytest.approx([min(row) for row in loop], rel=1e-5)
    assert index.tolist() == [row.index(min(row)) for row in loop]


def test_nearest_is_exact_where_rounding_could_hide_a_pixel() -> None:
    """Bright colour images with 256 levels: the copy is nearer than the image that is one level off in one pixel."""
    x = torch.randint(200, 256, (50, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    almost = x.clone()
    almost[:, 0, 0, 0] -= 1
    distances, indices = nearest(x, torch.cat([almost, x]), 256)
    assert torch.equal(indices, torch.arange(50, 100))
    assert not distances.any()


def test_chunks_do_not_change_the_neighbours(digits: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    distance, index = nearest(digits[:50], digits[100:300], 17)
    monkeypatch.setattr(neighbours, "QUERIES", 7)
    monkeypatch.setattr(neighbours, "IMAGES", 11)
    monkeypatch.setattr(neighbours, "EXACT", 8**2 * 5)
    again = nearest(digits[:50], digits[100:300], 17)
    assert torch.equal(again[0], distance)
    assert torch.equal(again[1], index)


def test_copies_are_images_equal_to_the_last_pixel(digits: Tensor) -> None:
    train, test, samples = digits[:80], digits[100:141], digits[:9].clone()
    samples[0, 0, 3, 3] += 1
    samples[1:3] = digits[200:202]  # of nine, one is one pixel off and two are others
    found = memorisation([samples], test, train, 17)[0]
    assert found["copies"] == pytest.approx(6 / 9)
    assert found["samples"] == pytest.approx(0, abs=1e-3)
    nearest_of_test = [min(math.dist(t, x) for x in train.flatten(1).tolist()) for t in test.flatten(1).tolist()]
    assert found["test"] == pytest.approx(np.median(nearest_of_test) / 16, rel=1e-5)


def test_of_many_images_some_evenly_spaced_are_searched_but_copies_of_any_are_found(
    digits: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test, samples = digits[:90], digits[100:160], digits[:10]
    monkeypatch.setattr(neighbours, "SEARCHED", 45)
    monkeypatch.setattr(neighbours, "ASKED", 20)
    found = memorisation([samples], test, train, 17)[0]
    assert found["copies"] == 1
    assert found["samples"] == pytest.approx(float(nearest(samples, train[::2], 17)[0].median()))
    assert found["test"] == pytest.approx(float(nearest(test[::3], train[::2], 17)[0].median()))
    assert torch.arange(7)[neighbours.spread(7, 3)].tolist() == [0, 2, 4]
    assert torch.arange(7)[neighbours.spread(7, 7)].tolist() == list(range(7))


# The baseline of independent pixels


def test_baseline_sums_to_one_over_all_images_and_is_the_smoothed_histogram() -> None:
    train = torch.tensor([[0, 2], [0, 1], [0, 2], [1, 2]], dtype=torch.uint8).view(4, 1, 1, 2)
    every = torch.tensor(list(itertools.product(range(3), repeat=2)), dtype=torch.uint8).view(9, 1, 1, 2)
    log_prob = PixelHistogram(train, 3).log_prob(every)
    assert log_prob.dtype == torch.float64
    assert log_prob.exp().sum().item() == pytest.approx(1, rel=1e-12)
    first, second = [4 / 7, 2 / 7, 1 / 7], [1 / 7, 2 / 7, 4 / 7]
    assert log_prob.exp().tolist() == pytest.approx([p * q for p in first for q in second], rel=1e-12)


def test_parts_do_not_change_the_baseline(digits: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = PixelHistogram(digits[:100], 17)
    monkeypatch.setattr(baseline, "PIXELS", 7 * 64)
    parts = PixelHistogram(digits[:100], 17)
    assert torch.equal(parts.log_prob(digits[100:150]), whole.log_prob(digits[100:150]))


def test_baselines_samples_have_its_probabilities() -> None:
    train = torch.randint(0, 3, (5, 2, 1, 1), dtype=torch.uint8, generator=_generator(1))
    every = torch.tensor(list(itertools.product(range(3), repeat=2)), dtype=torch.uint8).view(9, 2, 1, 1)
    model = PixelHistogram(train, 3)
    samples = model.sample(20_000, _generator(2))
    assert (samples.shape, samples.dtype) == ((20_000, 2, 1, 1), torch.uint8)
    counts = [int((samples == image).flatten(1).all(1).sum()) for image in every]
    assert stats.chisquare(counts, 20_000 * model.log_prob(every).exp().numpy()).pvalue > 1e-3
    assert torch.equal(samples, model.sample(20_000, _generator(2)))


def test_baselines_pixels_stay_in_their_places() -> None:
    image = torch.arange(24, dtype=torch.uint8).view(1, 2, 3, 4)
    samples = PixelHistogram(image.expand(10_000, 2, 3, 4), 24).sample(20, _generator())
    assert (samples == image).double().mean() > 0.98


# The linear probe


def _probe_accuracy(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, regularisation: float) -> float:
    return float(probe_hits(train, labels, test, test_labels, regularisation).double().mean())


def _classes(n: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """Three clusters, float64 (n, 6), whose last feature is large and says nothing."""
    generator = _generator(seed)
    labels = torch.randint(0, 3, (n,), generator=generator)
    x = noise * torch.randn(n, 6, generator=generator, dtype=torch.float64)
    x[torch.arange(n), labels] += 1
    x[:, 5] *= 1e3
    return x, labels


def test_probe_is_perfect_on_separable_classes_and_guesses_without_a_signal() -> None:
    train, test = _classes(300, 0.05, 1), _classes(900, 0.05, 2)
    assert _probe_accuracy(*train, *test, 1.0) == 1
    blind = torch.randn(1200, 6, generator=_generator(), dtype=torch.float64)
    guessed = _probe_accuracy(blind[:300], train[1], blind[300:], test[1], 1.0)
    assert abs(guessed - 1 / 3) < 4 * math.sqrt(1 / 3 * 2 / 3 / 900)
    assert guessed == _probe_accuracy(blind[:300], train[1], blind[300:], test[1], 1.0)


@pytest.mark.parametrize("regularisation", [0.001, 1.0])
def test_probe_is_penalised_logistic_regression_on_standardised_features(regularisation: float) -> None:
    (x, y), (test, truth) = _classes(40, 0.8, 1), _classes(2000, 0.8, 2)
    scaled, scaled_test = ((part - x.mean(0)) / x.std(0, correction=0) for part in (x, test))
    oracle = LogisticRegression(C=regularisation, tol=1e-9, max_iter=10_000).fit(scaled, y)
    expected = oracle.score(scaled_test, truth)
    assert _probe_accuracy(x.float(), y, test, truth, regularisation) == pytest.approx(expected, abs=0.0006)
