"""What MLflow's users get from the mirror: its page and its models."""

import contextlib
import json
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
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
import torch
import yaml

from tests.browser import open_browser
from tests.conftest import ROOT
from tests.tracking.conftest import MODELS, SHAPE, Settings, client, only, runs, wait_for
from workflow.errors import BakeoffError
from workflow.models import registry
from workflow.tracking import ui
from workflow.tracking.store import Store, store_uri

LOAD = """
import sys, mlflow, numpy, pandas
frame = pandas.DataFrame({"n": [3, 2], "seed": [7, 8]})
for name, run in (argument.split("=") for argument in sys.argv[2:]):
    numpy.save(f"{sys.argv[1]}/{name}.npy", mlflow.pyfunc.load_model(f"runs:/{run}/{name}-0").predict(frame))
"""


@pytest.mark.slow
def test_a_logged_model_draws_what_the_model_draws_wherever_it_is_loaded(
    mirrored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mirrored)
    asked = [f"{run.data.tags['model']}={run.info.run_id}" for run in runs()]
    described = as_described("vae") + "import sys, numpy; numpy.save(f'{sys.argv[1]}/described.npy', images)"
    for code in (LOAD, described):
        execute(code, tmp_path, [str(tmp_path), *asked])
    for name in MODELS:
        assert_drawn(tmp_path / f"{name}.npy", name, ((3, 7), (2, 8)))
    assert_drawn(tmp_path / "described.npy", "vae", ((16, 0),))
    names = {file.name for file in (mirrored / "mlartifacts").rglob("*")}
    assert "model.safetensors" in names
    assert not {name for name in names if name.endswith((".pkl", ".pickle"))}


def experiment() -> str:
    return str(only([*{run.info.experiment_id for run in runs()}]))


def logged_model(name: str) -> Any:
    run = only([run for run in runs() if run.data.tags["model"] == name])
    return client().get_logged_model(only(run.outputs.model_outputs).model_id)


def as_described(name: str) -> str:
    """The code that the model's page in MLflow gives."""
    return str(re.findall(r"```python\n(.+?)```", logged_model(name).tags["mlflow.note.content"], re.DOTALL)[0])


def execute(code: str, folder: Path, arguments: list[str]) -> None:
    """Run code without this project, but for the store of the current folder."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"MLFLOW_TRACKING_URI": store_uri(), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=folder, env=environment, check=True)


def assert_drawn(file: Path, name: str, batches: tuple[tuple[int, int], ...]) -> None:
    """What is in the file is what the model draws in these batches: number of images, seed."""
    model = registry.load(Path(f"runs/{name}/0/model.safetensors")).model
    own = [model.sample(n, torch.Generator().manual_seed(seed)).numpy() for n, seed in batches]
    drawn = np.load(file)
    assert (drawn.dtype, drawn.shape) == (np.uint8, (sum(n for n, _ in batches), *SHAPE))
    assert np.array_equal(drawn, np.concatenate(own))


def test_a_logged_model_has_its_runs_name_a_signature_an_example_and_a_description(
    mirrored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mirrored)
    for name in MODELS:
        model = logged_model(name)
        assert (model.name, model.status) == (f"{name}-0", "READY")
        assert f'load_model("models:/{model.model_id}")' in as_described(name)
        assert "uint8 (16, 1, 8, 8), values 0 to 4." in model.tags["mlflow.note.content"]
        place = Path(unquote(urlparse(model.artifact_location).path))
        about = yaml.safe_load((place / "MLmodel").read_text(encoding="utf-8"))
        inputs, outputs = (json.loads(about["signature"][way]) for way in ("inputs", "outputs"))
        assert [(one["name"], one["type"]) for one in inputs] == [("n", "long"), ("seed", "long")]
        assert only(outputs)["tensor-spec"] == {"dtype": "uint8", "shape": [-1, *SHAPE]}
        example = json.loads((place / about["saved_input_example_info"]["artifact_path"]).read_text(encoding="utf-8"))
        assert example == {"columns": ["n", "seed"], "data": [[16, 0]]}


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


SHOWN = "return document.body.innerText"
HEADERS = """
const left = cell => cell.getBoundingClientRect().left;
const cells = [...document.querySelectorAll('.ag-header-viewport .ag-header-cell')];
return cells.sort((a, b) => left(a) - left(b)).map(cell => cell.innerText.trim())"""
# The images in the grid that have been loaded: their steps, and their widths in pixels.
GRID = r"""
const inGrid = [...document.images].filter(i => i.src.includes('compressed.webp') && i.naturalWidth);
return inGrid.map(i => [Number(/step(?:\+|%2B)(\d+)/.exec(i.src)[1]), i.naturalWidth])"""


def test_the_printed_address_shows_the_runs_and_a_click_a_run_and_its_samples(
    mirrored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mirrored)
    names = {run.info.run_name for run in runs()}
    with open_browser(tmp_path) as browser, serving(mirrored) as address:

        def shows(*words: str) -> bool:
            return set(words) <= set(browser.execute_script(SHOWN).splitlines())

        browser.get(address)
        wait_for(lambda: shows(*names, "Bake-off"))  # the view's name as well
        first = ["classifier/FID", "classifier/coverage", "bits per dim"]
        wait_for(lambda: browser.execute_script(HEADERS)[:3] == first)
        search = browser.find_element("css selector", "input[placeholder^='metrics.rmse']")
        search.send_keys('tags.family = "flow" and metrics."bits per dim" < 3\n')
        wait_for(lambda: shows("nice-0") and not shows("vae-0"))
        browser.get(f"{address}&compareRunsMode=CHART")
        # The same step of all runs, enlarged from eight pixels; without scrolling.
        wait_for(lambda: browser.execute_script(GRID) == [[100, 195]] * len(MODELS))
        wait_for(lambda: at_the_start(browser))
        browser.get(address)
        wait_for(lambda: shows("vae-0"))
        browser.find_element("link text", "vae-0").click()
        wait_for(lambda: shows("classifier/FID", "Logged models (1)"))
        browser.get(f"{browser.current_url.partition('?')[0]}/artifacts/neighbours_samples.png")
        picture = "return [...document.images].some(i => i.src.startsWith('blob:') && i.naturalWidth > 100)"
        wait_for(lambda: shows("neighbours_samples.png"))
        wait_for(lambda: browser.execute_script(picture))
        browser.get(f"{address.partition('#')[0]}#/experiments/{experiment()}/models/{logged_model('vae').model_id}")
        wait_for(lambda: "mlflow.pyfunc.load_model" in browser.execute_script(SHOWN))
        browser.get(f"{address.partition('#')[0]}#/experiments")
        wait_for(lambda: shows("generative-bakeoff/digits"))
        browser.find_element("xpath", "//*[text()='Model training']").click()  # as the second line says
        wait_for(lambda: opened(browser) and shows(*names))


def at_the_start(browser: Any) -> bool:
    """Whether the grid shows the first step, towards which the left arrow goes; beyond it the grid would be empty."""
    from selenium.common.exceptions import StaleElementReferenceException

    with contextlib.suppress(StaleElementReferenceException):  # drawn anew meanwhile
        slider = browser.find_element("css selector", "[role=slider]")
        if slider.get_attribute("aria-valuenow") not in ("0", None):
            slider.send_keys("\ue012")
    return bool(browser.execute_script(GRID) == [[0, 195]] * len(MODELS))


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
    def refuse(message: str, *arguments: str) -> None:
        there = sorted(Path().iterdir())
        with pytest.raises(BakeoffError, match=message):
            ui.main([*arguments])
        assert sorted(Path().iterdir()) == there  # an empty store would be taken for one

    first = r"; run `make repro` first, or `python -m stages\.track`$"
    monkeypatch.setattr("os.execv", None)  # the server is not to start
    refuse("^MLflow: no runs in experiment generative-bakeoff/digits yet" + first)
    Store("digits")
    refuse("^MLflow: no runs in experiment generative-bakeoff/digits yet" + first)
    for arguments in (["x"], ["0"], ["65536"], ["5000", "5001"]):
        refuse(r"^usage: python -m workflow\.tracking\.ui \[PORT\]", *arguments)
    Path("mlflow.db").write_text("no database", encoding="utf-8")
    refuse(r"^mlflow\.db: file is not a database; if it is damaged, delete it")
    Path("mlflow.db").unlink()
    refuse(r"^mlflow\.db: not there yet" + first)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    refuse(r"^elsewhere\.db: not there yet" + first)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    refuse("^MLFLOW_TRACKING_URI: names a server")
    assert capsys.readouterr().out == ""


def test_a_port_that_is_taken_is_named_with_a_free_one_before_anything_starts(
    project: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.execv", None)  # the server is not to start
    monkeypatch.setattr(ui, "address", None)  # nor MLflow to be imported
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BakeoffError, match=rf"^port {port}: address already in use; ") as caught:
            ui.main([str(port)])
    free = re.search(r"; run `make ui PORT=(\d+)`$", str(caught.value))
    assert free
    assert int(free[1]) != port
    with socket.create_server(("127.0.0.1", int(free[1]))):
        pass
    ui.check_port(port)  # free again, though it has just been used
    with socket.create_server(("127.0.0.1", 65535)), pytest.raises(BakeoffError, match=r"PORT=5[0-9]{3}`$"):
        ui.check_port(65535)
    assert capsys.readouterr().out == ""
