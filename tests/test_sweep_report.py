"""The report of a sweep: the best trial by validation stands for all, and no test figure of another one shows."""

import contextlib
import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from stages import report, sweep
from tests.browser import open_browser
from tests.invented_project import make_project, small_sets
from tests.swept import BEST, TRIALS, add_sweep
from workflow import params
from workflow.errors import BakeoffError
from workflow.files import read_json
from workflow.report.charts import Tried, trials_over
from workflow.report.results import read_results


def make(folder: Path, seeds: list[int]) -> None:
    make_project(folder, small_sets(), 5, ["a", "b", "c"], seeds)
    add_sweep(folder)


@pytest.fixture(scope="module", params=[[0], [0, 1, 2]], ids=["one seed", "three"])
def built(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A finished report."""
    folder = tmp_path_factory.mktemp("built")
    make(folder, request.param)
    with contextlib.chdir(folder):
        report.build()
    return folder


def text_of(page: str) -> str:
    body = re.sub(r"<style>.*?</style>|<details>\s*<summary>All parameters.*?</details>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


@pytest.mark.slow
def test_the_best_by_validation_stands_for_all_though_its_test_figures_are_worse(built: Path) -> None:
    summary: dict[str, Any] = read_json(built / "report/summary.json")
    assert list(summary["models"]) == ["nice", "pixelcnn", BEST, "vqvae", "gan"]  # where the VAE would be
    assert {run["name"] for run in summary["runs"]} == set(summary["models"])
    told = summary["sweeps"]["vae"]
    assert (told["best"], told["varied"]) == (BEST, ["latents", "train.lr"])
    assert list(told["trials"]) == ["vae", *TRIALS, "vae_4"]
    means = {name: trial["mean"] for name, trial in told["trials"].items()}
    assert means.pop("vae_4") is None
    assert min(means, key=lambda name: means[name]) == BEST
    assert means["vae_2"] == pytest.approx(means["vae"] - 3.0, rel=1e-12)
    losses = told["trials"][BEST]["losses"]
    assert summary["models"][BEST]["values"]["valid_loss"] == losses
    assert summary["models"][BEST]["mean"]["valid_loss"] == statistics.mean(losses)
    fids = {name: read_json(built / f"runs/{name}/0/metrics.json")["fid"] for name in ("vae", *TRIALS)}
    assert fids[BEST] == max(fids.values())


def test_the_page_shows_trials_by_validation_and_no_other_trials_test_figures(built: Path) -> None:
    text = text_of((built / "report/index.html").read_text(encoding="utf-8"))
    assert "5 generative models on digits" in text
    assert "vae_2 has the lowest validation loss of 7 trials of vae" in text
    assert "Best of 7 trials, of which 1 failed: vae_2 , latents 8, train.lr 0.001." in text
    start = text.index("Trials are ranked by their lowest validation loss")
    part = text[start : text.index("Claims about the families", start)]
    seeds = params.load(built / "params.yaml").seeds
    assert ("averaged over seeds 0, 1, 2" if len(seeds) > 1 else "with seed 0 only") in part
    order = re.findall(r"\bvae(?:_\d)?\b", part[part.index("Trial latents train.lr validation loss") :])
    assert order == ["vae_2", "vae_5", "vae", "vae_1", "vae_6", "vae_3", "vae_4"]
    assert "vae_4 16 3 training failed" in part
    rest = text.replace(part, "")
    assert not {name for name in TRIALS if name != BEST and name in rest}


def test_of_trials_without_results_the_report_is_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, [0])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/vae_2/0/history.jsonl").unlink()
    with pytest.raises(BakeoffError, match="runs/vae_2: some seeds have no training history"):
        report.build()
    report.build(missing=("vae_2",))
    summary = read_json(tmp_path / "report/summary.json")
    assert summary["sweeps"]["vae"]["best"] == "vae_5"
    assert "vae_5" in summary["models"]
    assert "vae_2 8 0.001 no results yet" in text_of((tmp_path / "report/index.html").read_text(encoding="utf-8"))
    assert list(read_results(params.load(), ("vae", *TRIALS)).models) == ["nice", "pixelcnn", "vqvae", "gan"]


def test_without_a_sweep_there_is_no_word_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path, small_sets(), 5, ["a", "b", "c"], [0])
    monkeypatch.chdir(tmp_path)
    report.build()
    assert "weep" not in text_of((tmp_path / "report/index.html").read_text(encoding="utf-8"))
    assert read_json(tmp_path / "report/summary.json")["sweeps"] == {}
    assert read_results(params.load()).best == {}


@pytest.mark.parametrize("values", [[1, 2, 3], [1e-4, 1e-2, 1e-1], ["relu", True, None], [0.0, 0.5, 0.5]])
def test_a_chart_has_a_dot_a_trial_and_the_best_in_ink(values: list[Any]) -> None:
    chart = trials_over("a", [Tried(v, (float(i), i + 1.0), i == 1) for i, v in enumerate(values)], 0, ("a", "loss"))
    dots = re.findall(r"<use [^>]*style=\"fill: ([^;\"]*)", chart)
    assert sorted(dots) == ["currentColor", "var(--series-0)", "var(--series-0)"]
    assert "mathdefault" not in chart


def test_a_browser_shows_it_without_scrolling_sideways(built: Path, tmp_path: Path) -> None:
    with open_browser(tmp_path) as browser:
        for width in (1280, 420):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get((built / "report/index.html").as_uri())
            widths = "const d = document.documentElement; return [d.scrollWidth, d.clientWidth]"
            page, room = browser.execute_script(widths)
            assert page <= room <= width
            assert browser.execute_script("return document.querySelectorAll('#sweeps tbody tr').length") == 7


def test_the_trials_as_markdown_from_the_best_to_those_without_a_loss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, [0])
    (tmp_path / "runs/vae_6/0/history.jsonl").unlink()
    with contextlib.chdir(tmp_path):
        base = _least(tmp_path / "runs/vae/0/history.jsonl")
        sweep.main(["--markdown"])
    expected: list[list[Any]] = [["vae", "2", "0.001", base]]
    expected += [[name, str(latents), f"{rate:g}", base + more] for name, (latents, rate, more) in TRIALS.items()]
    expected = sorted((row for row in expected if row[0] != "vae_6"), key=lambda row: row[3])
    printed = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert printed[:4] == [["### vae"], [""], ["trial", "latents", "train.lr", "validation loss"], ["---"] * 4]
    found = [[cell.strip("*") for cell in row] for row in printed[4:]]
    assert [[*row[:3], pytest.approx(row[3], rel=1e-4)] for row in expected] == [
        [*row[:3], float(row[3])] for row in found[:-2]
    ]
    assert found[-2:] == [["vae_6", "32", "0.0004", "not trained"], ["vae_4", "16", "3", "failed"]]
    bold = [row for row in printed[4:] if row[0].startswith("**")]
    assert [row[0] for row in bold] == [f"**{BEST}**"]


def _least(history: Path) -> float:
    lines = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    return min(float(line["valid_loss"]) for line in lines if "valid_loss" in line)
