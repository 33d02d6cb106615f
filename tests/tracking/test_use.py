"""What MLflow's users get from the mirror: its page and its models."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.browser import open_browser
from tests.conftest import ROOT
from tests.tracking.conftest import MODELS, SHAPE, Settings, runs, wait_for
from workflow.errors import BakeoffError
from workflow.models import registry
from workflow.tracking import ui
from workflow.tracking.store import store_uri

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
    environment |= {"MLFLOW_TRACKING_URI": store_uri(), "OMP_NUM_THREADS": "1"}
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
    """`make ui` in a folder, on a free port of this machine; yields the address that it prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # -o: nothing is installed here.
    command = ["make", "-o", ".venv/installed", "-f", str(ROOT / "Makefile"), "ui", f"PORT={port}"]
    log = folder / "server.log"
    with log.open("w", encoding="utf-8") as file:
        server = subprocess.Popen(command, cwd=folder, stdout=file, stderr=file, start_new_session=True)
    try:
        wait_for(lambda: server.poll() is not None or answers(f"http://127.0.0.1:{port}/health"))
        printed = log.read_text(encoding="utf-8")
        assert server.poll() is None, printed
        found = re.search(r"^MLflow: (http\S+) \(Ctrl-C ends it\)$", printed, re.MULTILINE)
        assert found, printed
        yield found[1]
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended, which the test tells of
            os.killpg(server.pid, signal.SIGTERM)  # its workers are of its session
        server.wait()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_the_printed_address_shows_the_runs_and_a_click_a_run_and_its_samples(
    mirrored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mirrored)
    names = {run.info.run_name for run in runs()}
    shown = "return document.body.innerText"
    with open_browser(tmp_path) as browser, serving(mirrored) as address:
        browser.get(address)
        wait_for(lambda: names <= set(browser.execute_script(shown).split()))
        browser.find_element("link text", "vae-0").click()
        wait_for(lambda: "classifier/fid" in browser.execute_script(shown))
        browser.get(f"{browser.current_url.partition('?')[0]}/artifacts/neighbours_samples.png")
        picture = "return [...document.images].some(i => i.src.startsWith('blob:') && i.naturalWidth > 100)"
        wait_for(lambda: "neighbours_samples.png" in browser.execute_script(shown))
        wait_for(lambda: browser.execute_script(picture))
        browser.get(f"{address.partition('#')[0]}#/experiments")
        wait_for(lambda: "generative-bakeoff/digits" in browser.execute_script(shown))
        browser.find_element("xpath", "//*[text()='Model training']").click()  # as the second line says
        wait_for(lambda: opened(browser) and names <= set(browser.execute_script(shown).split()))


def opened(browser: Any) -> bool:
    """Whether the experiment has been opened from the list, by clicks: the first may only close a tip of MLflow's.

    Once it is open there are no more of them: its own page has a link of that name too, which leads away from it.
    """
    from selenium.common.exceptions import StaleElementReferenceException

    with contextlib.suppress(StaleElementReferenceException):  # drawn anew meanwhile
        for link in browser.find_elements("link text", "generative-bakeoff/digits"):
            if "/runs" not in browser.current_url:
                link.click()
    return "/runs" in browser.current_url


def test_without_runs_it_says_what_to_do(
    project: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.execv", None)  # the server is not to start
    with pytest.raises(BakeoffError, match=r"no experiment generative-bakeoff/digits yet; run `make repro` first"):
        ui.main([])
    with pytest.raises(BakeoffError, match=r"usage: python -m workflow\.tracking\.ui \[PORT\]"):
        ui.main(["x"])
    Path("mlflow.db").write_text("no database", encoding="utf-8")
    with pytest.raises(BakeoffError, match=r"^mlflow\.db: file is not a database; if it is damaged, delete it"):
        ui.main([])
    Path("mlflow.db").unlink()
    with pytest.raises(BakeoffError, match=r"^mlflow\.db: not there yet; run `make repro` first"):
        ui.main([])
    assert not Path("mlflow.db").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(BakeoffError, match=r"^MLFLOW_TRACKING_URI: names a server"):
        ui.main([])
    assert capsys.readouterr().out == ""
