"""Durations and the machine: `report/speed.html` and `speed.json`, on which nothing depends.

Durations are looked up by the SHA-256 of each model's file, so they belong to exactly these weights and were measured
in this folder, or there are none.
"""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from workflow.engines import timing
from workflow.evaluation.columns import Column, look_up
from workflow.evaluation.comparison import Measurement, verdict
from workflow.files import read_json, sha256, write_json, write_text
from workflow.paths import SPEED, SPEED_PAGE, RunFiles
from workflow.report.html import fill
from workflow.report.marks import COLOURS, swatch
from workflow.report.seeds import spread
from workflow.report.summary import fingerprint
from workflow.report.tables import Table, model_groups
from workflow.report.trade_off import CROWD, quality_against

TIMES = (
    Column(
        key="images_per_second",
        path="sample.images_per_second",
        title="images per second",
        form="significant",
        better="higher",
        measures="Images drawn per second, in batches, on the machine named below.",
        note="It depends on the machine, its load and the batch size.",
    ),
    Column(
        key="train_seconds",
        path="train.seconds",
        title="training, s",
        form="significant",
        better="lower",
        measures="Seconds in the training loop.",
        note="It depends on the machine and its load, and on how long each model is trained: see its training GFLOPs.",
    ),
)


def write(summary: dict[str, Any]) -> None:
    """Write both files, with what was measured here for the models in the summary."""
    _write(summary, measured(summary))


def refresh(summary: dict[str, Any]) -> None:
    """Write them unless they are up to date: the page takes a second to make, mostly to load matplotlib."""
    found = measured(summary)
    if not (SPEED_PAGE.exists() and SPEED.exists() and read_json(SPEED) == found):
        _write(summary, found)


def _write(summary: dict[str, Any], found: dict[str, Any]) -> None:
    write_text(SPEED_PAGE, render(summary, found))
    write_json(SPEED, found)


def measured(summary: dict[str, Any]) -> dict[str, Any]:
    """The content of `speed.json`.

    It has these entries:
        summary: the fingerprint of the summary that it belongs to.
        commit: of git.
        machines: the machines on which anything was measured.
        runs: for each run, the facts of each stage that was measured here, with the index of its machine.
    """
    machines: list[dict[str, Any]] = []
    runs = []
    for name, seed in _runs(summary):
        model = RunFiles(name, seed).model
        weights = sha256(model) if model.exists() else None
        stages = {}
        for stage, facts in (timing.read(weights) if weights else {}).items():
            host = facts.pop("host", {})
            if host not in machines:
                machines.append(host)
            stages[stage] = {**facts, "machine": machines.index(host)}
        runs.append({"name": name, "seed": seed, "sha256": weights, **stages})
    return {"summary": fingerprint(summary), "commit": _commit(), "machines": machines, "runs": runs}


def _runs(summary: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Name and seed of all runs in the summary, and of all that were trained in its sweeps."""
    trials = {n: t for sweep in summary["sweeps"].values() for n, t in sweep["trials"].items() if t["losses"]}
    for name in dict.fromkeys([*summary["models"], *trials]):
        for seed in summary["seeds"]:
            yield name, seed


def _commit() -> str:
    """The git commit of the folder, and whether files differ from it; if there is none, why."""
    head, trouble = _git("rev-parse", "--quiet", "--verify", "HEAD")
    if head:
        changes, trouble = _git("status", "--porcelain")
        doubt = f", perhaps with uncommitted changes (git says: {trouble})" if trouble else " with uncommitted changes"
        return head + doubt * bool(trouble or changes)
    if "not a git repository" in trouble:
        return "none: the folder is not a git repository"
    return f"unknown; git says: {trouble}" if trouble else "none yet"


def _git(*arguments: str) -> tuple[str, str]:
    """What git prints, and its error message in one line."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", *arguments], env=environment, capture_output=True, encoding="utf-8", errors="replace", timeout=20,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return "", str(error)
    return (done.stdout.strip(), "") if done.returncode == 0 else ("", " ".join(done.stderr.split())[:300])


def with_times(summary: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """The summary with the columns of TIMES added to each model, and to the verdicts if one machine made all runs."""
    models = {}
    for name, model in summary["models"].items():
        own = [run for run in found["runs"] if run["name"] == name]
        times = spread({column.key: [column.read(run) for run in own] for column in TIMES})
        models[name] = {**model, **{what: {**model[what], **numbers} for what, numbers in times.items()}}
    judged: dict[str, Any] = {}
    for column in TIMES if len(found["machines"]) == 1 else ():
        values = {name: model["values"][column.key] for name, model in models.items()}
        there = {name: Measurement([[v] for v in of]) for name, of in values.items() if None not in of}
        if column.better and (one := verdict(there, column.better)):
            judged[column.key] = asdict(one)
    return {**summary, "models": models, "verdicts": {**summary["verdicts"], **judged}}


def render(summary: dict[str, Any], found: dict[str, Any]) -> str:
    """The page as HTML."""
    timed, (speed, _) = with_times(summary, found), TIMES
    several = len(found["machines"]) > 1
    there = [run for run in found["runs"] if any(stage in run for stage in timing.STAGES)]
    return fill(
        "speed.html.j2",
        fingerprint=found["summary"],
        colours=COLOURS,
        swatch=swatch,
        data=summary["data"]["name"],
        seeds=summary["seeds"],
        speed=Table(TIMES, tuple(model_groups(timed, TIMES, marked=not several))),
        trade_off=None if several else quality_against(speed, timed),
        crowded=len(summary["models"]) > CROWD,
        stages=timing.STAGES,
        durations=[(_called(run), [_seconds(run, stage) for stage in timing.STAGES], _places(run)) for run in there],
        unmeasured=[_called(run) for run in found["runs"] if run not in there],
        machines=found["machines"],
        commit=found["commit"],
    )


def _called(run: dict[str, Any]) -> str:
    return f"{run['name']} {run['seed']}"


def _seconds(run: dict[str, Any], stage: str) -> str:
    return TIMES[1].text(look_up(run, f"{stage}.seconds"))


def _places(run: dict[str, Any]) -> str:
    """The machines of the run, by their numbers on the page."""
    return ", ".join(str(1 + place) for place in sorted({run[s]["machine"] for s in timing.STAGES if s in run}))
