"""The page's part on few labels: the probe's accuracy against labels a class, and what encoders gain as a start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workflow.evaluation.columns import FEW_LABELS, FINE_TUNED, Column
from workflow.report.budget_section import Line, named_lines
from workflow.report.budgets import series
from workflow.report.charts import DASHES
from workflow.report.svg import INK, MUTED, Chart
from workflow.report.tables import SCALE, Table, labels, model_groups, present, reference_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PIXELS, SCRATCH = "raw pixels", "from scratch"


@dataclass(frozen=True)
class FewLabels:
    """A line for each model with features, and the numbers.

    gains: of models with an encoder, over the same network from scratch; None if there are none.
    """

    chart: Chart
    table: Table
    gains: "FewLabels | None" = None


def few_labels(summary: dict[str, Any]) -> FewLabels | None:
    """The part; None if no model has features, or the data have no classes or too few images of some."""
    columns = present(FEW_LABELS, summary)
    if not columns:
        return None
    groups = (*model_groups(summary, columns), (SCALE, tuple(reference_rows(summary, columns))))
    raw = {"few_labels": summary["reference"]["pixel_few_labels"]}
    baseline = [value for column in columns if (value := column.read(raw)) is not None]
    chart = _chart(columns, summary, baseline, PIXELS, "accuracy of the linear probe")
    return FewLabels(chart, Table(columns, groups), _gains(summary))


def _gains(summary: dict[str, Any]) -> FewLabels | None:
    """Of the models with an encoder; None if there is none."""
    columns = present(FINE_TUNED, summary)
    if not columns:
        return None
    groups = [
        (place, tuple(row for row in rows if any(cell.number is not None for cell in row.cells)))
        for place, rows in model_groups(summary, columns)
    ]
    gains = [column for column in columns if not column.better]
    chart = _chart(gains, summary, [0.0] * len(gains), SCRATCH, "gain in accuracy over the same network from scratch")
    return FewLabels(chart, Table(columns, tuple((place, rows) for place, rows in groups if rows)))


def _chart(
    columns: Sequence[Column], summary: dict[str, Any], baseline: Sequence[float], beside: str, title: str
) -> Chart:
    """Values over a logarithmic axis of labels a class, with a dashed line for what they are held against."""
    counts = [count_of(column) for column in columns]
    lines = list(_lines(columns, counts, summary))

    def scale(axes: "Axes") -> None:
        ends = [end for line in lines for pair in line.ends for end in pair] + [*baseline]
        axes.set(xscale="log", xlim=(counts[0] / 1.25, counts[-1] * 1.25), ylim=(min(ends) - 0.02, max(ends) + 0.02))
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_xticks([], minor=True)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        axes.set_title(f"{title} (higher is better)", loc="left", fontsize=10.5, color=MUTED)
        axes.set_xlabel("labelled training images of each class")
        axes.plot(counts, baseline, color=INK, linewidth=1.2, linestyle=DASHES[1], zorder=2)

    names = ", ".join(line.label for line in lines)
    what = f"{title} against labels a class, a line each for {names} and {beside}"
    return named_lines(what, lines, (baseline[-1], beside), scale)


def _lines(columns: Sequence[Column], counts: Sequence[int], summary: dict[str, Any]) -> "list[Line]":
    names, number = labels(summary["models"]), series(summary)
    return [
        Line(
            label=names[name],
            series=number[name],
            bound=False,
            budgets=tuple(map(float, counts)),
            values=tuple(model["mean"][column.key] for column in columns),
            ends=tuple(_ends(column, model) for column in columns),
        )
        for name, model in summary["models"].items()
        if all(model["mean"].get(column.key) is not None for column in columns)
    ]


def _ends(column: Column, model: Mapping[str, Any]) -> Sequence[float]:
    found = model["interval"].get(column.key) or [model["mean"][column.key]] * 2
    return column.within_limits(found)


def count_of(column: Column) -> int:
    """How many labels a class a column is about."""
    return int(column.path.split(".")[1])
