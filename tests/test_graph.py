"""What the graph in dvc.yaml declares."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from workflow.engines.picture import picture

DECLARED: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STAGES: dict[str, dict[str, object]] = DECLARED["stages"]


def _stage(name: str) -> dict[str, object]:
    body = STAGES[name].get("do", STAGES[name])
    assert isinstance(body, dict)
    return body


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_its_own_page_of_the_ledger_and_lists_no_code(name: str) -> None:
    deps = _stage(name)["deps"]
    assert isinstance(deps, list)
    if name == "ledger":
        assert deps == ["stages", "workflow", "data/external"]
    else:
        assert deps[0] == f"data/ledger/stages/{name}.json"
        assert not [dep for dep in deps if dep.startswith(("workflow", "stages"))]


@pytest.mark.parametrize("name", [name for name in STAGES if "matrix" in STAGES[name]])
def test_what_runs_a_model_depends_on_its_page(name: str) -> None:
    assert "data/ledger/models/${item.model}.json" in str(_stage(name)["deps"])


def test_the_architecture_shows_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert f"```mermaid\n{picture()}```" in Path("docs/architecture.md").read_text(encoding="utf-8")


def test_the_declaration_is_short() -> None:
    assert len((ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()) <= 240


def test_each_model_of_the_default_run_is_an_artifact() -> None:
    settings = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    paths = {name: artifact["path"] for name, artifact in DECLARED["artifacts"].items()}
    seed = settings["seeds"][0]
    assert paths == {name: f"runs/{name}/{seed}/model.safetensors" for name in settings["models"]}


def test_git_ignores_all_that_dvc_keeps_and_keeps_what_dvc_does_not() -> None:
    listed = [_stage(name).get(kind, []) for name in STAGES for kind in ("outs", "metrics", "plots")]
    entries = [entry for entries in listed if isinstance(entries, list) for entry in entries]
    outs, in_git = (_paths([out for out in entries if _in_git(out) == kept]) for kept in (False, True))
    assert in_git == ["report/summary.csv", "report/summary.json", "report/metrics"]
    assert not subprocess.run(["git", "check-ignore", *in_git], cwd=ROOT, capture_output=True, check=False).stdout
    concrete = [out.replace("${item.model}", "vae").replace("${item.seed}", "0") for out in outs]
    concrete = [out.replace("${data.name}", "digits") for out in concrete]
    assert len(concrete) > 15
    checked = subprocess.run(["git", "check-ignore", *concrete], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.stdout.split() == concrete


def _in_git(entry: object) -> bool:
    return isinstance(entry, dict) and next(iter(entry.values())).get("cache") is False


def _paths(entries: object) -> list[str]:
    assert isinstance(entries, list)
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]
