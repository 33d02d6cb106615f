"""MLflow's page, on this machine alone: `python -m workflow.ui [PORT]`. `make ui` calls it.

MLflow's start page and its list of experiments lead to views for language models, which have nothing of ours to show,
so what is printed is the address of the runs.
"""

import os
import sys

from workflow import params
from workflow.errors import BakeoffError, one_line
from workflow.tracking import ENVIRONMENT, experiment_name, store_uri

HOST, PORT = "127.0.0.1", 5000


def address(port: int) -> str:
    """The page of the runs on the present data; raises BakeoffError if there is none yet."""
    os.environ.update(ENVIRONMENT)
    from mlflow import MlflowClient

    name = experiment_name(params.load().data.name)
    found = MlflowClient(tracking_uri=store_uri()).get_experiment_by_name(name)
    if not found:
        raise BakeoffError(f"MLflow: no experiment {name} yet; run `make repro` first, or `python -m stages.track`")
    return f"http://{HOST}:{port}/#/experiments/{found.experiment_id}/runs?workflowType=machine_learning"


def main(arguments: list[str]) -> None:
    """Print the address and become the server."""
    if len(arguments) > 1 or not all(word.isdecimal() and 0 < int(word) < 65536 for word in arguments):
        raise BakeoffError("usage: python -m workflow.ui [PORT], a number below 65536; make ui PORT=5001")
    port = int(arguments[0]) if arguments else PORT
    print(f"MLflow: {address(port)} (Ctrl-C ends it)", flush=True)
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    where = ["--host", HOST, "--port", str(port), "--workers", "1", "--backend-store-uri", store_uri()]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", *where])


if __name__ == "__main__":
    with one_line():
        main(sys.argv[1:])
