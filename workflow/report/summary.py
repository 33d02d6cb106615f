"""The deterministic part of the report: `summary.json` and `summary.csv`."""

import csv
import hashlib
import io
import json
from typing import Any

from workflow.evaluation.columns import MEASURED, OUT_OF_DISTRIBUTION
from workflow.params import Entry
from workflow.report.ranking import rankings
from workflow.report.results import ABOUT, Results, Run
from workflow.report.seeds import mean, spread, std
from workflow.sweeps.trials import VALID, least_valid_loss


def summarise(results: Results) -> dict[str, Any]:
    """All results, which depend only on the inputs of the report: no durations, machines or dates."""
    models, seeds = (
        {name: _model(runs, results.settings.models[name]) for name, runs in results.models.items()},
        results.settings.seeds,
    )
    return {
        "data": {
            "name": results.card.name,
            "shape": list(results.card.shape),
            "levels": results.card.levels,
            "counts": results.card.counts,
            "sha256": results.card.sha256,
        },
        "extractor": {key: results.extractor.get(key) for key in ("name", "features", "accuracy", "sha256")},
        "seeds": list(seeds),
        "missing": list(results.missing),
        "reference": results.reference,
        "models": models,
        "ranking": rankings(models, MEASURED, seeds),
        "runs": [_run(run) for run in results.runs],
        "sweeps": {base: _sweep(base, results) for base in results.sweeps},
    }


def _sweep(base: str, results: Results) -> dict[str, Any]:
    """What was varied, the best trial, and the values and validation losses of all trials, but no test results."""
    trials = {
        trial.name: {
            "values": trial.values,
            "losses": list(trial.losses),
            "mean": mean(trial.losses),
            "std": std(trial.losses),
            "failed": trial.failed,
        }
        for trial in results.sweeps[base]
    }
    return {"varied": results.settings.sweeps[base].varied, "best": results.best.get(base), "trials": trials}


def _model(runs: list[Run], entry: Entry) -> dict[str, Any]:
    """Facts of the model, and its metrics over the seeds in the form of `spread`."""
    return {
        **{key: runs[0].metrics[key] for key in ABOUT},
        "counts": runs[0].metrics["counts"],
        "told_classes": entry.hyperparameters.get("classes", 0) > 0,
        OUT_OF_DISTRIBUTION.key: _out_of_distribution(runs),
        **spread(
            {
                **{column.key: [column.read(run.metrics) for run in runs] for column in MEASURED},
                VALID: [least_valid_loss(run.history()) for run in runs],
            }
        ),
    }


def _out_of_distribution(runs: list[Run]) -> dict[str, Any]:
    """AUROC of each kind of out-of-distribution input over the seeds; empty for a model without a density."""
    found = [run.metrics[OUT_OF_DISTRIBUTION.key] or {} for run in runs]
    return spread({kind: [one[kind] for one in found] for kind in found[0]})


def _run(run: Run) -> dict[str, Any]:
    facts = {key: run.metrics[key] for key in ("kind", "title", "taxonomy", "bits_per_dim_kind")}
    spreads = {column.spread: run.metrics.get(column.spread) for column in MEASURED if column.spread}
    return {"name": run.name, "seed": run.seed, **facts, **{c.key: c.read(run.metrics) for c in MEASURED}, **spreads}


def to_csv(summary: dict[str, Any]) -> str:
    """The runs as comma-separated values, one row per run; a missing value is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(summary["runs"][0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(summary["runs"])
    return text.getvalue()


def fingerprint(summary: dict[str, Any]) -> str:
    """A hash of the summary, which is written into the page made from it."""
    return hashlib.sha256(json.dumps(summary).encode()).hexdigest()
