"""Quality against what it costs to draw an image, as a chart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workflow.evaluation.columns import COST, GENERATION, Column, named
from workflow.report.budgets import series
from workflow.report.marks import colour, point
from workflow.report.svg import INK, MUTED, Chart, Size, chart, log_ticks
from workflow.report.tables import labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float]  # left, bottom, right, top
Ends = Sequence[float]  # low and high
WIDE: Size = (470.0, 300.0)
FULL: Size = (960.0, 420.0)
CROWD = 10  # models, at the most, before charts need the whole width of the page


@dataclass(frozen=True)
class Point:
    """One model in the chart; x_ends, y_ends: the interval over the seeds."""

    label: str
    series: int
    x: float
    y: float
    x_ends: Ends
    y_ends: Ends


def qualities(summary: dict[str, Any]) -> dict[str, Chart]:
    """FID of each model against each cost that has a better direction, by the names of the charts."""
    drawn = {f"quality-{column.key}": quality_against(column, summary) for column in COST if column.better}
    return {name: chart for name, chart in drawn.items() if chart}


def quality_against(column: Column, summary: dict[str, Any]) -> Chart | None:
    """FID of each model against a column, with the floor of real images; None if no model has a value there."""
    models, names = summary["models"], labels(summary["models"])
    number, crowded, points = series(summary), len(models) > CROWD, []
    for name, model in models.items():
        means, ends = model["mean"], model["interval"]
        if cost := means[column.key]:
            quality, label = means["fid"], name if crowded else names[name]
            across, up = (within_reach(ends[key], means[key]) for key in (column.key, "fid"))
            points.append(Point(label, number[name], cost, quality, across, up))
    if not points:
        return None
    (fid,) = named(GENERATION[:1], summary)
    titles = (
        f"{column.title} ({'fewer is cheaper' if column.better == 'lower' else 'more is faster'})",
        f"{fid.title} (lower is better)",
    )
    what = f"{fid.title} of each model against its {column.title}, with the floor of real images"
    return quality_against_cost(what, points, summary["reference"]["real"]["fid"], titles, crowded)


def within_reach(ends: Ends | None, value: float) -> Ends:
    """The ends of an interval on a logarithmic axis, where 0 is infinitely far: cut off a decade below the value."""
    low, high = ends or (value, value)
    return (max(low, value / 10), high) if value > 0 else (low, high)


def quality_against_cost(
    label: str, points: Sequence[Point], floor: float, titles: tuple[str, str], crowded: bool
) -> Chart:
    """Labelled points. The horizontal axis is logarithmic, the vertical one too if all its values are positive.

    Args:
        label: what the chart shows.
        points: the models.
        floor: quality of real images, a dashed line.
        titles: of the horizontal and the vertical axis.
        crowded: the chart takes the whole width of the page, for more labels than fit into half of it.

    """

    def paint(axes: "Axes") -> None:
        heights = [*(y for p in points for y in p.y_ends), floor]
        axes.set(xscale="log", xlabel=titles[0], xlim=_room([x for p in points for x in p.x_ends], 0.16))
        if min(heights) > 0:
            axes.set(yscale="log", ylim=_room(heights, 0.12))
        axes.set_title(titles[1], loc="left", fontsize=10.5, color=MUTED)
        for axis in (axes.xaxis, axes.yaxis) if min(heights) > 0 else (axes.xaxis,):
            low, high = axis.get_view_interval()
            log_ticks(axis, fine=high < 300 * low)
        axes.axhline(floor, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
        for p in points:
            axes.plot(p.x_ends, (p.y, p.y), color=colour(p.series))
            axes.plot((p.x, p.x), p.y_ends, color=colour(p.series))
            axes.plot(p.x, p.y, **point(p.series, 7.5))
        _write_labels(axes, points, floor)

    return chart(label, FULL if crowded else WIDE, paint)


def _room(values: Sequence[float], share: float) -> tuple[float, float]:
    """Limits of a logarithmic axis: the values and a margin, `share` of their span but at least a quarter decade."""
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = max(share * (high - low), 0.25)
    return float(10 ** (low - margin)), float(10 ** (high + margin))


def _write_labels(axes: "Axes", points: Sequence[Point], floor: float) -> None:
    """Write each label on the side of its point, and the floor's at the end of its line, where it covers least."""
    frame = axes.bbox
    line = float(axes.transData.transform((points[0].x, floor))[1])
    centres = [tuple(axes.transData.transform((p.x, p.y))) for p in points]
    ends = [tuple(axes.transData.transform(list(zip(p.x_ends, p.y_ends, strict=True))).flat) for p in points]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in centres]
    for (x, y), (left, bottom, right, top) in zip(centres, ends, strict=True):
        taken += [(left, y - 1, right, y + 1), (x - 1, bottom, x + 1, top)]
    about_line = [(x0, line, x0 + 90, line + 14) for x0 in (frame.x0, frame.x1 - 90)]
    box = min(about_line, key=lambda b: sum(_overlap(b, t) for t in taken))
    axes.annotate("real images", (box[0] + 3, line + 3), xycoords="figure pixels", color=MUTED, fontsize=9.5, zorder=4)
    taken += [box, (frame.x0, line - 1, frame.x1, line + 1)]
    for p, (x, y), (left, bottom, right, top) in zip(points, centres, ends, strict=True):
        width = 5.8 * len(p.label)
        sides = [(max(x + 9, right + 4), y - 6), (min(x - 9, left - 4) - width, y - 6)]
        sides += [(x - width / 2, max(y + 8, top + 3)), (x - width / 2, min(y - 20, bottom - 15))]
        sides += [(x0, y0) for x0 in (x + 7, x - 7 - width) for y0 in (y + 5, y - 17)]
        sides += [(x - width / 4, max(y + 8, top + 3)), (x - width / 4, min(y - 20, bottom - 15))]
        boxes = [(x0, y0, x0 + width, y0 + 12) for x0, y0 in sides]
        box = min(boxes, key=lambda b: sum(_overlap(b, t) for t in taken) + _outside(b, frame.extents))
        taken.append(box)
        axes.annotate(p.label, box[:2], xycoords="figure pixels", va="bottom", zorder=6)


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: Box, frame: Sequence[float]) -> float:
    return 10 * sum(
        max(0.0, low) for low in (frame[0] - box[0], frame[1] - box[1], box[2] - frame[2], box[3] - frame[3])
    )
