"""Intervals keep their promise at the few repetitions that there are, and ties are told from differences."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from workflow.evaluation.statistics import Estimate, estimate, holm

TRIALS = 4000


def _coverage(tables: "np.ndarray[Any, Any]") -> float:
    """The share of tables (T, rows, columns) of mean 0 whose interval holds 0."""
    found = [estimate(table) for table in tables.tolist()]
    return float(np.mean([one is not None and one.interval[0] <= 0 <= one.interval[1] for one in found]))


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_intervals_over_seeds_cover_the_truth_in_95_cases_of_100(n: int) -> None:
    numbers = np.random.default_rng(n).normal(size=(TRIALS, n, 1))
    assert 0.94 <= _coverage(numbers) <= 0.96


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_so_do_those_of_paired_differences_whatever_the_pairs_have_in_common(n: int) -> None:
    random = np.random.default_rng(n)
    common = 10 * random.normal(size=(TRIALS, n, 1))
    one, other = (common + random.normal(size=(TRIALS, n, 1)) for _ in range(2))
    assert 0.94 <= _coverage(one - other) <= 0.96


@pytest.mark.parametrize(
    ("of_rows", "of_columns", "of_cells"), [(1, 1, 0), (1, 0.2, 0.2), (0.2, 1, 0.2), (1, 1, 1), (0, 0, 1)]
)
def test_draws_and_extractors_together_are_covered_at_least_so_often(
    of_rows: float, of_columns: float, of_cells: float
) -> None:
    random, trials = np.random.default_rng(1), 2 * TRIALS
    rows, columns = random.normal(size=(trials, 3, 1)), random.normal(size=(trials, 1, 3))
    tables = of_rows * rows + of_columns * columns + of_cells * random.normal(size=(trials, 3, 3))
    assert _coverage(tables) >= 0.94 - 2 * (0.05 * 0.95 / trials) ** 0.5  # what chance does to this very share


def test_a_known_variance_alone_is_normal() -> None:
    only = estimate([[2.0]], 0.25)
    assert only is not None
    assert only.interval == pytest.approx((2 - 0.5 * 1.959964, 2 + 0.5 * 1.959964))
    assert only.p_value == pytest.approx(2 * stats.norm.sf(4))


def test_one_column_is_students_interval_and_test() -> None:
    numbers = [1.2, 0.4, 2.2, 1.9]
    found = estimate([[number] for number in numbers])
    assert found is not None
    expected = stats.ttest_1samp(numbers, 0)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.p_value == pytest.approx(expected.pvalue)


def test_crossed_sources_by_hand() -> None:
    found = estimate([[1.0, 2.0], [3.0, 6.0]], 0.5)  # means of rows 1.5 and 4.5, of columns 2 and 4
    assert found is not None
    assert found.error**2 == pytest.approx(4.5 / 2 + 2 / 2 + 0.5)
    assert found.freedom == pytest.approx(3.75**2 / (2.25**2 + 1))
    assert found.mean == 3


def test_nothing_varied_is_no_interval_and_no_doubt_no_width() -> None:
    assert estimate([[1.0]]) is None
    assert estimate([[1.0], [1.0]]) == Estimate(1.0, 0.0, math.inf)
    assert Estimate(1.0, 0.0, math.inf).interval == (1.0, 1.0)
    assert (Estimate(1.0, 0.0, math.inf).p_value, Estimate(0.0, 0.0, math.inf).p_value) == (0, 1)


def test_holms_adjustment_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1, "b": 1}
    assert holm({}) == {}
