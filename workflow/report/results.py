"""Reading everything that the report is made from."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from workflow.data.arrays import Card, read_card
from workflow.errors import BakeoffError
from workflow.evaluation.columns import MEASURED, OUT_OF_DISTRIBUTION
from workflow.evaluation.derived import complete, with_nats
from workflow.evaluation.measurements import Measured, Measurements, measurements
from workflow.files import read_json
from workflow.models.taxonomy import TAXONOMY
from workflow.params import Params
from workflow.paths import AUDIT, EXTRACTOR_METRICS, OTHER_FEATURES, REFERENCE, RunFiles
from workflow.sweeps.trials import best_of, members, read_losses, sweep_of, varied

ABOUT = (
    "kind",
    "title",
    "paper",
    "family",
    "taxonomy",
    "likelihood",
    "objective",
    "about",
    "note",
    "bits_per_dim_kind",
)


@dataclass(frozen=True)
class Run:
    """One model trained with one seed; metrics: the content of its `metrics.json`."""

    name: str
    seed: int
    folder: Path
    metrics: dict[str, Any]

    def seen_by(self, other: str) -> dict[str, Any]:
        """The part of the metrics on the features of another extractor than the main one.

        Raises BakeoffError, naming the file, if there is none.
        """
        found: dict[str, Any] | None = self.metrics.get("other_features", {}).get(other)
        if found is None:
            remedy = f"run `dvc repro evaluate@{self.name}-{self.seed}`"
            raise BakeoffError(f"{self.folder / 'metrics.json'}: 'other_features' has no {other!r}; {remedy}")
        return found

    def history(self) -> list[dict[str, float]]:
        """The lines of `history.jsonl`; raises BakeoffError, naming the file, if it is missing or damaged."""
        path = self.folder / "history.jsonl"
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except FileNotFoundError:
            raise BakeoffError(f"{path}: missing; run `dvc repro train@{self.name}-{self.seed}`") from None
        except ValueError as error:
            raise BakeoffError(f"{path}: not in JSON Lines format ({error}); delete it and run `dvc repro`") from None


@dataclass(frozen=True)
class Trial:
    """One model of a sweep.

    Args:
        name: its name.
        values: its value of each parameter that the sweep varies.
        losses: its lowest validation loss with each seed; empty if its training failed or has not been run.
        failed: whether its training failed.

    """

    name: str
    values: dict[str, Any]
    losses: tuple[float, ...] = ()
    failed: bool = False


@dataclass(frozen=True)
class Results:
    """The outputs of all other stages.

    Args:
        settings: the parameters, with only those models that the report covers.
        card: describes the data.
        extractor: describes the feature extractor.
        reference: scores of real images and baselines.
        audit: what the measures make of damaged real images.
        runs: ordered by the models' place in the taxonomy, then by seed. Of each sweep, only the trial with the lowest
            validation loss is among them, in place of the model that the sweep started from.
        missing: models that have no results yet and that a partial report leaves out.
        sweeps: all trials of each sweep, by the name of the model that it started from, which is the first trial.
        best: the best trial of each sweep that has any results.

    """

    settings: Params
    card: Card
    extractor: dict[str, Any]
    reference: dict[str, Any]
    audit: dict[str, Any]
    runs: tuple[Run, ...]
    missing: tuple[str, ...] = ()
    sweeps: dict[str, tuple[Trial, ...]] = field(default_factory=dict)
    best: dict[str, str] = field(default_factory=dict)

    @property
    def models(self) -> dict[str, list[Run]]:
        """The runs of each model, models in order of the taxonomy."""
        names = dict.fromkeys(run.name for run in self.runs)
        return {name: [run for run in self.runs if run.name == name] for name in names}

    @cached_property
    def measurements(self) -> Measurements:
        """Every number of every model as the comparison takes it, read from the runs' pictures once."""
        measured = {
            name: [Measured(run.metrics, RunFiles(name, run.seed).pictures) for run in runs]
            for name, runs in self.models.items()
        }
        return measurements(measured, self.reference["histogram_model"])

    @cached_property
    def other_measurements(self) -> dict[str, Measurements]:
        """The same on the features of each extractor after the main one, by what it is called in files."""
        return {name: self._on_features_of(name) for name in self.settings.evaluate.other_names}

    def _on_features_of(self, other: str) -> Measurements:
        prefix = f"{OTHER_FEATURES}{other}/"
        measured = {
            name: [Measured(run.seen_by(other), RunFiles(name, run.seed).pictures, prefix) for run in runs]
            for name, runs in self.models.items()
        }
        return measurements(measured, self.reference["histogram_model"]["other_features"][other])


def read_results(settings: Params, missing: tuple[str, ...] = ()) -> Results:
    """Read the files of every model and seed in the parameters, except those of `missing` models, and no other files.

    Raises BakeoffError, naming the file and what to run, if one is missing or lacks a value.
    """
    card = read_card()
    sweeps = {base: _trials(base, settings, missing) for base in settings.sweeps}
    tops = {base: best_of({trial.name: trial.losses for trial in trials}) for base, trials in sweeps.items()}
    best = {base: top for base, top in tops.items() if top}
    chosen = [best.get(name, name) for name in settings.models if sweep_of(name, settings) in (None, name)]
    settings = settings.model_copy(update={"models": {k: settings.models[k] for k in chosen if k not in missing}})
    if not settings.models:
        raise BakeoffError("no model has results yet; first run `dvc repro --keep-going` or `snakemake --keep-going`")
    runs = [_read_run(name, seed, card) for name in settings.models for seed in settings.seeds]
    runs.sort(key=lambda run: TAXONOMY.index(run.metrics["taxonomy"]))  # stable: within a place as in params.yaml
    extractor = read_json(EXTRACTOR_METRICS)
    reference = read_json(REFERENCE)
    reference["histogram_model"] = with_nats(reference["histogram_model"], card)
    # The ceiling of CAS is measured where a model has one, as it takes training; it is the same for all of them.
    ceilings = (run.metrics.get("cas_of_real") for run in runs)
    reference["real"]["cas"] = next((ceiling for ceiling in ceilings if ceiling is not None), None)
    return Results(settings, card, extractor, reference, read_json(AUDIT), tuple(runs), missing, sweeps, best)


def _trials(base: str, settings: Params, missing: tuple[str, ...]) -> tuple[Trial, ...]:
    found = []
    for name in members(base, settings):
        losses: list[float] = []
        if name not in missing and not (losses := read_losses(name, settings)):
            raise BakeoffError(f"runs/{name}: some seeds have no training history; run `dvc repro`")
        found.append(Trial(name, varied(name, base, settings), tuple(losses)))
    failed = settings.sweeps[base].failed.items()
    return (*found, *(Trial(name, values, failed=True) for name, values in failed))


def _read_run(name: str, seed: int, card: Card) -> Run:
    files = RunFiles(name, seed)
    path = files.metrics
    remedy = f"run `dvc repro evaluate@{name}-{seed}`"
    if not path.exists():
        raise BakeoffError(f"{path}: missing; {remedy}")
    metrics = complete(read_json(path), card)
    for key in (*ABOUT, OUT_OF_DISTRIBUTION.key):
        if key not in metrics:
            raise BakeoffError(f"{path}: {key!r} is missing; {remedy}")
    for column in MEASURED:
        if column.read(metrics) is None and not column.missing_for:
            raise BakeoffError(f"{path}: {column.path or column.key!r} is missing; {remedy}")
    if metrics["taxonomy"] not in TAXONOMY:
        raise BakeoffError(f"{path}: unknown taxonomy {metrics['taxonomy']!r}; known: {', '.join(TAXONOMY)}; {remedy}")
    return Run(name, seed, files.folder, metrics)
