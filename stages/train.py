"""Train one model with one seed: `python -m stages.train <name> <seed>`."""

import contextlib
import json
from pathlib import Path
from typing import Any

import torch

from workflow import params
from workflow.data.arrays import read_card
from workflow.data.captions import language_of
from workflow.data.counts import check_evaluation, check_model
from workflow.data.given import read_samples
from workflow.data.tensors import read_split, write_tensors
from workflow.device import more_devices, prepare_torch
from workflow.engines import timing
from workflow.engines.command import run
from workflow.engines.ledger import Code
from workflow.errors import BakeoffError
from workflow.files import sha256_of_json, write_text
from workflow.models import registry
from workflow.models.base import HasHold, reads_captions
from workflow.params import Entry, Params
from workflow.paths import RunFiles
from workflow.tracking.identity import content_tag
from workflow.tracking.live import live
from workflow.training.checkpoint import CheckpointFile, checkpoint_path, noting_failure, prune
from workflow.training.distributed import ProcessGroup, together
from workflow.training.loop import assist, fit
from workflow.training.told import told

ROOT = Path(__file__).parents[1]


def main(name: str, seed: int) -> None:
    """Train on one device or, if batches are split into parts, on several."""
    settings = params.load()
    prune(settings)
    entry = settings.models[name]
    if entry.samples is not None:
        keep(name, seed, entry, settings)
        return
    devices = more_devices(prepare_torch(settings.compute), entry.training.parts)
    if len(devices) == 1:
        train(ProcessGroup(), devices[0], name, seed)
    else:
        together(train, devices, settings.compute, name, seed)


def keep(name: str, seed: int, entry: Entry, settings: Params) -> None:
    """In place of training: write the images that the model's entry names into its file, with an empty history."""
    assert entry.samples
    card, files = read_card(), RunFiles(name, seed)
    check_evaluation(settings, card)
    hyperparameters = {"title": name, **entry.hyperparameters}
    model = registry.build(entry.kind, card.shape, card.levels, hyperparameters, seed)
    assert isinstance(model, HasHold)  # `check` lets no other pass
    images, source = read_samples(name, entry.samples, card)
    model.hold(torch.from_numpy(images))
    about = {"selected_step": None, "steps": None, "training_gflops": None, "source": source}
    registry.save(model, files.model, entry.kind, hyperparameters, about)
    write_text(files.history, "")
    none = {"images": torch.empty(0, 0, *card.shape, dtype=torch.uint8), "steps": torch.empty(0, dtype=torch.int64)}
    write_tensors(files.snapshots, none)


def train(group: ProcessGroup, device: torch.device, name: str, seed: int) -> None:
    """Read the images and train; rank 0 of the group writes the best weights and the history.

    Args:
        group: this process's place among those that train the model.
        device: to train on.
        name: of the model.
        seed: of the run.
    """
    settings = params.load()
    entry = settings.models[name]
    card, images = read_card(), read_split("train")
    check_evaluation(settings, card)  # `check` and `prepare` cannot do this if DVC takes the data from its cache
    with contextlib.nullcontext() if group.rank else noting_failure(name, seed):
        check_model(name, entry, card)
        model = registry.build(entry.kind, card.shape, card.levels, entry.hyperparameters, seed).to(device)
    file = CheckpointFile(checkpoint_path(name, seed), _key(name, seed, settings, device), settings.save_every)
    learned = told(model, images, images, card)
    if group.rank:
        assist(model, learned, entry.training, seed, group, file)
        return
    files = RunFiles(name, seed)
    valid = told(model, read_split("valid"), images, card)
    with noting_failure(name, seed), live(name, seed, settings) as track, file.stopping_politely():
        try:
            fitted = fit(model, learned, valid, entry.training, seed, track, f"{name} seed {seed}", group, file)
        except torch.OutOfMemoryError:
            size = entry.training.batch_size
            raise BakeoffError(
                f"params.yaml: models.{name}.train.batch_size: {size}: too large for the GPU's memory; set it lower"
            ) from None
        except BakeoffError as error:
            raise BakeoffError(f"params.yaml: models.{name} with seed {seed}: {error}") from None

    model.load_state_dict(fitted.state)
    about: dict[str, Any] = {"selected_step": fitted.step, "steps": fitted.steps, "training_gflops": fitted.gflops}
    if model.classes:
        about["class_names"] = card.classes
    if reads_captions(model) and (language := language_of(card)):
        about["words"] = language.words
    registry.save(model, files.model, entry.kind, entry.hyperparameters, about)
    write_text(files.history, "".join(json.dumps(record) + "\n" for record in fitted.records))
    kept = {"images": fitted.snapshots, "steps": torch.tensor(fitted.snapshot_steps)}
    if fitted.sample_steps:
        kept |= {"samples": fitted.samples, "sample_steps": torch.tensor(fitted.sample_steps)}
    write_tensors(files.snapshots, kept)
    parameters = sum(p.numel() for p in model.parameters())
    facts = {"seconds": fitted.seconds, "steps": fitted.steps, "parameters": parameters, "processes": group.size}
    timing.record(files.model, "train", facts, device)


def _key(name: str, seed: int, settings: Params, device: torch.device) -> str:
    """Of a training: hex digits over parameters, data, all code of model and training, torch and the device."""
    code = Code(ROOT).hashes([Path("stages/train.py")])
    return sha256_of_json([content_tag(name, seed, settings), code, torch.__version__, device.type])


if __name__ == "__main__":
    run(main, __doc__, "model", "seed")
