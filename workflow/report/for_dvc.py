"""What DVC's commands show of the report: numbers for `dvc metrics` and `dvc exp`, curves and charts for `dvc plots`.

Each is a folder with a file for each model, because DVC shows one row, or one plot, for a file.
"""

import csv
import io
import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from workflow.evaluation.columns import MEASURED, NUMBERS
from workflow.files import write_text
from workflow.report.model_views import ModelView
from workflow.report.results import Results, Run
from workflow.report.svg import Chart, standalone
from workflow.report.tables import reference_values
from workflow.sweeps.trials import VALID

Files = dict[str, str]  # content by name
KEYS = tuple(column.key for column in NUMBERS)


def metrics(summary: Mapping[str, Any]) -> Files:
    """The numbers of the report's tables, of each model and of the reference values, as `{"fid": 1.89, …}`.

    Means over seeds, with the lowest validation loss; no key for a number that a model does not have. The names of
    reference values have a hyphen, which no model's name has.
    """
    models = {name: {key: model["mean"].get(key) for key in KEYS} for name, model in summary["models"].items()}
    for label, values in reference_values(summary).items():
        models[label.lower().replace(" ", "-")] = {column.key: column.read(values) for column in MEASURED}
    found = {name: {k: v for k, v in numbers.items() if v is not None} for name, numbers in models.items()}
    return {f"{name}.json": json.dumps(numbers, indent=2) + "\n" for name, numbers in found.items() if numbers}


def curves(results: Results) -> Files:
    """The validation loss of each model against training steps, means over seeds; none of what is not trained."""
    trained = {name: runs for name, runs in results.models.items() if any(run.history() for run in runs)}
    return {f"{name}.csv": _curve(runs) for name, runs in trained.items()}


def charts(views: Iterable[ModelView], costs: Mapping[str, Chart]) -> Files:
    """The page's learning curves and its charts of quality against cost, `costs`, as images of their own."""
    found = {f"{view.name}-{i}": panel.chart for view in views for i, panel in enumerate(view.panels, 1)}
    return {f"{name}.svg": standalone(chart) for name, chart in {**found, **costs}.items()}


def write_folder(folder: Path, files: Files) -> None:
    """Write these files, and remove all others that the folder has."""
    for other in set(folder.glob("*")) - {folder / name for name in files}:
        other.unlink()
    for name, content in files.items():
        write_text(folder / name, content)


def _curve(runs: list[Run]) -> str:
    losses: dict[int, list[float]] = {}
    for run in runs:
        for record in run.history():
            if VALID in record:
                losses.setdefault(int(record["step"]), []).append(record[VALID])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", VALID])
    writer.writerows((step, statistics.fmean(found)) for step, found in losses.items())
    return text.getvalue()
