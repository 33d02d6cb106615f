"""Whole runs: the overhead of the engines, and how planning grows with the graph.

- *plan*: CPU seconds to find out what has to run, in a project in which nothing has: the digits with so many models and
  seeds, each stage as in `dvc.yaml`. `exponent` is the growth since the row above, 1 if it is proportional.
- *run*: `snakemake --cores 2` on `params.yaml` in a fresh copy of the project. `CPU` counts all its processes. `work`
  is the seconds that training, sampling and evaluation took by their own clocks (`timings/`). `overhead` is what two
  cores spent in addition, (2 × wall - work), as a share of the seconds of training: starting Python, planning,
  recording, preparing, reporting, and idle cores. It takes minutes: `BENCH_RUN=no` skips it.
"""

import json
import math
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.compare import Row
from tests.copied_project import copy_tracked_files

SIZES = ((4, 1), (8, 3), (8, 10), (8, 20))  # models and seeds: 23, 87, 255 and 495 stages
PLANS = (("snakemake", "-n", "-q"), ("dvc", "status", "-q"))
CORES = 2


def measure() -> Iterator[Row]:
    """The plans of both engines, size after size, then the default run."""
    with tempfile.TemporaryDirectory() as temporary:
        project = _copy(Path(temporary))
        for command in PLANS:
            yield from _plans(command, project)
    if os.environ.get("BENCH_RUN") != "no":
        with tempfile.TemporaryDirectory() as temporary:
            yield _whole_run(_copy(Path(temporary)))


def _copy(folder: Path) -> Path:
    """The project as it is here, with nothing run."""
    copy_tracked_files(folder)
    (folder / "dvc.lock").unlink(missing_ok=True)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


def _plans(command: tuple[str, ...], project: Path) -> Iterator[Row]:
    whole: dict[str, Any] = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    before: tuple[int, float] | None = None
    for models, seeds in SIZES:
        kept = dict(list(whole["models"].items())[:models])
        content = {**whole, "models": kept, "seeds": list(range(seeds))}
        (project / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        stages = 7 + models + 3 * models * seeds
        wall, cpu = _timed(command, project)
        growth = math.log(cpu / before[1]) / math.log(stages / before[0]) if before else ""
        before = stages, cpu
        yield _row(f"plan: {' '.join(command)}", stages, wall, cpu, exponent=growth)
    (project / "params.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))


def _whole_run(project: Path) -> Row:
    command = ("snakemake", "--cores", str(CORES))
    wall, cpu = _timed(command, project)
    work = {stage: _seconds(project, stage) for stage in ("train", "sample", "evaluate")}
    stages = len(yaml.safe_load((project / "dvc.lock").read_text(encoding="utf-8"))["stages"])
    overhead = (CORES * wall - sum(work.values())) / work["train"]
    return _row("run: " + " ".join(command), stages, wall, cpu, work=sum(work.values()), train=work["train"],
                overhead=overhead)  # fmt: skip


def _seconds(project: Path, stage: str) -> float:
    """That a stage took in all, by its own clock."""
    files = project.glob(f"timings/*/{stage}.json")
    return float(sum(json.loads(file.read_text(encoding="utf-8"))["seconds"] for file in files))


def _row(what: str, stages: int, wall: float, cpu: float, **more: float | str) -> Row:
    numbers = {key: more.get(key, "") for key in ("exponent", "work", "train", "overhead")}
    return {"what": what, "stages": stages, "wall": wall, "CPU": cpu, **numbers}


def _timed(command: tuple[str, ...], project: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a command and all that it starts."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode and "status" not in command:  # `dvc status -q` says so that there is something to run
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
