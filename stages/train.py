"""Train one model with one seed: `python -m stages.train <name> <seed>`."""

import io
import json
import sys
from pathlib import Path

import torch

from workflow import params, timing, tracking
from workflow.compute import prepare_torch
from workflow.errors import BakeoffError, one_line
from workflow.files import write_text
from workflow.images import read_card, read_split, write_tensors
from workflow.models import registry
from workflow.training import Record, fit


def main(name: str, seed: int) -> None:
    """Read the images, train, and write the best weights and the history."""
    settings = params.load()
    entry = settings.models[name]
    device = prepare_torch(settings.compute)
    card, train, valid = read_card(), read_split("train"), read_split("valid")
    folder = Path("runs") / name / str(seed)

    _check_classes(name, entry.hyperparameters.get("classes", 0), len(card.classes))
    model = registry.build(entry.kind, card.shape, card.levels, entry.hyperparameters, seed).to(device)
    history = io.StringIO()
    with tracking.live(name, seed, settings) as track:

        def log(record: Record) -> None:
            history.write(json.dumps(record) + "\n")
            track(record)

        fitted = fit(model, train, valid, entry.train, seed, log, progress=f"{name} seed {seed}")

    model.load_state_dict(fitted.state)
    about = {"selected_step": fitted.step, "steps": fitted.steps}
    registry.save(model, folder / "model.safetensors", entry.kind, entry.hyperparameters, about)
    write_text(folder / "history.jsonl", history.getvalue())
    write_tensors(
        folder / "snapshots.safetensors",
        {"images": fitted.snapshots, "steps": torch.tensor(fitted.snapshot_steps)},
    )
    parameters = sum(p.numel() for p in model.parameters())
    facts = {"seconds": fitted.seconds, "steps": fitted.steps, "parameters": parameters}
    timing.record(folder, "train", facts, device)


def _check_classes(name: str, asked: int, known: int) -> None:
    if asked not in (0, known):
        remedy = f"set {known}, or 0 for a model that is not conditioned on them" if known else "set 0"
        raise BakeoffError(
            f"params.yaml: models.{name}.classes: {asked}: the data have {known or 'no'} classes; {remedy}"
        )


if __name__ == "__main__":
    with one_line():
        main(sys.argv[1], int(sys.argv[2]))
