"""Train a model for as many of its epochs as fit into the time, by the project's own loop."""

import math
import signal
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.cases import taken
from benchmarks.gpu.data import Images
from benchmarks.gpu.machine import seconds
from benchmarks.gpu.task import Task, file_name
from workflow.data.tensors import ImageSet
from workflow.errors import BakeoffError, Stopped
from workflow.evaluation.batching import in_batches
from workflow.files import sha256_of_json
from workflow.models import registry
from workflow.models.base import Model
from workflow.params import Entry, Train
from workflow.random_streams import Stream, make_generator
from workflow.training.checkpoint import CheckpointFile
from workflow.training.distributed import ProcessGroup
from workflow.training.history import Record
from workflow.training.loop import fit
from workflow.training.steps import Steps
from workflow.training.validation import SNAPSHOTS, Validator

TESTED = 250  # images whose density is computed at once
TIMED = 1.0  # seconds for which the speed of a step is measured
MARGIN = 0.85  # share of the time that is planned for: other jobs on the card may slow this one down


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode, with the weights that were best on the validation images.

    facts: how long it was trained. curve: the records of its validations.
    """

    model: Model
    facts: dict[str, Any]
    curve: list[Record]


def train(task: Task, entry: Entry, images: Images, device: torch.device, budget: float) -> Trained:
    """Train for the epochs of the entry or, if that takes longer than `budget` seconds, for as many as fit.

    The learning rate's schedule is that of the epochs that are trained. Should they take too long all the same,
    training stops in time, and the weights are the best until then. Raises BakeoffError if not even one validation was
    possible.
    """
    train, valid = (part.to_device_if_it_fits(device) for part in (images.train, images.valid))
    asked = entry.training
    epochs = min(asked.epochs or 1, _affordable(entry, images, train, valid, device, budget))
    settings = asked.model_copy(update={"epochs": epochs, "gflops": None})
    model, records = _built(entry, images, device), list[Record]()
    key = sha256_of_json([task.name, epochs])
    file = CheckpointFile(task.scratch / f"{file_name(task.name)}.checkpoint", key, math.inf)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
    signal.setitimer(signal.ITIMER_REAL, budget)
    try:
        with file.stopping_politely():
            fitted = fit(model, train, valid, settings, 0, records.append, file=file)
        state, step, steps = fitted.state, fitted.step, fitted.steps
    except Stopped:
        checkpoint = file.read()
        if "best" not in checkpoint.facts:
            raise BakeoffError(f"not one epoch was over after {budget:.0f} s") from None
        state, step, steps = checkpoint.get("best"), checkpoint.facts["best"][0], checkpoint.facts["step"]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():  # a `CheckpointFile` that was asked to stop keeps its own
            signal.signal(number, handler)
    model.load_state_dict(state)
    curve = [record for record in records if "valid_loss" in record]
    facts = {
        "epochs": round(records[-1]["epoch"], 2) if records else 0,
        "epochs_planned": epochs,
        "epochs_of_the_entry": asked.epochs,
        "steps": steps,
        "selected_step": step,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    return Trained(model.eval(), facts, curve)


@torch.no_grad()
def log_prob(model: Model, images: Tensor) -> Tensor:
    """log p(x) of images, uint8 (N, C, H, W), in nats, float64 (N,), on the CPU: exact, a bound or an estimate."""
    able: Any = model

    def of_batch(rows: range, generator: torch.Generator) -> Tensor:
        found: Tensor = able.log_prob(images[rows.start : rows.stop].to(model.device), generator)
        return found.cpu().double()

    return torch.cat(in_batches(of_batch, len(images), TESTED, make_generator(model.device, 0, Stream.LIKELIHOOD)))


def _built(entry: Entry, images: Images, device: torch.device) -> Model:
    return registry.build(entry.kind, images.card.shape, images.card.levels, entry.hyperparameters, 0).to(device)


def _affordable(
    entry: Entry, images: Images, train: ImageSet, valid: ImageSet, device: torch.device, budget: float
) -> int:
    """Epochs that fit into so many seconds, at least one, by the measured speed of a step and of a validation."""
    settings: Train = entry.training.model_copy(update={"epochs": 1, "gflops": None})
    steps = Steps(_built(entry, images, device), train, settings, 0, ProcessGroup())
    a_step = seconds(taken(steps), device, min(TIMED, budget / 20))
    beside = Validator(steps.model, train, valid, settings, 0, steps.total)
    a_picture = seconds(lambda: beside.snapshot(0), device, 0.0)
    a_validation = seconds(lambda: beside.validate(0, None), device, 0.0)
    an_epoch = steps.per_epoch * a_step + a_validation / settings.valid_every
    return max(1, int((MARGIN * budget - (SNAPSHOTS + 1) * a_picture) / an_epoch))
