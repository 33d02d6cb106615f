"""A tiny project with real models for the tests of the MLflow mirror, and what they ask of a store."""

import contextlib
import json
import math
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.conftest import ROOT
from tests.invented_project import make_project, write, write_timings
from workflow import params
from workflow.data.tensors import ImageSet
from workflow.models import registry
from workflow.tracking.mirror import mirror
from workflow.tracking.pictures import FOLDER
from workflow.tracking.store import Store, store_uri
from workflow.training.history import Record

MODELS = ("gan", "nice", "pixelcnn", "vae", "vqvae")
RECORDS: list[Record] = [
    {"step": step, "epoch": step / 10, **({"valid_loss": 2.0 / step} if step % 5 == 0 else {"loss": 1.0 / step})}
    for step in range(1, 21)
]
PATIENCE = 600  # seconds, however busy the machine is; it only ends a test that has failed
PNG, SHAPE = b"\x89PNG\r\n\x1a\n", (1, 8, 8)

Settings = params.Params


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("workflow.tracking.live.LIVE_AFTER", 0.0)


def make(folder: Path) -> None:
    """A project with five untrained models and invented results, as the stages before `track` would leave it."""
    random = torch.Generator().manual_seed(0)
    sizes = {"train": 40, "valid": 20, "test": 20}
    images = {k: torch.randint(0, 5, (n, *SHAPE), generator=random, dtype=torch.uint8) for k, n in sizes.items()}
    sets = {split: ImageSet(x, torch.arange(len(x)) % 3) for split, x in images.items()}
    make_project(folder, sets, 5, ["a", "b", "c"], [0])
    smoke = yaml.safe_load((ROOT / "presets/smoke.yaml").read_text(encoding="utf-8"))
    (folder / "params.yaml").write_text(yaml.safe_dump(smoke, sort_keys=False))
    for name, entry in params.load(folder / "params.yaml").models.items():
        write(folder / f"data/ledger/models/{name}.json", {"sha256": name})
        run = folder / "runs" / name / "0"
        model = registry.build(entry.kind, SHAPE, 5, entry.hyperparameters, seed=3)
        registry.save(model, run / "model.safetensors", entry.kind, entry.hyperparameters, {"steps": 60})
        write_timings(run, 0.001)
        (run / "samples.png").write_bytes(PNG)
        edit(run / "metrics.json", extractor={"name": "classifier", "accuracy": 0.9})


def edit(path: Path, **changes: Any) -> None:
    write(path, json.loads(path.read_text(encoding="utf-8")) | changes)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project, and an MLflow store with its tables and nothing in them (to make those takes seconds)."""
    folder = tmp_path_factory.mktemp("template")
    make(folder)
    with contextlib.chdir(folder):
        Store("none")
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A project of one's own, the current folder."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return params.load()


@pytest.fixture(scope="module")
def mirrored(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose runs are in its store; not to be changed."""
    folder = tmp_path_factory.mktemp("mirrored")
    shutil.copytree(template, folder, dirs_exist_ok=True)
    with contextlib.chdir(folder):
        mirror(params.load())
    return folder


def client() -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store_uri())


def runs() -> list[Any]:
    """All runs of the bake-off in the current folder's store."""
    experiments = client().search_experiments(filter_string="name = 'generative-bakeoff/digits'")
    found: list[Any] = client().search_runs([e.experiment_id for e in experiments])
    return found


def only(found: list[Any]) -> Any:
    assert len(found) == 1
    return found[0]


def points(run: Any) -> Counter[tuple[str, int, float]]:
    """Every point of every metric, with how often it is there; NaN as a text, to be equal to itself."""
    history = [p for key in run.data.metrics for p in client().get_metric_history(run.info.run_id, key)]
    return Counter((p.key, p.step, "nan" if math.isnan(p.value) else p.value) for p in history)  # type: ignore[misc]


def curves(run: Any) -> Counter[tuple[str, int, float]]:
    return Counter({point: n for point, n in points(run).items() if point[0].startswith(("train/", "valid/"))})


def expected(records: list[Record]) -> Counter[tuple[str, int, float]]:
    """The points of the records, written out here anew: each once."""
    named = {"valid_loss": "valid/loss"}
    return Counter(
        {(named.get(key, f"train/{key}"), int(record["step"]), float(value)): 1
         for record in records for key, value in record.items() if key != "step"}
    )  # fmt: skip


def history(name: str) -> list[Record]:
    return [json.loads(line) for line in Path(f"runs/{name}/0/history.jsonl").read_text(encoding="utf-8").splitlines()]


def wait_for(ready: Any) -> None:
    """Wait until it is so."""
    end = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.1)


def snapshot() -> dict[str, Any]:
    """All that the store holds, but times."""
    return {
        run.info.run_id: (
            run.info.run_name, run.info.status, run.data.tags, run.data.params, points(run),
            sorted(file.path for folder in (None, FOLDER) for file in client().list_artifacts(run.info.run_id, folder)),
            [output.model_id for output in run.outputs.model_outputs],
        )
        for run in runs()
    }  # fmt: skip
