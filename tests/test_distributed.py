"""Several processes that train one model: the same weights as one process, and one clear line if one dies."""

import json
import multiprocessing
import os
import signal
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT
from tests.tracking.conftest import PATIENCE, wait_for
from workflow import params
from workflow.data.tensors import ImageSet, read_tensors, write_tensors
from workflow.errors import BakeoffError
from workflow.models import registry
from workflow.params import Compute, Train
from workflow.training.checkpoint import CheckpointFile
from workflow.training.distributed import ProcessGroup, together
from workflow.training.history import Record
from workflow.training.loop import assist, fit

CPU = torch.device("cpu")
COMPUTE = Compute(device="cpu", threads=1)
# One player; several, and an average of weights; a codebook and batch statistics, which no gradient moves; a look at
# data before the first step; a part fitted before each validation.
KINDS: dict[str, dict[str, Any]] = {
    **{kind: {} for kind in ("vae", "gan", "vqvae", "nice", "autoencoder")},
    "rbm": {"hidden": 8, "chains": 6, "sampling_steps": 5},  # whose chains go on from step to step
}


def _settings(parts: int) -> Train:
    return Train(epochs=1, batch_size=16, lr=0.003, ema=0.5, clip=1.0, parts=parts)


def _images() -> ImageSet:
    random = torch.Generator().manual_seed(0)
    return ImageSet(torch.randint(0, 17, (64, 1, 8, 8), dtype=torch.uint8, generator=random), torch.arange(64) % 10)


def _fit(kind: str, group: ProcessGroup, parts: int, **changes: Any) -> tuple[dict[str, torch.Tensor], list[Record]]:
    entries = {**params.load(ROOT / "presets/lectures.yaml").models, **params.load(ROOT / "presets/smoke.yaml").models}
    entry = next(entry for entry in reversed(entries.values()) if entry.kind == kind)
    model = registry.build(kind, (1, 8, 8), 17, {**entry.hyperparameters, **changes}, seed=1)
    images, settings, history = _images(), _settings(parts), list[Record]()
    if group.rank:
        assist(model, images, settings, 1, group)
        return {}, []
    return fit(model, images, images, settings, 1, history.append, group=group).state, history


def _work(group: ProcessGroup, device: torch.device, folder: Path) -> None:
    assert device == CPU
    for kind, changes in KINDS.items():
        state, history = _fit(kind, group, 2, **changes)
        if not group.rank:
            write_tensors(folder / f"{kind}.safetensors", state, json.dumps(history))


def _die(group: ProcessGroup, device: torch.device, how: str) -> None:
    group.add_up([torch.ones(2)])
    if group.rank == (how == "killed"):
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise BakeoffError("training diverged: as it does")
    group.add_up([torch.ones(2)])


def test_two_processes_come_to_the_weights_of_one(tmp_path: Path) -> None:
    together(_work, [CPU, CPU], COMPUTE, tmp_path)
    for kind, changes in KINDS.items():
        state, history = _fit(kind, ProcessGroup(), 2, **changes)
        of_two, history_of_two = read_tensors(tmp_path / f"{kind}.safetensors")
        torch.testing.assert_close(of_two, state, rtol=1e-5, atol=1e-6)
        logged = json.loads(history_of_two)
        assert [list(line) for line in logged] == [list(line) for line in history]
        for line, line_of_two in zip(history, logged, strict=True):
            assert line_of_two == pytest.approx(line, rel=1e-4)


def test_parts_are_a_whole_batch_where_nothing_is_random() -> None:
    whole, history = _fit("autoencoder", ProcessGroup(), 1, dropout=0.0)
    parts, history_of_parts = _fit("autoencoder", ProcessGroup(), 4, dropout=0.0)
    untrained = [name for name in whole if name in ("weights", "means", "factors")]  # fitted to rounded latents
    for name in set(whole) - set(untrained):
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-5)
    assert history_of_parts[0] == pytest.approx(history[0], rel=1e-5)


def test_each_part_has_random_numbers_of_its_own() -> None:
    two, _ = _fit("vae", ProcessGroup(), 2)
    four, _ = _fit("vae", ProcessGroup(), 4)
    again, _ = _fit("vae", ProcessGroup(), 2)
    assert all(torch.equal(two[name], again[name]) for name in two)
    assert not all(torch.equal(two[name], four[name]) for name in two)


def test_a_batch_must_be_so_many_equal_parts(tmp_path: Path) -> None:
    text = (ROOT / "presets/smoke.yaml").read_text(encoding="utf-8")
    size = "      batch_size: 64\n"
    (tmp_path / "p.yaml").write_text(text.replace(size, f"{size}      parts: 3\n", 1))
    wrong = r"p\.yaml: models\.pixelcnn\.train: batch_size: 64: not a multiple of parts \(3\)"
    message = rf"{wrong}; set it to 63 or 66, or change parts$"
    with pytest.raises(BakeoffError, match=message):
        params.load(tmp_path / "p.yaml")


def test_more_parts_than_images_stop_with_one_clear_line() -> None:
    images = ImageSet(_images().images[:3], _images().labels[:3])
    entry = params.load(ROOT / "presets/lectures.yaml").models["autoencoder"]
    model = registry.build(entry.kind, (1, 8, 8), 17, entry.hyperparameters)
    message = r"^train\.parts: 4: more than there are training images \(3\); set it to 3 or lower$"
    with pytest.raises(BakeoffError, match=message):
        fit(model, images, images, _settings(4), 1, lambda _: None)


@pytest.mark.parametrize("parts", [1, 5])
def test_each_part_is_one_processes(parts: int) -> None:
    for size in range(1, parts + 1):
        shares = [list(ProcessGroup(rank, size).share(parts)) for rank in range(size)]
        assert sorted(part for share in shares for part in share) == list(range(parts))
        assert all(shares)


def test_a_killed_process_ends_the_others_and_is_named() -> None:
    with pytest.raises(BakeoffError, match=r"^process 2 of 2 training together ended \(SIGKILL\); run again$"):
        together(_die, [CPU, CPU], COMPUTE, "killed")


@pytest.mark.slow
def test_what_one_process_says_ends_all(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        together(_die, [CPU, CPU], COMPUTE, "diverged")
    assert ended.value.code == 2
    assert capfd.readouterr().err == "error: training diverged: as it does\n"


def _long(group: ProcessGroup, device: torch.device, folder: Path) -> None:
    """Train for 100 steps with a checkpoint after each."""
    settings = Train(epochs=25, batch_size=16, lr=0.003, parts=2, ema=0.5)
    entry = params.load(ROOT / "presets/smoke.yaml").models["vae"]
    model = registry.build("vae", (1, 8, 8), 17, entry.hyperparameters, seed=1)
    images, file = _images(), CheckpointFile(folder / "state", "key", 0.0)
    if group.rank:
        assist(model, images, settings, 1, group, file)
        return
    with file.stopping_politely():
        fitted = fit(model, images, images, settings, 1, lambda _: None, group=group, file=file)
    write_tensors(folder / "weights", fitted.state)


@pytest.mark.slow
def test_a_stopped_group_resumes_from_its_checkpoint(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    resource_tracker.ensure_running()  # here: one of the fork's own complains, as a fork cleans nothing up
    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=together, args=(_long, [CPU, CPU], COMPUTE, tmp_path))
    child.start()
    wait_for(lambda: (tmp_path / "state").exists())
    assert child.pid
    os.kill(child.pid, signal.SIGTERM)
    child.join(PATIENCE)
    assert child.exitcode == 130
    told = capfd.readouterr().err.splitlines()
    assert [
        line for line in told if line.startswith("stopped; run the same command again to continue after step ")
    ] == told
    assert len(told) == 1
    before = json.loads(read_tensors(tmp_path / "state")[1])["facts"]["step"]
    assert 0 < before < 100
    together(_long, [CPU, CPU], COMPUTE, tmp_path)
    (tmp_path / "alone").mkdir()
    _long(ProcessGroup(), CPU, tmp_path / "alone")
    (of_two, _), (of_one, _) = (read_tensors(folder / "weights") for folder in (tmp_path, tmp_path / "alone"))
    torch.testing.assert_close(of_two, of_one, rtol=1e-3, atol=1e-5)
