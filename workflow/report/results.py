"""Reading everything that the report is made of."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workflow.data.arrays import Card, read_card
from workflow.errors import BakeoffError
from workflow.evaluation.columns import MEASURED, look_up
from workflow.files import read_json
from workflow.models.taxonomy import TAXONOMY
from workflow.params import Params
from workflow.paths import EXTRACTOR_METRICS, REFERENCE, RunFiles
from workflow.sweeps.trials import best_of, members, read_losses, sweep_of, varied

ABOUT = ("kind", "title", "paper", "family", "taxonomy", "likelihood", "objective", "about", "bits_per_dim_kind")


@dataclass(frozen=True)
class Run:
    """One model trained with one seed; metrics: what `metrics.json` holds."""

    name: str
    seed: int
    folder: Path
    metrics: dict[str, Any]

    def history(self) -> list[dict[str, float]]:
        """The lines of `history.jsonl`; raises BakeoffError, naming the file, if it is missing or damaged."""
        path = self.folder / "history.jsonl"
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except FileNotFoundError:
            raise BakeoffError(f"{path}: missing; run `dvc repro train@{self.name}-{self.seed}`") from None
        except ValueError as error:
            raise BakeoffError(f"{path}: not a line of JSON ({error}); delete it and run `dvc repro`") from None


@dataclass(frozen=True)
class Trial:
    """One model of a sweep: what it has of each thing that is varied.

    losses: its least validation loss with each seed; empty if its training failed, or is yet to come.
    """

    name: str
    values: dict[str, Any]
    losses: tuple[float, ...] = ()
    failed: bool = False


@dataclass(frozen=True)
class Results:
    """All that the other stages left; runs are ordered by the models' place in the taxonomy, then by seed.

    Of a sweep only the trial that is best by validation is among them, where the model that it began with would be.
    sweeps: all trials of each, by that model's name, which is the first. best: the best trial of each that has any.
    missing: models of which there are no results yet, and which a report that was asked for all the same leaves out.
    """

    settings: Params
    card: Card
    extractor: dict[str, Any]
    reference: dict[str, Any]
    runs: tuple[Run, ...]
    missing: tuple[str, ...] = ()
    sweeps: dict[str, tuple[Trial, ...]] = field(default_factory=dict)
    best: dict[str, str] = field(default_factory=dict)

    @property
    def models(self) -> dict[str, list[Run]]:
        """The runs of each model, models in order of the taxonomy."""
        names = dict.fromkeys(run.name for run in self.runs)
        return {name: [run for run in self.runs if run.name == name] for name in names}


def read_results(settings: Params, missing: tuple[str, ...] = ()) -> Results:
    """Read the files of every model and seed in the parameters but of those that are `missing`, and of nothing else.

    Raises BakeoffError, naming the file and what to run, if one is missing or lacks a number.
    """
    card = read_card()
    sweeps = {base: _trials(base, settings, missing) for base in settings.sweeps}
    tops = {base: best_of({trial.name: trial.losses for trial in trials}) for base, trials in sweeps.items()}
    best = {base: top for base, top in tops.items() if top}
    chosen = [best.get(name, name) for name in settings.models if sweep_of(name, settings) in (None, name)]
    settings = settings.model_copy(update={"models": {k: settings.models[k] for k in chosen if k not in missing}})
    if not settings.models:
        raise BakeoffError("no model has results yet; run `dvc repro --keep-going` or `snakemake --keep-going` first")
    runs = [_read_run(name, seed, card) for name in settings.models for seed in settings.seeds]
    runs.sort(key=lambda run: TAXONOMY.index(run.metrics["taxonomy"]))  # stable: within a place as in params.yaml
    extractor = read_json(EXTRACTOR_METRICS)
    reference = read_json(REFERENCE)
    reference["histogram_model"] = _with_nats(reference["histogram_model"], card)
    return Results(settings, card, extractor, reference, tuple(runs), missing, sweeps, best)


def _trials(base: str, settings: Params, missing: tuple[str, ...]) -> tuple[Trial, ...]:
    found = []
    for name in members(base, settings):
        losses: list[float] = []
        if name not in missing and not (losses := read_losses(name, settings)):
            raise BakeoffError(f"runs/{name}: no history of all seeds; run `dvc repro`")
        found.append(Trial(name, varied(name, base, settings), tuple(losses)))
    failed = settings.sweeps[base].failed.items()
    return (*found, *(Trial(name, values, failed=True) for name, values in failed))


def _read_run(name: str, seed: int, card: Card) -> Run:
    files = RunFiles(name, seed)
    path = files.metrics
    remedy = f"run `dvc repro evaluate@{name}-{seed}`"
    if not path.exists():
        raise BakeoffError(f"{path}: missing; {remedy}")
    metrics = _with_nats(_with_ratio(read_json(path)), card)
    for key in (*ABOUT, "oddity"):
        if key not in metrics:
            raise BakeoffError(f"{path}: no {key!r} in it; {remedy}")
    for column in MEASURED:
        if column.read(metrics) is None and not column.missing_for:
            raise BakeoffError(f"{path}: no {column.path or column.key!r} in it; {remedy}")
    if metrics["taxonomy"] not in TAXONOMY:
        raise BakeoffError(f"{path}: taxonomy {metrics['taxonomy']!r} is none of: {', '.join(TAXONOMY)}")
    return Run(name, seed, files.folder, metrics)


def _with_ratio(metrics: dict[str, Any]) -> dict[str, Any]:
    """`metrics` with `nearest_neighbour.ratio`, the samples' distance over that of test images, put into it."""
    samples, test = (look_up(metrics, f"nearest_neighbour.{whose}") for whose in ("samples", "test"))
    ratio = samples / test if samples is not None and test else None
    return {**metrics, "nearest_neighbour": {**metrics.get("nearest_neighbour", {}), "ratio": ratio}}


def _with_nats(metrics: dict[str, Any], card: Card) -> dict[str, Any]:
    """`metrics` with `nats` of an image, -log p(x), put into it: of black and white images, as papers give it."""
    bits = metrics.get("bits_per_dim")
    nats = bits * math.prod(card.shape) * math.log(2) if card.levels == 2 and bits is not None else None
    return {**metrics, "nats": nats}
