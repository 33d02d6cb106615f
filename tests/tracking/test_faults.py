"""What goes wrong with MLflow never costs a result: killed trainings, lost stores, dead servers, crowds."""

import contextlib
import http.server
import json
import math
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stages import train
from tests.invented_project import write
from tests.tracking.conftest import (
    MODELS,
    RECORDS,
    Settings,
    client,
    curves,
    expected,
    history,
    only,
    points,
    runs,
    snapshot,
    wait_for,
)
from tests.tracking.test_use import serving
from workflow.errors import BakeoffError
from workflow.tracking.live import live
from workflow.tracking.mirror import MIRRORED, mirror
from workflow.tracking.store import Store, warn
from workflow.training.history import Record

FORK = multiprocessing.get_context("fork")  # children that need not import torch and mlflow again


def train_until_killed(settings: Settings) -> None:
    with live("nice", 0, settings) as log:
        for record in RECORDS[:12]:
            log(record)
        time.sleep(600)


def test_a_training_that_was_killed_goes_on_in_the_same_run(project: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflow.tracking.live.SEND_EVERY", 0.2)
    child = FORK.Process(target=train_until_killed, args=(project,))
    child.start()
    wait_for(lambda: bool(runs()) and points(runs()[0]) == expected(RECORDS[:12]))
    child.kill()
    child.join()
    before = only(runs())
    assert before.info.status == "RUNNING"
    with live("nice", 0, project) as log:
        for record in RECORDS:
            log(record)
    run = only(runs())
    assert (run.info.run_id, run.info.status) == (before.info.run_id, "FINISHED")
    assert points(run) == expected(RECORDS)


def test_a_training_that_fails_is_marked_as_failed_and_its_error_goes_on(project: Settings) -> None:
    with pytest.raises(BakeoffError, match="diverged"), live("gan", 0, project) as log:
        log(RECORDS[0])
        raise BakeoffError("training diverged")
    assert only(runs()).info.status == "FAILED"


def train_at_once(settings: Settings, seed: int, barrier: Any) -> None:
    barrier.wait()
    with live("nice", seed, settings) as log:
        for record in RECORDS:
            log(record)


@pytest.mark.slow
def test_eight_processes_at_once_on_a_fresh_store(
    project: Settings, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow() -> uuid.UUID:  # MLflow asks for a new id between looking for a data set and writing it
        time.sleep(0.2)
        return uuid.uuid4()

    monkeypatch.setattr("mlflow.store.tracking.sqlalchemy_store.uuid", SimpleNamespace(uuid4=slow))
    for file in Path().glob("mlflow.db*"):
        file.unlink()
    barrier = FORK.Barrier(8)
    children = [FORK.Process(target=train_at_once, args=(project, seed, barrier)) for seed in range(8)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert capfd.readouterr().err == ""
    assert {run.info.run_name: points(run) for run in runs()} == {f"nice-{s}": expected(RECORDS) for s in range(8)}
    assert len(runs()) == 8
    assert len({run.info.experiment_id for run in runs()}) == 1


@pytest.fixture
def closed() -> Iterator[int]:
    """A port on which nobody listens, and nobody else can."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def hanging() -> Iterator[int]:
    """A port where connections are taken and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield server.getsockname()[1]


class _Failing(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(500)

    do_POST = do_GET  # noqa: N815 -- the name that http.server looks for

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port where every request is answered by 500."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Failing) as server:
        monkeypatch.setattr(server, "handle_error", lambda *_: None)  # a client that has gone is no news
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize("kind", ["closed", "hanging", "failing"])
def test_a_server_that_does_not_answer_costs_a_warning_and_never_a_result(
    kind: str, project: Settings, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    port = request.getfixturevalue(kind)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://somebody:secret@127.0.0.1:{port}")
    start = time.monotonic()
    with live("nice", 0, project) as log:
        for record in RECORDS:
            log(record)
        tags = mirror(project)
    assert time.monotonic() - start < 60  # MLflow's own patience is of four minutes; this is no stop-watch
    assert set(tags["runs"]) == {f"{name}/0" for name in MODELS}
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2  # one for each
    for line in lines:
        assert line.startswith(f"warning: MLflow at http://127.0.0.1:{port} could not be used (")
        assert "secret" not in line
        assert "python -m stages.track" in line


def test_a_warning_is_one_write_so_that_two_threads_do_not_mix_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(sys.stderr, "write", written.append)
    warn("this")
    assert [text.count("\n") for text in written] == [1]


def _of_these_records(name: str) -> None:
    Path(f"runs/{name}/0/history.jsonl").write_text(
        "".join(json.dumps(record) + "\n" for record in RECORDS), encoding="utf-8"
    )


@pytest.mark.slow
def test_a_server_that_goes_down_in_the_middle_gets_everything_when_it_is_back(
    project: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("workflow.tracking.live.SEND_EVERY", 0.2)
    _of_these_records("nice")
    any_run = client().create_run(Store(project.data.name).experiment)  # `make ui` wants something to show
    with contextlib.ExitStack() as up:
        address = up.enter_context(serving(Path.cwd())).partition("/#")[0]
        client().delete_run(any_run.info.run_id)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with live("nice", 0, project) as log:
            for record in RECORDS[:12]:
                log(record)
            wait_for(lambda: bool(runs()) and points(runs()[0]) == expected(RECORDS[:12]))
            up.close()
            for record in RECORDS[12:]:
                log(record)
    warning = capfd.readouterr().err
    assert warning.startswith("warning: MLflow at http://127.0.0.1:")
    assert warning.count("\n") == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with serving(Path.cwd()) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.partition("/#")[0])
        mirror(project)
        assert Counter(run.data.tags["model"] for run in runs()) == Counter(MODELS)
        run = only([run for run in runs() if run.data.tags["model"] == "nice"])
        assert curves(run) == expected(RECORDS)
        assert run.info.status == "FINISHED"


def _on_a_full_disk(settings: Settings) -> None:
    """No file may grow beyond what the store has already: the kernel refuses what MLflow adds to it."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = Path("mlflow.db").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    with live("nice", 0, settings) as log:
        for record in RECORDS:
            log(record)
    write(Path("tags.json"), mirror(settings))


def test_a_full_disk_behind_the_store_costs_a_warning_and_the_rest_follows(
    project: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    _of_these_records("nice")
    child = FORK.Process(target=_on_a_full_disk, args=(project,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert set(json.loads(Path("tags.json").read_text(encoding="utf-8"))["runs"]) == {f"{name}/0" for name in MODELS}
    lines = capfd.readouterr().err.splitlines()
    assert lines
    assert all(line.startswith("warning: MLflow at sqlite:///") for line in lines)
    mirror(project)
    assert Counter(run.data.tags["model"] for run in runs()) == Counter(MODELS)
    for run in runs():
        assert curves(run) == expected(history(run.data.tags["model"]))


def test_training_leaves_the_same_bytes_with_and_without_a_server(project: Settings, closed: int) -> None:
    files = [Path(f"runs/nice/0/{file}") for file in ("model.safetensors", "history.jsonl")]
    train.main("nice", 0)
    with_store = [file.read_bytes() for file in files]
    run = only(runs())
    assert curves(run) == expected(history("nice"))
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{closed}"}
    watched = "from stages import train; from workflow.tracking import live; live.LIVE_AFTER = 0; train.main('nice', 0)"
    done = subprocess.run([sys.executable, "-c", watched], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("warning: MLflow at ")
    assert [file.read_bytes() for file in files] == with_store


@pytest.mark.slow
def test_a_lost_store_is_built_again_without_a_word(mirrored: Path, project: Settings) -> None:
    with contextlib.chdir(mirrored):
        before = {r.info.run_name: (points(r), r.data.params, r.data.tags) for r in runs()}
    for file in Path().glob("mlflow.db*"):
        file.unlink()
    done = subprocess.run([sys.executable, "-m", "stages.track"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {r.info.run_name: (points(r), r.data.params, r.data.tags) for r in runs()} == before
    assert set(json.loads(Path("data/tracked.json").read_text(encoding="utf-8"))["runs"]) == {
        f"{name}/0" for name in MODELS
    }


def test_what_was_deleted_in_mlflow_comes_back(project: Settings) -> None:
    mirror(project)
    before = snapshot()
    run = only([run for run in runs() if run.data.tags["model"] == "vae"])
    client().delete_experiment(run.info.experiment_id)
    mirror(project)
    assert snapshot() == before
    client().delete_run(run.info.run_id)
    mirror(project)
    again = only([run for run in runs() if run.data.tags["model"] == "vae"])
    assert again.info.run_id != run.info.run_id
    assert points(again) == points(run)


def test_a_missing_file_is_the_projects_fault_and_not_mlflows(project: Settings) -> None:
    Path("runs/vae/0/metrics.json").unlink()
    with pytest.raises(BakeoffError, match=r"^runs/vae/0/metrics.json: missing; "):
        mirror(project)
    assert runs() == []


def test_figures_of_a_run_that_has_diverged_stay_readable(project: Settings) -> None:
    bad: list[Record] = [
        {"step": 1, "generator_loss": math.inf, "valid_loss": math.nan},
        {"step": 2, "generator_loss": -math.inf, "valid_loss": 0.5},
    ]
    with live("gan", 0, project) as log:
        log(bad[0])
    with Path("runs/gan/0/history.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in bad)
    for _ in range(2):
        mirror(project)
        run = only([run for run in runs() if run.data.tags["model"] == "gan"])
        assert curves(run) == Counter(
            [("train/generator_loss", 1, "nan"), ("train/generator_loss", 2, "nan"), ("valid/loss", 1, "nan"),
             ("valid/loss", 2, 0.5)]
        )  # fmt: skip
        client().delete_tag(run.info.run_id, MIRRORED)
