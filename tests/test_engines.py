"""Both engines, really run, on the smallest preset: they make the same files and leave each other nothing to do."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.copied_project import DVC, MODELS, SNAKEMAKE, Project
from workflow.files import read_json


def _chain(model: str) -> set[str]:
    return {f"{stage}@{model}-0" for stage in ("train", "sample", "evaluate")}


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Project]:
    """A project that DVC has run and one that Snakemake has, made side by side."""
    by_dvc, by_snakemake = (Project(tmp_path_factory.mktemp(name)) for name in ("by_dvc", "by_snakemake"))
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda project, engine: project.run(*engine), (by_dvc, by_snakemake), (DVC, SNAKEMAKE)))
    return by_dvc, by_snakemake


@pytest.fixture
def by_dvc(projects: tuple[Project, Project]) -> Project:
    return projects[0]


@pytest.fixture
def by_snakemake(projects: tuple[Project, Project]) -> Project:
    return projects[1]


def test_same_files_and_lock_by_both_routes(by_dvc: Project, by_snakemake: Project) -> None:
    assert by_dvc.outputs() == by_snakemake.outputs()
    assert {f"runs/{model}/0/metrics.json" for model in MODELS} <= set(by_dvc.outputs())
    assert (by_dvc.folder / "dvc.lock").read_bytes() == (by_snakemake.folder / "dvc.lock").read_bytes()
    for project in (by_dvc, by_snakemake):
        assert project.ran(*DVC) == set()
        assert project.ran(*SNAKEMAKE) == set()


def test_snakemake_runs_again_only_what_a_hyper_parameter_changed(by_snakemake: Project, tmp_path: Path) -> None:
    project = by_snakemake.copy(tmp_path)
    stages = project.locked()
    project.edit("params.yaml", "couplings: 2", "couplings: 3")
    assert project.ran(*SNAKEMAKE) == {"check", *_chain("nice"), "track", "report"}
    project.assert_settled_for(DVC)
    assert project.locked() == stages
    lock = (project.folder / "dvc.lock").read_bytes()
    project.run("dvc", "commit", "-f", "-q")
    assert (project.folder / "dvc.lock").read_bytes() == lock  # as DVC writes it


EDITS = {
    "a model's file": (
        "workflow/models/gan.py",
        "",
        "\nMODEL.title = 'Changed'\n",
        {"code@gan", *_chain("gan"), "track", "report"},
    ),
    "the report's template": ("workflow/report/page.html.j2", "</body>", "<!-- new --></body>", {"report"}),
}


@pytest.mark.parametrize(("file", "old", "new", "expected"), EDITS.values(), ids=EDITS.keys())
def test_dvc_runs_again_only_what_an_edited_file_changed_as_snakemake_would(
    file: str, old: str, new: str, expected: set[str], by_dvc: Project, tmp_path: Path
) -> None:
    project = by_dvc.copy(tmp_path)
    project.edit(file, old, new)
    assert project.ran(*SNAKEMAKE, "-n") == expected
    assert project.ran(*DVC) == expected
    project.assert_settled_for(SNAKEMAKE)


def test_nothing_to_do_in_a_clone_after_dvc_pull(by_snakemake: Project, tmp_path: Path) -> None:
    by_snakemake.run("dvc", "remote", "add", "-f", "-d", "store", str(tmp_path / "store"))
    by_snakemake.run("dvc", "push", "-q")
    by_snakemake.run("git", "add", "-A")
    by_snakemake.run("git", "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qm", "run")
    by_snakemake.run("git", "clone", "-q", ".", str(tmp_path / "clone"))
    clone = Project.of(tmp_path / "clone")
    clone.run("dvc", "pull", "-q")
    for engine in (DVC, SNAKEMAKE):
        clone.assert_settled_for(engine)
    assert clone.outputs() == by_snakemake.outputs()


def test_new_pictures_in_a_folder_make_the_data_anew(tmp_path: Path) -> None:
    pictures = tmp_path / "my own pictures"
    pictures.mkdir()
    for seed in range(8):
        _noise(pictures / f"{seed}.png", seed)
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    settings = yaml.safe_load((project.folder / "params.yaml").read_text())
    settings["data"] = {"name": "folder", "root": str(pictures), "size": 8, "valid": 0.25, "test": 0.25}
    (project.folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    card = "data/prepared/card.json"
    assert project.ran("dvc", "repro", "prepare") == {"check", "download", "prepare"}
    assert project.ran("snakemake", "--cores", "1", card) == set()
    _noise(pictures / "new one.png", 8)
    assert project.ran("snakemake", "--cores", "1", card) == {"download", "prepare"}
    assert project.ran("dvc", "repro", "prepare") == set()
    assert read_json(project.folder / card)["files"] == {"pictures used": 9}


def _noise(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    Image.fromarray(pixels).save(path)
