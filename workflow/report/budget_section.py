"""The page's section on training budgets: charts, a table of the same numbers, and what they say in words."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from workflow.evaluation.columns import COST, GENERATION, UNDERSTANDING, Column, named
from workflow.evaluation.comparison import Measurement, orders
from workflow.evaluation.measurements import Measurements
from workflow.report.budgets import SAME, Curves, Square, curves_of, series, squares
from workflow.report.charts import DASHES
from workflow.report.marks import colour, point
from workflow.report.svg import INK, MUTED, Chart, chart, log_ticks
from workflow.report.tables import Row, Table, cell
from workflow.report.trade_off import CROWD, FULL, WIDE, Ends, within_reach

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUALITY, BITS = GENERATION[0], UNDERSTANDING[0]
GFLOPS = next(column for column in COST if column.key == "training_gflops")
LETTER = 5.8  # average width in points
SHIFT = 2.0  # between two curves, in points
LINE = 13.0  # between two labels, in points
TICKED = 6  # budgets, at most, that have a tick each
FLOOR = "real images"


@dataclass(frozen=True)
class Line:
    """One curve of a chart.

    Args:
        label: what its models have in common.
        series: number of its colour and marker.
        bound: whether its values are upper bounds.
        budgets: training GFLOPs of each model, ascending.
        values: the number of each, a mean over seeds.
        ends: its interval.

    """

    label: str
    series: int
    bound: bool
    budgets: tuple[float, ...]
    values: tuple[float, ...]
    ends: tuple[Ends, ...]


@dataclass(frozen=True)
class Budgets:
    """What the section shows.

    Args:
        charts: FID, and bits/dim if some model has a density.
        says: what the numbers say, a text for each chart.
        table: the numbers.
        bounds: whether some of them are upper bounds.
        crowded: whether the charts need the whole width of the page.

    """

    charts: tuple[Chart, ...]
    says: tuple[str, ...]
    table: Table
    bounds: bool
    crowded: bool


def budgets(summary: dict[str, Any], found: Measurements) -> Budgets | None:
    """The section; None if no two models differ in nothing but how long they train."""
    if not curves_of(summary):
        return None
    drawn = {column: lines(column, summary) for column in named((QUALITY, BITS), summary)}
    drawn = {column: curves for column, curves in drawn.items() if curves}
    floors = {QUALITY.key: summary["reference"]["real"]["fid"]}
    return Budgets(
        charts=tuple(
            quality_against_budget(column, curves, floors.get(column.key)) for column, curves in drawn.items()
        ),
        says=tuple(in_words(column, summary, found[column.key]) for column in drawn),
        table=_table(summary, tuple(drawn)),
        bounds=any(line.bound for curves in drawn.values() for line in curves),
        crowded=len(curves_of(summary)) > CROWD,
    )


def lines(column: Column, summary: dict[str, Any]) -> list[Line]:
    """The curves of those whose models have a value in a column."""
    models, number = summary["models"], series(summary)
    curves = []
    for label, names in curves_of(summary).items():
        own = [models[name] for name in names]
        values = [model["mean"][column.key] for model in own]
        if None not in values:
            curves.append(
                Line(
                    label=label,
                    series=number[names[0]],
                    bound=bool(column.within) and own[0][column.within] == "upper bound",
                    budgets=tuple(model["mean"][GFLOPS.key] for model in own),
                    values=tuple(values),
                    ends=tuple(
                        model["interval"][column.key] or (value, value)
                        for model, value in zip(own, values, strict=True)
                    ),
                )
            )
    return curves


def in_words(column: Column, summary: dict[str, Any], measured: dict[str, Measurement]) -> str:
    """Along how many curves a number falls or rises, and how many pairs of curves the budget reverses."""
    curves = {label: names for label, names in curves_of(summary).items() if set(names) <= set(measured)}
    kinds = [summary["models"][names[0]]["kind"] for names in curves.values()]
    what = "families" if len(set(kinds)) == len(kinds) else "configurations"
    compared = [square for labels, square in squares(summary).items() if set(labels) <= set(curves)]
    order = ""
    if compared:
        order = _kept(column, compared, measured, what)
    elif len(curves) > 1:
        order = f" No two {what} have two budgets in common, so their order is not compared."
    return _change(column, curves, measured, what) + order


def _change(column: Column, curves: Curves, measured: dict[str, Measurement], what: str) -> str:
    """Along how many curves the number falls. Whether a bound does is no question about what it bounds."""
    plain = {name: replace(one, kind=None) for name, one in measured.items()}
    changes = orders([(plain[names[-1]], plain[names[0]]) for names in curves.values()], column.counted)
    falls, rises, undecided = (changes.count(order) for order in (-1, 1, 0))
    bounds = any(measured[names[0]].kind == "upper bound" for names in curves.values())
    return (
        f"From the smallest budget to the largest, {column.title}{' or its bound' if bounds else ''} falls in "
        f"{falls or 'none'} of {len(curves)} {what} and rises in {rises or 'none'}"
        f"{f'; in {undecided}, the difference may be due to chance' if undecided else ''}."
    )


def _kept(column: Column, compared: list[Square], measured: dict[str, Measurement], what: str) -> str:
    """How many pairs of curves are in the same order at the smallest and the largest budget that both have."""
    ends = [pair for square in compared for pair in (square.small, square.large)]
    found = orders([(measured[a], measured[b]) for a, b in ends], column.counted)
    both = [small * large for small, large in zip(found[::2], found[1::2], strict=True)]
    keep, reverse, undecided = (both.count(sign) for sign in (1, -1, 0))
    pairs = f"{len(both)} pair{'s' * (len(both) > 1)} of {what}"
    kept = f"{keep or 'none'} keep{'s its' if keep == 1 else ' their'} order"
    reversed_ = f"{reverse or 'none'} reverse{'s' * (reverse == 1)} it"
    unknown = f"{undecided or 'none'} {'is' if undecided == 1 else 'are'} undecided"
    return (
        f" Of {pairs}, {kept} from the smallest to the largest budget that both have, {reversed_}, and {unknown} at "
        "one of these budgets or at both."
    )


def _table(summary: dict[str, Any], columns: tuple[Column, ...]) -> Table:
    """A group of rows for each curve."""
    number, baseline = series(summary), summary["reference"]["histogram_model"]["bits_per_dim"]
    columns = (GFLOPS, *columns)
    groups = [
        (label, tuple(Row(n, number[n], tuple(cell(c, n, summary, (), baseline) for c in columns)) for n in names))
        for label, names in curves_of(summary).items()
    ]
    return Table(columns, tuple(groups))


def quality_against_budget(column: Column, curves: Sequence[Line], floor: float | None) -> Chart:
    """The lines over a logarithmic axis of budgets; floor: of a distance, whose axis is then logarithmic too."""
    what = f"{column.title} against {GFLOPS.title}, a line each for {', '.join(line.label for line in curves)}"
    logarithmic = floor is not None and min(floor, *(value for line in curves for value in line.values)) > 0
    if logarithmic:
        curves = [_within_reach(line) for line in curves]
    what = what if floor is None else f"{what}, with the floor of {FLOOR}"
    beside = None if floor is None else (floor, FLOOR)

    def scale(axes: "Axes") -> None:
        heights = [end for line in curves for ends in line.ends for end in ends]
        _scale(axes, [x for line in curves for x in line.budgets], [*heights, floor or heights[0]], logarithmic)
        axes.set_title(f"{column.title} ({column.better} is better)", loc="left", fontsize=10.5, color=MUTED)
        axes.set_xlabel(f"{GFLOPS.title} (counted)")
        if floor is not None:
            axes.axhline(floor, color=INK, linewidth=0.9, linestyle=DASHES[1], zorder=1)

    return named_lines(what, curves, beside, scale)


def named_lines(
    label: str, curves: Sequence[Line], beside: tuple[float, str] | None, scale: Callable[["Axes"], None]
) -> Chart:
    """Lines with their names to the right of the axes.

    Args:
        label: what the chart shows.
        curves: the lines.
        beside: of one more line, which `scale` draws: where it ends and its name.
        scale: sets limits, ticks and titles of the axes.

    """
    size = FULL if len(curves) > CROWD else WIDE
    names = [*(line.label for line in curves), *([beside[1]] if beside else [])]
    letters = min(max(map(len, names)), int(0.36 * size[0] / LETTER))

    def paint(axes: "Axes") -> None:
        box = axes.get_position()
        axes.set_position((box.x0, box.y0, box.width - (letters * LETTER + 24) / size[0], box.height))
        scale(axes)
        for place, line in enumerate(curves):
            _draw(axes, line, SHIFT * (place - (len(curves) - 1) / 2))
        _write_labels(axes, curves, beside, letters)

    return chart(label, size, paint)


def _within_reach(line: Line) -> Line:
    return replace(line, ends=tuple(within_reach(e, value) for e, value in zip(line.ends, line.values, strict=True)))


def _scale(axes: "Axes", across: Sequence[float], up: Sequence[float], logarithmic: bool) -> None:
    """Limits and ticks of the axes, with room for markers around all values."""
    axes.set(xscale="log", xlim=(min(across) / 1.15, max(across) * 1.15))
    if logarithmic:
        axes.set(yscale="log", ylim=(min(up) / 1.15, max(up) * 1.15))
    else:
        margin = 0.06 * (max(up) - min(up)) or 0.1 * abs(max(up)) or 1.0
        axes.set_ylim(min(up) - margin, max(up) + margin)
    for axis in (axes.xaxis, axes.yaxis) if logarithmic else (axes.xaxis,):
        low, high = axis.get_view_interval()
        log_ticks(axis, fine=high < 300 * low)
    if len(ticks := _budgets(across)) <= TICKED:
        axes.set_xticks(ticks)


def _budgets(across: Sequence[float]) -> list[float]:
    """The budgets that were asked for: one for all that count as the same, since whole steps miss them by a little."""
    groups: list[list[float]] = []
    for budget in sorted(across):
        if groups and budget < SAME * groups[-1][0]:
            groups[-1].append(budget)
        else:
            groups.append([budget])
    return [float(f"{statistics.median(group):.2g}") for group in groups]


def _draw(axes: "Axes", line: Line, shift: float) -> None:
    """A line with its points and their intervals; shift: to the right, in points, as intervals at a budget overlap."""
    from matplotlib.transforms import ScaledTranslation

    moved = axes.transData + ScaledTranslation(shift / 72, 0, axes.figure.dpi_scale_trans)
    ink: Any = {"color": colour(line.series), "transform": moved}
    axes.plot(line.budgets, line.values, linestyle=DASHES[1] if line.bound else DASHES[0], zorder=3, **ink)
    for budget, value, ends in zip(line.budgets, line.values, line.ends, strict=True):
        axes.plot((budget, budget), ends, linewidth=1.2, zorder=3, **ink)
        axes.plot(budget, value, zorder=4, **ink | point(line.series, 6.5))


def _write_labels(axes: "Axes", curves: Sequence[Line], beside: tuple[float, str] | None, letters: int) -> None:
    """The name of each curve, of so many letters at the most, beside its end: right of the axes it covers nothing."""
    from matplotlib.transforms import IdentityTransform

    frame = axes.bbox
    names: list[tuple[float, str, Line | None]] = [(line.values[-1], line.label, line) for line in curves]
    names = sorted(names + ([(*beside, None)] if beside else []), key=lambda name: name[0])
    heights = [float(axes.transData.transform((curves[0].budgets[0], value))[1]) for value, _, _ in names]
    for y, (_, label, line) in zip(apart(heights, LINE, frame.y0, frame.y1), names, strict=True):
        text = label if len(label) <= letters else f"{label[: letters - 1]}…"
        ink = INK if line else MUTED
        axes.annotate(text, (frame.x1 + 18, y), xycoords="figure pixels", va="center_baseline", color=ink)
        if line:
            mark: Any = {"transform": IdentityTransform(), "clip_on": False}
            axes.plot(frame.x1 + 10, y, **mark, **point(line.series, 6.5))


def apart(heights: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Ascending heights, moved until each is at least `least` above the one before and all are between low and high."""
    least = min(least, (high - low) / max(1, len(heights) - 1))
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, low, moved[-1] + least if moved else low))
    for place in reversed(range(len(moved))):
        top = high if place == len(moved) - 1 else moved[place + 1] - least
        moved[place] = min(moved[place], top)
    return moved
