"""The trials of a sweep: which models they are, their validation losses, and the best one.

A model's score is its lowest validation loss during training, by which its weights were chosen, averaged over seeds.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from workflow.errors import BakeoffError
from workflow.evaluation.columns import DASH, LEAST_VALID_LOSS
from workflow.params import Params
from workflow.paths import RunFiles

VALID = LEAST_VALID_LOSS.key  # also that of every validation loss in `history.jsonl`


def sweep_of(name: str, settings: Params) -> str | None:
    """The sweep that a model belongs to, named by its first model; None if it belongs to none."""
    return next((base for base, sweep in settings.sweeps.items() if name in (base, *sweep.trials)), None)


def members(base: str, settings: Params) -> tuple[str, ...]:
    """The models of a sweep, starting with the one that it is named after."""
    return base, *settings.sweeps[base].trials


def varied(name: str, base: str, settings: Params) -> dict[str, Any]:
    """A model's values of the hyper-parameters that its sweep varies; None for those left at their default."""
    flat = settings.models[name].flat
    return {key: flat.get(key) for key in settings.sweeps[base].varied}


def in_print(value: Any) -> str:
    """A value of a hyper-parameter as tables print it; a dash for one that is not given."""
    return DASH if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def least_valid_loss(history: Iterable[Mapping[str, float]]) -> float | None:
    """The lowest validation loss among the records of a training run; None if it was never validated."""
    return min((record[VALID] for record in history if VALID in record), default=None)


def read_losses(name: str, settings: Params) -> list[float]:
    """The lowest validation loss with each seed; empty if one has not been trained yet.

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
    """The model with the lowest loss, averaged over seeds; the first of equal ones, None if none has a loss."""
    means = {name: statistics.fmean(found) for name, found in losses.items() if found}
    return min(means, key=lambda name: means[name], default=None)
