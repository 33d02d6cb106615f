"""The page's part on Bayes' rule: class-conditional densities as classifiers, and what they gain by not answering."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow.data.arrays import Array, read_arrays
from workflow.evaluation.columns import BAYES, OUT_OF_DISTRIBUTION, Column
from workflow.paths import CONFIDENCE, DENSITY, KEPT, REAL_FEATURES, RunFiles
from workflow.report.budget_section import Line, named_lines
from workflow.report.budgets import series
from workflow.report.charts import DASHES
from workflow.report.marks import colour
from workflow.report.results import Results
from workflow.report.svg import INK, MUTED, Chart
from workflow.report.tables import SCALE, Cell, Row, Table, labels, model_groups, present

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORES = {CONFIDENCE: "confidence", DENSITY: "p(x)"}
LEAST = 0.05  # share of images kept from which on the accuracy is drawn: below, a few images decide
CLASSIFIER = "classifier"
CLASSIFIERS = {"naive_bayes": "Naive Bayes", CLASSIFIER: "Discriminative classifier"}
Odd = tuple[int | None, str, list[tuple[str, bool]]]


@dataclass(frozen=True)
class Bayes:
    """The part.

    Args:
        chart: accuracy against the share of images kept.
        table: accuracies.
        kinds: of out-of-distribution inputs.
        odd: number of the colour and name of each model or classifier with the score, and of each kind the AUROC and
            whether it is below one half.

    """

    chart: Chart
    table: Table
    kinds: list[str]
    odd: list[Odd]


@dataclass(frozen=True)
class Kept:
    """Accuracy on the k images with the highest score, k = 1..N; series: None for the discriminative classifier."""

    label: str
    series: int | None
    score: str
    curve: Array


def bayes(summary: dict[str, Any], results: Results) -> Bayes | None:
    """The part; None if no model is a class-conditional density."""
    columns = present(BAYES, summary)
    if not columns:
        return None
    every = {name: [run.metrics.get("bayes") for run in runs] for name, runs in results.models.items()}
    found = {name: [one for one in runs if one] for name, runs in every.items() if any(runs)}
    groups = [(place, tuple(filter(_has_value, rows))) for place, rows in model_groups(summary, columns)]
    groups = [(place, rows) for place, rows in groups if rows]
    reference = {label: summary["reference"].get(key) for key, label in CLASSIFIERS.items()}
    scale = tuple(_reference_row(label, values, columns) for label, values in reference.items() if values)
    kinds = list(next(iter(found.values()))[0]["odd"][CONFIDENCE])
    odd = list(_odd(found, kinds, summary))
    return Bayes(
        _chart(list(_curves(list(found), summary, results))), Table(columns, (*groups, (SCALE, scale))), kinds, odd
    )


def _has_value(row: Row) -> bool:
    return any(cell.number is not None for cell in row.cells)


def _reference_row(label: str, values: Mapping[str, Any], columns: Sequence[Column]) -> Row:
    numbers = [column.read(values) for column in columns]
    return Row(label, None, tuple(Cell(c.text(n), number=n) for c, n in zip(columns, numbers, strict=True)))


def _odd(found: Mapping[str, Sequence[Any]], kinds: Sequence[str], summary: dict[str, Any]) -> Iterator[Odd]:
    names, number = labels(summary["models"]), series(summary)
    for name, runs in found.items():
        for score, says in SCORES.items():
            values = [fmean(run["odd"][score][kind] for run in runs) for kind in kinds]
            yield number[name], f"{names[name]}, {says}", [_auroc(value) for value in values]
    for key, label in CLASSIFIERS.items():
        if key in summary["reference"]:
            for score, of_kind in summary["reference"][key]["bayes"]["odd"].items():
                yield None, f"{label}, {SCORES[score]}", [_auroc(of_kind[kind]) for kind in kinds]


def _auroc(value: float) -> tuple[str, bool]:
    return OUT_OF_DISTRIBUTION.text(value), value < 0.5


def _curves(names: Sequence[str], summary: dict[str, Any], results: Results) -> Iterator[Kept]:
    """Of each model by each score, a mean over its seeds; of the classifier by its confidence."""
    titles, number = labels(summary["models"]), series(summary)
    for name in names:
        pictures = [read_arrays(RunFiles(name, run.seed).pictures) for run in results.models[name]]
        for score in SCORES:
            curve = np.mean([one[f"{KEPT}{score}"] for one in pictures], axis=0)
            yield Kept(titles[name], number[name], score, curve)
    if CLASSIFIER in summary["reference"]:
        curve = read_arrays(REAL_FEATURES)[f"{CLASSIFIER}/{KEPT}{CONFIDENCE}"]
        yield Kept(CLASSIFIERS[CLASSIFIER], None, CONFIDENCE, curve)


def _chart(curves: Sequence[Kept]) -> Chart:
    """Solid by confidence, dashed by p(x); the discriminative classifier in ink."""
    models = [kept for kept in curves if kept.score == CONFIDENCE and kept.series is not None]
    ends = [
        Line(kept.label, kept.series, False, (1.0,), (float(kept.curve[-1]),), ((float(kept.curve[-1]),) * 2,))
        for kept in models
        if kept.series is not None
    ]
    beside = next(((float(kept.curve[-1]), kept.label) for kept in curves if kept.series is None), None)
    drawn = [(kept, max(1, round(LEAST * len(kept.curve)))) for kept in curves]
    low = min(float(kept.curve[first - 1 :].min()) for kept, first in drawn)
    margin = 0.06 * (1 - low) or 0.01

    def scale(axes: "Axes") -> None:
        for kept, first in drawn:
            ink = INK if kept.series is None else colour(kept.series)
            shares = np.arange(first, len(kept.curve) + 1) / len(kept.curve)
            dashes = DASHES[kept.score == DENSITY]
            axes.plot(shares, kept.curve[first - 1 :], color=ink, linestyle=dashes, zorder=2)
        axes.set(xlim=(0, 1.02), ylim=(low - margin, 1 + margin), xticks=(0, 0.25, 0.5, 0.75, 1))
        axes.set_yticks([tick for tick in axes.get_yticks() if low - margin <= tick <= 1 + 1e-9])
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
        axes.set_title("accuracy on the images kept (higher is better)", loc="left", fontsize=10.5, color=MUTED)
        axes.set_xlabel("share of the test images kept")

    names = ", ".join(dict.fromkeys(kept.label for kept in curves))
    return named_lines(f"accuracy against the share of images kept, of {names}", ends, beside, scale)
