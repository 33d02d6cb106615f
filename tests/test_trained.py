"""`workflow.load`: a trained model in somebody's own program."""

import doctest
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import workflow
from tests.conftest import ROOT
from workflow.data.tensors import write_tensors
from workflow.errors import BakeoffError
from workflow.models import registry
from workflow.models.vae import Vae
from workflow.paths import RunFiles

OPTIONS = {"latents": 2, "channels": 4, "dropout": 0.5, "beta": 1.0, "decoder": "categorical", "importance_samples": 2}


@pytest.fixture(autouse=True)
def _a_project_with_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    registry.save(
        registry.build("vae", (1, 8, 8), 17, OPTIONS), RunFiles("vae", 0).model, "vae", OPTIONS, {"selected_step": 3}
    )


def test_the_example_of_its_docstring_holds() -> None:
    (example,) = doctest.DocTestFinder().find(workflow.load, "load", globs={})
    try:
        assert doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(example).failed == 0
    finally:
        torch.set_grad_enabled(True)


@pytest.mark.parametrize("place", ["runs/vae/0", "runs/vae/0/", "runs/vae/0/model.safetensors", "taken.safetensors"])
def test_a_run_by_its_folder_or_its_file(place: str) -> None:
    Path("taken.safetensors").write_bytes(RunFiles("vae", 0).model.read_bytes())
    for found in (workflow.load(place), workflow.load(Path(place))):
        assert isinstance(found, Vae)
        assert not found.training
        assert found.device.type == "cpu"
        original = registry.load(RunFiles("vae", 0).model).model
        assert torch.equal(
            found.sample(3, torch.Generator().manual_seed(1)), original.sample(3, torch.Generator().manual_seed(1))
        )


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("runs/gan/0", "runs/gan/0: no such file or folder; name the folder of a run, such as runs/vae/0"),
        ("runs/vae", "runs/vae: not the folder of one run; name one in it, such as runs/vae/0"),
        ("runs", "runs: not the folder of one run; name one in it, such as runs/vae/0"),
        ("empty", "empty: has no model.safetensors; name the folder of a run that has been trained"),
        ("notes.txt", "notes.txt: not a file with a model; name a model.safetensors, or the folder that it is in"),
        ("images.safetensors", "images.safetensors: no model is in it; name the model.safetensors of a run"),
        ("theirs.safetensors", "theirs.safetensors: no model is in it; name the model.safetensors of a run"),
    ],
)
def test_what_has_no_model_is_said_in_one_line(place: str, line: str) -> None:
    from safetensors.torch import save_file

    Path("empty").mkdir()
    Path("notes.txt").write_text("", encoding="utf-8")
    write_tensors(Path("images.safetensors"), {"images": torch.zeros(1)})
    save_file({"weight": torch.zeros(1)}, "theirs.safetensors")
    with pytest.raises(BakeoffError) as raised:
        workflow.load(place)
    assert str(raised.value) == line


@pytest.mark.slow
@pytest.mark.parametrize(("given", "limited"), [("avx2", "avx2"), ("native", None), (None, "avx2")])
def test_libraries_are_limited_as_in_a_stage_if_they_are_not_loaded_yet(given: str | None, limited: str | None) -> None:
    if given:
        Path("params.yaml").write_text(f"compute: {{instructions: {given}}}", encoding="utf-8")
    asked = "import sys, workflow, os; before = set(sys.modules); workflow.load('runs/vae/0')"
    asked += "; print({'torch', 'numpy', 'pydantic'} & before, os.environ.get('ATEN_CPU_CAPABILITY'))"
    environment = {name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
    printed = subprocess.run(
        [sys.executable, "-c", asked],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert printed == f"set() {limited}\n"
