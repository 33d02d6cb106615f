"""Where results come from: the commit, the machines and the durations. Volatile, so for the page alone."""

import subprocess
from dataclasses import dataclass
from typing import Any

from workflow.report.columns import TIMES, look_up
from workflow.report.ranking import rankings
from workflow.report.results import Results, Run
from workflow.report.seeds import spread

STAGES = ("train", "sample", "evaluate")


@dataclass(frozen=True)
class Machine:
    """A machine, and the runs (`vae 0`) that were made on it."""

    facts: dict[str, str]
    packages: dict[str, str]
    runs: list[str]


def commit() -> str:
    """The git commit that the folder is at, and whether files differ from it; a remark if there is none."""
    head = _git("rev-parse", "HEAD")
    if not head:
        return "none: the folder is not under git"
    return f"{head} with uncommitted changes" if _git("status", "--porcelain") else head


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def machines(results: Results) -> list[Machine]:
    """The distinct machines that timing.json files name, with what was installed there."""
    found: list[Machine] = []
    for run in results.runs:
        host = dict(run.timing.get("host", {}))
        packages = host.pop("packages", {})
        facts = {key: str(value) for key, value in host.items()}
        same = next((m for m in found if m.facts == facts and m.packages == packages), None)
        if same:
            same.runs.append(_called(run))
        elif facts:
            found.append(Machine(facts, packages, [_called(run)]))
    return found


def durations(results: Results) -> list[tuple[str, list[float | None]]]:
    """Seconds of each stage, for each run; None where timing.json does not say."""
    return [(_called(r), [look_up(r.timing, f"{stage}.seconds") for stage in STAGES]) for r in results.runs]


def _called(run: Run) -> str:
    return f"{run.name} {run.seed}"


def with_times(summary: dict[str, Any], results: Results) -> dict[str, Any]:
    """The summary with the volatile columns put into each model, and into the ranking if one machine made all runs."""
    models = {}
    for name, model in summary["models"].items():
        times = spread({column.key: [column.read(run.timing) for run in results.models[name]] for column in TIMES})
        models[name] = {**model, **{what: {**model[what], **found} for what, found in times.items()}}
    ranked = rankings(models, TIMES, summary["seeds"]) if len(machines(results)) == 1 else {}
    return {**summary, "models": models, "ranking": {**summary["ranking"], **ranked}}
