"""What only a GPU can show: every family computes there what it computes on the CPU, repeatably, and resumes.

Without one these tests are skipped, and tests/test_device.py pretends one. `python -m benchmarks gpu` runs them, and
rehearses them on the CPU.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.conftest import ROOT
from tests.same_noise import SameNoise
from tests.test_device import LEVELS, MOST, RUN, SHAPE, capabilities, some_images, without_dropout
from tests.test_models import CutOff
from workflow import params
from workflow.data.tensors import read_tensors, write_tensors
from workflow.device import repeatable
from workflow.evaluation.batching import in_batches
from workflow.evaluation.classifier import fit_classifier
from workflow.models import registry
from workflow.models.base import Model
from workflow.params import Compute, Entry, Extractor
from workflow.training.checkpoint import CheckpointFile
from workflow.training.distributed import ProcessGroup, together
from workflow.training.history import Record
from workflow.training.loop import assist, fit
from workflow.training.validation import Fitted

CPU = torch.device("cpu")
REHEARSED = "BAKEOFF_GPU_REHEARSAL" in os.environ  # the CPU stands in for the GPU
GPU = CPU if REHEARSED else torch.device("cuda", 0)
NO_GPU = not REHEARSED and not torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(NO_GPU, reason="no GPU that torch can use")]
COMPUTE = Compute(device="cpu" if REHEARSED else "cuda", threads=1)
# Of single precision, whose sums a GPU takes in another order.
CLOSE: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-4}
ALIKE = 0.95  # of the pixels of samples, at least: a draw on the edge may fall the other way, and those that follow it


@pytest.fixture(autouse=True)
def _as_in_a_stage() -> None:
    repeatable(COMPUTE)


def _built(entry: Entry, device: torch.device) -> Model:
    return registry.build(entry.kind, SHAPE, LEVELS, without_dropout(entry), seed=1).to(device)


def _fitted(
    entry: Entry, device: torch.device, history: list[Record], file: CheckpointFile | None = None, **changes: Any
) -> Fitted:
    images = some_images(32)
    options = {"epochs": 2, "gflops": None, "batch_size": 8, "ema": 0.5, "clip": 1.0, "bf16": False, **changes}
    settings = entry.training.model_copy(update=options)
    return fit(_built(entry, device), images, images, settings, 1, history.append, file=file)


def test_a_classifier_repeats_and_answers_as_on_the_cpu() -> None:
    settings = Extractor(channels=8, features=16, dropout=0.3, epochs=2, batch_size=8, lr=0.01, seeds=[0])
    one, other = (
        fit_classifier(some_images(64), some_images(16), LEVELS, MOST, settings, GPU, seed=0) for _ in range(2)
    )
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    there = one.outputs(some_images(32).images, 8)
    here = one.to(CPU).outputs(some_images(32).images, 8)
    torch.testing.assert_close((there.features, there.logits), (here.features, here.logits), **CLOSE)


@pytest.mark.skipif(REHEARSED, reason="the CPU's memory has no such limit")
def test_a_batch_that_does_not_fit_into_memory_gives_the_same_in_halves(capsys: pytest.CaptureFixture[str]) -> None:
    entry, count, random = params.load(ROOT / "params.yaml").models["vae"], 8192, torch.Generator(GPU)
    model = registry.build(entry.kind, (1, 28, 28), 256, entry.hyperparameters).to(GPU).eval()

    def draw() -> Tensor:
        random.manual_seed(0)
        return torch.cat(in_batches(lambda rows, r: model.sample(len(rows), r).cpu(), count, count, random))

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(GPU)
    expected = draw()
    most = torch.cuda.max_memory_reserved(GPU)
    assert not capsys.readouterr().err
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(GPU).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction(0.7 * most / total, GPU)
        found = draw()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, GPU)
    assert f"warning: out of GPU memory with {count} images at once" in capsys.readouterr().err
    assert (found == expected).double().mean() >= ALIKE


def _train_together(group: ProcessGroup, device: torch.device, folder: Path) -> None:
    ones = torch.ones(3, device=device)
    dist.all_reduce(ones)  # also of a single process, whose group has nothing to add up
    assert ones.tolist() == [group.size] * 3
    state = _in_parts(device, group)
    if not group.rank:
        write_tensors(folder / "state.safetensors", state)


def _in_parts(device: torch.device, group: ProcessGroup) -> dict[str, Tensor]:
    entry = params.load(ROOT / "presets/smoke.yaml").models["vae"]
    options = {"epochs": 2, "batch_size": 8, "parts": 2}
    images, settings = some_images(32), entry.training.model_copy(update=options)
    if group.rank:
        assist(_built(entry, device), images, settings, 1, group)
        return {}
    return fit(_built(entry, device), images, images, settings, 1, lambda _: None, group=group).state


def test_one_process_for_each_gpu_comes_to_the_weights_of_one(tmp_path: Path) -> None:
    """Of a single GPU it shows no more than that NCCL starts and sums, as no two processes can share one."""
    devices = [CPU, CPU] if REHEARSED else [torch.device("cuda", n) for n in range(min(2, torch.cuda.device_count()))]
    together(_train_together, devices, COMPUTE, tmp_path)
    found, _ = read_tensors(tmp_path / "state.safetensors")
    expected = {name: value.cpu() for name, value in _in_parts(GPU, ProcessGroup()).items()}
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def _step(model: Model, player: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a turn, and the gradients."""
    images, random = some_images(8), torch.Generator(model.device).manual_seed(3)
    model.train().zero_grad()
    loss = model.loss(images.images.to(model.device), images.labels.to(model.device), player, random)["loss"]
    loss.backward()
    found = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach().cpu(), found


# One entry of each kind first, in case there is no time for all.
FIRST = {entry.kind: name for name, entry in reversed(RUN)}
ORDERED = sorted(RUN, key=lambda one: FIRST[one[1].kind] != one[0])


@pytest.fixture(scope="module", params=[entry for _, entry in ORDERED], ids=[name for name, _ in ORDERED])
def kept(request: pytest.FixtureRequest) -> tuple[Entry, dict[str, Tensor]]:
    """An entry, and weights that a few steps have moved from where they began."""
    repeatable(COMPUTE)
    return request.param, _fitted(request.param, CPU, []).state


def _both(kept: tuple[Entry, dict[str, Tensor]]) -> tuple[Model, Model]:
    entry, state = kept
    here, there = _built(entry, CPU), _built(entry, GPU)
    for model in (here, there):
        model.load_state_dict(state)
    return here, there


def test_losses_and_gradients_are_the_cpus_up_to_rounding(kept: tuple[Entry, dict[str, Tensor]]) -> None:
    here, there = _both(kept)
    for player in here.turns:
        expected, slopes = _step(here, player)
        with SameNoise():
            loss, found = _step(there, player)
        torch.testing.assert_close(loss, expected, **CLOSE)
        assert found.keys() == slopes.keys()
        largest = max(float(slope.abs().max()) for slope in slopes.values())
        for name, slope in slopes.items():
            torch.testing.assert_close(found[name], slope, rtol=1e-3, atol=1e-3 * largest)


def test_samples_densities_and_features_are_the_cpus_up_to_rounding(kept: tuple[Entry, dict[str, Tensor]]) -> None:
    here, there = (model.eval() for model in _both(kept))
    expected = capabilities(here, CPU)
    with SameNoise():
        found = capabilities(there, GPU)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if values.is_floating_point():
            torch.testing.assert_close(found[name].cpu(), values, **CLOSE)
        else:
            assert (found[name].cpu() == values).double().mean() >= ALIKE, name


def test_training_repeats_to_the_byte_even_if_it_was_cut_off(
    kept: tuple[Entry, dict[str, Tensor]], tmp_path: Path
) -> None:
    entry, _ = kept
    histories: list[list[Record]] = [[], [], []]
    once, again = (_fitted(entry, GPU, history) for history in histories[:2])
    file = CutOff(tmp_path / "state", 1)
    with pytest.raises(KeyboardInterrupt):
        _fitted(entry, GPU, [], file)
    resumed = _fitted(entry, GPU, histories[2], file)
    for other, history in zip((again, resumed), histories[1:], strict=True):
        assert all(torch.equal(once.state[name], other.state[name]) for name in once.state)
        assert torch.equal(once.snapshots, other.snapshots)
        assert json.dumps(history) == json.dumps(histories[0])


def test_mixed_precision_trains(kept: tuple[Entry, dict[str, Tensor]]) -> None:
    entry, _ = kept
    history: list[Record] = []
    half, full = _fitted(entry, GPU, history, bf16=True), _fitted(entry, GPU, [])
    assert all(math.isfinite(value) for record in history for value in record.values())
    assert all(value.dtype != torch.bfloat16 for value in half.state.values())
    assert any(not torch.equal(value, full.state[name]) for name, value in half.state.items())
