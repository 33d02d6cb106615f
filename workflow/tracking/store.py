"""The MLflow store that mirrors the runs: where it is, its experiment, and what is read from it and written to it.

A store that cannot be reached never changes a result or makes a stage fail: it costs a few seconds and a warning
(`never_failing`).

MLflow takes seconds to import, so every module of this package but `pyfunc.py` imports it only where it is used.
"""

import contextlib
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from workflow.paths import project
from workflow.tracking import moved, view

Points = dict[tuple[str, int], float]  # metric and step: value

LOCK_TIMEOUT = 30.0  # seconds to wait for another process that is writing to the same SQLite file
NOTE = "mlflow.note.content"  # MLflow's own tag: the description of an experiment, a run or a model
BATCH = 1000  # metrics that MLflow accepts in one request
ENVIRONMENT = {
    # With MLflow's own defaults (7 retries, 120 s) an unreachable server holds up a caller for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # otherwise it reports its use to its makers
}
ABOUT = """\
Deep generative models on the same data, with the same evaluation. Built from the files in `runs/`; \
`python -m stages.track` builds it again.

- `train/…`, `valid/…`: what each family minimises, over training steps; not comparable between families.
- `bits per dim`: bits; exact, an upper bound or an estimate, as the tag `bits_per_dim_kind` says.
- `classifier/…`, `rotation network/…`: measured on the features of a network that this project trained; not \
comparable with figures in papers. `Inception/…`: on the features of the standard network.
- `least validation loss`: of the checkpoint that was kept; a sweep ranks its trials by it.
- `GFLOPs per image`: 10⁹ floating-point operations; `time/…`: how long the stages took.
- `Duration`: of the training alone; empty or `0ms` if nobody has measured it of these weights.
- `Samples/by percent of training`: images; the slider's steps are percentages, as trainings differ in length.
- Search by tags and metrics: `tags.family = "flow" and metrics."bits per dim" < 2`."""


def database() -> Path:
    """The project's own store."""
    return project() / "mlflow.db"


def artifacts() -> Path:
    """The folder for the files of the runs in the project's own store."""
    return project() / "mlartifacts"


def store_uri() -> str:
    """The store: MLFLOW_TRACKING_URI if it is set, else a SQLite file in the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database()}"


def experiment_name(data: str) -> str:
    """The name in MLflow of the experiment for a data set."""
    return f"generative-bakeoff/{data}"


class Store:
    """An MLflow store and its experiment for one data set. Any call may raise whatever MLflow raises.

    client: MLflow's own, for whatever has no method here. experiment: the experiment's id. lock: held while something
    is looked up and written if it is missing.
    """

    def __init__(self, data: str) -> None:
        for key, value in ENVIRONMENT.items():  # before MLflow is imported, and leaving what the user has set
            os.environ.setdefault(key, value)
        from filelock import FileLock
        from mlflow import MlflowClient

        for chatty in ("alembic", "mlflow"):
            logging.getLogger(chatty).setLevel(logging.CRITICAL)  # errors are reported here, in one line
        uri = store_uri()
        local = uri.startswith("sqlite:")
        # MLflow creates some things in a SQLite file by looking first and writing afterwards (the tables of a new
        # file, the experiment, the data set). That fails for all but one of several processes that do it at once.
        # A server is asked again instead (`retried`).
        self.lock = FileLock(f"{database()}.lock", timeout=LOCK_TIMEOUT) if local else contextlib.nullcontext()
        with self.lock:
            if local and uri == f"sqlite:///{database()}":
                moved.follow(database(), artifacts())
            self.client = MlflowClient(tracking_uri=uri)
            self.experiment = retried(lambda: self._experiment(experiment_name(data), local))

    def _experiment(self, name: str, local: bool) -> str:
        """The id of the experiment with this name: created if there is none, restored if somebody deleted it."""
        if not (found := self.client.get_experiment_by_name(name)):
            place = artifacts().as_uri() if local else None
            tags = {NOTE: ABOUT, view.TAG: view.tag()}
            return str(self.client.create_experiment(name, place, tags))
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        if not view.is_current(found.tags.get(view.TAG)):
            self.client.set_experiment_tag(found.experiment_id, view.TAG, view.tag())
        return str(found.experiment_id)

    def find(self, tag: str, value: str) -> list[Any]:
        """The runs that have this value of a tag, the oldest first, so that all who look agree on the first."""
        order = ["attributes.start_time ASC", "attributes.run_id ASC"]
        return list(self.client.search_runs([self.experiment], f"tags.`{tag}` = '{value}'", order_by=order))

    def points(self, run: Any) -> set[tuple[str, int]]:
        """Metric and step of every point that the run has."""
        run_id, keys = run.info.run_id, run.data.metrics
        return {(key, point.step) for key in keys for point in self.client.get_metric_history(run_id, key)}

    def send(self, run_id: str, points: Points) -> None:
        """Log points, in as few requests as MLflow allows."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        # MLflow turns infinity into 1.8e308, which makes every chart unreadable.
        finite = {point: value if math.isfinite(value) else math.nan for point, value in points.items()}
        metrics = [Metric(key, value, now, step) for (key, step), value in finite.items()]
        for i in range(0, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics=metrics[i : i + BATCH])


def retried(ask: Callable[[], Any]) -> Any:
    """What a server answers; asked once more if it rejects something that another process was just writing."""
    from mlflow.exceptions import RestException

    try:
        return ask()
    except RestException:
        return ask()


@contextlib.contextmanager
def never_failing() -> Iterator[None]:
    """Turn any exception into a warning."""
    try:
        yield
    except Exception as error:
        warn(" ".join(str(error).split())[:200])


def warn(reason: str) -> None:
    """Say on stderr that MLflow could not be used, and what to do about it."""
    message = (
        f"warning: MLflow at {store_uri()} could not be used ({reason}); the results are complete, and "
        "`python -m stages.track` mirrors them when it is back"
    )
    # An address may contain a password. One write, as another thread may be writing, too.
    sys.stderr.write(re.sub(r"//[^/@\s]*@", "//", message) + "\n")
