"""The comparison in a few lines: which model answers each question best, and with what value."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from workflow.evaluation.columns import MEASURED, Column, named
from workflow.report.ranking import best, comparable, doubt
from workflow.report.tables import in_words, labels


@dataclass(frozen=True)
class Answer:
    """A question of the comparison; lines: the models that answer it best, and their values."""

    question: str
    lines: list[tuple[str, str]]


@dataclass(frozen=True)
class Leader:
    """A model that is best in a column; kind: of its value; but: what casts doubt on it, "" if nothing does."""

    label: str
    value: str
    kind: str
    but: str


def answers(summary: dict[str, Any]) -> list[Answer]:
    """The questions that the data allow, answered by the same marks as in the tables."""
    columns = {column.key: column for column in named(MEASURED, summary)}
    fid, bits, probe = columns["fid"], columns["bits_per_dim"], columns["probe_accuracy"]
    floor, raw = summary["reference"]["real"]["fid"], summary["reference"]["pixel_probe_accuracy"]
    samples = [
        (one.label, f"{fid.title} {one.value}{one.but}; real images {fid.text(floor)}")
        for one in _leaders(fid, summary)
    ]
    densities = [(one.label, f"{one.value} bits/dim, {one.kind}{one.but}") for one in _leaders(bits, summary)]
    features = [
        (one.label, f"linear probe {one.value}{one.but}; on raw pixels {probe.text(raw)}")
        for one in _leaders(probe, summary)
    ]
    costs = [
        (one.label, f"{one.value} GFLOPs per image{one.but}") for one in _leaders(columns["gflops_per_sample"], summary)
    ]
    found = [
        Answer("Whose samples are closest to the data?", samples),
        Answer("Which model predicts unseen images best?", densities or [("", "no model here has a density")]),
        Answer("Whose features separate the classes best?", features or [("", "no model here has features")]),
        Answer("Which model samples with the least computation?", costs),
    ]
    return found if raw is not None else [found[0], found[1], found[3]]


def _leaders(column: Column, summary: dict[str, Any]) -> Iterator[Leader]:
    """Each model that is best in the column among those of its kind, or the only one of its kind."""
    models, names = summary["models"], labels(summary["models"])
    top = best(models, column)
    for kind, same in sorted(comparable(models, column).items(), key=lambda group: str(group[0])):
        for name in [name for name in same if name in top] or same:
            open_to = doubt(summary, column.key, name)
            value = in_words(column, models[name], column.key)
            yield Leader(names[name], value, str(kind), f"; {open_to}" if open_to else "")
