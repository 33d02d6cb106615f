"""The graph in dvc.yaml says of every stage exactly which of the project's files it is made of."""

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from workflow.models import registry
from workflow.provenance import imported_files

STAGES: dict[str, dict[str, object]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def _stage(name: str) -> dict[str, object]:
    body = STAGES[name].get("do", STAGES[name])
    assert isinstance(body, dict)
    return body


def _code(name: str) -> set[Path]:
    deps = _stage(name)["deps"]
    assert isinstance(deps, list)
    return {Path(dep) for dep in deps if dep.startswith(("workflow/", "stages/")) and "${" not in dep}


@pytest.mark.parametrize("name", STAGES)
def test_declared_code_is_what_is_imported(name: str) -> None:
    imported = imported_files(Path(f"stages/{name}.py"), ROOT)
    loads_a_model = "data/code/${item.model}.json" in str(_stage(name)["deps"])
    families = {Path(f"workflow/models/{kind}.py") for kind in registry.kinds()}
    of_models = set().union(*(imported_files(file, ROOT) for file in families)) - families
    layers = {file for file in of_models if file.parent.name == "layers"}
    if loads_a_model:  # by name, when it runs: the stage `code` answers for the family's file and its layers
        imported |= of_models - layers
    if name == "code":
        imported |= of_models
    if name == "track":  # MLflow runs this one when it loads a model
        imported.add(Path("workflow/sampler.py"))
    if name == "report":
        imported |= {
            file.relative_to(ROOT) for file in (ROOT / "workflow/report").iterdir() if file.suffix in (".j2", ".css")
        }
    assert _code(name) == imported


@pytest.mark.parametrize("name", [name for name in STAGES if "matrix" in STAGES[name]])
def test_what_runs_a_model_depends_on_its_code(name: str) -> None:
    assert "data/code/${item.model}.json" in str(_stage(name)["deps"])


def test_the_code_stage_tells_the_familys_file_and_its_layers_from_other_files(tmp_path: Path) -> None:
    family, layer, other = (tmp_path / "workflow/models" / name for name in ("thing.py", "layers/a.py", "layers/b.py"))
    layer.parent.mkdir(parents=True)
    import_a = "from workflow.models.layers.a import x\n"
    hashes = []
    for in_family, in_layer, in_other in (("", "", ""), ("y = 1\n", "", ""), ("", "x = 1\n", ""), ("", "", "x = 1\n")):
        family.write_text(import_a + in_family)
        layer.write_text(in_layer)
        other.write_text(in_other)
        subprocess.run(["python", "-m", "stages.code", "mine", "thing"], cwd=tmp_path, check=True)
        hashes.append((tmp_path / "data/code/mine.json").read_text())
    assert len(set(hashes)) == 3
    assert hashes[3] == hashes[0]  # no file of the model's


def test_everything_a_stage_writes_is_ignored_by_git() -> None:
    outs = [out for name in STAGES for kind in ("outs", "metrics") for out in _paths(_stage(name).get(kind, []))]
    concrete = [out.replace("${item.model}", "vae").replace("${item.seed}", "0") for out in outs]
    concrete = [out.replace("${key}", "vae").replace("${data.name}", "digits") for out in concrete]
    assert len(concrete) > 15
    checked = subprocess.run(["git", "check-ignore", *concrete], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.stdout.split() == concrete


def _paths(entries: object) -> list[str]:
    assert isinstance(entries, list)
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]
