"""Processes that log to one MLflow server at the same moment.

A server of forks imports this module once, and MLflow with it, so that sixteen of them fit on a small machine.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow.pyfunc  # noqa: F401 -- to have it loaded, like the others
import pandas  # noqa: F401

from tests.tracking.conftest import PATIENCE, RECORDS
from workflow import params
from workflow.paths import RunFiles
from workflow.tracking import live, mirror, store
from workflow.tracking.runs import run_of


@contextlib.contextmanager
def _writing(folder: Path, address: str) -> Iterator[params.Params]:
    """The project in a folder, which logs to a server; warnings go to a file in it."""
    os.chdir(folder)
    # A client's patience of three seconds is for servers that are down; a small machine that tests may be slow.
    os.environ |= {"MLFLOW_TRACKING_URI": address, "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
    live.LIVE_AFTER, live.GRACE, store.LOCK_TIMEOUT = 0.0, 120.0, 120.0
    with Path(f"stderr-{os.getpid()}").open("w", encoding="utf-8") as errors, contextlib.redirect_stderr(errors):
        yield params.load()


def train_and_mirror(folder: Path, seed: int, with_model: bool, barrier: Any, address: str) -> None:
    """Log a training live, and then its files, as the stages `train` and `track` do."""
    if not with_model:  # a hundred files, most of them code, the same for all
        mirror._log_model = lambda *_: None
    with _writing(folder, address) as settings:
        barrier.wait(PATIENCE)
        with live.live("nice", seed, settings) as log:
            for record in RECORDS:
                log(record)
        with store.never_failing():
            digest = mirror.digest_of(RunFiles("nice", seed))
            mirror.mirror_run(store.Store(settings.data.name), "nice", seed, settings, digest)


def train_the_same(folder: Path, barrier: Any, address: str) -> None:
    """Ask for the run of a content, in the moment in which others ask for it."""
    with _writing(folder, address) as settings, store.never_failing():
        place = store.Store(settings.data.name)
        barrier.wait(PATIENCE)
        run_of(place, "vae", 0, settings)
