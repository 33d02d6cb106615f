"""The table of runs that `make ui` opens, and the names of what it shows."""

import json
from pathlib import Path
from typing import Any

import pytest

from stages.report import build
from tests.tracking.conftest import Settings, client, runs
from workflow.evaluation import inception
from workflow.evaluation.classifier import Classifier
from workflow.evaluation.columns import LEAST_VALID_LOSS, MEASURED
from workflow.files import read_json
from workflow.tracking import view
from workflow.tracking.mirror import mirror
from workflow.tracking.names import LEAST, TITLES, metric
from workflow.tracking.store import Store


def experiment() -> Any:
    return client().get_experiment_by_name("generative-bakeoff/digits")


def columns() -> list[str]:
    """The columns of the view in the store, from left to right."""
    shown: dict[str, Any] = json.loads(json.loads(experiment().tags[view.TAG])["state"])
    assert set(shown["columnOrder"]) - {"duration"} == set(shown["selectedColumns"])
    assert list(shown["columnWidths"]) == shown["columnOrder"]
    return list(shown["columnOrder"])


def test_every_column_is_there_and_the_chosen_measures_come_first(
    mirrored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mirrored)
    known = {"duration", "attributes.`Dataset`"}
    for run in runs():
        known |= {f"metrics.`{name}`" for name in run.data.metrics} | {f"tags.`{name}`" for name in run.data.tags}
    of_others = ("metrics.`Inception/", "metrics.`rotation network/")
    assert [column for column in columns() if not column.startswith(of_others)] == [
        "metrics.`classifier/FID`", "metrics.`classifier/coverage`", "metrics.`bits per dim`", "tags.`likelihood`",
        "metrics.`linear probe accuracy`", "metrics.`GFLOPs per image`", "metrics.`training GFLOPs`", "tags.`family`",
        "tags.`taxonomy`", "tags.`best in`", "duration", "attributes.`Dataset`", "metrics.`least validation loss`",
    ]  # fmt: skip
    assert {column for column in columns() if not column.startswith(of_others)} <= known


def test_the_view_knows_the_name_of_each_extractor() -> None:
    trained = [
        Classifier((1, 8, 8), 5, classes=classes, channels=1, features=2, dropout=0.0).facts["name"]
        for classes in (3, 0)
    ]
    assert (*trained, inception.FACTS["name"]) == view.EXTRACTORS


def test_it_is_written_once_and_again_only_if_it_is_another(project: Settings) -> None:
    Store("digits")
    before = columns()
    old = json.dumps({"name": "Bake-off", "createdAt": 1, "state": view.state()})
    client().set_experiment_tag(experiment().experiment_id, view.TAG, old)
    mirror(project)
    assert experiment().tags[view.TAG] == old
    for other in ("no JSON", '"text"', old.replace("likelihood", "kind")):
        client().set_experiment_tag(experiment().experiment_id, view.TAG, other)
        Store("digits")
        assert columns() == before


def test_every_figure_has_a_name_of_its_own_that_mlflow_takes(project: Settings) -> None:
    names = [metric(path, extractor) for extractor in view.EXTRACTORS for path in TITLES]
    assert len(set(TITLES.values())) == len(TITLES) > len(MEASURED)
    mine = client()
    run_id = mine.create_run(mine.create_experiment("names")).info.run_id
    for name in {*names, metric("selected_step", "classifier"), metric("nearest_neighbour.test", "classifier")}:
        mine.log_metric(run_id, name, 1.0)
    logged = mine.get_run(run_id).data.metrics
    assert {"selected step", "nearest neighbour/test", "rotation network/KID std"} <= set(logged)


def test_dvc_and_mlflow_show_the_same_numbers(mirrored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the key and by the title of the same column, wherever there is a value."""
    monkeypatch.chdir(mirrored)
    build()
    for run in runs():
        name, logged = run.data.tags["model"], run.data.metrics
        shown = read_json(Path(f"report/metrics/{name}.json"))
        names = {column.key: metric(column.path or column.key, "classifier") for column in MEASURED}
        names[LEAST_VALID_LOSS.key] = LEAST
        assert {names[key]: value for key, value in shown.items()} == {
            known: logged[known] for known in names.values() if known in logged
        }
