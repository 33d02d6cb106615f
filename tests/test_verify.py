"""`make verify` compares every output with the published one, and says why one may differ."""

import shutil
from pathlib import Path

import pytest

from tests.copied_project import MODELS, Project

VERIFY = ("python", "-m", "workflow.engines.verify")
REFERENCE = ("best-lossless-format", "independent-pixels", "raw-pixels", "real-images", "uniform-noise")


@pytest.fixture(scope="module")
def published(by_dvc: Project) -> Project:
    """A project whose results are committed."""
    by_dvc.run("git", "add", "-A")
    by_dvc.run("git", "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qm", "published")
    return by_dvc


def test_all_outputs_are_the_published_ones(published: Project) -> None:
    count = len(published.locked_outputs())
    assert published.run(*VERIFY) == f"{count} of {count} outputs are byte for byte the published ones\n"


def test_figures_are_kept_in_git(published: Project) -> None:
    kept = published.run("git", "ls-files", "report", "runs", "data/prepared", "data/index").split()
    metrics = [f"report/metrics/{name}.json" for name in sorted((*MODELS, *REFERENCE))]
    assert kept == [*metrics, "report/summary.csv", "report/summary.json"]


def test_an_output_of_other_bytes_is_named(published: Project, tmp_path: Path) -> None:
    project = published.copy(tmp_path)
    changed = project.folder / "runs/nice/0/samples.safetensors"
    content = changed.read_bytes()
    changed.unlink()  # it may be a link into DVC's cache
    changed.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    said = project.run(*VERIFY, good=False)
    assert "outputs are not byte for byte the published ones: runs/nice/0/samples.safetensors; no cause that" in said


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("rm", "1 of them are not there: run `make repro` first"),
        ("code", "the code is not the committed one: see `git diff "),
        ("requirements", "packages are not those of requirements.lock: numpy "),
        ("params", "params.yaml: not the committed one, whose results are published: nothing to compare with"),
        ("git", "git does not show the committed params.yaml (fatal: "),
    ],
)
def test_the_likely_cause_is_told(change: str, expected: str, published: Project, tmp_path: Path) -> None:
    project = published.copy(tmp_path)
    (project.folder / "report/index.html").unlink()
    if change != "rm":
        (project.folder / "report/index.html").write_text("another page")
    match change:
        case "code":
            project.edit("workflow/files.py", "", "\n_new = 1\n")
        case "requirements":
            text = (project.folder / "requirements.lock").read_text(encoding="utf-8")
            (project.folder / "requirements.lock").write_text(text.replace("\nnumpy==", "\nnumpy==1"))
        case "params":
            project.edit("params.yaml", "couplings: 2", "couplings: 3")
        case "git":
            shutil.rmtree(project.folder / ".git")
    assert expected in project.run(*VERIFY, good=False)
