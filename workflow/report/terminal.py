"""The main results as a table for the terminal."""

from typing import Any

from rich.table import Table
from rich.text import Text

from workflow.evaluation.columns import MEASURED
from workflow.models.taxonomy import BitsKind
from workflow.report.tables import Cell, Row, covers, model_groups, present, reference_rows

SHOWN = {
    "bits_per_dim": "bits/dim",
    "fid": "",  # its title names the feature extractor
    "inception_score": "Inception\nScore",
    "precision": "precision",
    "recall": "recall",
    "modes_found": "modes\nfound",
    "high_quality": "high\nquality",
    "probe_accuracy": "probe\naccuracy",
    "gflops_per_sample": "GFLOPs\nper image",
}
ESTIMATE: BitsKind = "estimate"
LEGEND = "* best in its column; bits/dim: an upper bound (≤) is only ranked if it is below an exact value"
ESTIMATED = "≈ an estimate of bits/dim: it may be too high or too low, and is not ranked"
TIED = "~ tied: best, or not distinguishable from the best (95 %, Holm)"
SEVERAL = "mean ± standard deviation over seeds"


def table(summary: dict[str, Any]) -> Table:
    """The main results of every model, with a star at the best, and the reference rows."""
    columns = present([next(column for column in MEASURED if column.key == key) for key in SHOWN], summary)
    rows = [row for _, group in model_groups(summary, columns) for row in group]
    seeds, several = ", ".join(str(seed) for seed in summary["seeds"]), len(summary["seeds"]) > 1
    title = f"{summary['data']['name']}, test split, {'mean of seeds' if several else 'seed'} {seeds}"
    cells = [cell for row in rows for cell in row.cells]
    tied = any(cell.tied for cell in cells)
    estimated = any(cell.kind == ESTIMATE for cell in cells)
    intervals = [f"below each value its 95 % interval, {covers(summary)}"] * any(cell.ends for cell in cells)
    missing = [f"missing, no results yet: {', '.join(summary['missing'])}"] if summary["missing"] else []
    swept = [
        f"{sweep['best']}: best of {len(sweep['trials'])} trials of {base} by validation loss"
        for base, sweep in summary["sweeps"].items()
        if sweep["best"]
    ]
    legend = "\n".join(
        [*missing, *swept, LEGEND, *[ESTIMATED] * estimated, *[TIED] * tied, *[SEVERAL] * several, *intervals]
    )
    made = Table(
        title=title, caption=legend, title_justify="left", caption_justify="left", box=None, padding=(0, 1, 0, 0)
    )
    made.add_column("", overflow="fold", min_width=18)  # rows with intervals have two lines
    for column in columns:
        head = SHOWN[column.key] or column.title.replace(" ", "\n")
        head = head if "\n" in head else f"\n{head}"
        made.add_column(f"{head} {column.arrow}", justify="right", no_wrap=True)
    for row in rows:
        made.add_row(*_printed(row))
    for row in reference_rows(summary, columns):
        made.add_row(*_printed(row), style="dim")
    return made


def _printed(row: Row) -> list[Text]:
    return [Text(row.label), *(_cell(cell) for cell in row.cells)]


def _cell(cell: Cell) -> Text:
    mark = "~" if cell.tied else "*" if cell.best else " "
    spread = cell.spread.replace(" ", "") if cell.ends else ""
    text = Text(f"{cell.marked}{spread}{mark}", style="bold" if cell.best else "")
    return text.append(f"\n{cell.ends[0]}–{cell.ends[1]} ", style="not bold dim") if cell.ends else text
