"""A preset takes the place of params.yaml, but never of somebody's own changes."""

import subprocess
from pathlib import Path

import pytest

from stages.preset import use
from workflow.errors import BakeoffError


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "presets/published").mkdir(parents=True)
    (tmp_path / "presets/mnist.yaml").write_text("of mnist")
    (tmp_path / "presets/published/nice.yaml").write_text("of nice")
    (tmp_path / "params.yaml").write_text("committed")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", *command], check=True)
    return tmp_path


def test_one_preset_after_another(project: Path) -> None:
    for name, content in (("mnist", "of mnist"), ("published/nice", "of nice"), ("mnist", "of mnist")):
        use(name)
        assert (project / "params.yaml").read_text() == content


def test_changes_of_the_users_own_stay(project: Path) -> None:
    (project / "params.yaml").write_text("mine")
    with pytest.raises(BakeoffError, match=r"changes of your own.*presets/mine\.yaml"):
        use("mnist")
    assert (project / "params.yaml").read_text() == "mine"
    (project / "params.yaml").rename(project / "presets/mine.yaml")
    use("mnist")
    use("mine")
    assert (project / "params.yaml").read_text() == "mine"


@pytest.mark.parametrize("name", ["mnits", "../params", "", "/etc/passwd"])
def test_an_unknown_one_is_named(name: str) -> None:
    with pytest.raises(BakeoffError, match="no such preset; known: mnist, published/nice"):
        use(name)
