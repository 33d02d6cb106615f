"""The page has nothing of the machine in it; what was measured stands beside it, of the weights that are there or none.

The page is made in two ways that differ in all on which its bytes might depend; figures are looked up of weights that
change and come back.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from stages import report
from tests.browser import open_browser
from tests.invented_project import MODELS, make_project, small_sets, write_timings
from tests.swept import BEST, TRIALS, add_sweep
from workflow import paths
from workflow.engines import timing
from workflow.files import sha256
from workflow.report import speed
from workflow.report.summary import fingerprint

CPU = torch.device("cpu")
OUTPUTS = ("report/index.html", "report/summary.json", "report/summary.csv")
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_project(tmp_path, small_sets(), 5, ["a", "b", "c"], [0])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(page: Path) -> str:
    body = re.sub(r"<style>.*?</style>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def facts() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(paths.SPEED.read_text(encoding="utf-8"))
    return found


def of(name: str) -> dict[str, Any]:
    (run,) = [run for run in facts()["runs"] if (run["name"], run["seed"]) == (name, 0)]
    return dict(run)


@pytest.mark.slow
def test_the_page_is_the_same_bytes_wherever_and_however_it_is_made(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "another place/with a longer name"
    for folder in (here, there):
        folder.mkdir(parents=True)
        make_project(folder, small_sets(), 5, ["a", "b", "c"], [0, 1])
    settings = yaml.safe_load((there / "params.yaml").read_text(encoding="utf-8"))
    settings["extractor"] = dict(reversed(settings["extractor"].items()))
    for entry in settings["models"].values():
        entry["train"] = dict(reversed(entry["train"].items()))
    text = yaml.safe_dump(settings, sort_keys=False, indent=4, default_flow_style=None)
    (there / "params.yaml").write_text(f"# a comment\n{text}", encoding="utf-8")
    shutil.rmtree(there / "timings")
    shutil.copytree(there / "runs", there / "copy")  # files listed in another order, with other times
    shutil.rmtree(there / "runs")
    (there / "copy").rename(there / "runs")
    subprocess.run(["git", "init", "-q"], cwd=there, check=True)
    (there / "matplotlibrc").write_text("axes.facecolor: red\naxes.titleweight: bold\nlines.dash_capstyle: round\n")
    plain = {**os.environ, "PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8"}
    odd = {**os.environ, "PYTHONHASHSEED": "2", "TZ": "America/Lima"}
    odd |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    makers = []
    for folder, environment in ((here, plain), (there, odd)):
        makers.append(subprocess.Popen([sys.executable, "-m", "stages.report"], cwd=folder, env=environment))
    assert [maker.wait() for maker in makers] == [0, 0]
    for output in OUTPUTS:
        assert (here / output).read_bytes() == (there / output).read_bytes(), output
    page = words(here / "report/index.html")
    assert not re.search(r"Some CPU|images per second|training, s|Machine|Commit|torch 2", page)
    assert "a comment" not in page
    assert "No durations were measured here for these weights." in words(there / "report/speed.html")


def test_what_was_measured_stands_beside_the_page_and_names_its_summary(project: Path) -> None:
    report.build()
    page, summary = words(paths.SPEED_PAGE), json.loads(Path("report/summary.json").read_text(encoding="utf-8"))
    assert facts()["summary"] == fingerprint(summary)
    assert fingerprint(summary) in page
    for text in ("NICE 63,800 12.5", "Gated PixelCNN 166 12.5", "nice 0 12.5 0.5 2", "processor: Some CPU"):
        assert text in page
    assert "torch 2.9.0" in page
    assert "none: the folder is not a git repository" in page
    assert paths.SPEED_PAGE.read_text(encoding="utf-8").count('<svg class="chart"') == 1
    assert of("vae")["sample"]["images_per_second"] == 30 / MODELS["vae"][6]
    assert of("vae")["sha256"] == sha256(Path("runs/vae/0/model.safetensors"))
    assert "ot measured here" not in page


def test_figures_of_other_weights_are_never_used(project: Path) -> None:
    model = Path("runs/vae/0/model.safetensors")
    kept = model.read_bytes()
    timing.record(model, "train", {"seconds": 1.25}, CPU)
    report.build()
    assert of("vae")["train"]["seconds"] == 1.25
    model.write_bytes(b"trained with other parameters")
    timing.record(model, "train", {"seconds": 77.5}, CPU)
    report.show()
    assert (of("vae")["train"]["seconds"], "sample" in of("vae")) == (77.5, False)  # not drawn from yet
    assert "vae 0 77.5 – –" in words(paths.SPEED_PAGE)
    model.write_bytes(kept)  # as DVC does it
    report.show()
    assert (of("vae")["train"]["seconds"], of("vae")["evaluate"]["seconds"]) == (1.25, 2.0)
    assert "77.5" not in words(paths.SPEED_PAGE)
    model.write_bytes(b"trained on another machine")
    report.show()
    assert set(of("vae")) == {"name", "seed", "sha256"}
    assert "Not measured here: vae 0 (model and seed)" in words(paths.SPEED_PAGE)
    assert re.search(r"VAE – – VQ-VAE", words(paths.SPEED_PAGE))


def test_a_queued_experiment_leaves_its_figures_in_the_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree("timings")
    shutil.copytree("runs", "copy/runs")
    monkeypatch.setenv("DVC_ROOT", str(project))
    with contextlib.chdir("copy"):
        timing.record(Path("runs/vae/0/model.safetensors"), "train", {"seconds": 3.0}, CPU)
    monkeypatch.delenv("DVC_ROOT")
    assert not Path("copy/timings").exists()
    found = timing.read(sha256(Path("runs/vae/0/model.safetensors")))
    assert found["train"]["seconds"] == 3.0
    assert found["train"]["host"]["device"] == "cpu"


def test_figures_of_two_machines_are_not_ranked(project: Path) -> None:
    write_timings(Path("runs/gan/0"), 0.001, processor=HOSTILE)
    report.build()
    text, page = paths.SPEED_PAGE.read_text(encoding="utf-8"), words(paths.SPEED_PAGE)
    assert "●" not in text
    assert '<svg class="chart"' not in text
    assert "Measured on 2 machines, so no value is marked as the best." in page
    assert "nice 0 12.5 0.5 2 1" in page
    assert "gan 0 12.5 0.5 2 2" in page
    assert HOSTILE not in text
    assert "processor: &lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_all_trials_of_a_sweep_have_their_durations(project: Path) -> None:
    add_sweep(project)
    report.build()
    runs = [run["name"] for run in facts()["runs"]]
    assert runs == ["nice", "pixelcnn", BEST, "vqvae", "gan", "vae", *(name for name in TRIALS if name != BEST)]
    assert f"{BEST} 0 12.5" in words(paths.SPEED_PAGE)
    assert "vae_4" not in words(paths.SPEED_PAGE)  # failed


def test_showing_again_loads_no_more_than_it_needs(project: Path) -> None:
    report.build()
    paths.SPEED_PAGE.unlink()
    report.show()
    before = paths.SPEED_PAGE.stat().st_mtime_ns
    script = "import sys; from stages import report; report.show(); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    assert not {"matplotlib", "jinja2", "scipy", "torch", "PIL"} & set(done.stderr.split())
    assert paths.SPEED_PAGE.stat().st_mtime_ns == before


def test_a_repository_that_git_refuses_is_not_taken_for_none(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(key, os.devnull)
    subprocess.run(["git", "init", "-q"], check=True)
    assert speed.measured({"models": {}, "sweeps": {}, "seeds": []})["commit"] == "none yet"
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    commit = speed.measured({"models": {}, "sweeps": {}, "seeds": []})["commit"]
    assert re.fullmatch("[0-9a-f]{40} with uncommitted changes", commit)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own way to test this
    commit = speed.measured({"models": {}, "sweeps": {}, "seeds": []})["commit"]
    assert commit.startswith("unknown; git says: fatal: detected dubious ownership")


@pytest.mark.slow
def test_a_browser_shows_it_whole_on_a_small_screen_too(project: Path, tmp_path: Path) -> None:
    write_timings(Path("runs/gan/0"), 0.001, processor="A processor with rather a long name " * 3)
    report.build()
    with open_browser(tmp_path / "browser") as browser:
        for width in (1280, 390):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get((project / "report/index.html").as_uri())
            browser.execute_script("document.querySelector('a[href=\"speed.html\"]').click()")
            assert browser.title == "Speed: digits"
            assert browser.get_log("browser") == []
            widths = "const d = document.documentElement; return [d.scrollWidth, d.clientWidth]"
            page, room = browser.execute_script(widths)
            assert page <= room <= width
            browser.execute_script("document.querySelector('a[href=\"index.html\"]').click()")
            assert browser.title == "Generative bake-off: digits"
