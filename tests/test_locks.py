"""DVC's list of locks after a kill: both engines go on, and nobody who is at work loses a lock."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.copied_project import Project
from workflow.engines.dvc_locks import repair
from workflow.errors import BakeoffError

HALF = '{"write": {"/project/runs/vae/0/model.safetensors": {"pid": 12'
ASLEEP = (sys.executable, "-c", "import time; time.sleep(600)")

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a process that sleeps, called by these words, in a folder; all of them end with the test."""
    with contextlib.ExitStack() as started:

        def start(*words: str, folder: Path = tmp_path) -> subprocess.Popen[bytes]:
            process = started.enter_context(subprocess.Popen([*ASLEEP, *words], cwd=folder))
            started.callback(process.kill)
            return process

        yield start


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    """DVC's list in a project that has none yet."""
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    return tmp_path / ".dvc/tmp/rwlock"


def _holder(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    return {"pid": process.pid, "cmd": "dvc repro"}


def test_after_a_kill_while_dvc_wrote_its_locks_snakemake_plans_and_dvc_does_after_the_repair(tmp_path: Path) -> None:
    project = Project(tmp_path, ("nice",))
    locks = project.folder / ".dvc/tmp/rwlock"
    locks.parent.mkdir(parents=True, exist_ok=True)
    locks.write_text(HALF, encoding="utf-8")
    assert "train@nice-0" in project.ran("snakemake", "-n")
    locks.write_text("", encoding="utf-8")
    assert "JSON structure is corrupted" in project.run("dvc", "status", good=False)
    project.run("python", "-m", "workflow.engines.dvc_locks")
    project.run("dvc", "status")


@pytest.mark.parametrize("content", ["", HALF, "[]", '{"write": {"/a": 1}}'])
def test_a_damaged_list_goes_if_no_engine_is_at_work_here(
    content: str, locks: Path, tmp_path_factory: pytest.TempPathFactory, start: Start
) -> None:
    start("dvc", "repro", folder=tmp_path_factory.mktemp("elsewhere"))
    start("notes.txt")
    locks.write_text(content, encoding="utf-8")
    repair(locks.parent)
    assert not locks.exists()
    repair(locks.parent)  # nor is there anything to do without one


@pytest.mark.parametrize("engine", [("dvc", "repro"), ("snakemake", "--cores", "1")])
def test_a_damaged_list_stays_while_an_engine_is_at_work_here(
    engine: tuple[str, ...], locks: Path, start: Start
) -> None:
    running = start(*engine)
    locks.write_text(HALF, encoding="utf-8")
    with pytest.raises(BakeoffError, match=rf"rwlock: damaged, and process {running.pid} \(.*{' '.join(engine)}\) is"):
        repair(locks.parent)
    assert locks.read_text(encoding="utf-8") == HALF


def test_only_locks_of_engines_that_are_alive_stay(locks: Path, start: Start) -> None:
    """Numbers of processes are used again, as after a restart; DVC would hold it against the one that has it now."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    alive, ended_, other = (_holder(one) for one in (start("dvc", "repro"), ended, start("notes.txt")))
    holders = {"a": alive, "e": ended_, "o": other}
    locks.write_text(json.dumps({"write": holders, "read": {"o": [other], "a": [*holders.values()]}}), encoding="utf-8")
    repair(locks.parent)
    left = {"write": {"a": alive}, "read": {"a": [alive]}}
    assert json.loads(locks.read_text(encoding="utf-8")) == left
    before = locks.stat().st_mtime_ns
    repair(locks.parent)
    assert (json.loads(locks.read_text(encoding="utf-8")), locks.stat().st_mtime_ns) == (left, before)


@pytest.mark.parametrize("kept", [0, 1, 40])
def test_half_of_dvc_lock_is_set_aside_and_a_whole_one_is_not(
    kept: int, locks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded, aside = locks.parents[2] / "dvc.lock", locks.parent / "dvc.lock.damaged"
    whole = (ROOT / "dvc.lock").read_text(encoding="utf-8")
    for text in (whole, whole.rstrip("\n")):  # the second as an editor may leave it
        recorded.write_text(text, encoding="utf-8")
        repair(locks.parent)
        assert recorded.read_text(encoding="utf-8") == text
    recorded.write_text(whole[:kept], encoding="utf-8")
    repair(locks.parent)
    assert not recorded.exists()
    assert aside.read_text(encoding="utf-8") == whole[:kept]
    assert capsys.readouterr().err.startswith("warning: dvc.lock: cut off by a kill, so moved to ")
