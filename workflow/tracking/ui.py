"""MLflow's UI, for this machine only: `python -m workflow.tracking.ui [PORT]`. `make ui` calls it.

MLflow's start page and its list of experiments lead to views for language models, which are empty here, so the address
of the runs is printed instead. No tag of an experiment changes that: the UI follows its address or, if that says
nothing, what was last chosen in the browser.
"""

import os
import sqlite3
import sys

from workflow import params
from workflow.errors import BakeoffError, one_line
from workflow.tracking import moved
from workflow.tracking.store import ENVIRONMENT, artifacts, database, experiment_name, store_uri

HOST, PORT = "127.0.0.1", 5000


def address(port: int) -> str:
    """The page of the runs on the current data set; raises BakeoffError if there is none yet."""
    if store_uri().startswith(("http:", "https:")):
        raise BakeoffError("MLFLOW_TRACKING_URI: names a server, so open its page; unset it for those in mlflow.db")
    name = experiment_name(params.load().data.name)
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        _check_own_store()
    os.environ.update(ENVIRONMENT)
    from mlflow import MlflowClient

    found = MlflowClient(tracking_uri=store_uri()).get_experiment_by_name(name)
    if not found:
        raise BakeoffError(f"MLflow: no experiment {name} yet; run `make repro` first, or `python -m stages.track`")
    return f"http://{HOST}:{port}/#/experiments/{found.experiment_id}/runs?workflowType=machine_learning"


def _check_own_store() -> None:
    """Make it refer to this folder, should that have been moved; raises BakeoffError if it is missing or damaged."""
    if not database().exists():  # MLflow would create an empty one
        raise BakeoffError("mlflow.db: not there yet; run `make repro` first, or `python -m stages.track`")
    try:
        moved.follow(database(), artifacts())
    except sqlite3.Error as error:
        raise BakeoffError(
            f"mlflow.db: {error}; if it is damaged, delete it and run `python -m stages.track`"
        ) from None


def main(arguments: list[str]) -> None:
    """Print the address and become the server."""
    if len(arguments) > 1 or not all(word.isdecimal() and 0 < int(word) < 65536 for word in arguments):
        raise BakeoffError("usage: python -m workflow.tracking.ui [PORT], a number below 65536; make ui PORT=5001")
    port = int(arguments[0]) if arguments else PORT
    print(f"MLflow: {address(port)} (Ctrl-C ends it)")
    print(
        "To open an experiment from MLflow's own list, choose `Model training` there first, at the top left", flush=True
    )
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    where = ["--host", HOST, "--port", str(port), "--workers", "1", "--backend-store-uri", store_uri()]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", *where])


if __name__ == "__main__":
    with one_line():
        main(sys.argv[1:])
