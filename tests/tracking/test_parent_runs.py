"""Runs that belong together lie under one parent run in MLflow: a sweep's trials, DVC's experiments."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.invented_project import write
from tests.tracking.conftest import MODELS, RECORDS, Settings, client, only, runs, snapshot
from workflow import params
from workflow.tracking.live import live
from workflow.tracking.mirror import mirror
from workflow.tracking.names import LEAST
from workflow.tracking.parent_runs import BASELINE, BEST, CHILD_OF, EXPERIMENT


def add_trials(**couplings: int) -> Settings:
    """Put trials of NICE with results into the project, and begin or lengthen its sweep."""
    settings: dict[str, Any] = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    sweep = settings.setdefault("sweeps", {}).setdefault("nice", {"varied": ["couplings"], "trials": []})
    for name, number in couplings.items():
        settings["models"][name] = settings["models"]["nice"] | {"couplings": number}
        sweep["trials"].append(name)
        shutil.copytree("runs/nice", f"runs/{name}")
        write(Path(f"data/ledger/models/{name}.json"), {"sha256": "nice"})
        set_least(name, 10.0 * number)
    Path("params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return params.load()


def set_least(name: str, loss: float) -> None:
    Path(f"runs/{name}/0/history.jsonl").write_text(
        json.dumps({"step": 1, "epoch": 1, "valid_loss": loss}) + "\n", encoding="utf-8"
    )


def parent_runs() -> list[Any]:
    children = {run.data.tags.get(CHILD_OF) for run in runs()}
    return [run for run in runs() if run.info.run_id in children]


def children_of(parent: Any) -> set[str]:
    return {run.info.run_name for run in runs() if run.data.tags.get(CHILD_OF) == parent.info.run_id}


def test_trials_lie_under_one_parent_that_names_the_best(project: Settings) -> None:
    mirror(project)
    assert parent_runs() == []
    mirror(add_trials(nice_1=5, nice_2=4))
    parent = only(parent_runs())
    assert children_of(parent) == {"nice-0", "nice_1-0", "nice_2-0"}  # the run that was there before as well
    assert (parent.info.run_name, parent.info.status) == ("sweep of nice", "FINISHED")
    assert (parent.data.tags[BEST], parent.data.metrics[LEAST]) == ("nice_2", 40.0)
    assert "nice_2** (couplings 4) is the best of 3 trials" in parent.data.tags["mlflow.note.content"]
    assert {run.info.run_name: run.data.metrics[LEAST] for run in runs() if "nice_" in run.info.run_name} == {
        "nice_1-0": 50.0, "nice_2-0": 40.0,
    }  # fmt: skip
    assert len(runs()) == len(MODELS) + 3


def test_more_trials_come_under_the_same_parent_and_nothing_changes_without_them(project: Settings) -> None:
    mirror(add_trials(nice_1=5))
    before = snapshot_of_all()
    mirror(params.load())
    assert snapshot_of_all() == before
    mirror(add_trials(nice_3=3))
    parent = only(parent_runs())
    assert children_of(parent) == {"nice-0", "nice_1-0", "nice_3-0"}
    assert parent.data.tags[BEST] == "nice_3"
    history = client().get_metric_history(parent.info.run_id, LEAST)
    assert [(point.step, point.value) for point in history] == [(2, 50.0), (3, 30.0)]


def snapshot_of_all() -> dict[str, Any]:
    return {run.info.run_id: (run.data.tags, run.data.metrics, run.info.status) for run in runs()}


def test_another_model_to_begin_with_is_another_sweep(project: Settings) -> None:
    mirror(add_trials(nice_1=5))
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("width: 32", "width: 16"), encoding="utf-8")  # of both
    mirror(params.load())
    assert [children_of(parent) for parent in parent_runs()] == [{"nice-0", "nice_1-0"}] * 2


def test_a_trial_that_is_followed_live_lies_under_the_parent_at_once(project: Settings) -> None:
    settings = add_trials(nice_1=5)
    Path("data/ledger/models/nice.json").unlink()  # the stage that writes it may come later
    with live("nice_1", 0, settings) as log:
        log(RECORDS[0])
    parent = only(parent_runs())
    assert children_of(parent) == {"nice_1-0"}
    write(Path("data/ledger/models/nice.json"), {"sha256": "nice"})
    mirror(settings)
    assert children_of(only(parent_runs())) == {"nice-0", "nice_1-0"}


def test_what_an_experiment_of_dvc_trains_lies_under_its_baseline_in_the_projects_store(
    project: Settings, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror(project)
    before, home = snapshot(), Path.cwd()
    copy = tmp_path_factory.mktemp("experiment")
    shutil.copytree(home, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("mlflow.db*", "mlartifacts"))
    monkeypatch.chdir(copy)
    for name, value in {"DVC_ROOT": str(home), BASELINE: "1a2b3c4d5e", EXPERIMENT: "spry-oats"}.items():
        monkeypatch.setenv(name, value)
    mirror(params.load())
    assert snapshot() == before  # there is nothing that the baseline has not
    Path("params.yaml").write_text(
        Path("params.yaml").read_text(encoding="utf-8").replace("couplings: 2", "couplings: 3"), encoding="utf-8"
    )
    mirror(params.load())
    assert not list(copy.glob("mlflow.db*"))
    parent = only(parent_runs())
    assert parent.info.run_name == "experiments on 1a2b3c4"
    assert children_of(parent) == {"nice-0"}
    child = only([run for run in runs() if CHILD_OF in run.data.tags])
    assert (child.data.tags["dvc.experiment"], child.data.params["couplings"]) == ("spry-oats", "3")
    assert client().list_artifacts(child.info.run_id)
    assert str(home) in child.info.artifact_uri
