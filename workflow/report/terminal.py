"""The main results as a table for the terminal."""

from typing import Any

from rich.table import Table
from rich.text import Text

from workflow.report.columns import MEASURED
from workflow.report.tables import Cell, Row, model_groups, present, reference_rows

SHOWN = {
    "bits_per_dim": "bits/dim",
    "fid": "classifier\nFID",
    "inception_score": "Inception\nScore",
    "precision": "precision",
    "recall": "recall",
    "modes_found": "modes\nfound",
    "high_quality": "high\nquality",
    "probe_accuracy": "probe\naccuracy",
    "gflops_per_sample": "GFLOP\nper image",
}
KINDS = {"upper bound": "≤ "}
LEGEND = "* best of its column; in bits/dim exact values and upper bounds (≤) are not ranked against each other"


def table(summary: dict[str, Any]) -> Table:
    """Every model's main numbers, the best marked with a star, and the rows that give them a scale."""
    columns = present([next(column for column in MEASURED if column.key == key) for key in SHOWN], summary)
    seeds = ", ".join(str(seed) for seed in summary["seeds"])
    title = f"{summary['data']['name']}, test split, {'mean of seeds' if len(summary['seeds']) > 1 else 'seed'} {seeds}"
    made = Table(
        title=title, caption=LEGEND, title_justify="left", caption_justify="left", box=None, padding=(0, 1, 0, 0)
    )
    made.add_column("", no_wrap=True)
    for column in columns:
        made.add_column(f"{SHOWN[column.key]} {column.arrow}", justify="right", vertical="bottom", no_wrap=True)
    for _, rows in model_groups(summary, columns):
        for row in rows:
            made.add_row(*_printed(row))
    for row in reference_rows(summary, columns):
        made.add_row(*_printed(row), style="dim")
    return made


def _printed(row: Row) -> list[Text]:
    return [Text(row.label), *(_cell(cell) for cell in row.cells)]


def _cell(cell: Cell) -> Text:
    star = "*" if cell.best else " "
    return Text(f"{KINDS.get(cell.kind, '')}{cell.text}{star}", style="bold" if cell.best else "")
