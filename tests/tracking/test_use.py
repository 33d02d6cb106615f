"""What MLflow's users get from the mirror: its page and its models."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.browser import open_browser
from tests.tracking.conftest import MODELS, SHAPE, runs, wait_for
from workflow import tracking
from workflow.models import registry

LOAD = """
import sys, mlflow, numpy, pandas
frame = pandas.DataFrame({"n": [3, 2], "seed": [7, 8]})
for name, run in (argument.split("=") for argument in sys.argv[2:]):
    numpy.save(f"{sys.argv[1]}/{name}.npy", mlflow.pyfunc.load_model(f"runs:/{run}/model").predict(frame))
"""


@pytest.mark.slow
def test_a_logged_model_draws_what_the_model_draws_wherever_it_is_loaded(
    mirrored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mirrored)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"MLFLOW_TRACKING_URI": tracking.store_uri(), "OMP_NUM_THREADS": "1"}
    asked = [f"{run.data.tags['model']}={run.info.run_id}" for run in runs()]
    subprocess.run([sys.executable, "-c", LOAD, str(tmp_path), *asked], cwd=tmp_path, env=environment, check=True)
    for name in MODELS:
        model = registry.load(Path(f"runs/{name}/0/model.safetensors")).model
        own = [model.sample(n, torch.Generator().manual_seed(seed)).numpy() for n, seed in ((3, 7), (2, 8))]
        drawn = np.load(tmp_path / f"{name}.npy")
        assert (drawn.dtype, drawn.shape) == (np.uint8, (5, *SHAPE))
        assert np.array_equal(drawn, np.concatenate(own))
    names = {file.name for file in (mirrored / "mlartifacts").rglob("*")}
    assert "model.safetensors" in names
    assert not {name for name in names if name.endswith((".pkl", ".pickle"))}


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """An MLflow server of the store in a folder, on a free port of this machine; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"], cwd=folder, stdout=log, stderr=log,
            env={**os.environ, **tracking.ENVIRONMENT, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(lambda: server.poll() is not None or answers(f"http://127.0.0.1:{port}/health"))
        assert server.poll() is None, (folder / "server.log").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # its workers are of its session
        server.wait()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_mlflows_own_page_shows_the_five_runs_and_their_samples(
    mirrored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mirrored)
    found = {run.info.run_name: run for run in runs()}
    shown = "return document.body.innerText"
    with open_browser(tmp_path) as browser, serving(mirrored) as address:
        experiment = f"{address}/#/experiments/{found['vae-0'].info.experiment_id}"
        browser.get(f"{experiment}/runs?workflowType=machine_learning")
        wait_for(lambda: set(found) <= set(browser.execute_script(shown).split()))
        browser.get(f"{experiment}/runs/{found['vae-0'].info.run_id}/artifacts/neighbours_samples.png")
        picture = "return [...document.images].some(i => i.src.startsWith('blob:') && i.naturalWidth > 100)"
        wait_for(lambda: "neighbours_samples.png" in browser.execute_script(shown))
        wait_for(lambda: browser.execute_script(picture))
