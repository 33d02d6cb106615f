"""Models that cannot be told apart are tied, and a bound is never taken for a value."""

import math

import numpy as np
import pytest
from scipy import stats

from workflow.evaluation.comparison import Measurement, decides, difference, orders, verdict


def _of(*rows: float, **more: object) -> Measurement:
    return Measurement([[row] for row in rows], **more)  # type: ignore[arg-type]


def test_paired_differences_over_seeds_are_students() -> None:
    one, other = [3.0, 2.0, 4.0], [1.0, 0.5, 1.5]
    found = difference(_of(*one), _of(*other))
    assert found is not None
    assert found.p_value == pytest.approx(stats.ttest_rel(one, other).pvalue)


def test_test_images_that_both_share_cancel() -> None:
    hard = np.random.default_rng(0).normal(size=200)
    one, other = (Measurement([[value]], hard + value) for value in (1.0, 1.2))
    found = difference(one, other)
    assert found is not None
    assert found.error == pytest.approx(0, abs=1e-12)
    alone = one.estimate
    assert alone is not None
    assert alone.error == pytest.approx(hard.std(ddof=1) / 200**0.5)


def test_errors_add_where_repetitions_differ() -> None:
    one, other = _of(1.0, 2.0, 3.0), _of(1.0, 5.0)
    found = difference(one, other)
    assert found is not None
    expected = stats.ttest_ind([1.0, 2.0, 3.0], [1.0, 5.0], equal_var=False)  # Welch
    assert found.p_value == pytest.approx(expected.pvalue)


def test_a_difference_that_may_be_chance_is_a_tie() -> None:
    models = {"a": _of(1.0, 1.1, 0.9), "b": _of(1.05, 0.95, 1.1), "c": _of(2.0, 2.1, 1.9)}
    found = verdict(models, "lower")
    assert found is not None
    assert set(found.best) == {"a", "b"}
    assert found.best[0] == "a"
    assert found.p_values["c"] < 0.05 < found.p_values["b"]
    alone = verdict({"a": models["a"], "c": models["c"]}, "higher")
    assert alone is not None
    assert alone.best == ("c",)


def test_p_values_are_adjusted_for_the_number_of_models() -> None:
    random = np.random.default_rng(1)
    near = [0.0, 1.0, 2.0]
    one = {"a": _of(*near), "b": _of(0.5, 1.6, 2.65)}
    alone = verdict(one, "lower")
    assert alone is not None
    assert alone.best == ("a",)
    crowd = {f"c{i}": _of(*(np.array(near) + 1 + random.normal(size=3))) for i in range(20)}
    among = verdict({**one, **crowd}, "lower")
    assert among is not None
    assert "b" in among.best


def test_numbers_that_were_never_repeated_are_not_told_apart_and_counted_ones_are() -> None:
    models = {"a": _of(1.0), "b": _of(2.0), "c": _of(1.0)}
    assert verdict(models, "lower") is None
    repeated = {**models, "d": _of(3.0, 3.1)}
    found = verdict(repeated, "lower")
    assert found is not None
    assert found.best == ("a", "b", "c")
    assert found.p_values["b"] == 1
    found = verdict(models, "lower", counted=True)
    assert found is not None
    assert found.best == ("a", "c")
    assert verdict({"a": _of(1.0)}, "lower") is None


def _bits(value: float, kind: str) -> Measurement:
    random = np.random.default_rng(int(1000 * value))
    return Measurement([[value]], value + 0.1 * random.normal(size=300), kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ([1.9, 2.5], ("exact",)),  # which says nothing against them
        ([1.5, 2.5], ("bound 0",)),
        ([1.5, 1.4], ("bound 1", "bound 0")),  # either may be the tighter one
        ([1.795, 2.5], ("exact",)),  # below it by chance, perhaps
    ],
)
def test_a_bound_wins_only_below_an_exact_value(bounds: list[float], expected: tuple[str, ...]) -> None:
    models = {"exact": _bits(1.8, "exact"), "worse": _bits(2.0, "exact")}
    models |= {f"bound {i}": _bits(bound, "upper bound") for i, bound in enumerate(bounds)}
    found = verdict(models, "lower")
    assert found is not None
    assert found.best == expected


def test_bounds_among_themselves_have_no_best() -> None:
    assert verdict({"a": _bits(1.5, "upper bound"), "b": _bits(2.5, "upper bound")}, "lower") is None


def test_an_estimate_is_compared_with_nothing() -> None:
    models = {"exact": _bits(1.8, "exact"), "worse": _bits(2.0, "exact"), "bound": _bits(1.9, "upper bound")}
    found = verdict({**models, "low": _bits(1.2, "estimate"), "high": _bits(2.4, "estimate")}, "lower")
    assert found == verdict(models, "lower")
    assert found is not None
    assert (found.best, found.compared) == (("exact",), 3)
    assert verdict({"a": _bits(1.2, "estimate"), "b": _bits(2.4, "estimate")}, "lower") is None
    estimate = _bits(1.2, "estimate")
    for other in models.values():
        assert not decides(estimate, other)
        assert not decides(other, estimate)


def test_the_interval_of_an_estimate_covers_the_error_that_all_images_share() -> None:
    images = np.random.default_rng(0).normal(size=100)
    alone, shared = Measurement([[1.0]], images).estimate, Measurement([[1.0]], images, "estimate", 0.4).estimate
    assert alone is not None
    assert shared is not None
    assert shared.error == pytest.approx(math.hypot(alone.error, 0.4))
    assert shared.interval[1] == pytest.approx(1 + stats.norm.ppf(0.975) * shared.error)


def test_only_an_exact_value_can_be_the_greater_one() -> None:
    exact, bound = _bits(1.8, "exact"), _bits(1.8, "upper bound")
    assert [decides(a, b) for a, b in ((exact, exact), (bound, exact), (exact, bound), (bound, bound))] == [
        True, True, False, False,
    ]  # fmt: skip
    assert decides(_of(1.0), _of(2.0))


def test_orders_are_adjusted_for_the_number_of_pairs_and_never_decided_by_a_bound() -> None:
    low, high, near = _of(1.0, 1.1, 1.2), _of(2.0, 2.2, 2.1), _of(1.1, 1.2, 1.4)
    assert orders([(low, high), (high, low), (low, low)]) == [-1, 1, 0]
    assert stats.ttest_rel([1.0, 1.1, 1.2], [1.1, 1.2, 1.4]).pvalue < 0.06
    assert orders([(low, near)] * 5) == [0] * 5
    exact, bound, other = _bits(1.8, "exact"), _bits(2.5, "upper bound"), _bits(1.5, "upper bound")
    assert orders([(exact, bound), (bound, exact), (other, exact), (exact, other), (other, bound)]) == [0, 0, -1, 1, 0]
    assert orders([(_of(1.0), _of(2.0))]) == [0]
    assert orders([(_of(1.0), _of(2.0))], counted=True) == [-1]
