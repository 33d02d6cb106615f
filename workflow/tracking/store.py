"""MLflow as a mirror of the files of the runs, which can be made again from them at any time.

One MLflow run for each model and seed, found by a tag that names its content: what was trained, on what, with which
code. Curves arrive while training runs (`live`); the rest follows, and what is missing is made up for, in `mirror`.
Neither ever changes a result or fails one: a store that cannot be reached costs a few seconds and a warning.

This module and `sampler.py`, which MLflow loads a model with, are the only ones that import mlflow. It takes seconds,
so it is imported where it is needed.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from workflow.data.arrays import read_arrays, read_card
from workflow.engines import timing
from workflow.errors import BakeoffError
from workflow.files import read_json, sha256
from workflow.params import Params
from workflow.paths import PREPARED, RunFiles, model_page, project
from workflow.sweeps.trials import least_valid_loss
from workflow.tracking import moved
from workflow.tracking.parent_runs import LEAST, adopt, hex_digits, parent_of, parent_tags, tell_the_best

Record = dict[str, float | int]
Points = dict[tuple[str, int], float]  # metric and step: value

CONTENT, MIRRORED = "bakeoff.content", "bakeoff.mirrored"  # tags: what a run is of; the files that it shows
WEIGHTS = "bakeoff.weights"  # tag: SHA-256 of the model that the figures are of
# Seconds: of training before its curves are sent live, between batches of them, and to wait for the last one.
LIVE_AFTER, SEND_EVERY, GRACE = 10.0, 2.0, 30.0
BATCH = 1000  # metrics that MLflow takes in one request
ON_FEATURES = re.compile(r"fid|kid(_std)?|inception_score(_std)?|precision|recall|density|coverage")
REQUIREMENTS = ("torch", "safetensors", "pydantic", "numpy", "pandas", "pillow", "pyyaml")  # of `sampler.py`
ENVIRONMENT = {
    # By MLflow's own defaults (7 retries, 120 s) an unreachable server holds a caller for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # else it reports its use to its makers
}
ABOUT = """\
Deep generative models on the same data, with the same evaluation. Built from the files in `runs/`; \
`python -m stages.track` builds it again.

- `train/…`, `valid/…`: what each family minimises, over training steps; not comparable between families.
- `bits_per_dim`: bits; `exact` or an upper bound, as the tag `bits_per_dim_kind` says.
- `classifier/…`, `rotation network/…`: measured on the features of a network of the project's own; not to be held \
against papers. `Inception/…`: on those of the standard network.
- `least_valid_loss`: of the checkpoint that was kept; by it a sweep's trials are ranked.
- `gflops_per_sample`: 10⁹ floating-point operations; `time/…_seconds`: seconds."""


@contextlib.contextmanager
def live(name: str, seed: int, settings: Params) -> Iterator[Callable[[Record], None]]:
    """Send a training's records to MLflow while it runs; yields the function that takes a record.

    All of it happens in a thread of its own: taking a record costs nothing, and no failure comes back.
    """
    records: queue.SimpleQueue[Record | str] = queue.SimpleQueue()
    thread = threading.Thread(target=_follow, args=(name, seed, settings, records), daemon=True)
    thread.start()
    status = "FAILED"
    try:
        yield records.put
        status = "FINISHED"
    finally:
        records.put(status)
        thread.join(GRACE)
        if thread.is_alive():
            _warn("it does not answer")


def mirror(settings: Params) -> dict[str, Any]:
    """Bring MLflow up to date with the files of every model and seed; returns what identifies their content.

    Raises BakeoffError if a run's file is missing, never for MLflow's sake.
    """
    runs = [(name, seed) for name in settings.models for seed in settings.seeds]
    tags = {f"{name}/{seed}": {"tag": content_tag(name, seed, settings)} for name, seed in runs}
    digests = [_digest(RunFiles(name, seed)) for name, seed in runs]
    with _never_failing():
        store = Store(settings.data.name)
        for (name, seed), digest in zip(runs, digests, strict=True):
            store.mirror(name, seed, settings, digest)
        tell_the_best(store, settings, {name: _content(name, settings) for name in settings.sweeps})
    return {"runs": tags}


def content_tag(name: str, seed: int, settings: Params) -> str:
    """16 hex digits over the name and what decides the result of a training: parameters, seed, data, the family's code.

    The name, as people look for a run by it: a renamed model has a run of its own, and so has each of two equal ones.
    """
    return hex_digits({**_content(name, settings), "model": name, "seed": seed})


def _content(name: str, settings: Params) -> dict[str, Any]:
    """The same parts of what decides it, but the seed."""
    return {
        "entry": settings.models[name].model_dump(mode="json"),
        "compute": settings.compute.model_dump(mode="json"),
        "data": read_json(PREPARED / "card.json")["sha256"],
        "code": read_json(model_page(name)),
    }


def database() -> Path:
    """The project's own store."""
    return project() / "mlflow.db"


def artifacts() -> Path:
    """Where the files of runs go that are in the project's own store."""
    return project() / "mlartifacts"


def store_uri() -> str:
    """The store: MLFLOW_TRACKING_URI if it is set, else a SQLite file in the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database()}"


def experiment_name(data: str) -> str:
    """What the experiment for a data set is called in MLflow."""
    return f"generative-bakeoff/{data}"


class Store:
    """An MLflow store and the experiment for one data set in it. Any call may raise whatever MLflow raises."""

    def __init__(self, data: str) -> None:
        for key, value in ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        from filelock import FileLock
        from mlflow import MlflowClient

        for chatty in ("alembic", "mlflow"):
            logging.getLogger(chatty).setLevel(logging.CRITICAL)  # what goes wrong is told here, in one line
        uri = store_uri()
        local = uri.startswith("sqlite:")
        # What MLflow does in a SQLite file by looking first and writing then (the tables of a fresh file, the
        # experiment, the data set) fails for all but one of several processes at once. A server is `_asked` again.
        self.alone = FileLock(f"{database()}.lock", timeout=GRACE) if local else contextlib.nullcontext()
        with self.alone:
            if local and uri == f"sqlite:///{database()}":
                moved.follow(database(), artifacts())
            self.client = MlflowClient(tracking_uri=uri)
            self.experiment = _asked(lambda: self._experiment(experiment_name(data), local))

    def run(self, name: str, seed: int, settings: Params) -> Any:
        """The MLflow run of this content, made if there is none, under its parent if it has one."""
        from mlflow.exceptions import MlflowException

        tag, parent = content_tag(name, seed, settings), parent_of(name, settings, _content(name, settings))
        if not (found := self._runs(tag)):
            tags = {CONTENT: tag, "model": name, "kind": settings.models[name].kind, "seed": str(seed), **_source()}
            tags |= parent_tags(self, parent)
            made = self.client.create_run(self.experiment, tags=tags, run_name=f"{name}-{seed}")
            found = self._runs(tag) or [made]  # another machine may have looked and made one in the same moment
        elif parent and parent.adopts:
            adopt(self, parent, found[0])
        for younger in found[1:]:
            with contextlib.suppress(MlflowException):  # the other has just done so
                self.client.delete_run(younger.info.run_id)
        run = found[0]
        if not run.data.params:  # they come last: without them the run is new, or its making was cut off
            _asked(lambda: self._describe(run.info.run_id, name, seed, settings))
        return run

    def _runs(self, tag: str) -> list[Any]:
        """The runs of a content, the oldest first, so that all who look when all are there come to the same one."""
        return list(self.client.search_runs([self.experiment], f"tags.`{CONTENT}` = '{tag}'", order_by=["start_time"]))

    def points(self, run: Any) -> set[tuple[str, int]]:
        """Metric and step of every point that the run has."""
        run_id, keys = run.info.run_id, run.data.metrics
        return {(key, point.step) for key in keys for point in self.client.get_metric_history(run_id, key)}

    def send(self, run_id: str, points: Points) -> None:
        """Log points, in as few requests as MLflow allows."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        # MLflow makes 1.8e308 of infinity, which leaves no chart readable.
        finite = {point: value if math.isfinite(value) else math.nan for point, value in points.items()}
        metrics = [Metric(key, value, now, step) for (key, step), value in finite.items()]
        for i in range(0, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics=metrics[i : i + BATCH])

    def mirror(self, name: str, seed: int, settings: Params, digest: str) -> None:
        """Bring one run up to date with its files, of which `digest` is made; costs next to nothing if it is."""
        from mlflow.entities import RunTag

        run, files = self.run(name, seed, settings), RunFiles(name, seed)
        if run.data.tags.get(MIRRORED) == digest and not moved.lost(run.info.artifact_uri):
            return
        run_id = run.info.run_id
        metrics = read_json(files.metrics)
        times = timing.read(weights := sha256(files.model))
        history = [json.loads(line) for line in files.history.read_text(encoding="utf-8").splitlines()]
        known = self.points(run)
        self.send(run_id, {point: value for point, value in _curves(history).items() if point not in known})
        figures = _figures(metrics, times)
        if run.data.tags.get(WEIGHTS, weights) != weights:  # MLflow forgets no figure: other weights' are no more
            figures |= {key: math.nan for key in run.data.metrics if key.startswith("time/") and key not in figures}
        if (least := least_valid_loss(history)) is not None:
            figures[LEAST] = least
        # At step 0, where MLflow draws them as bars, a bar a run.
        self.send(run_id, {(key, 0): value for key, value in figures.items() if run.data.metrics.get(key) != value})
        self._log_files(run_id, files)
        self._log_model(run, files.model)
        tags = {tag: metrics[tag] or "none" for tag in ("taxonomy", "likelihood", "bits_per_dim_kind")}
        tags[WEIGHTS] = weights
        tags["mlflow.note.content"] = f"**{metrics['title']}** ({metrics['paper']}). {metrics['about']}"
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        if run.info.status != "FINISHED":  # the training was not followed
            seconds = times.get("train", {}).get("seconds")
            self.client.set_terminated(run_id, end_time=seconds and run.info.start_time + int(seconds * 1000))
        self.client.set_tag(run_id, MIRRORED, digest)

    def _experiment(self, name: str, local: bool) -> str:
        """The id of the experiment of this name, made if there is none, brought back if somebody deleted it."""
        if not (found := self.client.get_experiment_by_name(name)):
            place = artifacts().as_uri() if local else None
            return str(self.client.create_experiment(name, place, {"mlflow.note.content": ABOUT}))
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _describe(self, run_id: str, name: str, seed: int, settings: Params) -> None:
        """Log the data set and the parameters."""
        import numpy as np
        from mlflow.data.schema import TensorDatasetSchema
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param
        from mlflow.types import Schema, TensorSpec

        card = read_card()
        images = Schema([TensorSpec(np.dtype(np.uint8), (-1, *card.shape))])
        data = Dataset(
            name=card.name,
            digest=card.sha256["train"][:8],
            source_type="code",
            source=json.dumps({"tags": {"mlflow.source.name": card.source}}),
            schema=json.dumps(TensorDatasetSchema(images).to_dict()),
            profile=json.dumps({**card.counts, "levels": card.levels, "classes": len(card.classes)}),
        )
        with self.alone:
            self.client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
        entry = settings.models[name].model_dump(mode="json")
        flat = {"seed": seed, **entry, **{f"train.{key}": value for key, value in entry["train"].items()}}
        del flat["train"]
        self.client.log_batch(run_id, params=[Param(key, str(value)) for key, value in flat.items()])

    def _log_files(self, run_id: str, files: RunFiles) -> None:
        """Log the samples, the figures, and every set of pictures as a grid."""
        from workflow.data.pictures import grid, png

        with tempfile.TemporaryDirectory() as temporary:
            place, levels = Path(temporary), read_card().levels
            for file in (files.overview, files.metrics, files.history):
                (place / file.name).write_bytes(file.read_bytes())
            for key, images in read_arrays(files.pictures).items():
                if images.ndim < 4:  # numbers, which the report makes histograms of
                    continue
                columns = images.shape[1] if images.ndim == 5 else 8
                flat = images.reshape(-1, *images.shape[-3:])
                (place / f"{key}.png").write_bytes(png(grid(flat, levels, columns)))
            self.client.log_artifacts(run_id, temporary)

    def _log_model(self, run: Any, weights: Path) -> None:
        """Log the model so that `mlflow.pyfunc.load_model("runs:/<id>/model").predict(...)` draws from it."""
        import numpy as np
        import pandas as pd
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model, ModelSignature
        from mlflow.pyfunc import save_model
        from mlflow.types import ColSpec, DataType, Schema, TensorSpec

        from workflow.tracking import (
            pyfunc as sampler,  # which MLflow runs again, from its file, when it loads the model
        )

        run_id, here = run.info.run_id, Path(__file__).parents[1]
        if logged := run.outputs.model_outputs if run.outputs else []:
            model_id = logged[0].model_id
        else:
            model_id = self.client.create_logged_model(self.experiment, "model", run_id).model_id
            self.client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
        inputs = Schema([ColSpec(DataType.long, "n"), ColSpec(DataType.long, "seed")])
        outputs = Schema([TensorSpec(np.dtype(np.uint8), (-1, *read_card().shape))])
        with tempfile.TemporaryDirectory() as temporary:
            save_model(
                temporary,
                python_model=sampler.__file__,
                artifacts={"model": str(weights)},
                code_paths=[str(here)],
                signature=ModelSignature(inputs, outputs),
                input_example=pd.DataFrame({"n": [16], "seed": [0]}),
                pip_requirements=[f"{package}=={version(package).split('+')[0]}" for package in REQUIREMENTS],
                mlflow_model=Model(run_id=run_id, model_id=model_id),
            )
            self.client.log_model_artifacts(model_id, temporary)
        self.client.finalize_logged_model(model_id, "READY")


def _asked(ask: Callable[[], Any]) -> Any:
    """What a server answers; it is asked again if it refuses what another process was just writing."""
    from mlflow.exceptions import RestException

    try:
        return ask()
    except RestException:
        return ask()


def _follow(name: str, seed: int, settings: Params, records: "queue.SimpleQueue[Record | str]") -> None:
    """Send records, a batch every two seconds, until the run's status comes instead of one."""
    batch, status = _take(records, LIVE_AFTER)
    if status:  # over before anybody could have watched: `mirror` sends it all, and MLflow need not be loaded here
        return
    with _never_failing():
        store = Store(settings.data.name)
        run = store.run(name, seed, settings)
        run_id = run.info.run_id
        store.client.update_run(run_id, status="RUNNING")
        known = store.points(run)  # what an earlier training of the same, cut off, has sent
        while True:
            fresh = {point: value for point, value in _curves(batch).items() if point not in known}
            store.send(run_id, fresh)
            known |= fresh.keys()
            if status:
                break
            batch, status = _take(records, SEND_EVERY)
        store.client.set_terminated(run_id, status)


def _take(records: "queue.SimpleQueue[Record | str]", seconds: float) -> tuple[list[Record], str]:
    """The records that come within so many seconds, and the run's status if it comes, which ends the wait."""
    batch: list[Record] = []
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(queue.Empty):
            item = records.get(timeout=left)
            if isinstance(item, str):
                return batch, item
            batch.append(item)
    return batch, ""


def _curves(history: Iterable[Record]) -> Points:
    """Records as points; the part of a metric's name before the slash is a section of MLflow's page."""
    points: Points = {}
    for record in history:
        for key, value in record.items():
            if key != "step":
                metric = f"valid/{key.removeprefix('valid_')}" if key.startswith("valid_") else f"train/{key}"
                points[metric, int(record["step"])] = float(value)
    return points


def _figures(metrics: dict[str, Any], times: dict[str, Any]) -> dict[str, float]:
    """Final figures, by one name for all families; those measured on features carry the extractor's name."""
    extractor = metrics["extractor"]["name"]
    figures = {f"{extractor}/{key}" if ON_FEATURES.fullmatch(key) else key: value for key, value in metrics.items()}
    for group in ("modes", "nearest_neighbour"):
        figures |= {f"{group}/{key}": value for key, value in (metrics[group] or {}).items()}
    for stage, facts in times.items():
        figures |= {f"time/{stage}_{key}": facts[key] for key in ("seconds", "images_per_second") if key in facts}
    return {key: float(value) for key, value in figures.items() if isinstance(value, (int, float)) and key != "seed"}


def _digest(files: RunFiles) -> str:
    """16 hex digits over what is mirrored of a run's files; raises BakeoffError if one is missing."""
    mirrored = (files.model, files.history, files.overview, files.metrics, files.pictures)
    for file in mirrored:
        if not file.exists():
            raise BakeoffError(f"{file}: missing; run the stage that makes it (`dvc repro`)")
    return hashlib.sha256("".join(sha256(file) for file in mirrored).encode()).hexdigest()[:16]


def _source() -> dict[str, str]:
    """MLflow's tags for what made a run: the stage, and the commit if there is one."""
    tags = {"mlflow.source.type": "LOCAL", "mlflow.source.name": "stages/train.py"}
    with contextlib.suppress(OSError):  # no git
        asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, encoding="utf-8", check=False)
        if asked.returncode == 0:
            tags["mlflow.source.git.commit"] = asked.stdout.strip()
    return tags


@contextlib.contextmanager
def _never_failing() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        _warn(" ".join(str(error).split())[:200])


def _warn(reason: str) -> None:
    message = (
        f"warning: MLflow at {store_uri()} could not be used ({reason}); the results are complete, and "
        "`python -m stages.track` mirrors them when it is back"
    )
    # An address may hold a password. One write, as another thread may have something to say, too.
    sys.stderr.write(re.sub(r"//[^/@\s]*@", "//", message) + "\n")
