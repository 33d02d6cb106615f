"""The comparison in a few lines: which model answers each question best, and with what value."""

from dataclasses import dataclass
from typing import Any

from workflow.evaluation.columns import MEASURED, Column, named
from workflow.report.tables import in_words, labels


@dataclass(frozen=True)
class Answer:
    """A question of the comparison; lines: the models that answer it best, and their values."""

    question: str
    lines: list[tuple[str, str]]


@dataclass(frozen=True)
class Baseline:
    """What needs no model: the value that a model must beat before it can be called best."""

    name: str
    value: float | None


def answers(summary: dict[str, Any]) -> list[Answer]:
    """The questions that the data allow, answered by the same marks as in the tables."""
    columns = {column.key: column for column in named(MEASURED, summary)}
    fid, bits, probe, cost = (columns[key] for key in ("fid", "bits_per_dim", "probe_accuracy", "gflops_per_sample"))
    reference = summary["reference"]
    pixels, raw = reference["histogram_model"], reference["pixel_probe_accuracy"]
    floor = f"real images {fid.text(reference['real']['fid'])}"
    found = [
        Answer(
            "Whose samples are closest to the data?",
            _lines(fid, summary, Baseline("independent pixels", pixels["fid"]), f"{fid.title} {{}}", floor),
        ),
        Answer(
            "Which model predicts unseen images best?",
            _lines(bits, summary, Baseline("independent pixels", pixels["bits_per_dim"]), "{} bits/dim")
            or [("", "no model here has a density")],
        ),
        Answer(
            "Whose features separate the classes best?",
            _lines(probe, summary, Baseline("raw pixels", raw), "linear probe {}", f"raw pixels {probe.text(raw)}")
            or [("", "no model here has features")],
        ),
        Answer(
            "Which model samples with the least computation?",
            _lines(cost, summary, Baseline("", None), "{} GFLOPs per image"),
        ),
    ]
    return found if raw is not None else [found[0], found[1], found[3]]


def _lines(
    column: Column, summary: dict[str, Any], baseline: Baseline, says: str, beside: str = ""
) -> list[tuple[str, str]]:
    """A line for each model that is best in a column; for each that has a value if none can be called best.

    Args:
        column: the column.
        summary: the results.
        baseline: what the best model must beat.
        says: how the value is put, with {} for the value.
        beside: what the value is to be held against.

    """
    models, names = summary["models"], labels(summary["models"])
    there = [name for name, model in models.items() if column.ranks(model)]
    best = summary["verdicts"].get(column.key, {}).get("best")
    if best and not _beats(column, models[best[0]], baseline.value):
        return [("", f"no model is better than {baseline.name} ({column.text(baseline.value)})")]
    lines = []
    for name in best or there:
        kind = models[name].get(column.within) if column.within else None
        remark = "not ranked" if not best and len(there) > 1 else "tied" if best and len(best) > 1 else ""
        value = says.format(in_words(column, models[name], column.key))
        lines.append((names[name], "; ".join(filter(None, (", ".join(filter(None, (value, kind))), remark, beside)))))
    return lines


def _beats(column: Column, model: dict[str, Any], baseline: float | None) -> bool:
    """Whether the whole interval of the model's value, or the value if it has none, is better than the baseline."""
    if baseline is None:
        return True
    low, high = model["interval"].get(column.key) or [model["mean"][column.key]] * 2
    return bool(high < baseline if column.better == "lower" else low > baseline)
