"""The charts, as SVG that stands in the page and takes its colours and its font from the page's style sheet.

matplotlib draws with placeholder colours; `_svg` turns them into CSS variables, so one chart fits light and dark.
"""

import io
import math
import re
import statistics
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from workflow.evaluation.columns import significant
from workflow.report.seeds import intervals

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float]  # left, bottom, right, top
Ends = Sequence[float]  # low and high
INK, MUTED, RULE, PAPER = "#010101", "#020202", "#030303", "#050505"
COLOURS = 6  # --series-0 .. --series-5 in style.css; further models take them again, with another marker
MARKERS = "osD^vP"
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))
MANY = 60  # classes that can still be told apart in a histogram
SMALL, WIDE, FULL = (300.0, 180.0), (470.0, 300.0), (960.0, 420.0)  # points; a chart is scaled to the page
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bakeoff",
    "text.parse_math": False,
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.edgecolor": RULE,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "legend.facecolor": PAPER,
    "legend.edgecolor": "none",
    "legend.framealpha": 1,
    "legend.fancybox": False,
    "legend.borderpad": 0.3,
    "legend.fontsize": 10,
    "legend.handlelength": 1.8,
    "legend.borderaxespad": 0.1,
    "legend.labelspacing": 0.25,
}


@dataclass(frozen=True)
class Curve:
    """One line of a learning curve."""

    label: str
    steps: list[float]
    values: list[float]


@dataclass(frozen=True)
class Point:
    """One model in the chart of quality against cost; x_ends, y_ends: of its interval over the seeds."""

    label: str
    series: int
    x: float
    y: float
    x_ends: Ends
    y_ends: Ends


@dataclass(frozen=True)
class Tried:
    """One trial in the chart of a sweep: what it has of what is varied, and its loss with each seed."""

    value: Any
    losses: Sequence[float]
    best: bool


def colour(series: int) -> str:
    """The placeholder of a model's colour."""
    return f"#0400{series % COLOURS:02x}"


def learning_curve(
    label: str, seeds: Sequence[Sequence[Curve]], series: int, selected: Sequence[float] = (), share: bool = False
) -> Markup:
    """Curves over steps, the same ones for each seed; seeds after the first are faint.

    selected: the step of each seed's checkpoint, a dot on the seed's last curve. share: the values are shares of 1,
    and a line marks one half.
    """

    def paint(axes: "Axes") -> None:
        for n, curves in enumerate(seeds):
            for curve, dashes in zip(curves, reversed(DASHES[: len(curves)]), strict=False):
                name, alpha = (curve.label, 1.0) if n == 0 else (None, 0.3)
                axes.plot(curve.steps, curve.values, color=colour(series), linestyle=dashes, alpha=alpha, label=name)
        for curves, step in zip(seeds, selected, strict=False):
            found = dict(zip(curves[-1].steps, curves[-1].values, strict=True)).get(step)
            if found is not None:
                axes.plot([step], [found], "o", markersize=5.5, color=INK, zorder=5)
        axes.set_xlim(left=0)
        axes.grid(visible=False, axis="x")
        if share:
            axes.axhline(0.5, color=INK, linewidth=0.9, zorder=1)
            axes.set(ylim=(0, 1.02), yticks=(0, 0.25, 0.5, 0.75, 1), yticklabels=("0", "25 %", "50 %", "75 %", "100 %"))
        else:
            axes.set_ylim(*_settled([curve for curves in seeds for curve in curves]))
        axes.legend(loc="lower right" if share else "upper right")

    return _chart(label, SMALL, paint)


def _settled(curves: Sequence[Curve]) -> tuple[float, float]:
    """Limits that hold every value after a twentieth of the steps: the first losses would dwarf all later ones."""
    start = max(curve.steps[-1] for curve in curves) / 20
    values = [value for curve in curves for step, value in zip(curve.steps, curve.values, strict=True) if step >= start]
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def class_shares(
    label: str,
    samples: Sequence[Sequence[float]],
    test: Sequence[float],
    classes: Sequence[str],
    series: int,
    top: float,
) -> Markup:
    """A bar a class for the mean of the samples' shares, with a line across it where the test images stand.

    samples: a row a seed; of several, each bar has a whisker for the interval of the mean. top: end of the axis.
    """

    def paint(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        places = list(range(len(test)))
        if len(places) <= MANY:
            axes.bar(places, _means(samples), width=0.7, color=colour(series))
            if len(samples) > 1:
                low, high = intervals(list(zip(*samples, strict=True))).T
                axes.vlines(places, low, high, color=PAPER, linewidth=2.7)  # a rim that parts it from the bar
                axes.vlines(places, low, high, color=INK, linewidth=1.3)
            axes.hlines(test, [x - 0.45 for x in places], [x + 0.45 for x in places], color=INK, linewidth=1.8)
        else:  # too many to tell apart: from the most to the least frequent, which shows what is missing at the end
            ranked = [sorted(shares, reverse=True) for shares in samples]
            axes.fill_between(places, _means(ranked), color=colour(series), linewidth=0)
            axes.plot(places, sorted(test, reverse=True), color=INK, linewidth=1.2)
            if len(samples) > 1:
                low, high = intervals(list(zip(*ranked, strict=True))).T
                axes.fill_between(places, low, high, color=INK, alpha=0.4, linewidth=0)
        axes.grid(visible=False, axis="x")
        axes.set(xlim=(-0.6, len(test) - 0.4), ylim=(0, top))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        fit = (SMALL[0] - 50) / len(classes) / 5.5  # characters of room under a bar
        names = [name if len(name) <= fit else name[: int(fit) - 1] + "…" for name in classes]
        axes.set_xticks(places if fit >= 2 else [], names if fit >= 2 else [])

    return _chart(label, SMALL, paint)


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.fmean(column) for column in zip(*rows, strict=True)]


def odd_inputs(label: str, bits: dict[str, Sequence[float]], series: int) -> Markup:
    """Histograms of bits/dim, one below the other on a common axis, the first one in the model's colour."""

    def paint(axes: "Axes") -> None:
        import numpy as np
        from matplotlib.ticker import LogLocator, NullLocator

        values = [np.asarray(found) for found in bits.values()]
        low, high = min(v.min() for v in values), max(v.max() for v in values)
        low, high = max(low, 1e-3) / 1.05, high * 1.05
        edges = np.geomspace(low, high, 61)
        for row, found in enumerate(values):
            counts, _ = np.histogram(found.clip(low, high), edges)
            base = len(values) - 1 - row
            top = base + 0.85 * counts / counts.max()
            paint_colour = colour(series) if row == 0 else MUTED
            axes.fill_between(edges[:-1], base, top, step="post", color=paint_colour, alpha=0.85, linewidth=0)
        axes.set(xscale="log", xlim=(low, high), ylim=(-0.05, len(values)))
        axes.set_yticks([len(values) - 0.75 - row for row in range(len(values))], list(bits))
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: significant(value))

    return _chart(label, SMALL, paint, left=104)


def quality_against_cost(
    label: str, points: Sequence[Point], floor: float, titles: tuple[str, str], crowded: bool
) -> Markup:
    """Labelled points, the horizontal axis logarithmic, the vertical one too if all is positive; floor: a line.

    titles: of both axes. crowded: the chart has the whole width of the page, for more labels than half of it holds.
    """

    def paint(axes: "Axes") -> None:
        from matplotlib.ticker import LogLocator, NullLocator

        heights = [*(y for p in points for y in p.y_ends), floor]
        axes.set(xscale="log", xlabel=titles[0], xlim=_room([x for p in points for x in p.x_ends], 0.16))
        if min(heights) > 0:
            axes.set(yscale="log", ylim=_room(heights, 0.12))
        axes.set_title(titles[1], loc="left", fontsize=10.5, color=MUTED)
        for axis in (axes.xaxis, axes.yaxis) if min(heights) > 0 else (axes.xaxis,):
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(lambda value, _: significant(value))
        axes.axhline(floor, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
        for p in points:
            marker = MARKERS[p.series // COLOURS % len(MARKERS)]
            axes.plot(p.x_ends, (p.y, p.y), color=colour(p.series))
            axes.plot((p.x, p.x), p.y_ends, color=colour(p.series))
            axes.plot(p.x, p.y, marker, markersize=7.5, color=colour(p.series))
        _write_labels(axes, points, floor)

    return _chart(label, FULL if crowded else WIDE, paint)


def trials_over(label: str, trials: Sequence[Tried], series: int) -> Markup:
    """The mean loss of each trial over its value, with a line from its least to its greatest; the best in ink.

    Numbers stand on an axis, logarithmic if they span more than a decade; anything else stands side by side.
    """
    values = [trial.value for trial in trials]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    names = [] if numbers else sorted({str(value) for value in values})

    def paint(axes: "Axes") -> None:
        from matplotlib.ticker import LogLocator, NullLocator

        for trial in sorted(trials, key=lambda trial: trial.best):
            place = float(trial.value) if numbers else names.index(str(trial.value))
            ink, size = (INK, 8.0) if trial.best else (colour(series), 5.5)
            axes.plot((place, place), (min(trial.losses), max(trial.losses)), color=ink, zorder=4)
            axes.plot(place, statistics.fmean(trial.losses), "o", markersize=size, color=ink, zorder=4 + trial.best)
        axes.margins(x=0.1, y=0.1)
        if not numbers:
            axes.set_xticks(range(len(names)), names)
        elif min(values) > 0 and max(values) > 10 * min(values):
            axes.set(xscale="log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(values) < 100 * min(values) else (1,)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(lambda value, _: significant(value))

    return _chart(label, SMALL, paint)


def _room(values: Sequence[float], share: float) -> tuple[float, float]:
    """Limits of a logarithmic axis: the values, and `share` of their span on both sides, at least half a decade."""
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = max(share * (high - low), 0.25)
    return float(10 ** (low - margin)), float(10 ** (high + margin))


def _write_labels(axes: "Axes", points: Sequence[Point], floor: float) -> None:
    """Write each point's label at the side where it covers least, and the floor's at such an end of its line."""
    frame = axes.bbox
    line = float(axes.transData.transform((points[0].x, floor))[1])
    centres = [tuple(axes.transData.transform((p.x, p.y))) for p in points]
    ends = [tuple(axes.transData.transform(list(zip(p.x_ends, p.y_ends, strict=True))).flat) for p in points]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in centres]
    for (x, y), (left, bottom, right, top) in zip(centres, ends, strict=True):
        taken += [(left, y - 1, right, y + 1), (x - 1, bottom, x + 1, top)]
    about_line = [(x0, line, x0 + 90, line + 14) for x0 in (frame.x0, frame.x1 - 90)]
    box = min(about_line, key=lambda b: sum(_overlap(b, t) for t in taken))
    axes.annotate(
        "real against real", (box[0] + 3, line + 3), xycoords="figure pixels", color=MUTED, fontsize=9.5, zorder=4
    )
    taken += [box, (frame.x0, line - 1, frame.x1, line + 1)]
    for p, (x, y), (left, bottom, right, top) in zip(points, centres, ends, strict=True):
        width = 5.8 * len(p.label)
        sides = [(max(x + 9, right + 4), y - 6), (min(x - 9, left - 4) - width, y - 6)]
        sides += [(x - width / 2, max(y + 8, top + 3)), (x - width / 2, min(y - 20, bottom - 15))]
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


def _chart(label: str, size: tuple[float, float], paint: Callable[["Axes"], None], left: float = 44) -> Markup:
    """A chart of `size` points that `paint` draws into; label: what it shows, for those who cannot see it.

    left: room for the numbers or names beside the vertical axis.
    """
    import matplotlib
    from matplotlib.figure import Figure

    width, height = size
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # whatever the user's own matplotlibrc says
        matplotlib.rcParams.update(STYLE)
        warnings.filterwarnings("ignore", "Glyph .* missing")  # matplotlib only measures: the browser has the glyph
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        right, bottom, top = 8, 22 if size == SMALL else 38, 8 if size == SMALL else 24
        box = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
        paint(figure.add_axes(box))
        file = io.StringIO()
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    return _for_the_page(file.getvalue(), label)


def _for_the_page(svg: str, label: str) -> Markup:
    """matplotlib's file as an element of the page: no prologue, own ids, the page's font and colours."""
    svg = svg[svg.index("<svg") :]
    view = re.search(r'viewBox="([\d. ]+)"', svg)
    assert view  # matplotlib always writes one
    body = svg[svg.index(">") + 1 :]
    body = re.sub(r"<(metadata|style)[ >].*?</\1>", "", body, flags=re.DOTALL)
    prefix = f"c{zlib.crc32((label + svg).encode()):08x}-"  # ids must be unique in a page, matplotlib's are in a file
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r'\bid="', f'id="{prefix}', body)
    body = re.sub(r'xlink:href="#', f'href="#{prefix}', body).replace("url(#", f"url(#{prefix}")
    body = re.sub(r"font-family: [^;]*; ", "", body)
    for placeholder, variable in (
        (INK, "currentColor"),
        (MUTED, "var(--muted)"),
        (RULE, "var(--rule)"),
        (PAPER, "var(--paper)"),
    ):
        body = body.replace(placeholder, variable)
    body = re.sub("#0400([0-9a-f]{2})", lambda found: f"var(--series-{int(found[1], 16)})", body)
    return Markup(f'<svg class="chart" viewBox="{view[1]}" role="img" aria-label="{escape(label)}">{body}')
