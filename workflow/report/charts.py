"""The small charts of the page: learning curves, class histograms, histograms of bits/dim, trials of a sweep."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workflow.report.marks import PAPER, colour
from workflow.report.seeds import interval
from workflow.report.svg import INK, MUTED, SMALL, Chart, chart, legend_above, log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))
MANY = 60  # classes that can still be told apart in a histogram


@dataclass(frozen=True)
class Curve:
    """One line of a learning curve."""

    label: str
    steps: list[float]
    values: list[float]


@dataclass(frozen=True)
class Tried:
    """One trial in the chart of a sweep: its value of what is varied, and its loss with each seed."""

    value: Any
    losses: Sequence[float]
    best: bool


def learning_curve(
    label: str,
    seeds: Sequence[Sequence[Curve]],
    series: int,
    up: str,
    selected: Sequence[float] = (),
    share: bool = False,
) -> Chart:
    """Curves over training steps.

    Args:
        label: what the chart shows.
        seeds: the curves of each seed, the same ones for each; those of seeds after the first are faint.
        series: number of the model's colour.
        up: title of the vertical axis.
        selected: the step of each seed's checkpoint, marked by a dot on the seed's last curve.
        share: the values are shares of 1; a line marks one half.

    """

    def paint(axes: "Axes") -> None:
        for n, curves in enumerate(seeds):
            for place, (curve, dashes) in enumerate(zip(curves, reversed(DASHES[: len(curves)]), strict=False)):
                ink = colour(series) if len(curves) == place + 1 else INK  # several lines also differ in colour
                name, alpha = (curve.label, 1.0) if n == 0 else (None, 0.3)
                smooth = _smooth(curve.values)
                if smooth != curve.values and n == 0:
                    axes.plot(curve.steps, curve.values, color=ink, alpha=0.22, linewidth=0.8)
                axes.plot(curve.steps, smooth, color=ink, linestyle=dashes, alpha=alpha, label=name)
        for curves, step in zip(seeds, selected, strict=False):
            found = dict(zip(curves[-1].steps, curves[-1].values, strict=True)).get(step)
            if found is not None:
                axes.plot([step], [found], "o", markersize=5.5, color=INK, zorder=5)
        axes.set_xlim(left=0)
        axes.set(xlabel="training step", ylabel=up)
        axes.grid(visible=False, axis="x")
        if share:
            axes.axhline(0.5, color=INK, linewidth=0.9, zorder=1)
            axes.set(ylim=(0, 1.02), yticks=(0, 0.25, 0.5, 0.75, 1), yticklabels=("0", "25 %", "50 %", "75 %", "100 %"))
        else:
            axes.set_ylim(*_settled([curve for curves in seeds for curve in curves]))
        legend_above(axes)

    return chart(label, SMALL, paint)


def _smooth(values: list[float]) -> list[float]:
    """A centred moving mean over a fortieth of the values if there are too many to see their course."""
    half = len(values) // 80
    if half < 1:
        return values
    windows = (values[max(0, place - half) : place + half + 1] for place in range(len(values)))
    return [statistics.fmean(window) for window in windows]


def _settled(curves: Sequence[Curve]) -> tuple[float, float]:
    """Limits that contain every value after 5 % of the steps: the first losses would dwarf all later ones."""
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
) -> Chart:
    """A bar per class for the mean share of the samples, with a line across it at the share of the test images.

    Args:
        label: what the chart shows.
        samples: shares of the samples, a row per seed; with several seeds, whiskers show the interval of the mean.
        test: shares of the test images.
        classes: names of the classes.
        series: number of the model's colour.
        top: end of the vertical axis.

    """

    def paint(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        if len(test) <= MANY:
            _bars(axes, samples, test, colour(series))
        else:
            _ranked(axes, samples, test, colour(series))
        axes.grid(visible=False, axis="x")
        axes.set(xlim=(-0.6, len(test) - 0.4), ylim=(0, top))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        fit = (SMALL[0] - 50) / len(classes) / 5.5  # characters that fit under a bar
        axes.set(xlabel="class" if len(test) <= MANY else "class, by its share", ylabel="share of the samples")
        names = [name if len(name) <= fit else name[: int(fit) - 1] + "…" for name in classes]
        axes.set_xticks(range(len(test)) if fit >= 2 else [], names if fit >= 2 else [])

    return chart(label, SMALL, paint, top=8)


def _bars(axes: "Axes", samples: Sequence[Sequence[float]], test: Sequence[float], fill: str) -> None:
    places = list(range(len(test)))
    axes.bar(places, _means(samples), width=0.7, color=fill)
    if len(samples) > 1:
        low, high = _ends(samples)
        axes.vlines(places, low, high, color=PAPER, linewidth=2.7)  # a rim that sets it off from the bar
        axes.vlines(places, low, high, color=INK, linewidth=1.3)
    axes.hlines(test, [x - 0.45 for x in places], [x + 0.45 for x in places], color=INK, linewidth=1.8)


def _ranked(axes: "Axes", samples: Sequence[Sequence[float]], test: Sequence[float], fill: str) -> None:
    """Too many classes to tell apart: from the most to the least frequent, so that missing ones show at the end."""
    places, ranked = list(range(len(test))), [sorted(shares, reverse=True) for shares in samples]
    axes.fill_between(places, _means(ranked), color=fill, linewidth=0)
    axes.plot(places, sorted(test, reverse=True), color=INK, linewidth=1.2)
    if len(samples) > 1:
        low, high = _ends(ranked)
        axes.fill_between(places, low, high, color=INK, alpha=0.4, linewidth=0)


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.fmean(column) for column in zip(*rows, strict=True)]


def _ends(rows: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Low and high ends of the intervals of the means of each column, no share below 0 or above 1."""
    found = [interval(column) or (column[0], column[0]) for column in zip(*rows, strict=True)]
    return [max(0.0, low) for low, _ in found], [min(1.0, high) for _, high in found]


def bits_histograms(label: str, bits: dict[str, Sequence[float]], series: int) -> Chart:
    """Histograms of bits/dim, one below the other on a common axis, the first one in the model's colour."""

    def paint(axes: "Axes") -> None:
        import numpy as np

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
        axes.set(xlabel="bits/dim", ylabel="images of each kind")
        log_ticks(axes.xaxis, fine=high < 100 * low)

    return chart(label, SMALL, paint, left=116, top=8)


def precision_recall(label: str, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], series: int) -> Chart:
    """Precision over recall, the first curve in the model's colour, the others for comparison.

    curves: recall and precision at the same places, by what they are of.
    """

    def paint(axes: "Axes") -> None:
        for place, (name, (recall, precision)) in enumerate(curves.items()):
            ink = colour(series) if place == 0 else INK
            axes.plot(recall, precision, color=ink, linestyle=DASHES[place], label=name)
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
        legend_above(axes)

    return chart(label, SMALL, paint)


def spectrum(label: str, lengths: dict[str, Sequence[float]], series: int) -> Chart:
    """Standard deviations along axes, from the longest to the shortest, the first ones in the model's colour."""

    def paint(axes: "Axes") -> None:
        for place, (name, values) in enumerate(lengths.items()):
            ink, dashes = (INK, DASHES[1]) if place else (colour(series), DASHES[0])
            axes.plot(range(1, len(values) + 1), values, color=ink, linestyle=dashes, label=name)
        shortest = min(value for values in lengths.values() for value in values if value > 0)
        axes.set(yscale="log", xlabel="axis, by its length", ylabel="standard deviation", xlim=(1, None))
        longest = max(max(values) for values in lengths.values())
        axes.set_ylim(shortest / 1.2, longest * 1.2)
        log_ticks(axes.yaxis, fine=longest < 100 * shortest)
        axes.grid(visible=False, axis="x")
        legend_above(axes)

    return chart(label, SMALL, paint)


def trials_over(label: str, trials: Sequence[Tried], series: int, titles: tuple[str, str]) -> Chart:
    """The mean loss of each trial against its value, with a line over the range of the seeds; the best one in ink.

    Numbers are on an axis, a logarithmic one if they span more than a decade; other values are categories.
    titles: of the horizontal and the vertical axis.
    """
    values = [trial.value for trial in trials]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    names = [] if numbers else sorted({str(value) for value in values})

    def paint(axes: "Axes") -> None:
        for trial in sorted(trials, key=lambda trial: trial.best):
            place = float(trial.value) if numbers else names.index(str(trial.value))
            ink, size = (INK, 8.0) if trial.best else (colour(series), 5.5)
            axes.plot((place, place), (min(trial.losses), max(trial.losses)), color=ink, zorder=4)
            axes.plot(place, statistics.fmean(trial.losses), "o", markersize=size, color=ink, zorder=4 + trial.best)
        axes.margins(x=0.1, y=0.1)
        axes.set(xlabel=titles[0], ylabel=titles[1])
        if not numbers:
            axes.set_xticks(range(len(names)), names)
        elif min(values) > 0 and max(values) > 10 * min(values):
            axes.set(xscale="log")
            log_ticks(axes.xaxis, fine=max(values) < 100 * min(values))

    return chart(label, SMALL, paint, top=8)
