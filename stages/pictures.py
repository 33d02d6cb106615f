"""Draw the pictures of README and docs from the present run: `python -m stages.pictures`. Not part of the graph.

In `docs/pictures`: `<data>.png`, the wall of samples, a row for each model, not chosen; `<data>-quality.svg`, FID
against the cost of a sample; `<data>-budgets-<i>.svg`, quality against the training budget, if models differ in it.
`--example` copies the report to `docs/example`, too.
"""

from pathlib import Path

from workflow import params
from workflow.data.pictures import png
from workflow.engines.command import reader
from workflow.errors import one_line
from workflow.evaluation.columns import COST
from workflow.files import read_json, write_bytes
from workflow.paths import PAGE, SUMMARY
from workflow.report import wall
from workflow.report.budget_section import budgets
from workflow.report.results import read_results
from workflow.report.svg import standalone
from workflow.report.trade_off import quality_against

FOLDER, EXAMPLE = Path("docs/pictures"), Path("docs/example/index.html")
COLUMNS = 16


def main(example: bool) -> None:
    """Write the pictures, and the example if asked for, and print their paths."""
    results, summary = read_results(params.load()), read_json(SUMMARY)
    name, levels = results.card.name, results.card.levels
    files = {FOLDER / f"{name}.png": png(wall.picture(list(wall.rows(summary, results)), levels, COLUMNS))}
    cost = next(column for column in COST if column.key == "gflops_per_sample")
    if chart := quality_against(cost, summary):
        files[FOLDER / f"{name}-quality.svg"] = standalone(chart).encode()
    found = budgets(summary, results.measurements)
    for i, chart in enumerate(found.charts if found else (), 1):
        files[FOLDER / f"{name}-budgets-{i}.svg"] = standalone(chart).encode()
    if example:
        files[EXAMPLE] = PAGE.read_bytes()
    for path, content in files.items():
        write_bytes(path, content)
        print(path)


if __name__ == "__main__":
    arguments = reader(__doc__)
    arguments.add_argument("--example", action="store_true", help="copy the report to docs/example, too")
    with one_line():
        main(arguments.parse_args().example)
