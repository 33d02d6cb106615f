"""The deterministic part of the report: `summary.json` and `summary.csv`."""

import csv
import hashlib
import io
import json
from dataclasses import asdict
from typing import Any

import numpy as np

from workflow.evaluation.agreement import agreement
from workflow.evaluation.columns import GENERATION, MEASURED, OUT_OF_DISTRIBUTION
from workflow.evaluation.comparison import Measurement
from workflow.evaluation.measurements import verdicts
from workflow.evaluation.stopping import as_correlation, over_seeds
from workflow.evaluation.trust import notices, unfit
from workflow.params import Entry, own_title
from workflow.report.budgets import find_curves
from workflow.report.other_features import other_features
from workflow.report.ranking import rankings
from workflow.report.results import ABOUT, Results, Run
from workflow.report.seeds import mean, spread, std
from workflow.sweeps.trials import VALID, least_valid_loss

FACTS = ("kind", "title", "taxonomy", "bits_per_dim_kind")  # of a model, in each row of the CSV file


def summarise(results: Results) -> dict[str, Any]:
    """All results, which depend only on the inputs of the report: no durations, machines or dates."""
    found, seeds = results.measurements, results.settings.seeds
    models = {
        name: _model(runs, results.settings.models[name], {key: of[name] for key, of in found.items() if name in of})
        for name, runs in results.models.items()
    }
    budgets = find_curves(results.settings, models)
    conditional = {name for name, model in models.items() if model["told_classes"]}
    refused = unfit(results.audit)
    ranking = [column for column in MEASURED if column.key not in refused]
    teacher = results.reference.get("teacher")
    return {
        "data": {
            "name": own_title(results.settings.data) or results.card.name,
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
        "varied": _varied(results),
        "verdicts": {key: asdict(one) for key, one in verdicts(found, ranking, conditional).items()},
        "ranking": rankings(models, ranking, seeds),
        "audit": {"counts": results.audit["counts"], "unfit": refused, "notices": _notices(results)},
        "runs": [_run(run) for run in results.runs],
        "sweeps": {base: _sweep(base, results) for base in results.sweeps},
        **({"budgets": budgets} if budgets else {}),
        **({"truth": agreement(models, teacher)} if teacher else {}),
        **({"other_features": other_features(results)} if results.settings.evaluate.other_names else {}),
    }


def _notices(results: Results) -> dict[str, Any]:
    """What each measure makes of each damage, by the column's key and the damage's name."""
    found = notices(results.audit)
    return {key: {damage: asdict(one) for damage, one in of.items()} for key, of in found.items()}


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


def _decoded(runs: list[Run]) -> dict[str, dict[str, float]]:
    """Scores of other images than draws, by how they were decoded and the column's key: means over the seeds."""
    found: dict[str, dict[str, float]] = {}
    for way in runs[0].metrics.get("decoded", {}):
        for column in GENERATION:
            values = [column.read(run.metrics["decoded"][way]) for run in runs]
            if (over_seeds := mean(values)) is not None:
                found.setdefault(way, {})[column.key] = over_seeds
    return found


def _varied(results: Results) -> dict[str, int]:
    """How often each source of chance was varied, and how many test images there were."""
    repeats = results.runs[0].metrics.get("repeats", {})
    draws, extractors = np.shape(repeats["fid"]) if "fid" in repeats else (1, 1)
    counts = {"seeds": len(results.settings.seeds), "draws": draws, "extractors": extractors}
    return {**counts, "test_images": results.runs[0].metrics["counts"]["test"]}


def _model(runs: list[Run], entry: Entry, found: dict[str, Measurement]) -> dict[str, Any]:
    """Facts of the model, and its metrics: by seed, their mean and standard deviation over seeds, and intervals.

    An interval covers every source of chance that was varied (`workflow/evaluation/comparison.py`).
    """
    over_seeds = spread(
        {
            **{column.key: [column.read(run.metrics) for run in runs] for column in MEASURED},
            VALID: [least_valid_loss(run.history()) for run in runs],
        }
    )
    columns = {column.key: column for column in MEASURED}
    intervals = {
        key: columns[key].within_limits([end - one.mean + over_seeds["mean"][key] for end in one.estimate.interval])
        for key, one in found.items()
        if one.estimate
    }
    return {
        **{key: runs[0].metrics[key] for key in ABOUT},
        "counts": runs[0].metrics["counts"],
        "told_classes": entry.hyperparameters.get("classes", 0) > 0,
        OUT_OF_DISTRIBUTION.key: _out_of_distribution(runs),
        "decoded": _decoded(runs),
        **_over_training(runs),
        **over_seeds,
        "interval": {**over_seeds["interval"], **intervals},
    }


def _over_training(runs: list[Run]) -> dict[str, Any]:
    """FID and the curves of each training, and their rank correlations; {} if no samples were kept over training."""
    followed = [run.metrics["over_training"] for run in runs if "over_training" in run.metrics]
    if not followed or len(followed) < len(runs):
        return {}
    curves = followed[0]["curves"]
    found = {curve: over_seeds([(one["curves"][curve], one["fid"]) for one in followed]) for curve in curves}
    known = {curve: as_correlation(one) for curve, one in found.items() if one}
    rows = {curve: {"correlation": rho, "interval": list(ends)} for curve, (rho, ends) in known.items()}
    return {"over_training": {"trainings": followed, "correlations": rows}}


def _out_of_distribution(runs: list[Run]) -> dict[str, Any]:
    """AUROC of each kind of out-of-distribution input over the seeds; empty for a model without a density."""
    found = [run.metrics[OUT_OF_DISTRIBUTION.key] or {} for run in runs]
    return spread({kind: [one[kind] for one in found] for kind in found[0]})


def _run(run: Run) -> dict[str, Any]:
    facts = {key: run.metrics[key] for key in FACTS}
    spreads = {column.spread: run.metrics.get(column.spread) for column in MEASURED if column.spread}
    return {"name": run.name, "seed": run.seed, **facts, **{c.key: c.read(run.metrics) for c in MEASURED}, **spreads}


def to_csv(summary: dict[str, Any]) -> str:
    """The results as comma-separated values; a missing value is an empty field.

    A row for each run, then three for each model: with `mean` in place of the seed its means over seeds, with `low` and
    `high` the ends of their 95 % intervals.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(summary["runs"][0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(summary["runs"])
    for name, model in summary["models"].items():
        about = {"name": name} | {key: model[key] for key in FACTS}
        ends = {key: interval for key, interval in model["interval"].items() if interval}
        for row, values in (
            ("mean", model["mean"]),
            ("low", {key: low for key, (low, _) in ends.items()}),
            ("high", {key: high for key, (_, high) in ends.items()}),
        ):
            writer.writerow(
                about | {"seed": row} | {key: value for key, value in values.items() if key in writer.fieldnames}
            )
    return text.getvalue()


def fingerprint(summary: dict[str, Any]) -> str:
    """A hash of the summary, which is written into the page made from it."""
    return hashlib.sha256(json.dumps(summary).encode()).hexdigest()
