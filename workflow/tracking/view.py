"""What `make ui` opens: which columns the table of runs has, and in which order; which chart comes first.

MLflow keeps such a view in a tag of the experiment, and lists it under `Views`. A column that no run has is not shown,
so the same view fits all data, models and extractors.
"""

import json
import time
from typing import Any

from workflow.evaluation.columns import MEASURED
from workflow.tracking.names import IMAGES, LEAST, SECTION, metric

KEY = "bakeoff"  # in the address
TAG = f"mlflow.sharedViewState.{KEY}"
NAME = "Bake-off"
EXTRACTORS = ("classifier", "rotation network", "Inception")  # the names that an extractor's metrics.json may have
WIDTH, WIDER = 100, 145  # in pixels: of columns with short names and of others


def _column(kind: str, name: str) -> str:
    """MLflow's name of a column; kind: attributes, metrics or tags."""
    return f"{kind}.`{name}`"


def _metrics(*keys: str) -> list[str]:
    """The columns of measures: one for each extractor if they rest on features."""
    paths = {column.key: column.path or column.key for column in MEASURED}
    names = [metric(paths[key], extractor) for key in keys for extractor in EXTRACTORS]
    return [_column("metrics", name) for name in dict.fromkeys(names)]


def _columns() -> dict[str, int]:
    """All columns after name and date, which MLflow always shows first, with their widths in pixels."""
    first = dict.fromkeys(_metrics("fid", "coverage"), WIDER)
    density = dict.fromkeys([*_metrics("bits_per_dim"), _column("tags", "likelihood")], WIDTH)
    others = _metrics("probe_accuracy", "gflops_per_sample", "training_gflops")
    others += [_column("tags", tag) for tag in ("family", "taxonomy", "best in")]
    last = {"duration": WIDTH, _column("attributes", "Dataset"): 220, _column("metrics", LEAST): WIDER}
    return {**first, **density, **dict.fromkeys(others, WIDER), **last}


def _charts() -> dict[str, Any]:
    """The charts: samples over training first, wide enough for several runs; MLflow adds one for each other metric."""
    section = {"display": True, "isReordered": False, "deleted": False, "isGenerated": True}
    samples = {"uuid": "samples", "name": SECTION, **section, "columns": 1, "cardHeight": 640}
    rest = {"uuid": "rest", "name": "Model metrics", **section}  # MLflow's name for what has no section
    grid = {"type": "IMAGE", "uuid": "grid", "metricSectionId": "samples", "isGenerated": True, "deleted": False}
    grid |= {"imageKeys": [IMAGES], "step": 100, "showRunParams": False}
    return {"compareRunSections": [samples, rest], "compareRunCharts": [grid], "isAccordionReordered": True}


def state() -> str:
    """The view as MLflow reads it."""
    columns = _columns()
    # MLflow always shows the duration: it has a place, but cannot be selected.
    selected = [column for column in columns if column != "duration"]
    table = {"selectedColumns": selected, "columnOrder": list(columns), "columnWidths": columns}
    return json.dumps({**table, **_charts()})


def tag() -> str:
    """The value of a new tag."""
    return json.dumps({"name": NAME, "createdAt": int(time.time() * 1000), "state": state()})


def is_current(value: str | None) -> bool:
    """Whether a tag has this view, whenever it was written."""
    try:
        found: Any = json.loads(value or "{}")
    except ValueError:
        return False
    return isinstance(found, dict) and (found.get("name"), found.get("state")) == (NAME, state())
