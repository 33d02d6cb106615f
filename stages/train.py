"""Train one model with one seed: `python -m stages.train <name> <seed>`."""

import io
import json
import sys
from pathlib import Path

import torch

from workflow import params, timing, tracking
from workflow.compute import more_devices, prepare_torch
from workflow.errors import BakeoffError, one_line
from workflow.files import write_text
from workflow.images import read_card, read_split, write_tensors
from workflow.models import registry
from workflow.team import Team, together
from workflow.training import Record, assist, fit


def main(name: str, seed: int) -> None:
    """Train on one device or, if the batches are cut into parts, on several."""
    settings = params.load()
    devices = more_devices(prepare_torch(settings.compute), settings.models[name].train.parts)
    if len(devices) == 1:
        train(Team(), devices[0], name, seed)
    else:
        together(train, devices, settings.compute, name, seed)


def train(team: Team, device: torch.device, name: str, seed: int) -> None:
    """Read the images and train; the first of a team writes the best weights and the history."""
    settings = params.load()
    entry = settings.models[name]
    card, images = read_card(), read_split("train")
    _check_classes(name, entry.hyperparameters.get("classes", 0), len(card.classes))
    model = registry.build(entry.kind, card.shape, card.levels, entry.hyperparameters, seed).to(device)
    if team.rank:
        assist(model, images, entry.train, seed, team)
        return
    folder, history = Path("runs") / name / str(seed), io.StringIO()
    with tracking.live(name, seed, settings) as track:

        def log(record: Record) -> None:
            history.write(json.dumps(record) + "\n")
            track(record)

        fitted = fit(model, images, read_split("valid"), entry.train, seed, log, f"{name} seed {seed}", team)

    model.load_state_dict(fitted.state)
    about = {"selected_step": fitted.step, "steps": fitted.steps}
    registry.save(model, folder / "model.safetensors", entry.kind, entry.hyperparameters, about)
    write_text(folder / "history.jsonl", history.getvalue())
    write_tensors(
        folder / "snapshots.safetensors",
        {"images": fitted.snapshots, "steps": torch.tensor(fitted.snapshot_steps)},
    )
    parameters = sum(p.numel() for p in model.parameters())
    facts = {"seconds": fitted.seconds, "steps": fitted.steps, "parameters": parameters, "processes": team.size}
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
