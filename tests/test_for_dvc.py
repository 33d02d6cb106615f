"""What `dvc metrics` and `dvc plots` show: numbers, curves and charts, from the same summary as the page."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from stages import report
from tests.browser import open_browser
from tests.conftest import ROOT
from tests.copied_project import Project
from tests.invented_project import make_project, small_sets
from workflow.evaluation.columns import MEASURED
from workflow.report import plots_page
from workflow.sweeps.trials import VALID

STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
REFERENCE = {"real-images", "independent-pixels", "best-lossless-format", "uniform-noise", "raw-pixels"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of invented results with two seeds, made in a folder that has one of an older model."""
    folder = tmp_path_factory.mktemp("built")
    make_project(folder, small_sets(), 5, ["a", "b", "c"], [0, 1])
    for old in ("metrics/old.json", "curves/old.csv", "charts/old-1.svg"):
        (folder / "report" / old).parent.mkdir(parents=True, exist_ok=True)
        (folder / "report" / old).touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        report.build()
    return folder


def _summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report/summary.json").read_text(encoding="utf-8"))
    return found


def test_metrics_are_some_thirty_numbers_of_each_model_and_of_what_it_is_compared_with(built: Path) -> None:
    files = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in (built / "report/metrics").iterdir()}
    models = _summary(built)["models"]
    assert set(files) == {*models, *REFERENCE}
    keys = [*(column.key for column in MEASURED), VALID]
    for name, numbers in files.items():
        assert len(numbers) <= 40
        assert all(isinstance(value, int | float) for value in numbers.values())
        if name in models:
            means = models[name]["mean"]
            assert numbers == {key: means[key] for key in keys if means.get(key) is not None}
    assert files["uniform-noise"] == {"bits_per_dim": _summary(built)["reference"]["uniform_bits_per_dim"]}


def test_a_curve_is_the_mean_validation_loss_of_the_seeds(built: Path) -> None:
    assert {file.stem for file in (built / "report/curves").iterdir()} == set(_summary(built)["models"])
    rows = list(csv.DictReader(io.StringIO((built / "report/curves/vae.csv").read_text(encoding="utf-8"))))
    histories = [(built / f"runs/vae/{seed}/history.jsonl").read_text(encoding="utf-8") for seed in (0, 1)]
    losses = [[json.loads(line) for line in text.splitlines() if VALID in line] for text in histories]
    assert [int(row["step"]) for row in rows] == [record["step"] for record in losses[0]]
    for row, *records in zip(rows, *losses, strict=True):
        assert float(row[VALID]) == pytest.approx(sum(record[VALID] for record in records) / 2)


def test_charts_are_images_of_their_own(built: Path) -> None:
    charts = {file.stem: file.read_text(encoding="utf-8") for file in (built / "report/charts").iterdir()}
    assert {"vae-1", "gan-1", "gan-2", "quality-gflops_per_sample"} <= set(charts)
    assert "old-1" not in charts
    for chart in charts.values():
        root = ElementTree.fromstring(chart)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert (root.get("width"), root.get("height")) == tuple(root.get("viewBox", "").split()[2:])
        assert "--paper: #ffffff" in chart
        assert "http" not in chart.replace("http://www.w3.org/2000/svg", "")


def test_dvc_takes_numbers_from_the_report_alone() -> None:
    declared = {name: stage["metrics"] for name, stage in STAGES["stages"].items() if "metrics" in stage}
    assert declared == {"report": [{"report/metrics": {"cache": False}}]}


@pytest.mark.slow
def test_dvc_shows_numbers_and_plots_without_a_network(by_dvc: Project, tmp_path: Path) -> None:
    project = by_dvc.copy(tmp_path / "project")
    head, *rows = project.run("dvc", "metrics", "show").splitlines()
    assert {row.split()[0] for row in rows} >= {"report/metrics/gan.json", "report/metrics/nice.json"}
    assert len(head) < 600
    project.run("dvc", "plots", "show")
    page = project.folder / "dvc_plots/index.html"
    assert all(f"<p>runs/{name}/0/samples.png</p>" in page.read_text(encoding="utf-8") for name in ("gan", "nice"))
    with open_browser(tmp_path / "profile") as browser:
        browser.get(page.as_uri())
        assert len(browser.find_elements("css selector", ".vega-embed canvas, .vega-embed svg")) >= 2
        broken = "return [...document.images].filter(image => !image.naturalWidth).length"
        assert browser.execute_script(broken) == 0
        assert browser.execute_script("return document.images.length") >= 4


def test_the_library_is_copied_from_snakemakes_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plots_page.keep_library()
    page = (ROOT / ".dvc/plots.html").read_text(encoding="utf-8")
    for name in ("vega.js", "vega-lite.js", "vega-embed.js"):
        assert f'<script src="../.dvc/tmp/vega/{name}"></script>' in page
        assert (tmp_path / ".dvc/tmp/vega" / name).stat().st_size > 100_000
    shutil.rmtree(tmp_path / ".dvc")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    plots_page.keep_library()  # no Snakemake: the page loads it from the web
    assert not (tmp_path / ".dvc").exists()
