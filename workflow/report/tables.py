"""The tables of results: the content of each cell, and which cells are marked as the best."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from workflow.evaluation.columns import DASH, GENERATION, UNDERSTANDING, Column, named
from workflow.models.taxonomy import BITS_MARKS, TAXONOMY, Taxonomy
from workflow.report.budgets import series

PLACES: dict[Taxonomy, str] = {
    "explicit tractable": "Explicit density, tractable",
    "explicit approximate": "Explicit density, approximate",
    "explicit Markov chain": "Explicit density, approximate by a Markov chain",
    "implicit": "Implicit density",
    "implicit Markov chain": "Implicit density, sampled by a Markov chain",
    "external": "Images made elsewhere",
}
SCALE = "Reference values"
ACROSS = 8  # columns, at the most, that fit beside one another with intervals over several seeds
NO_VERDICT: dict[str, Any] = {"best": ()}
DECODED = {"mode": "most likely image", "mean": "mean image"}  # of the decoder's distribution, in place of a draw


@dataclass(frozen=True)
class Cell:
    """A cell of a table. The value is followed by spread, interval, remark and doubt in small print.

    Args:
        text: the value.
        kind: of the value, in columns that have several.
        best: whether it is marked as the best.
        tied: whether others are marked as well, as they cannot be told apart.
        spread: over several seeds, "± 0.012".
        ends: of the interval: "1.770" and "1.800".
        remark: why the value is not ranked, or ranks low.
        number: the value itself, to sort by; None if there is none.

    """

    text: str
    kind: str = ""
    best: bool = False
    tied: bool = False
    spread: str = ""
    ends: tuple[str, str] | None = None
    remark: str = ""
    number: float | None = None

    @property
    def marked(self) -> str:
        """The value, and before it what sort of value it is if it is not exact: "≤ 1.860"."""
        return f"{BITS_MARKS.get(self.kind, '')}{self.text}"

    @property
    def small_print(self) -> str:
        """Everything below the value."""
        interval = f"[{self.ends[0]},\N{NO-BREAK SPACE}{self.ends[1]}]" if self.ends else ""
        return "; ".join(filter(None, (f"{self.spread} {interval}".strip(), self.remark, "tied" * self.tied)))


@dataclass(frozen=True)
class Row:
    """A row of a table; series: the number of the model's colour, None for reference values."""

    label: str
    series: int | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table of results; groups: headings and the rows under each."""

    columns: tuple[Column, ...]
    groups: tuple[tuple[str, tuple[Row, ...]], ...]


def parts(table: Table) -> list[Table]:
    """The same rows in tables that are narrow enough for the page, with an equal number of columns each."""
    count = math.ceil(len(table.columns) / ACROSS)
    size = math.ceil(len(table.columns) / count)
    return [_columns(table, slice(start, start + size)) for start in range(0, len(table.columns), size)]


def _columns(table: Table, chosen: slice) -> Table:
    groups = ((head, tuple(replace(row, cells=row.cells[chosen]) for row in rows)) for head, rows in table.groups)
    return Table(table.columns[chosen], tuple(groups))


@dataclass(frozen=True)
class Stability:
    """How far the seeds agree on the ranking of the comparable models in a column.

    Args:
        metric: title of the column, with the kind of the values.
        best: the best model by mean.
        agree: number of seeds under which it is the best.
        others: the best model under each other seed: "seed 1: VAE".
        swapped: number of pairs in which each of the two is ahead under some seed.
        pairs: number of pairs of models.
        adjacent: the swapped pairs that are adjacent in the ranking by mean; if any pair is swapped, some of these are.

    """

    metric: str
    best: str
    agree: int
    others: tuple[str, ...]
    swapped: int
    pairs: int
    adjacent: tuple[str, ...]


def labels(models: dict[str, Any]) -> dict[str, str]:
    """The name of each model in print: its title, followed by its name if several models share the title.

    The one whose name is its kind has just the title.
    """
    titles = Counter(model["title"] for model in models.values())
    return {
        name: model["title"] if titles[model["title"]] == 1 or name == model["kind"] else f"{model['title']} ({name})"
        for name, model in models.items()
    }


def model_groups(
    summary: dict[str, Any], columns: Sequence[Column], marked: bool = True, decoded: bool = False
) -> list[tuple[str, tuple[Row, ...]]]:
    """A group of rows for each place in the taxonomy that has a model.

    Args:
        summary: the results.
        columns: the columns of the table.
        marked: whether to mark the best values.
        decoded: whether to add rows for other images than draws, for the models that have them; these are not ranked.

    """
    models, names = summary["models"], labels(summary["models"])
    # Where all are tied, a mark at each would say nothing.
    judged = {key: one for key, one in summary["verdicts"].items() if marked and len(one["best"]) < one["compared"]}
    baseline = summary["reference"]["histogram_model"]["bits_per_dim"]
    rows: dict[Taxonomy, list[Row]] = {place: [] for place in TAXONOMY}
    number = series(summary)
    for name, model in models.items():
        cells = tuple(cell(c, name, summary, judged.get(c.key, NO_VERDICT)["best"], baseline) for c in columns)
        rows[model["taxonomy"]].append(Row(names[name], number[name], cells))
        for way, scores in model["decoded"].items() if decoded else ():
            cells = tuple(
                Cell(c.text(scores.get(c.key)), kind=DASH if c.within else "", number=scores.get(c.key))
                for c in columns
            )
            rows[model["taxonomy"]].append(Row(f"{names[name]}: {DECODED[way]}", number[name], cells))
    return [(PLACES[place], tuple(found)) for place, found in rows.items() if found]


def cell(column: Column, name: str, summary: dict[str, Any], best: Sequence[str], baseline: float) -> Cell:
    """A model's value in a column.

    Args:
        column: the column.
        name: the model's.
        summary: the results.
        best: names of the models that are marked as the best.
        baseline: bits/dim of independent pixels.

    """
    model = summary["models"][name]
    value = model["mean"].get(column.key)
    if value is None:
        return Cell(DASH, kind="none" if column.within else "")
    remarks = []
    if column.key == "bits_per_dim" and value >= baseline:
        remarks.append("no better than independent pixels")
    if not column.ranks(model):
        remarks.append("class-conditional, not ranked")
    return replace(
        over_seeds(column, model, column.key),
        kind=model[column.within] if column.within else "",
        best=name in best,
        tied=name in best and len(best) > 1,
        remark="; ".join(remarks),
    )


def over_seeds(column: Column, numbers: Mapping[str, Any], key: str) -> Cell:
    """A cell for one of the `numbers` of a model, with its spread over seeds and its interval where there are any."""
    deviation, found = numbers["std"][key], numbers["interval"].get(key)
    ends = column.within_limits(found) if found else None
    return Cell(
        column.text(numbers["mean"][key]),
        spread=f"± {column.bare(deviation)}" if deviation else "",
        ends=(column.bare(ends[0]), column.bare(ends[1])) if ends and ends[0] < ends[1] else None,
        number=numbers["mean"][key],
    )


def covers(summary: dict[str, Any]) -> str:
    """Which sources of chance the intervals cover, and which they do not, in words."""
    varied = summary["varied"]
    sources = {"training seed": varied["seeds"], "draw": varied["draws"], "extractor": varied["extractors"]}
    inside = [f"{count} {source}s" for source, count in sources.items() if count > 1]
    inside.append(f"the choice of {varied['test_images']:,} test images")
    outside = [source for source, count in sources.items() if count == 1]
    text = f"over {', '.join(inside[:-1])} and {inside[-1]}" if len(inside) > 1 else f"over {inside[0]}"
    return text + (f"; not over another {' or '.join(outside)}" if outside else "")


def in_words(column: Column, numbers: Mapping[str, Any], key: str) -> str:
    """The same in one line: "1.783 ± 0.012 [1.770, 1.800]"."""
    cell = over_seeds(column, numbers, key)
    return f"{cell.text} {cell.small_print}".strip()


def present(columns: Sequence[Column], summary: dict[str, Any]) -> tuple[Column, ...]:
    """The columns in which some model has a value, with the extractor's name."""
    means = [model["mean"] for model in summary["models"].values()]
    return tuple(c for c in named(columns, summary) if any(mean.get(c.key) is not None for mean in means))


def generation(summary: dict[str, Any]) -> Table:
    """How good and how diverse the samples are, next to real images and independent pixels at equal sample sizes."""
    columns = present(GENERATION, summary)
    scale = reference_rows(summary, columns)
    return Table(columns, (*model_groups(summary, columns, decoded=True), (SCALE, tuple(scale))))


def understanding(summary: dict[str, Any]) -> Table:
    """What the models know about the density and the images, next to what needs no model at all."""
    models = summary["models"].values()
    possible = {
        "probe_accuracy": summary["reference"]["pixel_probe_accuracy"] is not None,
        "nats": summary["data"]["levels"] == 2,
        **{key: any(model["mean"].get(key) is not None for model in models) for key in ("true_kl", "bits_slack")},
    }
    columns = tuple(c for c in UNDERSTANDING if possible.get(c.key, True))
    return Table(columns, (*model_groups(summary, columns), (SCALE, tuple(reference_rows(summary, columns)))))


def above_real(summary: dict[str, Any], columns: Sequence[Column]) -> list[tuple[str, int]]:
    """The columns in which real images are no ceiling or floor, and how many models are better than they are."""
    real, counted = summary["reference"]["real"], []
    for column in named(columns, summary):
        if column.better and (limit := column.read(real)) is not None:
            means = [model["mean"].get(column.key) for model in summary["models"].values()]
            known = [mean for mean in means if mean is not None]
            better = sum(mean < limit if column.better == "lower" else mean > limit for mean in known)
            counted.append((column.title, better))
    return [(title, better) for title, better in counted if better]


def reference_values(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What to compare the models with, by its name in print; columns read their values from it."""
    reference = summary["reference"]
    return {
        # Training images: each is its own nearest neighbour.
        "Real images": {**reference["real"], "nearest_neighbour": {}, "copying": {}},
        **({"The truth": {**reference["teacher"], "true_kl": 0.0}} if "teacher" in reference else {}),
        "Independent pixels": reference["histogram_model"],
        "Best lossless format": {"bits_per_dim": min(reference["formats"].values())},
        "Uniform noise": {"bits_per_dim": reference["uniform_bits_per_dim"]},
        "Raw pixels": {
            "probe_accuracy": reference["pixel_probe_accuracy"],
            "few_labels": reference["pixel_few_labels"],
        },
    }


def reference_rows(summary: dict[str, Any], columns: Sequence[Column]) -> list[Row]:
    """Rows of values for comparison that have a value in any of the columns."""
    rows = []
    for label, values in reference_values(summary).items():
        numbers = [column.read(values) for column in columns]
        if any(number is not None for number in numbers):
            cells = [_reference_cell(column, number) for column, number in zip(columns, numbers, strict=True)]
            rows.append(Row(label, None, tuple(cells)))
    return rows


def _reference_cell(column: Column, value: float | None) -> Cell:
    kind = "" if not column.within else DASH if value is None else "exact"
    return Cell(column.text(value), kind=kind, number=value)


def stability(summary: dict[str, Any], columns: Sequence[Column]) -> list[Stability]:
    """A row for each group of comparable models in each column; none with one seed."""
    names = labels(summary["models"])
    rows = []
    for column in named(columns, summary):
        for group in summary["ranking"].get(column.key, []):
            others = {seed: top for seed, top in group["best_by_seed"].items() if not set(group["best"]) <= set(top)}
            adjacent = [pair for pair in pairwise(group["order"]) if list(pair) in group["swaps"]]
            rows.append(
                Stability(
                    metric=f"{column.title}, {group['kind']}" if group["kind"] else column.title,
                    best=", ".join(names[name] for name in group["best"]),
                    agree=group["agree"],
                    others=tuple(f"seed {seed}: {', '.join(names[n] for n in top)}" for seed, top in others.items()),
                    swapped=len(group["swaps"]),
                    pairs=group["pairs"],
                    adjacent=tuple(f"{names[a]} and {names[b]}" for a, b in adjacent),
                )
            )
    return rows
