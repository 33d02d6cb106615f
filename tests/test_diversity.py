"""Diversity, precision-recall curves and utility: closed forms, other libraries, and definitions spelt out."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Generator, Tensor

from tests.evaluated import LEVELS, Everything
from workflow.data.tensors import ImageSet
from workflow.evaluation.evaluate import evaluate
from workflow.evaluation.evaluator import Evaluator
from workflow.evaluation.metrics import diversity
from workflow.evaluation.metrics.diversity import kernel_width, renyi_modes, vendi_score
from workflow.evaluation.metrics.prd import CLUSTERS, curve, f_score, histograms, influence, precision_and_recall
from workflow.evaluation.utility import hits_after_training_on
from workflow.params import Extractor

FAR = 1e3


def _drawn(n: int, seed: int, d: int = 6) -> Tensor:
    return torch.randn(n, d, generator=Generator().manual_seed(seed))


def _groups(counts: list[int], d: int = 30) -> Tensor:
    """So many equal points in each group, groups at right angles to one another and far apart."""
    return FAR * torch.eye(d)[torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))]


@pytest.mark.parametrize("d", [30, 200], ids=["fewer features than samples", "more features than samples"])
def test_diversity_is_the_number_of_equally_frequent_groups(d: int) -> None:
    for counts, expected in (([1] * 30, 30), ([60], 1), ([20] * 5, 5)):
        groups = _groups(counts, d)
        assert vendi_score(groups) == pytest.approx(expected)
        assert renyi_modes(groups, width=1.0) == pytest.approx(expected)
    shares = np.array([0.7, 0.2, 0.1])
    groups = _groups([70, 20, 10], d)
    assert vendi_score(groups) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    assert renyi_modes(groups, width=1.0) == pytest.approx(1 / (shares**2).sum())


def test_diversity_is_that_of_the_eigenvalues_of_the_whole_kernel_matrix() -> None:
    x = _drawn(700, 0).abs()
    y = x.double().numpy()
    unit = y / np.linalg.norm(y, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(unit @ unit.T / 700)
    values = values[values > 1e-12]
    assert vendi_score(x) == pytest.approx(math.exp(-(values * np.log(values)).sum()), rel=1e-6)
    squares = ((y[:, None] - y) ** 2).sum(2)
    values = np.linalg.eigvalsh(np.exp(-squares / (2 * 1.5**2)) / 700)
    assert renyi_modes(x, width=1.5) == pytest.approx(1 / (values**2).sum(), rel=1e-6)


def test_vectors_of_zeros_are_alike_and_like_nothing_else() -> None:
    assert vendi_score(torch.zeros(9, 4)) == pytest.approx(1)
    assert vendi_score(torch.cat([torch.zeros(5, 4), torch.ones(5, 4)])) == pytest.approx(2)


def test_of_many_samples_some_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    x = _drawn(60, 0)
    expected = vendi_score(x[::3]), renyi_modes(x[::3], 1.0)
    monkeypatch.setattr(diversity, "MOST", 20)
    assert (vendi_score(x), renyi_modes(x, 1.0)) == expected


def test_the_width_of_the_kernel_is_half_of_the_median_distance() -> None:
    x = _drawn(51, 0)
    distances = np.linalg.norm(x.double()[:, None] - x.double(), axis=2)[np.triu_indices(51, 1)]
    assert kernel_width(x) == pytest.approx(float(np.median(distances)) / 2)
    assert kernel_width(torch.zeros(5, 3)) == 1
    assert kernel_width(torch.cat([torch.zeros(9, 1), torch.ones(1, 1)])) == pytest.approx(0.5 * 9 / 45)


def _by_hand(samples: list[float], real: list[float], beta: float) -> float:
    """Equations 7 and 8 and the greatest F-score, number by number."""
    best = 0.0
    for place in range(1001):
        slope = math.tan(1e-10 + place * (math.pi / 2 - 2e-10) / 1000)
        precision = sum(min(slope * p, q) for p, q in zip(real, samples, strict=True))
        recall = sum(min(p, q / slope) for p, q in zip(real, samples, strict=True))
        best = max(best, (1 + beta**2) * precision * recall / (beta**2 * precision + recall))
    return best


def test_the_curve_is_its_definition_number_by_number() -> None:
    samples, real = [0.5, 0.3, 0.2, 0.0], [0.1, 0.3, 0.4, 0.2]
    found = curve(torch.tensor(samples).double(), torch.tensor(real).double())
    for beta in (8.0, 1.0, 1 / 8):
        assert f_score(found, beta)[0] == pytest.approx(_by_hand(samples, real, beta))
    swapped = curve(torch.tensor(real).double(), torch.tensor(samples).double())
    assert f_score(swapped, 8.0)[0] == pytest.approx(f_score(found, 1 / 8)[0])


def test_shares_of_clusters_are_those_by_k_means_of_scikit_learn() -> None:
    """Of twenty groups the samples lack five, and a tenth of them are in none of these but in one of their own."""
    centres = 50 * _drawn(20, 0)
    real = centres[:19].repeat_interleave(10, 0) + _drawn(190, 1)
    samples = torch.cat([centres[:14].repeat_interleave(27, 0), centres[19:].repeat_interleave(42, 0)]) + _drawn(420, 2)
    means = KMeans(CLUSTERS, n_init=10, random_state=0).fit(torch.cat([samples, real]).double())
    drawn, true = (
        (np.bincount(means.predict(x.double()), minlength=CLUSTERS) / len(x)).tolist() for x in (samples, real)
    )
    scores, _ = precision_and_recall(samples, real)
    assert scores["recall"] == pytest.approx(_by_hand(drawn, true, 8.0), abs=0.05)
    assert scores["precision"] == pytest.approx(_by_hand(drawn, true, 1 / 8), abs=0.05)
    assert scores["recall"] == pytest.approx(14 / 19, abs=0.05)
    assert scores["precision"] == pytest.approx(0.9, abs=0.05)


def test_no_clusters_of_equal_points_are_told_apart() -> None:
    for images in (torch.zeros(40, 3), torch.cat([torch.zeros(39, 3), torch.ones(1, 3)])):
        scores, moved = precision_and_recall(images, images[:30] * 1)
        assert scores["precision"] > 0.9
        assert all(len(values) == 30 and bool(values.isfinite().all()) for values in moved.values())


@pytest.mark.parametrize(("beta", "most"), [(8.0, 1.4), (1 / 8, 3.0)])
def test_the_influence_of_test_images_says_no_less_than_their_choice_does(beta: float, most: float) -> None:
    """The curve has kinks, where a first order says too much; never much too little."""
    true, drawn = torch.full((20,), 0.05).double(), torch.tensor([0.1] * 10 + [0.0] * 10).double()
    values, variances, random = [], [], Generator().manual_seed(0)
    for _ in range(150):
        cluster = torch.multinomial(true, 300, True, generator=random)
        shares = cluster.bincount(minlength=20).double() / 300
        found = curve(drawn, shares)
        moved = influence(drawn, shares, cluster, found, beta)
        assert float(moved.mean()) == pytest.approx(0, abs=1e-9)
        values.append(f_score(found, beta)[0])
        variances.append(float(moved.var()) / 300)
    assert 0.8 < (np.mean(variances) / np.var(values)) ** 0.5 < most


def test_of_unequal_numbers_equally_many_make_the_clusters() -> None:
    """A single cluster of many samples is not cut up because there are so many of them."""
    real = 50 * torch.eye(19).repeat(3, 1)
    samples = torch.cat([0.01 * _drawn(2000, 0, 19)])
    drawn, true, cluster = histograms(samples, real)
    assert sorted(drawn.tolist()) == [0.0] * 19 + [1.0]
    assert int((true > 0).sum()) == 19
    assert len(cluster) == 57


BRIEF = Extractor(channels=4, features=16, dropout=0.1, epochs=8, batch_size=16, lr=0.02, seeds=[0, 1])


def test_a_classifier_learns_from_good_samples_and_not_from_mislabelled_ones(evaluator: Evaluator) -> None:
    train, cpu = evaluator.train, torch.device("cpu")
    wrong = ImageSet(train.images, (train.labels + 1) % 10)
    before = torch.random.get_rng_state()
    with torch.no_grad():
        good, bad = (
            hits_after_training_on(images, evaluator.test, evaluator.card, BRIEF, cpu, 0) for images in (train, wrong)
        )
    assert good.double().mean() > 0.7
    assert bad.double().mean() < 0.2
    assert torch.equal(torch.random.get_rng_state(), before)


def test_samples_of_each_class_are_judged_beside_as_many_real_images(evaluator: Evaluator, digits: Tensor) -> None:
    """A model that draws real digits of the class is as good as real images, one that draws noise no better than one
    that guesses.
    """
    by_class = [evaluator.train.images[evaluator.train.labels == number] for number in range(10)]

    class Real(Everything):
        classes = 10

        def sample_given(self, y: Tensor, generator: Generator) -> Tensor:
            picked = [by_class[int(one)] for one in y]
            return torch.stack([few[int(torch.randint(len(few), (), generator=generator))] for few in picked])

    class Noise(Real):
        def sample_given(self, y: Tensor, generator: Generator) -> Tensor:
            return torch.randint(LEVELS, (len(y), 1, 8, 8), dtype=torch.uint8, generator=generator)

    longer = replace(evaluator, classifier=BRIEF)
    found, shown = evaluate(Real(), [digits[300:400]], longer, 0, {})
    noise, _ = evaluate(Noise(), [digits[300:400]], longer, 0, {})
    assert found["cas"] == pytest.approx(found["cas_of_real"], abs=0.15)
    assert found["cas"] == pytest.approx(shown["per_image/cas"].double().mean().item())
    assert noise["cas"] < 0.3 < 0.7 < found["cas_of_real"] == noise["cas_of_real"]
    assert [len(row) for row in found["repeats"]["cas"]] == [2]
    chosen = torch.arange(100) * len(evaluator.train) // 100
    as_many = ImageSet(evaluator.train.images[chosen], evaluator.train.labels[chosen])
    by_hand = [
        float(
            hits_after_training_on(as_many, evaluator.test, evaluator.card, BRIEF, torch.device("cpu"), seed)
            .double()
            .mean()
        )
        for seed in BRIEF.seeds
    ]
    assert found["repeats"]["cas_of_real"] == [by_hand]
