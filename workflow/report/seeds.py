"""Statistics of a metric over seeds: mean, standard deviation and the uncertainty of the mean."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from workflow.evaluation.statistics import estimate


def spread(values: Mapping[str, Sequence[float | None]]) -> dict[str, Any]:
    """`values` of each metric, one per seed, and their `mean`, `std` and `interval`, each with the same keys."""
    return {
        "values": {key: list(numbers) for key, numbers in values.items()},
        "mean": {key: mean(numbers) for key, numbers in values.items()},
        "std": {key: std(numbers) for key, numbers in values.items()},
        "interval": {key: interval(numbers) for key, numbers in values.items()},
    }


def mean(numbers: Sequence[float | None]) -> float | None:
    """The mean; None if a value is missing."""
    present = _complete(numbers)
    return float(statistics.mean(present)) if present else None


def std(numbers: Sequence[float | None]) -> float | None:
    """The sample standard deviation (divided by n - 1); None if a value is missing or there is only one."""
    present = _complete(numbers)
    return float(statistics.stdev(present)) if len(present) > 1 else None


def interval(numbers: Sequence[float | None]) -> list[float] | None:
    """Low and high end of Student's 95 % interval of the mean; None if a value is missing or there is only one."""
    present = _complete(numbers)
    if len(present) > 1 and len(set(present)) == 1:
        return [present[0], present[0]]  # their mean may differ in the last bit
    found = estimate([[number] for number in present])
    return list(found.interval) if found else None


def _complete(numbers: Sequence[float | None]) -> list[float]:
    present = [number for number in numbers if number is not None]
    return present if len(present) == len(numbers) else []
