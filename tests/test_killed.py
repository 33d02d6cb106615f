"""A training that is killed goes on from its last state and ends with the bytes of one that nobody disturbed."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from stages import sample, train
from tests.invented_project import write
from tests.tracking.conftest import PATIENCE, make, wait_for
from workflow.data.tensors import read_tensors
from workflow.errors import BakeoffError, one_line
from workflow.training import checkpoint
from workflow.training.checkpoint import CheckpointFile, checkpoint_path

FORK = multiprocessing.get_context("fork")  # children that need not import torch again
OUTPUTS = ("model.safetensors", "history.jsonl", "snapshots.safetensors")
RUN, CHECKPOINT = Path("runs/gan/0"), checkpoint_path("gan", 0)
EPOCHS = 20
COUNTED = 2  # turns whose operations are counted before the first step


@pytest.fixture(autouse=True)
def _the_state_of_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "LEAST_SHARE", 0)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose GAN has been trained, undisturbed; `save_every: 0` keeps the state after each step."""
    folder = tmp_path_factory.mktemp("template")
    make(folder)
    settings = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    settings["save_every"] = 0
    settings["models"]["gan"]["train"] |= {
        "epochs": EPOCHS,
        "batch_size": 8,
        "ema": 0.9,
        "clip": 1.0,
        "schedule": "cosine",
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    with contextlib.chdir(folder):
        train.main("gan", 0)
        CHECKPOINT.unlink()
    return folder


@pytest.fixture
def undisturbed(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What the training leaves; the current folder is one where it has not begun."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody there: MLflow has tests of its own
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return _outputs()


def _outputs() -> dict[str, bytes]:
    found = {name: (RUN / name).read_bytes() for name in OUTPUTS}
    for name in OUTPUTS:
        (RUN / name).unlink()
    return found


def _step() -> int:
    """Of the state that is kept; 0 if there is none, or if it was replaced by the next while it was read."""
    with contextlib.suppress(BakeoffError):
        step: int = json.loads(read_tensors(CHECKPOINT)[1])["facts"]["step"]
        return step
    return 0


def _train() -> None:
    with one_line():
        train.main("gan", 0)


def _disturb(how: int, when: int) -> int | None:
    """Send a training a signal once it has kept the state of a step; returns its exit status."""
    child = FORK.Process(target=_train)
    child.start()
    wait_for(lambda: _step() >= when)
    assert child.pid
    os.kill(child.pid, how)
    if how == signal.SIGTERM:  # as it comes from those who tell a process and its group
        time.sleep(0.05)
        os.kill(child.pid, how)
    child.join(PATIENCE)
    return child.exitcode


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_training_ends_with_the_bytes_of_an_undisturbed_one(
    how: signal.Signals, undisturbed: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    steps = []
    for when in torch.randint(1, 9, (2,), generator=torch.Generator().manual_seed(how)).tolist():
        status = _disturb(how, _step() + when)
        assert status == (-how if how == signal.SIGKILL else 130)
        steps.append(_step())
        assert not any((RUN / name).exists() for name in OUTPUTS)
    assert 0 < steps[0] < steps[1] < EPOCHS * 2
    told = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("warning: MLflow")]
    line = "stopped; run the same command again to continue after step {}"
    assert told == ([] if how == signal.SIGKILL else [line.format(step) for step in steps])
    train.main("gan", 0)
    assert _outputs() == undisturbed
    assert list(CHECKPOINT.parent.iterdir()) == [CHECKPOINT]  # nothing half written is left


def test_a_finished_training_whose_outputs_are_lost_is_not_repeated(
    undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is if the engine is killed before it has noted the result: it deletes the outputs when it comes again."""
    train.main("gan", 0)
    assert _outputs() == undisturbed
    monkeypatch.setattr("workflow.training.steps.Steps.take", None)
    train.main("gan", 0)
    assert _outputs() == undisturbed


def test_the_state_goes_when_the_model_is_used_and_with_the_model(undisturbed: dict[str, bytes]) -> None:
    train.main("gan", 0)
    sample.main("gan", 0)
    assert CHECKPOINT.exists()  # no engine knows of the model: it may want to train it again
    digest = hashlib.md5((RUN / "model.safetensors").read_bytes(), usedforsecurity=False).hexdigest()
    Path("dvc.lock").write_text(f"stages: {{train@gan-0: {{outs: [{{md5: {digest}}}]}}}}", encoding="utf-8")
    sample.main("gan", 0)
    assert not CHECKPOINT.exists()
    for name in ("older-3", "other-0", "nice-0"):
        Path(f"states/{name}.safetensors").touch()
    for name in ("older-3", "nice-0"):
        os.utime(f"states/{name}.safetensors", (1e9, 1e9))
    train.main("gan", 0)
    assert _outputs() == undisturbed
    left = ["gan-0.safetensors", "nice-0.safetensors", "other-0.safetensors"]  # gone: old, and not in params.yaml
    assert sorted(file.name for file in Path("states").iterdir()) == left


def _edit_params() -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("r1: 0.1", "r1: 0.2"), encoding="utf-8")


def _edit_data() -> None:
    card = json.loads(Path("data/prepared/card.json").read_text(encoding="utf-8"))
    card["sha256"]["test"] = "0" * 64
    write(Path("data/prepared/card.json"), card)


def _edit_model() -> None:
    write(Path("data/ledger/models/gan.json"), {"sha256": "another"})


def _edit_loop() -> None:
    for place in ("stages", "workflow"):
        shutil.copytree(train.ROOT / place, place)
    with Path("workflow/training/loop.py").open("a", encoding="utf-8") as file:
        file.write("EDITED = True\n")
    train.ROOT = Path()


@pytest.mark.slow
@pytest.mark.parametrize("edit", [_edit_params, _edit_data, _edit_model, _edit_loop])
def test_a_state_of_another_training_is_never_used(
    edit: Callable[[], None], undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    _disturb(signal.SIGKILL, 5)
    monkeypatch.setattr(train, "ROOT", train.ROOT)  # to be put back, whatever an edit makes of it
    read: list[dict[str, Any]] = []
    original = CheckpointFile.read

    def watch(self: CheckpointFile) -> Any:
        found = original(self)
        read.append(found.facts)
        return found

    monkeypatch.setattr(CheckpointFile, "read", watch)
    monkeypatch.setattr("workflow.training.steps.Steps.take", lambda *_: [])
    with contextlib.suppress(Exception):  # nothing is trained here: what is asked is from where it would go on
        train.main("gan", 0)
    assert read[0]["step"] >= 5
    edit()
    with contextlib.suppress(Exception):
        train.main("gan", 0)
    assert read[1] == {}


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b[:-9] + bytes([b[-9] ^ 4]) + b[-8:], lambda _: b""]
)
def test_a_damaged_state_is_named_and_not_used(
    damage: Callable[[bytes], bytes], undisturbed: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    _disturb(signal.SIGKILL, 5)
    CHECKPOINT.write_bytes(damage(CHECKPOINT.read_bytes()))
    capfd.readouterr()
    train.main("gan", 0)
    told = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("warning: MLflow")]
    assert len(told) == 1
    assert told[0].startswith("warning: states/gan-0.safetensors: damaged (")
    assert told[0].endswith("); training starts from the beginning")
    assert _outputs() == undisturbed


FULL = "mount -t tmpfs -o size=4k none {place} && exec {python} -m stages.train gan 0"
MAY_MOUNT = subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not MAY_MOUNT, reason="needs to mount a small file system of its own")
@pytest.mark.parametrize("place", ["states", "runs/gan/0"])
def test_on_a_full_disk_it_stops_with_one_line_and_goes_on_when_there_is_space(
    place: str, undisturbed: dict[str, bytes]
) -> None:
    Path(place).mkdir(parents=True, exist_ok=True)
    command = ["unshare", "-Urm", "sh", "-c", FULL.format(place=place, python=sys.executable)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    file = CHECKPOINT if place == "states" else RUN / OUTPUTS[0]
    told = [line for line in done.stderr.splitlines() if not line.startswith("warning: MLflow")]
    assert told == [f"error: {file}: No space left on device; free some space and run again"]
    assert done.returncode == 2
    train.main("gan", 0)
    assert _outputs() == undisturbed


def test_the_state_before_a_loss_that_is_not_finite_is_kept(
    undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from workflow.models.gan import MODEL

    calls, loss = [0], MODEL.loss

    def break_down(*args: Any) -> dict[str, torch.Tensor]:
        calls[0] += 1
        terms = loss(*args)
        return {**terms, "loss": terms["loss"] * (float("nan") if calls[0] >= COUNTED + 14 else 1.0)}

    monkeypatch.setattr(MODEL, "loss", break_down)
    with pytest.raises(BakeoffError) as error:
        train.main("gan", 0)
    assert str(error.value) == (
        "params.yaml: models.gan with seed 0: training diverged: generator_loss is nan at step 7; "
        "try train.lr below 0.002"
    )
    assert _step() == 6
    monkeypatch.setattr(MODEL, "loss", loss)
    train.main("gan", 0)
    assert _outputs() == undisturbed
