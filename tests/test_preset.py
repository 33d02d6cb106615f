"""A preset takes the place of params.yaml, but never of somebody's own changes."""

import shutil
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
        assert (project / "params.yaml").read_text(encoding="utf-8") == content


def test_changes_of_the_users_own_stay(project: Path) -> None:
    (project / "params.yaml").write_text("mine")
    with pytest.raises(BakeoffError, match=r"changes of your own.*presets/mine\.yaml"):
        use("mnist")
    assert (project / "params.yaml").read_text(encoding="utf-8") == "mine"
    (project / "params.yaml").rename(project / "presets/mine.yaml")
    use("mnist")
    use("mine")
    assert (project / "params.yaml").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("name", ["mnits", "../params", "", "/etc/passwd"])
def test_an_unknown_one_is_named(name: str) -> None:
    with pytest.raises(BakeoffError, match="no such preset; known: mnist, published/nice"):
        use(name)


NO_CLONE = (
    r"^params\.yaml: preset 'mnist' would replace it.* no git clone; keep it as a preset: mv params\.yaml presets/mi"
)


def test_without_git_it_is_the_presets_that_count(project: Path) -> None:
    shutil.rmtree(project / ".git")
    with pytest.raises(BakeoffError, match=NO_CLONE):
        use("mnist")
    (project / "params.yaml").rename(project / "presets/mine.yaml")
    for name, content in (("mnist", "of mnist"), ("mine", "committed")):
        use(name)
        assert (project / "params.yaml").read_text(encoding="utf-8") == content


def test_what_git_cannot_tell_is_not_taken_for_changes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own switch
    refused = (
        r"fatal: detected dubious ownership in repository at .* git config --global --add safe\.directory .*mv params"
    )
    for content in ("committed", "mine"):
        (project / "params.yaml").write_text(content, encoding="utf-8")
        with pytest.raises(BakeoffError, match=refused):
            use("mnist")
        assert (project / "params.yaml").read_text(encoding="utf-8") == content
    (project / "params.yaml").write_text("of nice", encoding="utf-8")
    use("mnist")


def test_a_clone_where_git_is_not_installed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(project))
    with pytest.raises(BakeoffError, match=r"^git: No such file or directory; .*mv params\.yaml presets/mine\.yaml"):
        use("mnist")


@pytest.mark.parametrize("command", [["rm", "-q", "--cached", "params.yaml"], ["update-ref", "-d", "HEAD"]])
def test_what_git_does_not_hold_is_the_users_own(command: list[str], project: Path) -> None:
    """Another repository that the project lies in, or one without a commit."""
    subprocess.run(["git", *command], check=True)
    if command[0] == "rm":
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "b"], check=True)
    with pytest.raises(BakeoffError, match="changes of your own"):
        use("mnist")


def test_a_project_inside_another_repository(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = project / "inner"
    shutil.copytree(project / "presets", inner / "presets")
    (inner / "params.yaml").write_text("of the inner", encoding="utf-8")
    subprocess.run(["git", "add", "."], check=True)
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "b"], check=True)
    monkeypatch.chdir(inner)
    use("mnist")
    assert (inner / "params.yaml").read_text(encoding="utf-8") == "of mnist"
