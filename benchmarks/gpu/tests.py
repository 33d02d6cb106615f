"""The tests that need a GPU, each result written as it comes."""

import os
import sys
import time
from typing import Any

from benchmarks.gpu.task import Task

FILE = "tests/test_gpu.py"
REHEARSAL = "BAKEOFF_GPU_REHEARSAL"  # set where the CPU stands in for the GPU
TINY = "smoke-vae or smoke-gan or classifier or process"  # which tests are rehearsed
PAUSE = 1.0  # seconds between two writes


class _Recorder:
    """Keeps the outcome of each test."""

    def __init__(self, task: Task) -> None:
        self.task, self.rows, self.written = task, list[dict[str, Any]](), 0.0

    def pytest_configure(self, config: Any) -> None:
        """Register the marker of a plugin that need not be here."""
        config.addinivalue_line("markers", "xdist_group: of pytest-xdist, without which it means nothing")

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A test's call or, if it was skipped or broke before or after that, this."""
        if report.when != "call" and report.outcome == "passed":
            return
        why = {} if report.outcome == "passed" else {"why": _last_line(report)}
        name = report.nodeid.partition("::")[2]
        self.rows.append({"test": name, "outcome": report.outcome, "seconds": report.duration, **why})
        if time.monotonic() > self.written + PAUSE:
            self.write()

    def pytest_sessionfinish(self) -> None:
        """All are done."""
        self.write()

    def write(self) -> None:
        """What is known so far; those that did not pass come first."""
        counts = {outcome: self.count(outcome) for outcome in ("passed", "failed", "skipped")}
        rows = sorted(self.rows, key=lambda row: row["outcome"] == "passed")
        self.task.write(", ".join(f"{count} {outcome}" for outcome, count in counts.items()), {"rows": rows})
        self.written = time.monotonic()

    def count(self, outcome: str) -> int:
        """So many had this outcome."""
        return sum(row["outcome"] == outcome for row in self.rows)


def _last_line(report: Any) -> str:
    if isinstance(report.longrepr, tuple):  # of a skipped test: file, line, reason
        return str(report.longrepr[2])
    lines = [line for line in str(report.longrepr).splitlines() if line.startswith("E ")]
    return lines[0][1:].strip() if lines else str(report.longrepr)[-200:]


def main(task: Task) -> None:
    """Run them in this process."""
    import pytest

    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # nothing but pytest itself is needed
    if task.tiny:
        os.environ[REHEARSAL] = "1"
    else:
        task.device()  # says so if there is none
    recorder = _Recorder(task)
    chosen = ["-k", TINY] if task.tiny else []
    status = pytest.main([FILE, "-m", "gpu", *chosen], plugins=[recorder])
    if status:
        sys.exit(f"{recorder.count('failed')} tests failed")
