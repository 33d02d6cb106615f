"""The cost of starting a stage, before it does any work: CPU seconds until its imports are done, median of five.

For comparison: the bare interpreter, and torch, a cost that no stage with torch can avoid. `above torch` is what comes
on top.
"""

import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.compare import Row

RUNS = 5


def measure() -> Iterator[Row]:
    """The two that there is no way below, then every stage."""
    torch = _cpu("import torch")
    yield _row("python -c pass", _cpu("pass"), torch)
    yield _row("import torch", torch, torch)
    for stage in sorted(Path("stages").glob("[a-z]*.py")):
        yield _row(f"stages.{stage.stem}", _cpu(f"import stages.{stage.stem}"), torch)


def _row(what: str, seconds: list[float], torch: list[float]) -> Row:
    median = statistics.median(seconds)
    return {
        "what": what,
        "CPU seconds": median,
        "lowest": min(seconds),
        "highest": max(seconds),
        "above torch": max(0.0, median - statistics.median(torch)),
    }


def _cpu(code: str) -> list[float]:
    """User and system seconds of a fresh interpreter that runs `code`, `RUNS` times after one that fills the caches."""
    subprocess.run([sys.executable, "-c", code], check=True)
    return [_once(code) for _ in range(RUNS)]


def _once(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
