"""How well a training curve predicts the quality of samples: rank correlations of series over one training.

Neighbouring snapshots of a training are alike, and any two series that only fall agree, whatever they are about. So the
interval of a correlation counts how many independent snapshots these would be worth (Pyper & Peterman 1998, Comparison
of methods to account for autocorrelation in correlation analyses of fish data).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workflow.evaluation.statistics import Estimate, estimate
from workflow.evaluation.trust import correlation, ranks

FEWEST = 8  # snapshots: with fewer, nothing can be told
STEP = "step"  # the curve that every other one has to beat: how long the training has taken
Series = Sequence[float]


def over_seeds(pairs: Sequence[tuple[Series, Series]]) -> Estimate | None:
    """Fisher's z = artanh ρ of the rank correlation of a curve with FID, and its error.

    With one training, the error is that of so many independent snapshots. With several, it is what their correlations
    scatter, a mean of which is taken on the scale of z.

    Args:
        pairs: of each training, a curve and the FID at the same snapshots.

    Returns:
        None if a training has too few snapshots, or a series in which all values are equal.

    """
    found = [of_one(*pair) for pair in pairs]
    known = [one for one in found if one]
    if not known or len(known) < len(found):
        return None
    return estimate([[one.mean] for one in known]) or known[0]


def of_one(curve: Series, fid: Series) -> Estimate | None:
    """Of one training; the variance is (1 + ρ²/2) / (N* − 3) (Bonett & Wright 2000, Sample size requirements for
    estimating Pearson, Kendall and Spearman correlations), N* the number of independent snapshots.

    As N* may be hardly above 3, the interval is Student's with N* − 3 degrees of freedom, and endless at 3 or less.
    A perfect correlation counts as halfway between 1 and the next lower one.
    """
    n, rho = len(curve), correlation(curve, fid)
    if n < FEWEST or rho is None:
        return None
    most = 1 - 6 / (n**3 - n)
    rho, free = min(most, max(-most, rho)), independent(curve, fid) - 3
    if free <= 0:
        return Estimate(math.atanh(rho), math.inf, math.inf)
    return Estimate(math.atanh(rho), math.sqrt((1 + rho**2 / 2) / free), free)


def independent(one: Series, other: Series) -> float:
    """N*: how many independent pairs two autocorrelated series of N values are worth, at most N.

    1/N* = 1/N + 2/N Σⱼ r(j) r'(j), where r and r' are the autocorrelations of the ranks, estimated as N/(N − j) times
    the usual sum, and j goes to N/5 (the modified Chelton method of Pyper & Peterman 1998).
    """
    n = len(one)
    lags = range(1, n // 5 + 1)
    first, second = (_autocorrelations(ranks(values), lags) for values in (one, other))
    return n / max(1.0, 1 + 2 * float(first @ second))


def _autocorrelations(values: "np.ndarray[Any, np.dtype[np.float64]]", lags: range) -> "np.ndarray[Any, Any]":
    off, n = values - values.mean(), len(values)
    return np.array([n / (n - lag) * (off[:-lag] @ off[lag:]) / (off @ off) for lag in lags])


def as_correlation(found: Estimate) -> tuple[float, tuple[float, float]]:
    """ρ and its 95 % interval, from Fisher's z."""
    low, high = found.interval
    return math.tanh(found.mean), (math.tanh(low), math.tanh(high))


def difference(one: Estimate, other: Estimate) -> Estimate:
    """Of the z of two independent trainings; degrees of freedom by Satterthwaite (1946)."""
    parts = [(each.error**2, each.freedom) for each in (one, other)]
    total = sum(part for part, _ in parts)
    doubt = sum(part**2 / freedom for part, freedom in parts if math.isfinite(part))
    return Estimate(one.mean - other.mean, math.sqrt(total), total**2 / doubt if doubt else math.inf)


def curves_at(steps: Sequence[int], history: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Every scalar of the history that has a value at each of these steps, and the steps themselves.

    Those of training are means over the steps since the last record.
    """
    at: dict[int, dict[str, float]] = {}
    for record in history:
        at.setdefault(int(record[STEP]), {}).update(record)
    found = [at.get(step, {}) for step in steps]
    names = [name for name in (found[0] if found else {}) if name != "epoch" and all(name in one for one in found)]
    return {name: [one[name] for one in found] for name in sorted(names, key=lambda name: name == STEP)}
