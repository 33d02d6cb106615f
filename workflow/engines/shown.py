"""What `snakemake --report` shows of the outputs, under which category and caption."""

from pathlib import Path
from typing import Any

from workflow.paths import CHARTS, PAGE, TABLE, RunFiles

CAPTIONS = Path("docs/captions")
ABOUT = str(CAPTIONS / "workflow.rst")  # the report's first page


def mark(output: str) -> dict[str, Any] | None:
    """The arguments of Snakemake's `report` for an output; None if it is not shown."""
    parts = Path(output).parts
    if Path(output) == PAGE:
        return _mark("Report", "page", what="page")
    if Path(output) == TABLE:
        return _mark("Report", "summary", what="numbers of every run")
    if Path(output) == CHARTS:
        return {**_mark("Charts", "chart", chart="{chart}"), "patterns": ["{chart}.svg"]}
    if len(parts) == 4 and Path(output) == RunFiles(parts[1], int(parts[2])).overview:
        return _mark("Samples", "samples", model=parts[1], seed=parts[2])
    return None


def _mark(category: str, caption: str, **labels: str) -> dict[str, Any]:
    return {"category": category, "caption": str(CAPTIONS / f"{caption}.rst"), "labels": labels}
