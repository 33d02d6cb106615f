"""Sweeps: which models are trials of one search, how well each did on `valid`, and which did best.

A model's figure is its least validation loss over training, by which its checkpoint was chosen, as a mean over seeds.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from workflow.errors import BakeoffError
from workflow.params import Params
from workflow.paths import RunFiles

VALID = "valid_loss"  # what it is called in `history.jsonl`


def sweep_of(name: str, settings: Params) -> str | None:
    """The sweep that a model is in, by the model that it began with; None if it is in none."""
    return next((base for base, sweep in settings.sweeps.items() if name in (base, *sweep.trials)), None)


def members(base: str, settings: Params) -> tuple[str, ...]:
    """The models of a sweep, the one that it began with first."""
    return base, *settings.sweeps[base].trials


def varied(name: str, base: str, settings: Params) -> dict[str, Any]:
    """What a model of a sweep has of each thing that is varied there; None for what is left to its default."""
    flat = settings.models[name].flat
    return {key: flat.get(key) for key in settings.sweeps[base].varied}


def least_valid_loss(history: Iterable[Mapping[str, float]]) -> float | None:
    """Of the records of a training; None if there is none of a validation."""
    return min((record[VALID] for record in history if VALID in record), default=None)


def read_losses(name: str, settings: Params) -> list[float]:
    """The least validation loss with each seed; empty if some training is not there yet.

    Raises BakeoffError, naming the file, if one is damaged.
    """
    losses = []
    for path in (RunFiles(name, seed).history for seed in settings.seeds):
        if not path.exists():
            return []
        try:
            least = least_valid_loss(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        except ValueError as error:
            raise BakeoffError(f"{path}: not a line of JSON ({error}); delete it and run `dvc repro`") from None
        if least is None:
            return []
        losses.append(least)
    return losses


def best_of(losses: Mapping[str, Sequence[float]]) -> str | None:
    """The model of least loss, by mean over the seeds; of several with the same the first. None if none has any."""
    means = {name: statistics.fmean(found) for name, found in losses.items() if found}
    return min(means, key=lambda name: means[name], default=None)
