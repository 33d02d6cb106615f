"""The command: which jobs there are, in which order, and until when each may run."""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.task import Task, arguments, file_name
from workflow.errors import BakeoffError
from workflow.files import read_json, write_json, write_text

FAMILIES = ("pixelcnn", "vae", "vqvae", "gan", "nice")  # the first five of params.yaml
PAPERS = ("nice", "pixelcnn")
LIMIT = 60_000_000  # bytes of the folder of results
SPARE = 3.0  # seconds that the command itself takes at its end
GRACE = 4.0  # seconds between asking a job to end and killing it
POLL = 0.05  # seconds
TAIL = 10_000  # characters that are kept of what a job said that failed
MOST_THREADS = 4  # of a job
LATE = "out of time; what it wrote until then is here"
RESULTS = (".json", ".txt", ".md")  # endings of files that are never deleted for being large


@dataclass(frozen=True)
class Step:
    """Jobs that run at the same time, and their share of the time in parts of a whole that all steps make up.

    Those that measure speed have the card for themselves.
    """

    jobs: tuple[str, ...]
    share: float


# The most important first. The card is shared where speed is not measured: small models leave most of it idle.
PARTS: dict[str, tuple[Step, ...]] = {
    "tests": (Step(("tests", "data"), 22),),
    "speed": (Step(("speed",), 24), Step(("graphs",), 8)),
    "families": (Step((*(f"families:{name}" for name in FAMILIES), *(f"papers:{name}" for name in PAPERS)), 46),),
}


@dataclass
class Outcome:
    """How a job ended. seconds: that it took. state: "done", or what went wrong, in one line."""

    job: str
    seconds: float
    state: str


def main(given: Sequence[str]) -> None:
    """Read the arguments, run everything, and exit with status 1 if a job failed."""
    reader = argparse.ArgumentParser("python -m benchmarks gpu", description=__doc__)
    reader.add_argument(
        "--minutes", type=float, default=9.0, help="after which the command has ended, whatever happens"
    )
    reader.add_argument("--out", type=Path, required=True, help="folder of the results, a new one")
    reader.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these")
    reader.add_argument("--rehearse", action="store_true", help="the same with tiny sizes, on the CPU")
    told = reader.parse_args(given)
    ends = _begun() + 60 * told.minutes - SPARE
    if not told.rehearse and not torch.cuda.is_available():
        sys.exit("error: no GPU that torch can use; --rehearse does the same on the CPU, with tiny sizes")
    steps = [step for part in PARTS if part in told.parts for step in PARTS[part]]
    if "data" not in {job for step in steps for job in step.jobs} and "families" in told.parts:
        steps.insert(0, Step(("data",), 10))
    with tempfile.TemporaryDirectory(prefix="bakeoff-gpu-") as scratch:
        try:
            outcomes = run(steps, told.out, Path(scratch), ends, tiny=told.rehearse)
        except BakeoffError as error:
            sys.exit(f"error: {error}")
    print(f"{told.out}/summary.md")
    sys.exit(any(outcome.state != "done" for outcome in outcomes))


def _begun() -> float:
    """When this process began, seconds since the epoch: it takes seconds until torch is loaded."""
    with contextlib.suppress(OSError, IndexError, ValueError):  # elsewhere than on Linux
        ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    return time.time()


def run(steps: Sequence[Step], out: Path, scratch: Path, ends: float, *, tiny: bool) -> list[Outcome]:
    """Run the steps in turn; after each, the folder of results is complete and small enough.

    A step may take its share of what is left, so what an earlier one saved is shared by all later ones. Raises
    BakeoffError if the folder holds anything before: large files in it are deleted, which must be files of this run.
    """
    if out.exists() and not (out.is_dir() and next(out.iterdir(), None) is None):
        raise BakeoffError(f"--out {out}: not an empty folder; name a new one, large files in it would be deleted")
    out.mkdir(parents=True, exist_ok=True)
    outcomes, removed = list[Outcome](), list[str]()
    steps = [part for step in steps for part in in_turns(step, os.cpu_count() or 1)]
    for place, step in enumerate(steps):
        now = time.time()
        until = now + max(0.0, ends - now) * step.share / sum(later.share for later in steps[place:])
        outcomes += together(step, out, scratch, until, tiny=tiny)
        removed += shrink(out, LIMIT)
        summarise(out, outcomes, removed)
    return outcomes


def in_turns(step: Step, cores: int) -> list[Step]:
    """The step, or several with a part of its jobs each, so that a job has two cores: more would only wait."""
    most = max(1, cores // 2)
    chunks = [step.jobs[start : start + most] for start in range(0, len(step.jobs), most)]
    return [Step(jobs, step.share * len(jobs) / len(step.jobs)) for jobs in chunks]


def together(step: Step, out: Path, scratch: Path, until: float, *, tiny: bool) -> list[Outcome]:
    """Run the jobs of a step at once, and end those that are not done by then."""
    threads = 1 if tiny else max(1, min(MOST_THREADS, (os.cpu_count() or 1) // len(step.jobs)))
    start, running, outcomes = time.time(), dict[str, subprocess.Popen[bytes]](), list[Outcome]()

    def gather(moment: float) -> None:
        """Wait until all have ended, or that moment has come."""
        while running and time.time() < moment:
            for job, process in list(running.items()):
                if (status := process.poll()) is not None:
                    outcomes.append(Outcome(job, time.time() - start, _state(job, status, scratch)))
                    del running[job]
            time.sleep(POLL)

    def signal_all(number: signal.Signals) -> None:
        for process in running.values():  # each leads a group: what it started ends with it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    try:
        for job in step.jobs:
            task = Task(job, out, scratch, until - GRACE, tiny, threads)
            with _log(scratch, job).open("wb") as log:
                running[job] = subprocess.Popen(arguments(task), stdout=log, stderr=log, start_new_session=True)
        gather(until - GRACE / 2)
        signal_all(signal.SIGTERM)
        gather(until)
    finally:
        signal_all(signal.SIGKILL)
    for outcome in outcomes:
        if outcome.state not in ("done", LATE):  # the whole message of an error
            write_text(out / f"{file_name(outcome.job)}-log.txt", _said(scratch, outcome.job)[-TAIL:] + "\n")
    late = [Outcome(job, time.time() - start, LATE) for job in running]
    for outcome in (*outcomes, *late):
        print(f"{outcome.job}: {outcome.state}, {outcome.seconds:.0f} s", flush=True)
    return [*outcomes, *late]


def _state(job: str, status: int, scratch: Path) -> str:
    if status == 0:
        return "done"
    if status == -signal.SIGTERM:
        return LATE
    log = _said(scratch, job)
    return f"failed ({status}): {log.splitlines()[-1] if log else 'without a word'}"


def _log(scratch: Path, job: str) -> Path:
    return scratch / f"{file_name(job)}.log"


def _said(scratch: Path, job: str) -> str:
    return _log(scratch, job).read_text(encoding="utf-8", errors="replace").strip()


def shrink(folder: Path, limit: int) -> list[str]:
    """Delete the largest files that are no tables or texts until the folder takes less; returns their names."""
    files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    total, removed = sum(path.stat().st_size for path in files), list[str]()
    for path in reversed(files):
        if total <= limit:
            break
        if path.suffix not in RESULTS:
            total -= path.stat().st_size
            removed.append(path.name)
            path.unlink()
    return removed


def summarise(out: Path, outcomes: Sequence[Outcome], removed: Sequence[str]) -> None:
    """Write how each job ended and what it found, in one line each: `summary.json`, and a table, `summary.md`."""
    found = [{**vars(outcome), "found": _line(out, outcome.job)} for outcome in outcomes]
    write_json(out / "summary.json", {"jobs": found, "removed": list(removed)})
    rows = ["| job | seconds | state | found |", "| --- | --- | --- | --- |"]
    rows += [
        f"| {one['job']} | {one['seconds']:.0f} | {_cell(one['state'])} | {_cell(one['found'])} |" for one in found
    ]
    parts = ["# What `python -m benchmarks gpu` found", "\n".join(rows)]
    parts.append("Each job has a file `.json` with everything and a file `.txt` with the same in short.")
    if removed:
        parts.append(f"Deleted because the folder was above {LIMIT / 1e6:.0f} MB: {', '.join(removed)}.")
    write_text(out / "summary.md", "\n\n".join(parts) + "\n")


def _cell(text: Any) -> str:
    return str(text).replace("|", "/")


def _line(out: Path, job: str) -> str:
    try:
        return str(read_json(out / f"{file_name(job)}.json")["line"])
    except BakeoffError:
        return "nothing"
