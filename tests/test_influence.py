"""How much each test image adds to a measure: the variance of these values over N is that of the measure."""

import math

import pytest
import torch
from torch import Tensor

from workflow.evaluation.metrics import frechet, kernel, manifold
from workflow.evaluation.metrics.extrapolation import infinite_fid
from workflow.evaluation.metrics.frechet import Gaussian, fit_gaussian, frechet_distance, frechet_influence
from workflow.evaluation.metrics.kernel import kernel_influence, mean_kernels, mean_other_kernels, squared_mmd
from workflow.evaluation.metrics.manifold import (
    fit_manifold,
    manifold_influence,
    manifold_scores,
    nearest_others,
    overlap,
)
from workflow.evaluation.metrics.modes import kl_influence, mode_coverage

N, M, D, K = 200, 300, 6, 5
SETS = 120  # of fresh test images
MIX = torch.randn(D, D, generator=torch.Generator().manual_seed(9), dtype=torch.float64) / 2


def _real(seed: int, n: int = N) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) @ MIX


def _samples(n: int = M) -> Tensor:
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(10_000), dtype=torch.float64)
    return 0.8 * x @ MIX + 0.4


def _jackknife(measure: list[float], whole: float) -> Tensor:
    """Influence values from the measure without each image."""
    return (len(measure) - 1) * (whole - torch.tensor(measure, dtype=torch.float64))


def _without(x: Tensor, j: int) -> Tensor:
    return torch.cat([x[:j], x[j + 1 :]])


@pytest.mark.parametrize("singular", [False, True])
def test_influence_on_the_frechet_distance_is_what_leaving_an_image_out_changes(singular: bool) -> None:
    real, samples = _real(1), _samples()
    if singular:  # a feature that is always 0 among real images, and one that is a sum of two others
        real = torch.cat([real, real.new_zeros(N, 1), real[:, :2].sum(1, keepdim=True)], 1)
        samples = torch.cat([samples, samples.new_zeros(M, 1), samples[:, :2].sum(1, keepdim=True)], 1)
    a, b = fit_gaussian(samples), fit_gaussian(real)
    found = frechet_influence(a, b, real)
    assert float(found.mean()) == pytest.approx(0, abs=0.01 * float(found.std()))
    expected = _jackknife(
        [frechet_distance(a, fit_gaussian(_without(real, j))) for j in range(N)], frechet_distance(a, b)
    )
    assert float(torch.corrcoef(torch.stack([found, expected]))[0, 1]) > 0.999
    assert float(found.std()) == pytest.approx(float(expected.std()), rel=0.03)


def test_parts_do_not_change_the_influence(monkeypatch: pytest.MonkeyPatch) -> None:
    real, samples = _real(1), _samples()
    distance = frechet_influence(fit_gaussian(samples), fit_gaussian(real), real)
    kernels, others = mean_kernels(real, samples), nearest_others(real, K)
    monkeypatch.setattr(frechet, "NUMBERS", 40 * D)
    monkeypatch.setattr(kernel, "ROWS", 7)
    monkeypatch.setattr(manifold, "NEIGHBOUR_ROWS", 11)
    torch.testing.assert_close(frechet_influence(fit_gaussian(samples), fit_gaussian(real), real), distance)
    torch.testing.assert_close(mean_kernels(real, samples), kernels)
    assert torch.equal(nearest_others(real, K), others)


def test_mean_kernels_are_those_of_the_squared_mmd() -> None:
    x, y = _samples(N), _real(1)
    between, within = mean_kernels(y, x), mean_other_kernels(y)
    loop = [[(float(a @ b) / D + 1) ** 3 for b in y[:9]] for a in y[:9]]
    of_nine = [(sum(row) - row[i]) / 8 for i, row in enumerate(loop)]
    assert mean_other_kernels(y[:9]).tolist() == pytest.approx(of_nine)
    expected = mean_other_kernels(x).mean() + within.mean() - 2 * between.mean()
    assert squared_mmd(x, y) == pytest.approx(float(expected))


def test_influence_on_the_squared_mmd_is_what_leaving_an_image_out_changes() -> None:
    x, y = _samples(N), _real(1)

    def mmd(y: Tensor) -> float:
        return float(mean_other_kernels(y).mean() - 2 * mean_kernels(y, x).mean())

    found = kernel_influence(mean_kernels(y, x), mean_other_kernels(y))
    expected = _jackknife([mmd(_without(y, j)) for j in range(N)], mmd(y))
    torch.testing.assert_close(found, expected - expected.mean(), rtol=0.02, atol=0.02 * float(found.std()))


def test_influence_on_the_kl_of_modes_is_what_leaving_an_image_out_changes() -> None:
    random = torch.Generator().manual_seed(0)
    fake, real = torch.randint(0, 5, (300,), generator=random), torch.randint(0, 4, (500,), generator=random)
    found = kl_influence(fake % 3, real, 5)
    kl = [mode_coverage(fake % 3, y, 5)["kl"] for y in (real, *(_without(real, j) for j in range(500)))]
    expected = _jackknife(kl[1:], kl[0])
    torch.testing.assert_close(found, expected - expected.mean(), rtol=0.03, atol=0.03 * float(found.std()))
    assert float(found.mean()) == pytest.approx(0, abs=1e-12)


def test_influence_on_precision_is_what_only_this_images_ball_holds() -> None:
    """Values by hand, on a line: radii to the nearest other image are 1, 1 and 3."""
    real = torch.tensor([[0.0], [1.0], [4.0]])
    samples = torch.tensor([[-0.5], [0.5], [6.0], [9.0], [0.6]])
    found = overlap(fit_manifold(samples, 1), fit_manifold(real, 1))
    assert found.hits.tolist() == [1, 2, 1, 0, 2]
    assert found.inside.tolist() == [3, 2, 1]
    assert found.alone.tolist() == [1, 0, 1]
    values = manifold_influence(found, nearest_others(real, 1))
    assert nearest_others(real, 1).tolist() == [[1], [0], [1]]
    assert values["precision"].tolist() == pytest.approx([3 / 5, 0, 3 / 5])
    # Density of each: 9/5, 6/5, 3/5; without the middle image the balls of the two others would grow.
    assert values["density"].tolist() == pytest.approx([9 / 5 - 6 / 5 + 6 / 5, 6 / 5 - 12 / 5 + 6 / 5, 3 / 5 + 6 / 5])
    # Of all balls only the last has a single sample, and the middle image holds it small.
    assert values["coverage"].tolist() == pytest.approx([1 + 1 / 3, 0 + 1 / 3, 1 + 1 / 3])


def test_means_over_test_images_have_the_measures_as_their_means() -> None:
    real, samples = _real(1), _samples()
    found = overlap(fit_manifold(samples, K), fit_manifold(real, K))
    scores, values = manifold_scores(found, K), manifold_influence(found, nearest_others(real, K))
    for key in ("recall", "density", "coverage"):
        assert float(values[key].mean()) == pytest.approx(scores[key])
    assert values["recall"].tolist() == found.recalled.double().tolist()


def test_variances_are_those_over_fresh_test_images() -> None:
    """FID and KID to a third; those on balls err towards too wide an interval on data without outliers."""
    samples = _samples()
    own, gaussian = fit_manifold(samples, K), fit_gaussian(samples)
    measures: dict[str, list[float]] = {}
    variances: dict[str, list[float]] = {}
    for seed in range(SETS):
        real = _real(seed)
        found = overlap(own, fit_manifold(real, K))
        between, within = mean_kernels(real, samples), mean_other_kernels(real)
        values = manifold_influence(found, nearest_others(real, K)) | {
            "fid": frechet_influence(gaussian, fit_gaussian(real), real),
            "kid": kernel_influence(between, within),
        }
        scores = manifold_scores(found, K) | {
            "fid": frechet_distance(gaussian, fit_gaussian(real)),
            "kid": float(within.mean() - 2 * between.mean()),
        }
        for key, score in scores.items():
            measures.setdefault(key, []).append(score)
            variances.setdefault(key, []).append(float(values[key].var()) / N)
    ratios = {key: sum(variances[key]) / SETS / torch.tensor(measures[key]).double().var() for key in measures}
    for key, (low, high) in {
        "fid": (0.75, 1.33), "kid": (0.75, 1.33), "recall": (0.6, 1.5),
        "density": (0.75, 2), "coverage": (0.75, 2), "precision": (0.75, 4),
    }.items():  # fmt: skip
        assert low < ratios[key] < high, key


def test_fid_at_infinity_is_nearer_to_the_true_distance() -> None:
    """Two Gaussians whose distance is known: d (μ² + (1 - σ)²)."""
    d, mean, std, n = 32, 0.1, 0.8, 800
    true = d * (mean**2 + (1 - std) ** 2)
    count = 10**8
    real = Gaussian(torch.zeros(d).double(), torch.eye(d).double() * math.sqrt(count - 1), count)
    plain, infinite = [], []
    for seed in range(20):
        x = mean + std * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
        plain.append(frechet_distance(fit_gaussian(x), real))
        infinite.append(infinite_fid(x, real))
        assert infinite_fid(x, real) == infinite[-1]
    bias_plain, bias_infinite = (sum(found) / len(found) - true for found in (plain, infinite))
    assert bias_plain > 0.1 * true
    assert abs(bias_infinite) < 0.2 * bias_plain
    assert sum(abs(b - true) < abs(a - true) for a, b in zip(plain, infinite, strict=True)) >= 18


def test_fid_at_infinity_does_not_depend_on_how_samples_are_sorted() -> None:
    """Samples that come class by class are shuffled: of those in order, every part would be of other classes."""
    real = fit_gaussian(_real(1))
    x = torch.cat([_samples(120), _real(3, 120) + 2])
    shuffled = x[torch.randperm(240, generator=torch.Generator().manual_seed(1))]
    whole = frechet_distance(fit_gaussian(x), real)
    assert abs(infinite_fid(x, real) - infinite_fid(shuffled, real)) < 0.2 * whole
