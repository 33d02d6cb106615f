"""dvc.lock as text: the same bytes as DVC writes, other layouts refused before anything is lost."""

from pathlib import Path

import pytest
from dvc.utils.serialize import dumps_yaml

from tests.conftest import ROOT
from workflow.engine import _Lock
from workflow.errors import BakeoffError

ODD = {"schema": "2.0", "stages": {name: {"cmd": "x", "deps": [{"path": "a: b"}]} for name in ("on", "1", "a@b-0")}}


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "dvc.lock"


@pytest.mark.parametrize("content", [(ROOT / "dvc.lock").read_text(), dumps_yaml(ODD)], ids=["own", "odd names"])
def test_what_is_read_and_written_has_the_same_bytes(lock: Path, content: str) -> None:
    lock.write_text(content)
    read = _Lock()
    lock.unlink()
    read.write(read.stages)
    assert lock.read_text() == content
    assert len(read.stages) == content.count("\n    cmd: ")


def test_a_missing_last_line_end_loses_nothing(lock: Path) -> None:
    content = dumps_yaml(ODD)
    lock.write_text(content.rstrip("\n"))
    read = _Lock()
    read.write(read.stages)
    assert lock.read_text() == content


@pytest.mark.parametrize("line", ["# by hand\n", "<<<<<<< HEAD\n"])
def test_another_layout_is_refused(lock: Path, line: str) -> None:
    content = dumps_yaml(ODD).replace("  on:", f"{line}  on:").replace("  'on':", f"{line}  'on':")
    assert line in content
    lock.write_text(content)
    with pytest.raises(BakeoffError, match=r"dvc\.lock: not as DVC writes it"):
        _Lock()
    assert lock.read_text() == content
