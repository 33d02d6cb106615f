"""MLflow's UI, for this machine only: `python -m workflow.tracking.ui [PORT]`. `make ui` calls it.

MLflow's start page and its list of experiments lead to views for language models, which are empty here, so the address
of the runs is printed instead. No tag of an experiment changes that: the UI follows its address or, if that says
nothing, what was last chosen in the browser.
"""

import os
import socket
import sqlite3
import sys
from pathlib import Path

from workflow import params
from workflow.errors import BakeoffError, one_line
from workflow.tracking import moved, view
from workflow.tracking.store import ENVIRONMENT, artifacts, database, experiment_name, store_uri

HOST, PORT, PORTS = "127.0.0.1", 5000, 65536
FIRST = "run `make repro` first, or `python -m stages.track`"


def address(port: int) -> str:
    """The page of the runs on the current data set; raises BakeoffError if there is none yet."""
    data = params.load().data
    name = experiment_name(params.own_title(data) or data.name)
    os.environ.update(ENVIRONMENT)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store_uri())
    found = client.get_experiment_by_name(name)
    if not found or not client.search_runs([found.experiment_id], max_results=1):
        raise BakeoffError(f"MLflow: no runs in experiment {name} yet; {FIRST}")
    columns = f"&viewStateShareKey={view.KEY}" if view.TAG in found.tags else ""
    return f"http://{HOST}:{port}/#/experiments/{found.experiment_id}/runs?workflowType=machine_learning{columns}"


def check_store() -> None:
    """Raise BakeoffError if there is no store to show, as MLflow would create an empty one.

    The project's own is also made to refer to this folder, should that have been moved.
    """
    uri = store_uri()
    if uri.startswith(("http:", "https:")):
        raise BakeoffError("MLFLOW_TRACKING_URI: names a server, so open its page; unset it for those in mlflow.db")
    if uri.startswith("sqlite:///") and not (file := Path(uri.removeprefix("sqlite:///"))).exists():
        raise BakeoffError(f"{file.name if file == database() else file}: not there yet; {FIRST}")
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        try:
            moved.follow(database(), artifacts())
        except sqlite3.Error as error:
            raise BakeoffError(
                f"mlflow.db: {error}; if it is damaged, delete it and run `python -m stages.track`"
            ) from None


def check_port(port: int) -> None:
    """Raise BakeoffError if the port cannot be listened on; it names another one that can."""
    if reason := _refused(port):
        others = (*range(port + 1, PORTS), *range(PORT, port))
        free = next(other for other in others if not _refused(other))
        raise BakeoffError(f"port {port}: {reason}; run `make ui PORT={free}`")


def _refused(port: int) -> str:
    """Why a port cannot be listened on; "" if it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does, right after another one
        try:
            probe.bind((HOST, port))
        except OSError as error:
            return str(error.strerror).lower()
    return ""


def main(arguments: list[str]) -> None:
    """Print the address and become the server."""
    if len(arguments) > 1 or not all(word.isdecimal() and 0 < int(word) < PORTS for word in arguments):
        raise BakeoffError("usage: python -m workflow.tracking.ui [PORT], a number below 65536; make ui PORT=5001")
    port = int(arguments[0]) if arguments else PORT
    check_store()
    check_port(port)
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
