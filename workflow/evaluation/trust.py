"""What the audit says of each measure: what it notices, from which strength on, and whether it may rank models.

Two sets of images are told apart if, for every extractor, all values of the one lie above all values of the other, over
all splits of the test images: between alike sets that happens by chance once in 126 times, with five splits each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workflow.evaluation.columns import GENERATION, Column
from workflow.evaluation.statistics import Table

COPIES = "training images copied"  # the damage that calibrates the measures of copying
FEWER = "fewer images"  # the only damage that leaves the images as they are: to notice it is no merit
COLUMNS = {column.key: column for column in GENERATION}


@dataclass(frozen=True)
class Notice:
    """What a measure makes of a damage.

    Args:
        correlation: Spearman's, of the strength of the damage with the mean value, the undamaged images included; None
            if the value never changes.
        strength: from which on it tells damaged images from others; None if it does so at no strength.
        way: 1 if damaged images then have the higher values, -1 if the lower ones, 0 if it is blind.
        praises: it takes damaged images for better ones.

    """

    correlation: float | None
    strength: float | None
    way: int
    praises: bool


def apart(one: Table, other: Table) -> int:
    """1 if all values of the other lie above all of the one in each column, -1 if below, else 0.

    >>> apart([[1.0, 5.0], [2.0, 6.0]], [[3.0, 7.0], [4.0, 8.0]]), apart([[1.0], [3.0]], [[2.0], [4.0]])
    (1, 0)
    """
    first, second = np.asarray(one), np.asarray(other)
    if bool((second.min(0) > first.max(0)).all()):
        return 1
    return -1 if bool((second.max(0) < first.min(0)).all()) else 0


def unfit(audit: Mapping[str, Any]) -> dict[str, str]:
    """The measures that may rank nobody, by the key of the column, and why; {} of data that were not audited.

    A measure that ranks models must find each control worse than real images, and notice some damage. On features of a
    network that has learned nothing it may do the first by a hair, but not the second.
    """
    found, noticed = {}, notices(audit)
    for key, clean in audit["clean"].items():
        column = COLUMNS[key]
        blind, fooled = [], []
        for name, values in audit["controls"].items():
            way = apart(clean, values[key]) if key in values else 0
            if not way:
                blind.append(name)
            elif _is_praise(column, way):
                fooled.append(name)
        reasons = [f"cannot tell {' or '.join(blind)} from real images"] if blind else []
        reasons += [f"takes {' and '.join(fooled)} for better than real images"] if fooled else []
        seen = [one for name, one in noticed[key].items() if name != FEWER]
        if seen and not reasons and not any(one.way and not one.praises for one in seen):
            reasons = ["notices no damage, however strong"]
        if column.better and reasons:
            found[key] = ", and ".join(reasons)
    return found


def notices(audit: Mapping[str, Any]) -> dict[str, dict[str, Notice]]:
    """What each measure makes of each damage, by the key of the column and the name of the damage."""
    return {
        key: {
            name: _notice(COLUMNS[key], clean, damage["strengths"], [values[key] for values in damage["values"]])
            for name, damage in audit["damages"].items()
            if all(key in values for values in damage["values"])
        }
        for key, clean in audit["clean"].items()
    }


def _notice(column: Column, clean: Table, strengths: Sequence[float], values: Sequence[Table]) -> Notice:
    """From the first strength on at which, and at all beyond, values lie apart from those of clean images."""
    ways = [apart(clean, table) for table in values]
    last = ways[-1]
    since = next((place for place in range(len(ways)) if all(way == last for way in ways[place:])), len(ways) - 1)
    means = [float(np.mean(table)) for table in (clean, *values)]
    praises = bool(last) and _is_praise(column, last)
    return Notice(correlation([0.0, *strengths], means), strengths[since] if last else None, last, praises)


def _is_praise(column: Column, way: int) -> bool:
    """Whether values that moved up (1) or down (-1) are better ones."""
    return {"lower": way < 0, "higher": way > 0, "": False}[column.better]


def correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's rank correlation; None if all values of either are equal.

    >>> correlation([1, 2, 3], [10, 30, 20])
    0.5
    """
    first, second = (ranks(values) for values in (one, other))
    if not np.ptp(first) or not np.ptp(second):
        return None
    return round(float(np.corrcoef(first, second)[0, 1]), 12)


def ranks(values: Sequence[float]) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """From 1; of equal values the mean of theirs: (N,)."""
    _, places, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]
