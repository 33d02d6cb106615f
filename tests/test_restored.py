"""What was removed, moved aside or pulled into a clone: both engines find it, or make it again as it was."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.copied_project import DVC, SNAKEMAKE, Project
from workflow.files import read_json


def _clone(project: Project, folder: Path) -> Project:
    """A clone of all that is committed and pushed."""
    project.run("dvc", "remote", "add", "-f", "-d", "store", f"{folder}.store")
    project.run("dvc", "push", "-q")
    project.run("git", "add", "-A")
    project.run("git", "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qm", "run")
    project.run("git", "clone", "-q", ".", str(folder))
    clone = Project.of(folder)
    clone.run("dvc", "pull", "-q")
    return clone


def test_nothing_to_do_in_a_clone_after_dvc_pull(by_dvc: Project, tmp_path: Path) -> None:
    clone = _clone(by_dvc, tmp_path / "clone")
    for engine in (DVC, SNAKEMAKE):
        clone.assert_settled_for(engine)
    assert clone.outputs() == by_dvc.outputs()
    assert "report/index.html" in clone.outputs()


@pytest.mark.parametrize("engine", [DVC, pytest.param(SNAKEMAKE, marks=pytest.mark.slow)])
def test_a_page_that_was_removed_comes_back_the_same(engine: tuple[str, ...], by_dvc: Project, tmp_path: Path) -> None:
    project = by_dvc.copy(tmp_path)
    (page := project.folder / "report/index.html").unlink()
    project.run(*engine)
    assert page.read_bytes() == (by_dvc.folder / "report/index.html").read_bytes()
    project.assert_settled_for(DVC if engine == SNAKEMAKE else SNAKEMAKE)


@pytest.mark.slow
def test_durations_are_of_the_weights_that_are_there(by_dvc: Project, tmp_path: Path) -> None:
    project = by_dvc.copy(tmp_path)
    lock = project.folder / "dvc.lock"

    def shown() -> dict[str, Any]:
        project.run("python", "-m", "stages.report", "--show")
        runs = read_json(project.folder / "report/speed.json")["runs"]
        return {run["name"]: {key: facts for key, facts in run.items() if key not in ("name", "seed")} for run in runs}

    before, locked = shown(), lock.read_bytes()
    assert all(set(run) == {"sha256", "train", "sample", "evaluate"} for run in before.values())
    project.edit("params.yaml", "couplings: 2", "couplings: 3")
    project.run(*DVC, "train@nice-0")
    after = shown()
    assert after["gan"] == before["gan"]
    assert set(after["nice"]) == {"sha256", "train"}  # not drawn from yet
    assert after["nice"]["sha256"] != before["nice"]["sha256"]
    project.edit("params.yaml", "couplings: 3", "couplings: 2")
    lock.write_bytes(locked)
    project.run("dvc", "checkout", "-q")
    assert shown() == before
    shutil.rmtree(project.folder / "timings")  # as where nothing was trained
    assert all(set(run) == {"sha256"} for run in shown().values())
    project.assert_settled_for(DVC)


@pytest.mark.slow
def test_leftovers_change_nothing_also_in_a_clone(by_dvc: Project, tmp_path: Path) -> None:
    project = by_dvc.copy(tmp_path / "origin")
    project.edit("params.yaml", "  nice:\n", "  flow:\n")
    assert {"train@flow-0", "track", "report"} <= project.ran(*DVC)
    assert (project.folder / "runs/nice/0/metrics.json").exists()
    for place in ("runs", "runs/gan/0", "data/index", "data/ledger", "data/raw/digits"):
        (project.folder / place / ".DS_Store").touch()
    (project.folder / "runs/notes.txt").touch()
    for engine in (DVC, SNAKEMAKE):
        project.assert_settled_for(engine)
    clone = _clone(project, tmp_path / "clone")
    for engine in (DVC, SNAKEMAKE):
        clone.assert_settled_for(engine)
    project.edit("params.yaml", "  flow:\n", "  nice:\n")
    assert project.ran(*SNAKEMAKE) == {"check", "track", "report"}  # what there is of it is what it was
    project.assert_settled_for(DVC)
