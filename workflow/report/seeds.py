"""Statistics of a metric over seeds: mean, standard deviation and the uncertainty of the mean."""

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 9999
BATCH = 500  # resamples in memory at once


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
    """Low and high end of the interval of `intervals`; None if a value is missing or there is only one."""
    present = _complete(numbers)
    if len(present) < 2:
        return None
    if len(set(present)) == 1:
        return [present[0], present[0]]  # their mean may differ in the last bit
    low, high = intervals([present])[0]
    return [float(low), float(high)]


def intervals(rows: Sequence[Sequence[float]]) -> "NDArray[np.float64]":
    """The 95 % bootstrap interval of the mean of each of K rows of n >= 2 numbers: float64 (K, 2).

    The percentile interval (Efron & Tibshirani 1993, chapter 13), with the same resamples at every call. The
    bias-corrected interval, BCa, would estimate a skewness from very few values, and is undefined if all are equal.
    """
    import numpy as np
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.asarray(rows, dtype=np.float64),), np.mean, axis=-1, vectorized=True, confidence_level=0.95,
        n_resamples=RESAMPLES, batch=BATCH, method="percentile", rng=np.random.default_rng(0),
    )  # fmt: skip
    return np.stack(found.confidence_interval, axis=-1)


def _complete(numbers: Sequence[float | None]) -> list[float]:
    present = [number for number in numbers if number is not None]
    return present if len(present) == len(numbers) else []
