"""An engine that is stopped or killed in the middle of a training: the same command goes on, to the same bytes."""

import os
import signal
from pathlib import Path

import pytest

from tests.copied_project import DVC, SNAKEMAKE, TRAINED, Project, trained, untrained
from tests.tracking.conftest import PATIENCE, wait_for

pytestmark = pytest.mark.slow


def _interrupt(project: Project, engine: tuple[str, ...], how: int) -> None:
    """Run an engine until the training has kept a state, then send all its processes a signal."""
    running = project.start(*engine)
    wait_for(lambda: (project.folder / "states/gan-0.safetensors").exists())
    os.killpg(running.pid, how)
    assert running.wait(PATIENCE) != 0


def test_after_a_power_cut_dvc_goes_on_to_the_same_bytes(by_dvc: Project, tmp_path: Path) -> None:
    project, engine = untrained(by_dvc, tmp_path), (*DVC, "train@gan-0")
    _interrupt(project, engine, signal.SIGKILL)
    assert project.ran(*engine) == {"train@gan-0"}
    assert trained(project) == trained(by_dvc)


def test_a_second_run_is_refused_and_a_killed_snakemakes_orphan_is_waited_for(
    by_snakemake: Project, tmp_path: Path
) -> None:
    project, engine = untrained(by_snakemake, tmp_path), (*SNAKEMAKE, TRAINED[0])
    running = project.start(*engine)
    wait_for(lambda: (project.folder / "states/gan-0.safetensors").exists())
    os.killpg(running.pid, signal.SIGSTOP)  # else it might be over too soon
    for other in (DVC, SNAKEMAKE):
        refused = project.run(*other, good=False)
        assert f"is busy, it is being blocked by: (PID {running.pid}): " in " ".join(refused.split())
        assert "Traceback" not in refused
    os.kill(running.pid, signal.SIGKILL)
    os.killpg(running.pid, signal.SIGCONT)
    running.wait(PATIENCE)
    assert project.ran(*engine) == {"train@gan-0"}
    assert trained(project) == trained(by_snakemake)


def test_ctrl_c_stops_snakemake_and_says_how_to_go_on(by_snakemake: Project, tmp_path: Path) -> None:
    project, engine = untrained(by_snakemake, tmp_path), (*SNAKEMAKE, TRAINED[0])
    _interrupt(project, engine, signal.SIGINT)
    printed = (project.folder / "started.log").read_text(encoding="utf-8")
    assert "stopped; run the same command again to continue after step " in printed
    assert "Traceback" not in printed
    assert project.ran(*engine) == {"train@gan-0"}
    assert trained(project) == trained(by_snakemake)
