"""Make the summary, its table and the page: `python -m stages.report`.

`--show` prints the results and the path of the page, `--markdown` the results as a Markdown table. `--partial` makes
the report of the models that have results, while others have failed or have not been run, and prints it. All but
`--markdown` also update the durations of this machine, in `report/speed.html`.
"""

import sys
from typing import Any

from workflow import params
from workflow.engines import stage_lock
from workflow.engines.command import reader
from workflow.errors import BakeoffError, one_line
from workflow.files import read_json, write_json, write_text
from workflow.paths import CHARTS, CURVES, FIGURES, LATEX, MARKDOWN, METHODS, METRICS, PAGE, SUMMARY, TABLE
from workflow.report import plots_page, speed
from workflow.report.results import read_results
from workflow.report.summary import fingerprint, summarise, to_csv


def build(missing: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read the results of all models except `missing` ones; write the pages, tables, plots and figures.

    Returns the summary.
    """
    from workflow.report import for_dvc, paper  # loads matplotlib, which showing does not need
    from workflow.report.bayes_section import bayes
    from workflow.report.budget_section import budgets
    from workflow.report.few_labels import few_labels
    from workflow.report.figures import figures, write_figures
    from workflow.report.model_views import model_views
    from workflow.report.page import render
    from workflow.report.trade_off import qualities

    results = read_results(params.load(), missing)
    summary = summarise(results)
    views = list(model_views(summary, results))
    costs, spent = qualities(summary), budgets(summary, results.measurements)
    few, by_rule = few_labels(summary), bayes(summary, results)
    page = render(summary, results, views, costs, spent, few, by_rule)
    charts = {**costs, **{name: one.chart for name, one in (("few-labels", few), ("bayes", by_rule)) if one}}
    write_json(SUMMARY, summary)
    write_text(TABLE, to_csv(summary))
    write_text(PAGE, page)
    for_dvc.write_folder(METRICS, for_dvc.metrics(summary))
    for_dvc.write_folder(CURVES, for_dvc.curves(results))
    for_dvc.write_folder(CHARTS, for_dvc.charts(views, costs))
    write_figures(FIGURES, figures(summary, results, views, charts, spent))
    write_text(LATEX, paper.latex(summary))
    write_text(MARKDOWN, paper.markdown(summary))
    write_text(METHODS, paper.methods(summary, results))
    plots_page.keep_library()
    speed.write(summary)
    return summary


def show() -> None:
    """Print the results and the path of the page; make the page again if it does not belong to the summary."""
    from rich.console import Console

    from workflow.report.terminal import table

    summary = read_json(SUMMARY)
    if not PAGE.exists() or fingerprint(summary) not in PAGE.read_text(encoding="utf-8"):
        summary = build()
    speed.refresh(summary)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table(summary))
    console.print(f"report: {PAGE.resolve()}", soft_wrap=True, markup=False)


def unfinished() -> tuple[str, ...]:
    """The models that have an evaluation that is out of date or has not been run.

    Raises BakeoffError if the data, the feature extractor, the reference values or the audit are out of date.
    """
    from workflow.engines.snakemake import Graph

    settings = params.load()
    changed = {stage.name for stage in Graph(settings).stages if stage.changed}
    if behind := changed & {"prepare", "extractor", "reference", "audit"}:
        raise BakeoffError(f"out of date: {', '.join(sorted(behind))}; first run `dvc repro reference audit`")
    return tuple(n for n in settings.models if any(f"evaluate@{n}-{seed}" in changed for seed in settings.seeds))


def print_markdown() -> None:
    """Print the main results as a Markdown table."""
    from workflow.report.markdown import table

    print(table(read_json(SUMMARY)), end="")


def main(showing: bool, partial: bool) -> None:
    """Do what the command line asks for."""
    if not showing:
        build(unfinished() if partial else ())
    if showing or partial:
        show()


if __name__ == "__main__":
    arguments = reader(__doc__)
    either = arguments.add_mutually_exclusive_group()
    either.add_argument("--show", action="store_true", help="print the results and the path of the page")
    either.add_argument("--markdown", action="store_true", help="print the results as a Markdown table")
    either.add_argument("--partial", action="store_true", help="report only models that have results, and print them")
    given = arguments.parse_args()
    with one_line(), stage_lock.exclusive():
        if given.markdown:
            print_markdown()
        else:
            main(given.show, given.partial)
