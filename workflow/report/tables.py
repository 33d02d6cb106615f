"""The tables of results: what stands in each cell, and which cells are marked as the best."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workflow.report.columns import DASH, GENERATION, UNDERSTANDING, Column
from workflow.report.results import TAXONOMY
from workflow.report.summary import best

PLACES = {
    "explicit tractable": "Explicit density, tractable",
    "explicit approximate": "Explicit density, approximate",
    "implicit": "Implicit density",
}
SCALE = "For scale, no models"


@dataclass(frozen=True)
class Cell:
    """text: the value. kind: of value, in columns that hold several. note: in small print. best: whether to mark it."""

    text: str
    kind: str = ""
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """series: the number of the model's colour, None for a row of reference values."""

    label: str
    series: int | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """groups: rows under a heading each."""

    columns: tuple[Column, ...]
    groups: tuple[tuple[str, tuple[Row, ...]], ...]


def labels(models: dict[str, Any]) -> dict[str, str]:
    """How each model is called in print: its title, with its name where several share the title.

    The one whose name is its kind keeps the title alone.
    """
    titles = Counter(model["title"] for model in models.values())
    return {
        name: model["title"] if titles[model["title"]] == 1 or name == model["kind"] else f"{model['title']} ({name})"
        for name, model in models.items()
    }


def model_groups(
    summary: dict[str, Any], columns: Sequence[Column], same_machine: bool = True
) -> list[tuple[str, tuple[Row, ...]]]:
    """A group of rows for each place of the taxonomy where a model stands.

    same_machine: whether the volatile columns are comparable, so may be marked.
    """
    models, names = summary["models"], labels(summary["models"])
    tops = {c.key: best(models, c) if same_machine or not c.volatile else set() for c in columns}
    baseline = summary["reference"]["histogram_model"]["bits_per_dim"]
    rows: dict[str, list[Row]] = {place: [] for place in TAXONOMY}
    for series, (name, model) in enumerate(models.items()):
        cells = tuple(_cell(c, name, summary, name in tops[c.key], baseline) for c in columns)
        rows[model["taxonomy"]].append(Row(names[name], series, cells))
    return [(PLACES[place], tuple(found)) for place, found in rows.items() if found]


def _cell(column: Column, name: str, summary: dict[str, Any], top: bool, baseline: float) -> Cell:
    model = summary["models"][name]
    value, deviation = model["mean"].get(column.key), model["std"].get(column.key)
    if value is None:
        return Cell(DASH, kind="none" if column.within else "")
    note = f"± {column.text(deviation)}" if deviation else ""
    if column.spread and deviation is None:
        own = next(run[column.spread] for run in summary["runs"] if run["name"] == name)
        note = f"± {column.text(own)}" if own is not None else ""
    if column.key == "bits_per_dim" and value >= baseline:
        note = f"{note}; not below independent pixels".removeprefix("; ")
    if not column.ranks(model):
        note = f"{note}; was told the classes".removeprefix("; ")
    return Cell(column.text(value), kind=model[column.within] if column.within else "", note=note, best=top)


def present(columns: Sequence[Column], summary: dict[str, Any]) -> tuple[Column, ...]:
    """The columns in which some model has a number."""
    means = [model["mean"] for model in summary["models"].values()]
    return tuple(c for c in columns if any(mean.get(c.key) is not None for mean in means))


def generation(summary: dict[str, Any]) -> Table:
    """How good and how varied the samples are, beside real images and independent pixels at the same counts."""
    columns = present(GENERATION, summary)
    scale = reference_rows(summary, columns)
    return Table(columns, (*model_groups(summary, columns), (SCALE, tuple(scale))))


def understanding(summary: dict[str, Any]) -> Table:
    """What the model knows of the density and of the images, beside what needs no model at all."""
    scale = reference_rows(summary, UNDERSTANDING)
    return Table(UNDERSTANDING, (*model_groups(summary, UNDERSTANDING), (SCALE, tuple(scale))))


def reference_rows(summary: dict[str, Any], columns: Sequence[Column]) -> list[Row]:
    """Rows of values that are no model's, as far as they have any of the columns."""
    reference = summary["reference"]
    sources = {
        "Real images": {**reference["real"], "nearest_neighbour": {}},  # training images: each is its own neighbour
        "Independent pixels": reference["histogram_model"],
        "Uniform noise": {"bits_per_dim": reference["uniform_bits_per_dim"]},
        "Raw pixels": {"probe_accuracy": reference["pixel_probe_accuracy"]},
    }
    rows = []
    for label, values in sources.items():
        numbers = [column.read(values) for column in columns]
        if any(number is not None for number in numbers):
            cells = [_reference_cell(column, number) for column, number in zip(columns, numbers, strict=True)]
            rows.append(Row(label, None, tuple(cells)))
    return rows


def _reference_cell(column: Column, value: float | None) -> Cell:
    kind = "" if not column.within else DASH if value is None else "exact"
    return Cell(column.text(value), kind=kind)
