"""Runs killed at random moments, again and again: the same command goes on, to the files of a run left in peace."""

import contextlib
import json
import os
import random
import re
import resource
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import yaml

from tests.copied_project import DVC, Project
from tests.tracking.conftest import PATIENCE

SNAKEMAKE = ("snakemake", "--cores", "1")
KILLS = 10  # of each engine
COMPLAINT = re.compile("Traceback|corrupted|validation failed")
LATEST = 0.35  # the last moment of a kill, as a share of the processors' time that a whole run takes


@dataclass(frozen=True)
class Peaceful:
    """What a run has left that nobody disturbed, and the seconds of the processors' time that it took."""

    outputs: dict[str, str]
    lock: bytes
    seconds: float


@pytest.fixture(scope="module")
def peaceful(tmp_path_factory: pytest.TempPathFactory) -> Peaceful:
    project, before = Project(tmp_path_factory.mktemp("peaceful"), ("nice",)), _of_children()
    project.run(*DVC)
    return Peaceful(project.outputs(), (project.folder / "dvc.lock").read_bytes(), _of_children() - before)


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _used_by(leader: psutil.Process) -> float:
    """The processors' seconds that a process and those that it has started have had."""
    seconds = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in (leader, *leader.children(recursive=True)):
            seconds += sum(process.cpu_times()[:4])  # its own, and those of children that it has waited for
    return seconds


def _run_until(project: Project, engine: tuple[str, ...], moment: float) -> int:
    """Run an engine until it has used so many seconds of the processors, then kill it and all its children.

    Returns its exit status. A moment that is counted in time of the clock would come too early on a busy machine.
    """
    running = project.start(*engine)
    leader = psutil.Process(running.pid)
    while running.poll() is None and _used_by(leader) < moment:
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    return running.wait(PATIENCE)


def _locks_in(project: Project) -> str:
    """What a kill has made of DVC's list of locks."""
    try:
        kinds = json.loads((project.folder / ".dvc/tmp/rwlock").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "no locks"
    except ValueError:
        return "LOCKS DAMAGED"
    return "locks held" if any(kinds.values()) else "no locks"


def _stages_in(project: Project) -> str:
    """What a kill has left of dvc.lock."""
    if not (file := project.folder / "dvc.lock").exists():
        return "no dvc.lock"
    return f"{len(project.locked())} stages done" if _is_whole(file) else "DVC.LOCK DAMAGED"


def _is_whole(lock: Path) -> bool:
    try:
        return set(yaml.safe_load(lock.read_text(encoding="utf-8"))) == {"schema", "stages"}
    except (TypeError, yaml.YAMLError):
        return False


def _remedy(project: Project) -> None:
    """What docs/reliability.md tells those to do who start DVC themselves, and nothing else."""
    project.run("python", "-m", "workflow.engines.dvc_locks")


def _moments(engine: str, last: float) -> Iterator[float]:
    draw = random.Random(f"kills of {engine}")
    while True:
        yield draw.uniform(0, last)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [DVC, SNAKEMAKE], ids=lambda engine: engine[0])
def test_killed_at_any_moment_the_same_command_goes_on_to_the_same_bytes(
    engine: tuple[str, ...], peaceful: Peaceful, tmp_path: Path
) -> None:
    project, kills = Project(tmp_path, ("nice",)), 0
    for moment in _moments(engine[0], LATEST * peaceful.seconds):
        status = _run_until(project, engine, moment)
        printed = (project.folder / "started.log").read_text(encoding="utf-8")
        assert status in (0, -signal.SIGKILL), printed
        assert not COMPLAINT.search(printed), printed
        kills += status != 0
        print(f"kill {kills} after {moment:.1f} s: {_locks_in(project)}, {_stages_in(project)}")
        if engine == DVC:
            _remedy(project)
        if kills == KILLS:
            break
    assert not COMPLAINT.search(project.run(*engine))
    assert project.outputs() == peaceful.outputs
    assert (project.folder / "dvc.lock").read_bytes() == peaceful.lock
