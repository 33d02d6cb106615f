"""Figures to take away: each chart as SVG and PDF, each grid of samples as PNG at print size, with captions."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow.data.arrays import Array, read_arrays
from workflow.data.pictures import PLANE_LEVELS, POINT, grid, png, scatter
from workflow.files import write_bytes
from workflow.report import wall
from workflow.report.budget_section import Budgets
from workflow.report.model_views import ModelView
from workflow.report.results import Results
from workflow.report.svg import Chart, pdf, standalone
from workflow.report.tables import covers

PRINTED = 1200  # least width of a grid of samples in pixels: ten centimetres at 300 dots per inch
COLUMNS, ROWS = 16, 8


@dataclass(frozen=True)
class Figure:
    """A figure: its name, what it shows, and the content of its files by their ending."""

    name: str
    caption: str
    files: dict[str, bytes]


def figures(
    summary: dict[str, Any],
    results: Results,
    views: Iterable[ModelView],
    comparing: Mapping[str, Chart],
    budgets: Budgets | None,
) -> Iterator[Figure]:
    """Every chart and every grid of samples of the page; comparing: its charts of all models together, by name."""
    data, several = summary["data"]["name"], len(summary["seeds"]) > 1
    about = f"Data: {data}. Training seed{'s' * several}: {', '.join(map(str, summary['seeds']))}."
    intervals = f"{about} Bars are 95 % intervals {covers(summary)}."
    for name, drawn in comparing.items():
        yield _chart(name, drawn, intervals)
    for i, drawn in enumerate(budgets.charts if budgets else (), 1):
        yield _chart(f"budgets-{i}", drawn, intervals)
    for view in views:
        for i, panel in enumerate(view.panels, 1):
            yield _chart(f"{view.name}-curve-{i}", panel.chart, about)
        own = {"precision-recall": view.prd, "classes": view.classes, "out-of-distribution": view.ood}
        for what, chart in (own | {"scales": view.spectrum}).items():
            if chart:
                yield _chart(f"{view.name}-{what}", chart, about)
        yield _samples(view, results, about)
    rows = list(wall.rows(summary, results))
    text = f"The first {COLUMNS} images of each row, not chosen. {about}"
    yield Figure("wall", text, {"png": png(wall.picture(rows, results.card.levels, COLUMNS, side=96))})


def write_figures(folder: Path, found: Iterable[Figure]) -> None:
    """Write the files of each figure, and its caption beside them; remove all other files of the folder."""
    kept = set()
    for figure in found:
        caption = f"{figure.caption}\n".encode()
        for ending, content in (figure.files | {"txt": caption}).items():
            kept.add(path := folder / f"{figure.name}.{ending}")
            write_bytes(path, content)
    for other in set(folder.glob("*")) - kept:
        other.unlink()


def _chart(name: str, drawn: Chart, about: str) -> Figure:
    label = f"{drawn.label[0].upper()}{drawn.label[1:]}"
    return Figure(name, f"{label}. {about}", {"svg": standalone(drawn).encode(), "pdf": pdf(drawn)})


def _samples(view: ModelView, results: Results, about: str) -> Figure:
    images = read_arrays(results.models[view.name][0].folder / "samples.safetensors")["images"]
    text = f"{view.label}: its first samples with the first training seed, not chosen. {about}"
    return Figure(f"{view.name}-samples", text, {"png": png(_at_print_size(images, results.card.levels))})


def _at_print_size(images: Array, levels: int) -> Any:
    if images.shape[1:] == POINT:
        return grid(scatter(images, levels, PRINTED), PLANE_LEVELS, columns=1, scale=1)
    scale = -(-PRINTED // (COLUMNS * images.shape[3]))
    return grid(images[: COLUMNS * ROWS], levels, COLUMNS, scale, gap=scale)
