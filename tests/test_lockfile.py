"""dvc.lock as DVC itself reads and writes it, whatever stands in it."""

from pathlib import Path

import pytest
from dvc.utils.serialize import dumps_yaml

from tests.conftest import ROOT
from workflow.engines.snakemake import _Lock
from workflow.errors import BakeoffError

ODD = {"schema": "2.0", "stages": {name: {"cmd": "x", "deps": [{"path": "a: b"}]} for name in ("on", "1", "a@b-0")}}
SHARED = {"epochs": 2}
ANCHORS = {"schema": "2.0", "stages": {"train": {"params": {"vae": SHARED, "nice": SHARED}}}}


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "dvc.lock"


@pytest.mark.parametrize(
    "content",
    [(ROOT / "dvc.lock").read_text(encoding="utf-8"), dumps_yaml(ODD), dumps_yaml(ANCHORS)],
    ids=["own", "odd names", "anchors"],
)
def test_what_is_read_and_written_has_the_same_bytes(lock: Path, content: str) -> None:
    lock.write_text(content, encoding="utf-8")
    read = _Lock()
    stages = read.read()
    lock.unlink()
    read.write(stages)
    assert lock.read_text(encoding="utf-8") == content


def test_what_another_process_wrote_meanwhile_is_read(lock: Path) -> None:
    ours = _Lock()
    ours.write({"a": {"cmd": "x"}})
    lock.write_text(dumps_yaml(ODD), encoding="utf-8")
    assert ours.read() == ODD["stages"]


def test_a_conflict_of_gits_is_refused(lock: Path) -> None:
    content = "<<<<<<< HEAD\n" + dumps_yaml(ODD)
    lock.write_text(content, encoding="utf-8")
    with pytest.raises(BakeoffError, match=r"dvc\.lock.*restore it from git, or delete it"):
        _Lock().read()
    assert lock.read_text(encoding="utf-8") == content
