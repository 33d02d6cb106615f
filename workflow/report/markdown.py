"""The main results as a Markdown table, for a README or a notebook."""

from typing import Any

from workflow.evaluation.columns import MEASURED
from workflow.report.tables import Cell, Row, model_groups, present, reference_rows

SHOWN = ("bits_per_dim", "fid", "precision", "coverage", "probe_accuracy", "gflops_per_sample")


def table(summary: dict[str, Any]) -> str:
    """A row per model and per reference; the best of a column, and what is tied with it, in bold, with intervals."""
    columns = present([next(column for column in MEASURED if column.key == key) for key in SHOWN], summary)
    models = [row for _, group in model_groups(summary, columns) for row in group]
    head = ["", *(f"{column.title} {column.arrow}".strip() for column in columns)]
    lines = [head, ["---"] * len(head), *map(_line, models), *map(_line, reference_rows(summary, columns))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _line(row: Row) -> list[str]:
    return [row.label if row.series is not None else f"*{row.label}*", *map(_cell, row.cells)]


def _cell(cell: Cell) -> str:
    interval = f" [{cell.ends[0]}, {cell.ends[1]}]" if cell.ends else ""
    return f"**{cell.marked}**{interval}" if cell.best else f"{cell.marked}{interval}"
