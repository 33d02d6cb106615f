"""The numbers of every model with all that says how far they can be trusted, as the comparison takes them."""

import statistics
from collections.abc import Iterable, Mapping

import numpy as np

from workflow.data.arrays import read_arrays
from workflow.evaluation.columns import MEASURED, Column
from workflow.evaluation.comparison import Measurement, Values, Verdict, verdict
from workflow.report.results import Results, Run

PER_IMAGE = "per_image/"  # begins the names of the test images' influence among the pictures
SCALED = {"nats": "bits_per_dim"}  # a column that is another one times a constant
Measurements = dict[str, dict[str, Measurement]]  # by column and model; models without a value are absent


def measurements(results: Results) -> Measurements:
    """Every number of every model."""
    influence = {(run.name, run.seed): _influence(run) for run in results.runs}
    found: Measurements = {column.key: {} for column in MEASURED}
    for name, runs in results.models.items():
        for column in MEASURED:
            if all(column.read(run.metrics) is not None for run in runs):
                images = [_scaled(column, run, influence[run.name, run.seed]) for run in runs]
                found[column.key][name] = _measurement(column, runs, images)
    return found


def verdicts(found: Measurements, columns: Iterable[Column], conditional: set[str]) -> dict[str, Verdict]:
    """The best of each column that ranks models, by its key; conditional: the class-conditional models."""
    judged = {}
    for column in columns:
        models = {
            name: one for name, one in found[column.key].items() if not (column.unconditional and name in conditional)
        }
        if column.better and (one := verdict(models, column.better, column.counted)):
            judged[column.key] = one
    return judged


def _measurement(column: Column, runs: list[Run], images: list[Values]) -> Measurement:
    kind = runs[0].metrics[column.within] if column.within else None
    tables = [_table(column, run.metrics) for run in runs]
    # Of several seeds each is a row, with the mean over its draws; of one each draw is.
    rows = tables[0] if len(runs) == 1 else [[statistics.fmean(c) for c in zip(*t, strict=True)] for t in tables]
    same = {len(values) for values in images}
    return Measurement(rows, np.mean(images, axis=0) if len(same) == 1 else np.empty(0), kind)


def _table(column: Column, metrics: Mapping[str, object]) -> list[list[float]]:
    repeats = metrics.get("repeats")
    table = repeats.get(column.path or column.key) if isinstance(repeats, Mapping) else None
    value = column.read(metrics)
    assert value is not None
    return [list(map(float, row)) for row in table] if table else [[value]]


def _influence(run: Run) -> dict[str, Values]:
    arrays = read_arrays(run.folder / "pictures.safetensors")
    return {
        name.removeprefix(PER_IMAGE): values.astype(np.float64)
        for name, values in arrays.items()
        if name.startswith(PER_IMAGE)
    }


def _scaled(column: Column, run: Run, influence: Mapping[str, Values]) -> Values:
    """How far each test image moves the column's value in this run; empty if they play no part in it."""
    key = column.path or column.key
    if (origin := SCALED.get(key)) and origin in influence:
        value, base = column.read(run.metrics), run.metrics[origin]
        return influence[origin] * (value / base) if value and base else np.empty(0)
    return influence.get(key, np.empty(0))
