"""Which model is best in a measure, and which others cannot be told apart from it."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from workflow.evaluation.statistics import Estimate, Table, estimate, holm
from workflow.models.taxonomy import BitsKind

SIGNIFICANT = 0.05
Better = Literal["lower", "higher"]
Values = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class Measurement:
    """One number of one model, with all that says how far it can be trusted.

    Args:
        table: a row per training seed or, if there is one seed, per draw of samples; a column per extractor.
        per_image: float64 (N,), how far each of the N test images moves the number: the variance of these values,
            divided by N, is its variance over the choice of test images. Empty where they play no part.
        kind: of bits/dim, whether it is exact, a bound or an estimate; None for all else.
        error: standard error of an estimate that all test images share, such as that of a normalising constant.

    """

    table: Table
    per_image: Values = field(default_factory=lambda: np.empty(0))
    kind: BitsKind | None = None
    error: float = 0.0

    @property
    def mean(self) -> float:
        """The number itself."""
        return statistics.fmean(value for row in self.table for value in row)

    @property
    def estimate(self) -> Estimate | None:
        """With its error; None if nothing was varied."""
        return estimate(self.table, _variance(self.per_image) + self.error**2)


@dataclass(frozen=True)
class Verdict:
    """The best of a measure.

    Args:
        best: the models that are best, several if they cannot be told apart, the best by its mean first.
        compared: the number of models that were.
        p_values: of the difference of each model from the first of `best`, adjusted for their number.

    """

    best: tuple[str, ...]
    compared: int
    p_values: dict[str, float]

    @property
    def decided(self) -> bool:
        """Whether some model is worse than the best."""
        return len(self.best) < self.compared


def difference(one: Measurement, other: Measurement) -> Estimate | None:
    """How much more the one has than the other; None if nothing was varied.

    What both have in common cancels: the extractor, the test images, and the number of the seed. Where they have been
    repeated differently often, the errors of the two add up.
    """
    if _shape(one.table) == _shape(other.table) and len(one.per_image) == len(other.per_image):
        table = [[a - b for a, b in zip(*rows, strict=True)] for rows in zip(one.table, other.table, strict=True)]
        return estimate(table, _variance(one.per_image - other.per_image))
    errors = [found for found in (one.estimate, other.estimate) if found and found.error]
    if not errors:
        return None
    variance = sum(found.error**2 for found in errors)
    doubt = sum(found.error**4 / found.freedom for found in errors)
    return Estimate(one.mean - other.mean, math.sqrt(variance), variance**2 / doubt if doubt else math.inf)


def verdict(models: Mapping[str, Measurement], better: Better, counted: bool = False) -> Verdict | None:
    """The best of these models; None if they cannot be compared, or nothing says how far to trust the numbers.

    An upper bound is never ranked against another bound, whose gap nobody knows. One that is below an exact value is
    below what it bounds, so it can win against exact values, never lose to them. An estimate may be off to either side
    by more than its error says, so it is not compared.

    Args:
        models: the measurement of each model, by its name.
        better: whether lower or higher values are better.
        counted: whether values are counted, the same each time, so that any difference is one.

    """
    models = {name: one for name, one in models.items() if one.kind != "estimate"}
    exact = {name: one for name, one in models.items() if one.kind != "upper bound"}
    if not exact or len(models) < 2 or not (counted or any(one.estimate for one in models.values())):
        return None
    first = _first(exact, better)
    bounds = {name: one for name, one in models.items() if name not in exact}
    won = [name for name, p in _p_values(bounds, exact[first], counted).items() if p < SIGNIFICANT]
    won = [name for name in won if _ahead(bounds[name], exact[first], better)]
    if won:  # the exact values have lost, and the bounds cannot be told apart
        first = _first({name: bounds[name] for name in won}, better)
        return Verdict((first, *(name for name in won if name != first)), len(models), {})
    p_values = _p_values({name: one for name, one in exact.items() if name != first}, exact[first], counted)
    tied = sorted((name for name in p_values if p_values[name] >= SIGNIFICANT), key=lambda name: -p_values[name])
    return Verdict((first, *tied), len(models), p_values)


def decides(less: Measurement, more: Measurement) -> bool:
    """Whether `less` being the lower number says that it is lower in truth.

    The greater must be no bound, and neither an estimate.
    """
    if "estimate" in (less.kind, more.kind):
        return False
    return more.kind != "upper bound" or less.kind is None


def orders(pairs: Sequence[tuple[Measurement, Measurement]], counted: bool = False) -> list[int]:
    """Of each pair -1 if the first number is lower, 1 if it is higher, 0 if that is not decided.

    A difference counts if it is significant after Holm's adjustment for the number of pairs, and if no bound stands
    where only an exact value can (`decides`).
    """
    unsure = holm({str(i): p_value(one, other, counted) for i, (one, other) in enumerate(pairs)})
    return [_order(one, other) if unsure[str(i)] < SIGNIFICANT else 0 for i, (one, other) in enumerate(pairs)]


def _order(one: Measurement, other: Measurement) -> int:
    less, more = (one, other) if one.mean < other.mean else (other, one)
    if not decides(less, more):
        return 0
    return -1 if less is one else 1


def _p_values(models: Mapping[str, Measurement], first: Measurement, counted: bool) -> dict[str, float]:
    return holm({name: p_value(one, first, counted) for name, one in models.items()})


def p_value(one: Measurement, other: Measurement, counted: bool = False) -> float:
    """Of the two being the same; 1 if nothing was varied; counted: any difference is one."""
    if counted:
        return float(one.mean == other.mean)
    found = difference(one, other)
    return found.p_value if found else 1.0


def _first(models: Mapping[str, Measurement], better: Better) -> str:
    choose = min if better == "lower" else max
    return choose(models, key=lambda name: models[name].mean)


def _ahead(one: Measurement, other: Measurement, better: Better) -> bool:
    return one.mean < other.mean if better == "lower" else one.mean > other.mean


def _variance(per_image: Values) -> float:
    return float(per_image.var(ddof=1)) / len(per_image) if len(per_image) > 1 else 0.0


def _shape(table: Table) -> tuple[int, int]:
    return len(table), len(table[0])
