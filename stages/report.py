"""Compile the tables and the page: `python -m stages.report`; `--show` prints the results and where the page is."""

import sys
from pathlib import Path

from workflow import params
from workflow.errors import BakeoffError, one_line
from workflow.files import read_json, write_json, write_text
from workflow.report.results import read_results
from workflow.report.summary import fingerprint, summarise, to_csv

SUMMARY, TABLE, PAGE = Path("report/summary.json"), Path("report/summary.csv"), Path("report/index.html")


def build() -> None:
    """Read the results and write the summary, its table and the page."""
    from workflow.report.page import render  # torch and matplotlib, which showing has no use for

    results = read_results(params.load())
    summary = summarise(results)
    page = render(summary, results)
    write_json(SUMMARY, summary)
    write_text(TABLE, to_csv(summary))
    write_text(PAGE, page)


def show() -> None:
    """Print the results, and where the page is; make the page again if it is not of this summary."""
    from rich.console import Console

    from workflow.report.terminal import table

    summary = read_json(SUMMARY)
    if not PAGE.exists() or fingerprint(summary) not in PAGE.read_text():
        build()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table(summary))
    console.print(f"report: {PAGE.resolve()}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    with one_line():
        if sys.argv[1:] not in ([], ["--show"]):
            raise BakeoffError(f"python -m stages.report: unknown arguments {' '.join(sys.argv[1:])!r}; known: --show")
        show() if sys.argv[1:] else build()
