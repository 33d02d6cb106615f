"""The project works where git does not know it, as in an unpacked archive, and with git again once there is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.copied_project import copy_tracked_files


@pytest.fixture
def unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's files and no more, with what `make` would install."""
    copy_tracked_files(tmp_path)
    (tmp_path / ".venv").mkdir()
    for part in Path(sys.prefix).iterdir():
        if part.name != "installed":
            (tmp_path / ".venv" / part.name).symlink_to(part)
    (tmp_path / ".venv/installed").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/.venv/bin:{os.environ['PATH']}")
    monkeypatch.delenv("PYTHONPATH")
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # of the make that may have started the tests
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def _run(command: str) -> str:
    done = subprocess.run(
        ["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_make_repro_runs_without_git_and_with_it_again(unpacked: Path) -> None:
    recipe = _run("make -n repro PRESET=ring").splitlines()
    assert recipe[-2].startswith("python -m stages.report")
    (unpacked / "params.yaml").unlink()  # or the preset would replace what nobody else has
    lock = (unpacked / "dvc.lock").read_bytes()
    for line in recipe[:-2]:  # as far as the first stage
        printed = _run("dvc repro check" if line == "dvc repro" else line)
    assert "Running stage 'check'" in printed
    assert (unpacked / "dvc.lock").read_bytes() != lock

    config = unpacked / ".dvc/config.local"
    before = config.read_bytes()
    _run("python -m workflow.engines.clone")
    assert config.read_bytes() == before
    _run("git init -q && python -m workflow.engines.clone")
    assert "no_scm" not in config.read_text(encoding="utf-8")
    assert "up to date" in _run("dvc status check")
    assert _run("git status --short .dvc") == "?? .dvc/\n"
    assert "config.local" not in _run("git status --short -uall .dvc")
