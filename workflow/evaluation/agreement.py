"""Which measures of samples agree with the truth about the models, where the truth is known."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from workflow.evaluation.columns import GENERATION, Column
from workflow.evaluation.statistics import holm
from workflow.evaluation.trust import correlation, ranks

ENUMERATED = 8  # models, at most, all of whose orders are counted
FEWEST = 4  # models: with fewer, not even a perfect agreement is beyond chance


@dataclass(frozen=True)
class Agreement:
    """How a measure's order of the models agrees with the true one.

    Args:
        correlation: Spearman's; 1 if it is the true order, -1 if it is the reverse. None if all values are equal.
        p_value: of so strong a correlation by chance, adjusted for the number of measures.
        models: their number.

    """

    correlation: float | None
    p_value: float | None
    models: int


def agreement(models: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, Any]:
    """How measures of samples agree with the truth, by its key and the column's, and the number of models.

    There are two truths: "kl", that of the data from the model, and "samples", how far the bits/dim of samples under
    the truth are from the entropy of the data.

    Args:
        models: of the summary, by name.
        teacher: of the reference: the entropy.
    """
    means = {name: model["mean"] for name, model in models.items()}
    targets = {
        "kl": {name: mean["true_kl"] for name, mean in means.items() if mean["true_kl"] is not None},
        "samples": {name: abs(mean["true_bits"] - teacher["bits_per_dim"]) for name, mean in means.items()},
    }
    return {
        key: {
            "models": len(target),
            "measures": {name: asdict(one) for name, one in agreements(GENERATION, target, means).items()},
        }
        for key, target in targets.items()
    }


def agreements(
    columns: Sequence[Column], truth: Mapping[str, float], models: Mapping[str, Mapping[str, Any]]
) -> dict[str, Agreement]:
    """The agreement of each measure that says which direction is better, by the column's key.

    Args:
        columns: of the measures.
        truth: how far each model is from the truth, by its name; other models are left out.
        models: the values of each, by the column's key.
    """
    found, chances = {}, {}
    for column in columns:
        known = {name: value for name in truth if (value := models[name].get(column.key)) is not None}
        if not column.better or len(known) < FEWEST:
            continue
        sign = 1 if column.better == "lower" else -1
        pair = [sign * value for value in known.values()], [truth[name] for name in known]
        found[column.key] = Agreement(correlation(*pair), None, len(known))
        if (by_chance := chance(*pair)) is not None:
            chances[column.key] = by_chance
    adjusted = holm(chances)
    return {key: Agreement(one.correlation, adjusted.get(key), one.models) for key, one in found.items()}


def chance(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Probability that random orders of N things have a rank correlation as far from 0, or farther; None without one.

    Exact for up to eight; of more by Student's t, as in Zar 1972, Significance Testing of the Spearman Rank Correlation
    Coefficient.

    >>> round(chance([1, 2, 3, 4], [5, 6, 7, 9]), 4)  # two of 24 orders
    0.0833
    """
    rho, n = correlation(one, other), len(one)
    if rho is None:
        return None
    if n > ENUMERATED:
        from scipy.special import stdtr

        t = math.inf if abs(rho) >= 1 else abs(rho) * math.sqrt((n - 2) / (1 - rho**2))
        return float(2 * stdtr(n - 2, -t))
    first, second = (values - values.mean() for values in (ranks(one), ranks(other)))
    products = second[_orders(n)] @ first
    return float((abs(products) >= abs(second @ first) - 1e-9).mean())


@cache
def _orders(n: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    return np.array(list(itertools.permutations(range(n))))
