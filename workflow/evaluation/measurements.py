"""The numbers of every model with all that says how far they can be trusted, as the comparison takes them."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workflow.data.arrays import read_arrays
from workflow.evaluation.columns import MEASURED, Column
from workflow.evaluation.comparison import Measurement, Values, Verdict, verdict
from workflow.paths import PER_IMAGE, SHARED_ERROR

SCALED = {"nats": "bits_per_dim"}  # a column that is another one times a constant
Measurements = dict[str, dict[str, Measurement]]  # by column and model; models without a value are absent


@dataclass(frozen=True)
class Measured:
    """What was measured of one model with one seed: the content of its `metrics.json`, and its pictures' file.

    prefix: of the names, in that file, of the tensors that belong to these metrics.
    """

    metrics: Mapping[str, Any]
    pictures: Path
    prefix: str = ""


def measurements(models: Mapping[str, Sequence[Measured]], baseline: Mapping[str, Any]) -> Measurements:
    """Every number of every model.

    Another extractor has features of another scale, and with it distances in another unit. So that this does not pass
    for doubt about the models, distances are first brought to one unit: that of the distance of the baseline.

    Args:
        models: one `Measured` per seed, by name.
        baseline: the scores of independent pixels, as `reference.json` has them.

    """
    found: Measurements = {column.key: {} for column in MEASURED}
    units = {column.key: _units(column, baseline) for column in MEASURED if column.scaled}
    for name, runs in models.items():
        influence = [_influence(run) for run in runs]
        for column in MEASURED:
            if all(column.read(run.metrics) is not None for run in runs):
                images = [_scaled(column, run.metrics, own) for run, own in zip(runs, influence, strict=True)]
                found[column.key][name] = _measurement(
                    column, [run.metrics for run in runs], images, units.get(column.key)
                )
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


def _units(column: Column, baseline: Mapping[str, Any]) -> list[float]:
    """For each extractor, how many units of its own a mean unit is; empty where the baseline does not tell."""
    if column.read(baseline) is None:
        return []
    own = [statistics.fmean(values) for values in zip(*_table(column, baseline), strict=True)]
    return [statistics.fmean(own) / unit for unit in own] if min(own) > 0 else []


def _measurement(
    column: Column, runs: list[Mapping[str, Any]], images: list[Values], units: Sequence[float] | None
) -> Measurement:
    kind = runs[0][column.within] if column.within else None
    tables = [_table(column, metrics) for metrics in runs]
    if units and all(len(row) == len(units) for table in tables for row in table):
        tables = [[[v * unit for v, unit in zip(row, units, strict=True)] for row in table] for table in tables]
    # Of several seeds each is a row, with the mean over its draws; of one each draw is.
    rows = tables[0] if len(runs) == 1 else [[statistics.fmean(c) for c in zip(*t, strict=True)] for t in tables]
    same = {len(values) for values in images}
    error = _shared_error(column, runs[0]) if len(runs) == 1 else 0.0  # of several seeds, each has its own
    return Measurement(rows, np.mean(images, axis=0) if len(same) == 1 else np.empty(0), kind, error)


def _table(column: Column, metrics: Mapping[str, Any]) -> list[list[float]]:
    repeats = metrics.get("repeats")
    table = repeats.get(column.path or column.key) if isinstance(repeats, Mapping) else None
    value = column.read(metrics)
    assert value is not None
    return [list(map(float, row)) for row in table] if table else [[value]]


def _shared_error(column: Column, metrics: Mapping[str, Any]) -> float:
    """The standard error of the column's value that all test images share; 0 if it has none."""
    key = column.path or column.key
    origin = SCALED.get(key, key)
    if (error := metrics.get(f"{origin}{SHARED_ERROR}")) is None:
        return 0.0
    value, base = column.read(metrics), metrics[origin]
    return float(error * value / base) if value and base else 0.0


def _influence(run: Measured) -> dict[str, Values]:
    arrays, prefix = read_arrays(run.pictures), f"{run.prefix}{PER_IMAGE}"
    return {
        name.removeprefix(prefix): values.astype(np.float64)
        for name, values in arrays.items()
        if name.startswith(prefix)
    }


def _scaled(column: Column, metrics: Mapping[str, Any], influence: Mapping[str, Values]) -> Values:
    """How far each test image moves the column's value in this run; empty if they play no part in it."""
    key = column.path or column.key
    if (origin := SCALED.get(key)) and origin in influence:
        value, base = column.read(metrics), metrics[origin]
        return influence[origin] * (value / base) if value and base else np.empty(0)
    return influence.get(key, np.empty(0))
