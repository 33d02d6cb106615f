"""A project's folder that is moved or copied: MLflow goes on in the new one, and the old one is not touched."""

import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from tests.tracking.conftest import MODELS, Settings, client, edit, only, runs
from workflow import params
from workflow.files import read_json
from workflow.tracking import ui
from workflow.tracking.mirror import MIRRORED, mirror


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _evaluated_anew() -> None:
    """Another figure of one model, and its run brought up to date."""
    edit(Path("runs/vae/0/metrics.json"), bits_per_dim=1.25)
    # A process of its own, as MLflow remembers where it has found a run's files.
    done = subprocess.run([sys.executable, "-m", "stages.track"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def _place(uri: str) -> Path:
    return Path(unquote(urlparse(uri).path))


def _assert_all_here(folder: Path) -> None:
    assert {run.data.tags["model"] for run in runs()} == set(MODELS)
    for run in runs():
        place = _place(run.info.artifact_uri)
        assert place.is_relative_to(folder / "mlartifacts")
        assert {file.name for file in place.iterdir()} >= {"samples.png", "metrics.json"}
        model = client().get_logged_model(run.outputs.model_outputs[0].model_id)
        assert _place(model.artifact_location).is_relative_to(folder / "mlartifacts")
        assert (_place(model.artifact_location) / "MLmodel").exists()
    vae = only([run for run in runs() if run.data.tags["model"] == "vae"])
    assert read_json(_place(vae.info.artifact_uri) / "metrics.json")["bits_per_dim"] == 1.25


@pytest.mark.slow
def test_a_copy_has_a_store_of_its_own(mirrored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, copy = _contents(mirrored), tmp_path / "a_copy"
    shutil.copytree(mirrored, copy)
    monkeypatch.chdir(copy)
    _evaluated_anew()
    _assert_all_here(copy)
    assert _contents(mirrored) == before


def test_a_moved_folder_goes_on(mirrored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shutil.copytree(mirrored, tmp_path / "old"))
    mirror(params.load())
    monkeypatch.chdir(tmp_path)
    moved = (tmp_path / "old").rename(tmp_path / "new place")
    monkeypatch.chdir(moved)
    _evaluated_anew()
    _assert_all_here(moved)
    assert not (tmp_path / "old").exists()


def test_the_page_of_a_copy_is_of_its_own_files(
    mirrored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(mirrored, tmp_path / "copy")
    monkeypatch.chdir(copy)
    ui.check_store()  # before anything has been mirrored there
    assert all(_place(run.info.artifact_uri).is_relative_to(copy / "mlartifacts") for run in runs())


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["mlartifacts", "mlartifacts/models"])
def test_files_that_did_not_come_with_the_store_are_logged_again(
    lost: str, mirrored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(mirrored, tmp_path / "copy")
    shutil.rmtree(copy / lost)
    monkeypatch.chdir(copy)
    _evaluated_anew()
    _assert_all_here(copy)


def test_a_renamed_model_and_one_of_two_equal_ones_have_runs_of_their_names(project: Settings) -> None:
    mirror(project)
    entry = project.models["nice"]
    for name in ("flow", "nice_too"):
        shutil.copytree("runs/nice", f"runs/{name}")
        shutil.copy("data/ledger/models/nice.json", f"data/ledger/models/{name}.json")
    settings = project.model_copy(update={"models": {**project.models, "flow": entry, "nice_too": entry}})
    for _ in range(2):
        mirror(settings)
        names = sorted(run.info.run_name for run in runs())
        assert names == sorted(f"{name}-0" for name in (*MODELS, "flow", "nice_too"))
    ended = {run.info.run_id: run.data.tags[MIRRORED] for run in runs()}
    mirror(settings)
    assert {run.info.run_id: run.data.tags[MIRRORED] for run in runs()} == ended
