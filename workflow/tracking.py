"""MLflow as a mirror of the files of the runs, which can be made again from them at any time.

One MLflow run for each model and seed, found by a tag that names its content: what was trained, on what, with which
code. Curves arrive while training runs (`live`); the rest follows, and what is missing is made up for, in `mirror`.
Neither ever changes a result or fails one: a store that cannot be reached costs a few seconds and a warning.

This module and `sampler.py`, which MLflow loads a model with, are the only ones that import mlflow.
"""

import contextlib
import hashlib
import json
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from workflow.files import read_json, sha256
from workflow.images import Card, grid, png, read_card, read_tensors
from workflow.params import Params

Record = dict[str, float | int]
Point = tuple[str, int, float]  # metric, step, value

CONTENT, MIRRORED, MODEL = "bakeoff.content", "bakeoff.mirrored", "bakeoff.model"  # tags
SEND_EVERY, GRACE = 2.0, 10.0  # seconds: between batches of a live curve; to wait for the last one
BATCH = 500  # metrics that one request carries, of the 1,000 that MLflow allows
ON_FEATURES = {"fid", "kid", "kid_std", "inception_score", "inception_score_std"} | {
    "precision", "recall", "density", "coverage"
}  # fmt: skip


@contextlib.contextmanager
def live(name: str, seed: int, settings: Params) -> Iterator[Callable[[Record], None]]:
    """Send a training's records to MLflow while it runs; yields the function that takes a record.

    All of it happens in a thread of its own: taking a record costs nothing, and no failure comes back.
    """
    records: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
    thread = threading.Thread(target=_follow, args=(name, seed, settings, records), daemon=True)
    thread.start()
    try:
        yield records.put
    finally:
        records.put(None)
        thread.join(GRACE)
        if thread.is_alive():
            _warn("it does not answer")


def mirror(settings: Params) -> dict[str, Any]:
    """Bring MLflow up to date with the files of every model and seed; returns what identifies their content."""
    runs = [(name, seed) for name in settings.models for seed in settings.seeds]
    tags = {f"{name}/{seed}": content_tag(name, seed, settings) for name, seed in runs}
    with _never_failing():
        store = Store(settings.data.name)
        for name, seed in runs:
            store.mirror(name, seed, settings)
    return {"runs": {run: {"tag": tag} for run, tag in tags.items()}}


def content_tag(name: str, seed: int, settings: Params) -> str:
    """SHA-256 over what decides the result of a training: parameters, seed, data, the family's code."""
    parts = {
        "entry": settings.models[name].model_dump(mode="json"),
        "seed": seed,
        "compute": settings.compute.model_dump(mode="json"),
        "data": read_card().sha256,
        "code": read_json(Path("data/code") / f"{name}.json"),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def store_uri() -> str:
    """The store: MLFLOW_TRACKING_URI if it is set, else a SQLite file in the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').resolve()}"


class Store:
    """An MLflow store and the experiment for one data set in it. Any call may raise whatever MLflow raises."""

    def __init__(self, data: str) -> None:
        # Without these an unreachable server holds a caller for four minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
        import mlflow
        from filelock import FileLock

        for chatty in ("alembic", "mlflow"):
            logging.getLogger(chatty).setLevel(logging.ERROR)
        self.uri = store_uri()
        self.client = mlflow.MlflowClient(tracking_uri=self.uri)
        local = self.uri.startswith("sqlite:")
        # Processes that open a fresh SQLite file at once would all create its tables, and all but one would fail.
        with FileLock("mlflow.db.lock", timeout=60) if local else contextlib.nullcontext():
            name = f"generative-bakeoff/{data}"
            experiment = self.client.get_experiment_by_name(name)
            place = Path("mlartifacts").resolve().as_uri() if local else None
            self.experiment = (
                experiment.experiment_id if experiment else self.client.create_experiment(name, artifact_location=place)
            )

    def run(self, name: str, seed: int, settings: Params) -> Any:
        """The MLflow run of this content, made if there is none."""
        tag = content_tag(name, seed, settings)
        found = self.client.search_runs([self.experiment], f"tags.`{CONTENT}` = '{tag}'", max_results=1)
        if found:
            return found[0]
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        entry = settings.models[name]
        tags = {
            CONTENT: tag,
            "model": name,
            "kind": entry.kind,
            "seed": str(seed),
            "mlflow.source.name": "stages/train.py",
            **({"mlflow.source.git.commit": commit.stdout.strip()} if commit.returncode == 0 else {}),
        }
        run = self.client.create_run(self.experiment, tags=tags, run_name=f"{name}-{seed}")
        self._describe(run.info.run_id, name, seed, settings)
        return run

    def points(self, run_id: str) -> set[tuple[str, int]]:
        """Metric and step of every point that the run has."""
        keys = self.client.get_run(run_id).data.metrics
        return {(key, point.step) for key in keys for point in self.client.get_metric_history(run_id, key)}

    def send(self, run_id: str, points: Iterable[Point]) -> None:
        """Log points, in as few requests as MLflow allows."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key, value, now, step) for key, step, value in points]
        for i in range(0, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics=metrics[i : i + BATCH])

    def mirror(self, name: str, seed: int, settings: Params) -> None:
        """Bring one run up to date with its files; costs next to nothing if it is."""
        folder = Path("runs") / name / str(seed)
        files = ("model.safetensors", "history.jsonl", "samples.png", "metrics.json", "pictures.safetensors")
        digest = hashlib.sha256("".join(sha256(folder / file) for file in files).encode()).hexdigest()
        run = self.run(name, seed, settings)
        run_id = run.info.run_id
        if run.data.tags.get(MIRRORED) == digest:
            return
        metrics = read_json(folder / "metrics.json")
        history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        known = self.points(run_id)
        self.send(run_id, [point for point in _curve(history) if point[:2] not in known])
        last = history[-1]["step"]
        self.send(run_id, [(key, last, value) for key, value in _results(metrics, _timing(folder)).items()])
        self._log_files(run_id, folder, read_card())
        self._log_model(run, folder / "model.safetensors", metrics["seed"])
        for tag in ("taxonomy", "likelihood", "bits_per_dim_kind"):
            self.client.set_tag(run_id, tag, str(metrics[tag]))
        self.client.set_tag(
            run_id, "mlflow.note.content", f"**{metrics['title']}** ({metrics['paper']}). {metrics['about']}"
        )
        self.client.set_terminated(run_id)
        self.client.set_tag(run_id, MIRRORED, digest)

    def _describe(self, run_id: str, name: str, seed: int, settings: Params) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        entry = settings.models[name].model_dump(mode="json")
        flat = {**entry, "seed": seed, **{f"train.{key}": value for key, value in entry["train"].items()}}
        del flat["train"]
        self.client.log_batch(run_id, params=[Param(key, str(value)) for key, value in flat.items()])
        card = read_card()
        data = Dataset(
            name=card.name,
            digest=card.sha256["train"][:32],
            source_type="code",
            source=json.dumps({"tags": {"mlflow.source.name": card.source}}),
            schema=json.dumps({"shape": card.shape, "levels": card.levels, "classes": card.classes}),
            profile=json.dumps(card.counts),
        )
        self.client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])

    def _log_files(self, run_id: str, folder: Path, card: Card) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            place = Path(temporary)
            for file in ("samples.png", "metrics.json", "history.jsonl"):
                (place / file).write_bytes((folder / file).read_bytes())
            pictures, _ = read_tensors(folder / "pictures.safetensors")
            for key, images in pictures.items():
                columns = images.shape[1] if images.ndim == 5 else 8
                flat = images.flatten(0, 1) if images.ndim == 5 else images
                (place / f"{key}.png").write_bytes(png(grid(flat, card.levels, columns)))
            self.client.log_artifacts(run_id, temporary)

    def _log_model(self, run: Any, path: Path, seed: int) -> None:
        """Log the model so that `mlflow.pyfunc.load_model(f"runs:/{id}/model").predict(...)` draws from it."""
        digest = sha256(path)
        if run.data.tags.get(MODEL) == digest:
            return
        import mlflow
        import numpy as np
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, DataType, Schema, TensorSpec

        here = Path(__file__).parent
        inputs = Schema([ColSpec(DataType.long, "n"), ColSpec(DataType.long, "seed")])
        outputs = Schema([TensorSpec(np.dtype(np.uint8), (-1, *read_card().shape))])
        mlflow.set_tracking_uri(self.uri)
        with mlflow.start_run(run_id=run.info.run_id):
            mlflow.pyfunc.log_model(
                name="model",
                python_model=str(here / "sampler.py"),
                artifacts={"model": str(path)},
                code_paths=[str(here)],
                signature=ModelSignature(inputs=inputs, outputs=outputs),
                pip_requirements=["torch", "safetensors", "pydantic", "numpy", "pillow", "pyyaml"],
                metadata={"seed": seed},
            )
        self.client.set_tag(run.info.run_id, MODEL, digest)


def _follow(name: str, seed: int, settings: Params, records: "queue.SimpleQueue[Record | None]") -> None:
    """Send records, a batch every two seconds, until None comes."""
    with _never_failing():
        store = Store(settings.data.name)
        run_id = store.run(name, seed, settings).info.run_id
        store.client.update_run(run_id, status="RUNNING")
        known = store.points(run_id)  # what an earlier training of the same, cut off, has sent
        ended = False
        while not ended:
            time.sleep(0 if not records.empty() else SEND_EVERY / 4)
            waiting: list[Record] = []
            deadline = time.monotonic() + SEND_EVERY
            while not ended and (left := deadline - time.monotonic()) > 0:
                with contextlib.suppress(queue.Empty):
                    record = records.get(timeout=left)
                    ended = record is None
                    waiting += [record] if record is not None else []
            fresh = [point for point in _curve(waiting) if point[:2] not in known]
            known |= {point[:2] for point in fresh}
            store.send(run_id, fresh)


def _curve(history: Iterable[Record]) -> list[Point]:
    return [
        (key, int(record["step"]), float(value))
        for record in history
        for key, value in record.items()
        if key != "step" and (key != "epoch" or "loss" in record)
    ]


def _results(metrics: dict[str, Any], timing: dict[str, Any]) -> dict[str, float]:
    """Final figures, by one name for all families; those measured on features carry the extractor's name."""
    extractor = metrics["extractor"]["name"]
    flat: dict[str, float] = {}
    for key, value in metrics.items():
        if isinstance(value, (int, float)) and key not in ("seed",):
            flat[f"{extractor}_{key}" if key in ON_FEATURES else key] = float(value)
    for group in ("modes", "nearest_neighbour"):
        numbers = {k: v for k, v in metrics[group].items() if isinstance(v, (int, float))}
        flat |= {f"{group}_{key}": float(value) for key, value in numbers.items()}
    for stage, facts in timing.items():
        if stage in ("train", "sample", "evaluate"):
            flat |= {
                f"{stage}_{key}": float(value) for key, value in facts.items() if key.endswith(("seconds", "second"))
            }
    return flat


def _timing(folder: Path) -> dict[str, Any]:
    path = folder / "timing.json"
    content: dict[str, Any] = read_json(path) if path.exists() else {}
    return content


@contextlib.contextmanager
def _never_failing() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        _warn(" ".join(str(error).split())[:200])


def _warn(reason: str) -> None:
    where = store_uri()
    print(
        f"warning: MLflow at {where} could not be used ({reason}); the results are complete, and "
        "`python -m stages.track` mirrors them when it is back",
        file=sys.stderr,
    )
