"""Measures of copying, held against other libraries, and planted copies, which they must find."""

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu, norm
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from workflow.evaluation.metrics import copying as module
from workflow.evaluation.metrics.copying import (
    copying,
    fit_memory,
    fit_training,
    mann_whitney,
    most_kept,
    nearest_points,
)

D = 6


def _drawn(n: int, seed: int) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("levels", [3, 1000], ids=["many ties", "few ties"])
def test_z_is_that_of_scipy(levels: int) -> None:
    random = torch.Generator().manual_seed(levels)
    samples, test = (torch.randint(levels, (n,), generator=random).double() for n in (70, 40))
    expected = mannwhitneyu(samples, test, use_continuity=False, method="asymptotic")
    z, _ = mann_whitney(samples, test)
    assert expected.pvalue == pytest.approx(2 * norm.sf(abs(z)), rel=1e-9)
    assert (z < 0) == (expected.statistic < 70 * 40 / 2)
    assert mann_whitney(torch.ones(9), torch.ones(5))[0] == 0


@pytest.mark.parametrize("rows", [1024, 17])
def test_nearest_points_are_those_of_scikit_learn(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", rows)
    points, queries = _drawn(150, 0) + 100, _drawn(70, 1) + 100
    queries[:5] = points[20:25]
    distance, index = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(points.double()).kneighbors(queries)
    found, where = nearest_points(queries, points)
    np.testing.assert_allclose(found, distance[:, 0], atol=1e-5)
    assert found[:5].tolist() == [0] * 5
    assert where.tolist() == index[:, 0].tolist()
    others = NearestNeighbors(n_neighbors=2).fit(points.double()).kneighbors(points.double())[0][:, 1]
    np.testing.assert_allclose(fit_training(points).apart, others)


def test_c_t_is_the_weighted_mean_of_scipys_z_in_each_cell() -> None:
    train, test, samples = _drawn(400, 0), _drawn(150, 1), 0.9 * _drawn(300, 2)
    memory = fit_memory(fit_training(train), test)
    assert len(memory.centres) == 3
    near = NearestNeighbors(n_neighbors=1).fit(train)
    own, theirs = (near.kneighbors(x)[0][:, 0] for x in (samples, test))
    cells = NearestNeighbors(n_neighbors=1).fit(memory.centres)
    of_own, of_theirs = (cells.kneighbors(x)[1][:, 0] for x in (samples, test))
    total, weights = 0.0, 0
    for cell in range(3):
        a, b = own[of_own == cell], theirs[of_theirs == cell]
        u = mannwhitneyu(a, b).statistic
        total += len(b) * (u - len(a) * len(b) / 2) / (len(a) * len(b) * (len(a) + len(b) + 1) / 12) ** 0.5
        weights += len(b)
    assert copying(samples, memory)[0]["c_t"] == pytest.approx(total / weights, rel=1e-6)


def test_authentic_samples_are_counted_by_hand() -> None:
    """Training images at 0, 1 and 5 are 1, 1 and 4 apart from the nearest other one."""
    memory = fit_memory(fit_training(torch.tensor([[0.0], [1.0], [5.0]])), torch.tensor([[0.5], [2.0]]))
    samples = torch.tensor([[-0.5], [-1.0], [-1.5], [7.0], [9.5]])  # 0.5, 1, 1.5, 2 and 4.5 from the nearest
    assert copying(samples, memory)[0]["authentic"] == pytest.approx(2 / 5)


def test_copies_are_ranked_by_their_share() -> None:
    train, test = _drawn(1000, 0), _drawn(300, 1)
    memory = fit_memory(fit_training(train), test)
    found = []
    for share in (0, 0.1, 0.5, 1):
        samples = _drawn(500, 2)
        samples[: int(500 * share)] = train[: int(500 * share)] + 0.01 * _drawn(int(500 * share), 3)
        found.append(copying(samples, memory)[0])
    c_t, authentic = ([one[key] for one in found] for key in ("c_t", "authentic"))
    assert sorted(c_t, reverse=True) == c_t
    assert abs(c_t[0]) < 1 < 5 < -c_t[-1]
    assert sorted(authentic, reverse=True) == authentic
    assert authentic[-1] == 0


def test_where_no_cell_has_enough_samples_space_is_one_cell() -> None:
    memory = fit_memory(fit_training(_drawn(400, 0)), _drawn(150, 1))
    few = _drawn(12, 2)
    expected, _ = mann_whitney(nearest_points(few, memory.training.points)[0], memory.distances)
    assert copying(few, memory)[0]["c_t"] == expected


def test_the_influence_of_test_images_has_the_variance_over_fresh_ones() -> None:
    train, samples = fit_training(_drawn(800, 0)), 0.95 * _drawn(600, 1)
    values, variances = [], []
    for seed in range(60):
        found, influence = copying(samples, fit_memory(train, _drawn(200, 10 + seed)))
        values.append(found["c_t"])
        variances.append(float(influence.var()) / 200)
    assert sum(variances) / 60 == pytest.approx(float(torch.tensor(values).var()), rel=0.35)


def test_no_more_features_are_kept_than_fit() -> None:
    assert most_kept(1000, 64) == 1000
    assert most_kept(60_000, 2048) == 2**25 // 2048
    assert most_kept(5, 2**26) == 1
