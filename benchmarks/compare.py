"""Two ways to the same thing, timed in turn."""

import statistics
import time
from collections.abc import Callable
from typing import Any

Row = dict[str, str | float | int]  # of a part's table: all of a part's rows have the same keys, its columns


def compare(
    what: str, alternative: str, ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int = 5, warm: bool = True
) -> Row:
    """Time both in turn, ours first and theirs first by turns, so that a machine whose speed drifts favours neither.

    ours, theirs: medians, seconds. ratio: the median over pairs of theirs/ours, so above 1 where ours is faster;
    lowest, highest: its range. warm: run each once before, uncounted.
    """
    if warm:
        ours()
        theirs()
    times = []
    for pair in range(pairs):
        if pair % 2:
            b, a = seconds(theirs), seconds(ours)
        else:
            a, b = seconds(ours), seconds(theirs)
        times.append((a, b))
    ratios = [b / a for a, b in times]
    return {
        "what": what,
        "alternative": alternative,
        "ours": statistics.median(a for a, _ in times),
        "theirs": statistics.median(b for _, b in times),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "pairs": pairs,
    }


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
