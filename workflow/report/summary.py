"""The deterministic part of the report: `summary.json` and `summary.csv`."""

import csv
import hashlib
import io
import json
import statistics
from typing import Any

from workflow.report.columns import MEASURED, Column
from workflow.report.results import ABOUT, Results, Run


def summarise(results: Results) -> dict[str, Any]:
    """All numbers of the report that depend on its inputs alone: nothing of durations, machines or the date."""
    return {
        "data": {
            "name": results.card.name,
            "shape": list(results.card.shape),
            "levels": results.card.levels,
            "counts": results.card.counts,
            "sha256": results.card.sha256,
        },
        "extractor": {key: results.extractor[key] for key in ("name", "features", "accuracy", "sha256")},
        "seeds": list(results.settings.seeds),
        "reference": results.reference,
        "models": {name: _model(runs) for name, runs in results.models.items()},
        "runs": [_run(run) for run in results.runs],
    }


def _model(runs: list[Run]) -> dict[str, Any]:
    """What the model is, and mean and standard deviation of its numbers over the seeds (null with one seed)."""
    values = {column.key: [column.read(run.metrics) for run in runs] for column in MEASURED}
    return {
        **{key: runs[0].metrics[key] for key in ABOUT},
        "counts": runs[0].metrics["counts"],
        "oddity": _oddity(runs),
        "mean": {key: mean(numbers) for key, numbers in values.items()},
        "std": {key: std(numbers) for key, numbers in values.items()},
    }


def _oddity(runs: list[Run]) -> dict[str, float]:
    """Mean AUROC of each kind of odd input; empty for a model without a density."""
    found = [run.metrics["oddity"] or {} for run in runs]
    return {kind: statistics.fmean(one[kind] for one in found) for kind in found[0]}


def _run(run: Run) -> dict[str, Any]:
    facts = {key: run.metrics[key] for key in ("kind", "title", "taxonomy", "bits_per_dim_kind")}
    spreads = {column.spread: run.metrics.get(column.spread) for column in MEASURED if column.spread}
    return {"name": run.name, "seed": run.seed, **facts, **{c.key: c.read(run.metrics) for c in MEASURED}, **spreads}


def mean(numbers: list[float | None]) -> float | None:
    """The mean; None if a number is missing."""
    present = [number for number in numbers if number is not None]
    return float(statistics.mean(present)) if present and len(present) == len(numbers) else None


def std(numbers: list[float | None]) -> float | None:
    """The standard deviation of a sample (divided by n - 1); None if a number is missing or there is only one."""
    present = [number for number in numbers if number is not None]
    return float(statistics.stdev(present)) if len(present) == len(numbers) > 1 else None


def best(models: dict[str, Any], column: Column) -> set[str]:
    """The names of the models that are best in a column, by mean, each among those it may be compared with.

    Empty where there is nothing to compare: no direction, fewer than two values, or all of them equal.
    """
    found: set[str] = set()
    groups: dict[Any, dict[str, float]] = {}
    for name, model in models.items():
        if column.ranks(model):
            groups.setdefault(model.get(column.within), {})[name] = model["mean"][column.key]
    for values in groups.values():
        if column.better and len(set(values.values())) > 1:
            top = min(values.values()) if column.better == "lower" else max(values.values())
            found |= {name for name, value in values.items() if value == top}
    return found


def to_csv(summary: dict[str, Any]) -> str:
    """The runs as comma-separated values, one row a run; a missing number is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(summary["runs"][0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(summary["runs"])
    return text.getvalue()


def fingerprint(summary: dict[str, Any]) -> str:
    """A hash of the summary, which stands in the page that was made of it."""
    return hashlib.sha256(json.dumps(summary).encode()).hexdigest()
