"""What a report leaves for a paper: figures with captions, tables, a paragraph; their numbers are the summary's."""

import json
import re
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from stages import report
from tests.invented_project import make_project, small_sets
from workflow.data.arrays import read_arrays
from workflow.evaluation.columns import MEASURED
from workflow.report import svg
from workflow.report.marks import colour
from workflow.report.svg import chart, pdf
from workflow.report.tables import labels


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the report of invented results with two seeds, in which an older report left a figure."""
    folder = tmp_path_factory.mktemp("built")
    make_project(folder, small_sets(), 5, ["a", "b", "c"], [0, 1])
    (folder / "report/figures").mkdir(parents=True)
    (folder / "report/figures/old.svg").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        report.build()
    return folder


def _summary(built: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((built / "report/summary.json").read_text(encoding="utf-8"))
    return found


def test_every_figure_has_a_caption_and_every_chart_is_there_as_svg_and_pdf(built: Path) -> None:
    files = list((built / "report/figures").iterdir())
    endings = {file.stem: {other.suffix for other in files if other.stem == file.stem} for file in files}
    assert set(map(frozenset, endings.values())) == {frozenset({".svg", ".pdf", ".txt"}), frozenset({".png", ".txt"})}
    models = set(_summary(built)["models"])
    assert {"wall", *(f"{name}-samples" for name in models), *(f"{name}-curve-1" for name in models)} <= set(endings)
    for file in files:
        if file.suffix == ".txt":
            assert re.search(r"^[A-Z].+\. Data: .+\. Training seeds: 0, 1\.", file.read_text(encoding="utf-8"))
        elif file.suffix == ".svg":
            ElementTree.parse(file)
        elif file.suffix == ".pdf":
            assert file.read_bytes().startswith(b"%PDF")


def test_samples_are_large_enough_to_print_and_unchanged(built: Path) -> None:
    for name in _summary(built)["models"]:
        picture = Image.open(built / f"report/figures/{name}-samples.png")
        assert picture.width >= 1200
        images = read_arrays(built / f"runs/{name}/0/samples.safetensors")["images"]
        side = images.shape[3]
        scale = -(-1200 // (16 * side))
        first = np.asarray(picture.convert("L"))[: scale * side : scale, : scale * side : scale]
        assert (first == np.round(images[0, 0] * np.float32(255 / 4))).all()


def test_a_pdf_has_the_light_colours_of_the_page_and_no_placeholder() -> None:
    def paint(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=colour(1))

    drawn = chart("a line", (200, 100), paint)
    streams = re.findall(rb"stream\r?\n(.+?)\r?\nendstream", pdf(drawn), re.DOTALL)
    content = b" ".join(b" ".join(zlib.decompress(stream) for stream in streams).split())
    assert _rgb("#b4040b") in content  # --series-1
    assert _rgb(colour(1)) not in content
    assert pdf(drawn) == pdf(drawn)


def test_a_pdf_has_the_font_that_matplotlib_brings_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever version of it the machine has: otherwise the figures are other bytes there."""
    from fontTools.ttLib import TTFont
    from matplotlib.font_manager import findfont, fontManager

    def paint(axes: Any) -> None:
        axes.set_title("a title")

    def drawn() -> bytes:
        svg._own_fonts.cache_clear()
        return pdf(chart("a title", (200, 100), paint))

    own = drawn()
    other, path = TTFont(findfont("DejaVu Sans")), tmp_path / "other.ttf"
    other["head"].fontRevision = 9.0
    other.save(path)
    monkeypatch.setattr(fontManager, "ttflist", [])
    fontManager.addfont(path)
    assert drawn() == own


def _rgb(colour: str) -> bytes:
    """How matplotlib writes a colour into a PDF file."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return " ".join(np.format_float_positional(part, 10).rstrip(".") for part in parts).encode()


def test_tables_have_the_means_and_half_the_width_of_the_intervals(built: Path) -> None:
    summary = _summary(built)
    text = (built / "report/summary.md").read_text(encoding="utf-8")
    tex = (built / "report/summary.tex").read_text(encoding="utf-8")
    fid = next(column for column in MEASURED if column.key == "fid")
    names = labels(summary["models"])
    for name, model in summary["models"].items():
        low, high = model["interval"]["fid"]
        shown = f"{fid.text(model['mean']['fid'])} ± {fid.text((high - low) / 2)}"
        line = next(line for line in text.splitlines() if line.startswith(f"| {names[name]} |"))
        assert shown in line
        assert (f"**{shown}" in line) == (name in summary["verdicts"]["fid"]["best"])
        assert shown.replace("±", r"$\pm$") in tex
    assert tex.count(r"\\") == len(summary["models"]) + 6  # the head and five rows of reference values
    assert not set(re.sub(r"[ -~\n]", "", tex)) & set("≤±↓↑–−°\N{NO-BREAK SPACE}")


def test_the_paragraph_names_data_models_counts_seeds_and_hashes(built: Path) -> None:
    summary = _summary(built)
    text = (built / "report/methods.txt").read_text(encoding="utf-8")
    for model in summary["models"].values():
        assert model["title"] in text
        assert model["paper"] in text
    for split, count in summary["data"]["counts"].items():
        assert f"{count:,}" in text
        assert summary["data"]["sha256"][split][:16] in text
    assert "2 seeds (0, 1)" in text


@pytest.mark.slow
def test_old_figures_are_gone_and_a_second_report_has_the_same_bytes(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        file: file.read_bytes() for file in (built / "report").rglob("*") if "speed" not in file.name and file.is_file()
    }
    assert built / "report/figures/old.svg" not in files
    monkeypatch.chdir(built)
    report.build()
    assert {file: file.read_bytes() for file in files} == files


def test_the_page_links_to_all_of_it(built: Path) -> None:
    links = re.findall(
        r'href="((?:figures|summary|methods)[^"]*)"', (built / "report/index.html").read_text(encoding="utf-8")
    )
    assert set(links) == {
        "figures/",
        "figures/wall.png",
        "methods.txt",
        *(f"summary.{e}" for e in ("csv", "json", "md", "tex")),
    }
    assert all((built / "report" / link).exists() for link in links)
