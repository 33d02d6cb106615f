"""The report, made of a small project folder with five models whose results are invented."""

import base64
import contextlib
import csv
import hashlib
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stages import report
from tests.browser import open_browser
from tests.conftest import ROOT
from tests.invented_project import make_project, small_sets, write
from workflow import params
from workflow.data.arrays import read_arrays, write_arrays
from workflow.errors import BakeoffError
from workflow.evaluation.columns import DASH, GENERATION, MEASURED, significant
from workflow.report import markdown
from workflow.report.answers import answers
from workflow.report.charts import Curve, learning_curve
from workflow.report.curves import panels
from workflow.report.results import read_results
from workflow.report.summary import fingerprint, summarise
from workflow.report.tables import Row, above_real, generation, model_groups, understanding

HOSTILE = """<script>alert(1)</script>" onmouseover="alert(2)" '&"""


def edit(path: Path, **changes: Any) -> None:
    write(path, json.loads(path.read_text(encoding="utf-8")) | changes)


def write_yaml(path: Path, content: Any) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_project(tmp_path, small_sets(), 5, ["a", "b", "c"], [0])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished report of three seeds whose texts all try to be markup."""
    folder = tmp_path_factory.mktemp("hostile")
    make_project(
        folder, small_sets(), 5, [HOSTILE, "<img src=x onerror=alert(2)>", "$\\frac{$ #010101"], [0, 1, 2], HOSTILE
    )
    for seed in range(3):
        edit(folder / f"runs/vae/{seed}/metrics.json", title=f"VAE {HOSTILE}", paper=HOSTILE, objective=HOSTILE)
    edit(folder / "data/prepared/card.json", source=f"http://example.org/{HOSTILE}")
    (folder / "params.yaml").write_text((folder / "params.yaml").read_text(encoding="utf-8") + f"# {HOSTILE}\n")
    with contextlib.chdir(folder):
        report.build()
    return folder


def summary_now() -> dict[str, Any]:
    """The summary of the project in the current folder, without the page."""
    return summarise(read_results(params.load()))


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report/summary.json").read_text(encoding="utf-8"))
    return found


def test_summary_of_one_seed_holds_what_was_measured(project: Path) -> None:
    summary = summary_now()
    vae = summary["models"]["vae"]
    assert list(summary["models"]) == ["nice", "pixelcnn", "vae", "vqvae", "gan"]  # by taxonomy, then as in params.yaml
    assert vae["mean"]["bits_per_dim"] == 1.86
    assert vae["bits_per_dim_kind"] == "upper bound"
    assert vae["mean"]["nearest_neighbour_ratio"] == pytest.approx((1.1 + 0.27) / 1.1, rel=1e-12)
    assert vae["mean"]["modes_kl"] == 2.7 / 50
    assert summary["models"]["gan"]["mean"]["bits_per_dim"] is None
    assert set(vae["std"].values()) == {None}
    low, high = vae["interval"]["fid"]
    assert low < vae["mean"]["fid"] < high
    assert vae["interval"]["gflops_per_sample"] is None  # counted
    assert summary["varied"] == {"seeds": 1, "draws": 3, "extractors": 3, "test_images": 40}
    assert summary["ranking"] == {}
    assert summary["reference"]["real"]["fid"] == 0.4


def test_csv_has_a_row_a_run_and_empty_fields_for_what_is_missing(hostile: Path) -> None:
    found = list(csv.DictReader((hostile / "report/summary.csv").open()))
    runs, models = summary_of(hostile)["runs"], summary_of(hostile)["models"]
    rows, means = found[: len(runs)], found[len(runs) :]
    assert [(row["name"], int(row["seed"])) for row in rows] == [(run["name"], run["seed"]) for run in runs]
    assert len(rows) == 15
    for row, run in zip(rows, runs, strict=True):
        for column in MEASURED:
            assert (float(row[column.key]) if row[column.key] else None) == run[column.key]
    assert rows[-1]["name"] == "gan"
    assert rows[-1]["bits_per_dim"] == rows[-1]["probe_accuracy"] == ""
    assert [(row["name"], row["seed"]) for row in means] == [(n, of) for n in models for of in ("mean", "low", "high")]
    vae = {row["seed"]: row for row in means if row["name"] == "vae"}
    assert float(vae["mean"]["fid"]) == models["vae"]["mean"]["fid"]
    assert [float(vae[end]["fid"]) for end in ("low", "high")] == models["vae"]["interval"]["fid"]


def test_aggregates_are_mean_and_sample_deviation_over_seeds(hostile: Path) -> None:
    model = summary_of(hostile)["models"]["vqvae"]
    fids = [3.4, 3.4 * 1.1, 3.4 * 1.2]
    assert model["mean"]["fid"] == pytest.approx(statistics.fmean(fids), rel=1e-12)
    assert model["std"]["fid"] == pytest.approx(statistics.stdev(fids), rel=1e-12)
    assert model["std"]["gflops_per_sample"] == 0
    assert summary_of(hostile)["models"]["gan"]["std"]["bits_per_dim"] is None


@pytest.mark.parametrize(("exact", "best"), [(0.5, ["pixelcnn"]), (9.0, ["nice", "vae", "vqvae"])])
def test_a_bound_is_ranked_only_below_an_exact_value(project: Path, exact: float, best: list[str]) -> None:
    edit(project / "runs/pixelcnn/0/metrics.json", bits_per_dim=exact)
    edit(project / "runs/gan/0/metrics.json", bits_per_dim=9.5, bits_per_dim_kind="exact")
    for name in ("pixelcnn", "gan", "vae", "vqvae", "nice"):
        arrays = read_arrays(path := project / f"runs/{name}/0/pictures.safetensors")
        value = json.loads((path.parent / "metrics.json").read_text(encoding="utf-8"))["bits_per_dim"]
        scatter = np.linspace(-0.1, 0.1, 40) * (1 + len(name))
        write_arrays(path, {**arrays, "per_image/bits_per_dim": (value + scatter).astype(np.float32)})
    assert sorted(summary_now()["verdicts"]["bits_per_dim"]["best"]) == best


def test_an_estimate_is_shown_with_its_mark_and_its_error_and_ranked_nowhere(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = summary_now()
    edit(
        project / "runs/gan/0/metrics.json",
        taxonomy="explicit Markov chain", likelihood="estimate", bits_per_dim=0.5, bits_per_dim_kind="estimate",
        bits_per_dim_error=0.05, oddity={"noise": 1.0, "plain grey": 0.3},
    )  # fmt: skip
    summary = summary_now()
    assert summary["models"]["gan"]["interval"]["bits_per_dim"] == pytest.approx([0.402, 0.598], abs=1e-3)
    assert summary["verdicts"].get("bits_per_dim") == before["verdicts"].get("bits_per_dim")
    groups = dict(understanding(summary).groups)
    (row,) = groups["Explicit density, approximate by a Markov chain"]
    assert (row.cells[0].marked, row.cells[0].kind, row.cells[0].best) == ("≈ 0.500", "estimate", False)
    assert "| GAN | ≈ 0.500 [0.402, 0.598] |" in markdown.table(summary)
    report.build()
    report.show()
    page = Reader((project / "report/index.html").read_text(encoding="utf-8")).text
    assert "≈ 0.500" in page
    printed = capsys.readouterr().out
    assert re.search(r"GAN +≈ 0\.500 ", printed)
    assert "≈ an estimate of bits/dim" in printed
    assert "an estimate" in page


def test_a_class_conditional_model_is_not_ranked_by_its_linear_probe(project: Path) -> None:
    settings = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    settings["models"]["vqvae"]["classes"] = 3
    write_yaml(project / "params.yaml", settings)
    models = summary_now()["models"]
    probe = next(c for c in MEASURED if c.key == "probe_accuracy")
    others = {name: m["mean"][probe.key] for name, m in models.items() if m["mean"][probe.key] and name != "vqvae"}
    assert max(others.values()) < models["vqvae"]["mean"][probe.key]
    assert "vqvae" not in summary_now()["verdicts"][probe.key]["best"]
    report.build()
    page = Reader((project / "report/index.html").read_text(encoding="utf-8"))
    assert (
        " ".join(page.text.split()).count("class-conditional, not ranked") == 8
    )  # nor from few labels, nor where its encoder starts


def test_what_real_images_are_good_for_stands_beside_what_samples_are(project: Path) -> None:
    columns = {column.key for column in generation(summary_now()).columns}
    assert {"vendi", "rke", "prd_precision", "prd_recall"} < columns
    assert "cas" not in columns
    edit(project / "runs/vae/0/metrics.json", cas=0.81, cas_of_real=0.93)
    table = generation(summary_now())
    place = [column.key for column in table.columns].index("cas")
    cells = {row.label: row.cells[place].text for _, rows in table.groups for row in rows}
    assert (cells["VAE"], cells["Real images"]) == ("81.0\N{NO-BREAK SPACE}%", "93.0\N{NO-BREAK SPACE}%")
    assert cells["GAN"] == cells["Independent pixels"] == DASH


def test_best_marks_follow_the_direction_and_ties_are_told(project: Path) -> None:
    verdicts = summary_now()["verdicts"]
    tops = {key: one["best"][0] for key, one in verdicts.items()}
    assert tops["fid"] == tops["inception_score"] == tops["coverage"] == "gan"
    assert tops["probe_accuracy"] == "vqvae"
    assert tops["reconstruction_mse"] == "vae"
    assert verdicts["gflops_per_sample"]["best"] == ("nice",)  # counted: any difference is one
    assert not {"parameters", "sharpness", "nearest_neighbour_ratio"} & set(verdicts)  # no direction
    assert verdicts["fid"]["best"] == ("gan",)
    assert set(verdicts["fid"]["p_values"]) == {"nice", "pixelcnn", "vae", "vqvae"}
    gan = json.loads((project / "runs/gan/0/metrics.json").read_text(encoding="utf-8"))
    near = [[1.01 * value for value in row] for row in gan["repeats"]["fid"]]
    near[0][0] *= 0.9
    vae = json.loads((project / "runs/vae/0/metrics.json").read_text(encoding="utf-8"))
    edit(project / "runs/vae/0/metrics.json", repeats={**vae["repeats"], "fid": near})
    report.build()
    summary = summary_of(project)
    assert set(summary["verdicts"]["fid"]["best"]) == {"gan", "vae"}
    cells = {row.label: row.cells[0] for _, rows in generation(summary).groups for row in rows}
    assert [cells[name].tied for name in ("GAN", "VAE", "NICE")] == [True, True, False]
    page = " ".join(Reader((project / "report/index.html").read_text(encoding="utf-8")).text.split())
    assert page.count("tied") > 2
    assert not any(row.cells[0].best for row in model_rows(summary, "modes_found"))  # all equal: no mark


def model_rows(summary: dict[str, Any], key: str) -> list[Row]:
    columns = [column for column in MEASURED if column.key == key]
    return [row for _, rows in model_groups(summary, columns) for row in rows]


def test_other_images_than_draws_have_rows_of_their_own_and_no_mark(project: Path) -> None:
    rows = {row.label: row.cells[0] for _, group in generation(summary_now()).groups for row in group}
    assert rows["VAE: most likely image"].text == f"{2.7 * 0.6:.2f}"
    assert rows["VAE: mean image"].text == f"{2.7 * 1.3:.2f}"
    assert not rows["VAE: mean image"].best
    assert "GAN: mean image" not in rows


def test_a_models_note_is_on_its_card(project: Path) -> None:
    report.build()
    page = " ".join(Reader((project / "report/index.html").read_text(encoding="utf-8")).text.split())
    assert page.count("It has a note.") == 1


def test_where_models_do_better_than_real_images_these_are_no_ceiling(project: Path) -> None:
    real = json.loads((project / "data/reference/reference.json").read_text(encoding="utf-8"))["real"]
    edit(project / "data/reference/reference.json", real={**real, "recall": 0.9})
    summary = summary_now()
    higher = sum(model["mean"]["recall"] > 0.9 for model in summary["models"].values())
    assert ("recall", higher) in above_real(summary, GENERATION)
    report.build()
    page = " ".join(Reader((project / "report/index.html").read_text(encoding="utf-8")).text.split())
    assert f"the ceiling of every score, except where models do better: recall ({higher} of 5)" in page


@pytest.mark.parametrize(
    ("raw", "says"), [(0.5, "linear probe 94.0"), (0.99, "no model is better than raw pixels (99.0")]
)
def test_the_best_must_beat_what_needs_no_model(raw: float, says: str, project: Path) -> None:
    edit(project / "data/reference/reference.json", pixel_probe_accuracy=raw)
    (features,) = [one for one in answers(summary_now()) if "features" in one.question]
    assert says in " ".join(features.lines[0]).replace("\N{NO-BREAK SPACE}", " ")


def test_tables_show_kinds_and_reference_rows(project: Path) -> None:
    edit(project / "runs/nice/0/metrics.json", bits_per_dim=2.5)
    summary = summary_now()
    rows = {row.label: row for _, rows in understanding(summary).groups for row in rows}
    assert {label: row.cells[0].kind for label, row in rows.items() if row.series is not None} == {
        "NICE": "upper bound", "Gated PixelCNN": "exact", "VAE": "upper bound", "VQ-VAE": "upper bound", "GAN": "none",
    }  # fmt: skip
    assert rows["NICE"].cells[0].small_print.endswith("]; no better than independent pixels")
    assert rows["Independent pixels"].cells[0].text == "2.430"
    assert rows["Uniform noise"].cells[0].text == f"{math.log2(5):.3f}"
    assert rows["Raw pixels"].cells[1].text == "95.0\N{NO-BREAK SPACE}%"
    real = dict(generation(summary).groups)["Reference values"][0]
    assert (real.label, real.cells[0].text, real.cells[3].text) == ("Real images", "0.40", "0.980")
    shown = dict(zip((column.key for column in generation(summary).columns), real.cells, strict=True))
    assert shown["fid_infinity"].text == "0.26"
    for key in ("nearest_neighbour_ratio", "copies", "c_t", "authentic", "fld_gap"):  # training images are copies
        assert shown[key].text == DASH


def test_leftovers_in_runs_change_nothing(project: Path) -> None:
    outputs = [project / "report" / name for name in ("summary.json", "summary.csv", "index.html")]
    report.build()
    before = [output.read_bytes() for output in outputs]
    shutil.copytree(project / "runs/vae", project / "runs/leftover")  # of an earlier params.yaml
    report.build()
    assert [output.read_bytes() for output in outputs] == before


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("runs/vae/0/metrics.json", "dvc repro evaluate@vae-0"),
        ("runs/vae/0/history.jsonl", "dvc repro train@vae-0"),
        ("runs/gan/0/samples.safetensors", "dvc repro"),
        ("data/reference/reference.json", "dvc repro"),
        ("data/audit/audit.json", "dvc repro"),
    ],
)
def test_a_missing_file_is_named_with_what_to_run_and_nothing_is_written(project: Path, file: str, remedy: str) -> None:
    (project / file).unlink()
    with pytest.raises(BakeoffError, match=rf"^{re.escape(file)}: missing; .*{remedy}"):
        report.build()
    assert not (project / "report").exists()


def test_a_metric_that_every_model_has_must_be_there(project: Path) -> None:
    edit(project / "runs/gan/0/metrics.json", recall=None)
    with pytest.raises(
        BakeoffError, match=r"runs/gan/0/metrics.json: 'recall' is missing; run `dvc repro evaluate@gan-0`"
    ):
        report.build()


class Reader(HTMLParser):
    """Collects the elements of a page, with their attributes, and the text outside of style sheets."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_but_itself(hostile: Path) -> None:
    text = (hostile / "report/index.html").read_text(encoding="utf-8")
    page = Reader(text)
    allowed = {
        "src": ("data:image/png;base64,",),
        "href": ("#", "data:,", "speed.html", "figures/", "summary.", "methods.txt"),
    }
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script == (ROOT / "workflow/report/templates/page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert f"default-src 'none'; img-src data:; script-src 'sha256-{digest}';" in policy
    for tag, attributes in page.elements:
        assert tag not in {"iframe", "object", "embed", "base"}
        assert tag != "script" or not attributes
        assert not [name for name in attributes if name.startswith(("on", "xmlns")) or name in {"srcset", "action"}]
        for name, starts in allowed.items():
            assert attributes.get(name, starts[0]).startswith(starts)
    assert not re.findall(r"url\((?!#)|@import|@font-face", text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {a["href"][1:] for _, a in page.elements if a.get("href", "").startswith("#")} <= set(ids)
    assert set(re.findall(r"url\(#(.*?)\)", text)) <= set(ids)


def test_untrusted_text_stays_text(hostile: Path) -> None:
    page = Reader((hostile / "report/index.html").read_text(encoding="utf-8"))
    assert page.text.count("<script>alert(1)</script>") > 20
    assert all(attributes.get("src", "data:").startswith("data:") for _, attributes in page.elements)
    labels = [a.get("aria-label", "") for _, a in page.elements] + [a.get("alt", "") for _, a in page.elements]
    assert any(f"VAE {HOSTILE}" in label for label in labels)


def test_every_picture_and_chart_says_what_it_shows(hostile: Path) -> None:
    elements = Reader((hostile / "report/index.html").read_text(encoding="utf-8")).elements
    assert all(attributes["alt"] for tag, attributes in elements if tag == "img")
    charts = [attributes for tag, attributes in elements if tag == "svg" and attributes["class"] == "chart"]
    # Curves, the GAN's, PRD, class histograms, out of distribution, quality against cost, spectrum, the audit, few
    # labels, Bayes' rule.
    assert len(charts) == 4 + 3 + 5 + 5 + 4 + 2 + 1 + 20 + 2 + 1
    assert all(attributes["aria-label"] and attributes["role"] == "img" for attributes in charts)


def test_curves_of_several_players_and_the_selected_step() -> None:
    curve = Curve("training", [1.0, 2.0, 3.0], [3.0, 2.0, 1.0])
    with_dot = learning_curve("a", [[curve]], series=7, up="loss", selected=[2.0])
    without = learning_curve("a", [[curve]], series=7, up="loss", selected=[9.0])
    assert with_dot.count("<use") == without.count("<use") + 1
    assert "var(--series-1)" in with_dot  # colours repeat
    assert not re.search(r"#0[0-9a-f]0[0-9a-f]{3}", with_dot)  # no placeholder is left


def test_entries_of_one_kind_share_a_card_that_names_their_differences(project: Path) -> None:
    settings = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    settings["models"]["nice"] |= {"width": 8}
    settings["models"]["vae"] |= {"kind": "nice", "width": 8, "depth": 2}
    write_yaml(project / "params.yaml", settings)
    edit(project / "runs/vae/0/metrics.json", kind="nice")
    report.build()
    page = Reader((project / "report/index.html").read_text(encoding="utf-8"))
    assert sum(tag == "article" for tag, _ in page.elements) == 4
    assert "Besides nice: vae (depth 2)." in " ".join(page.text.split())


@pytest.mark.slow
def test_any_number_of_models_has_a_report(project: Path) -> None:
    settings = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    for i in range(20):
        settings["models"][f"gan_{i}"] = settings["models"]["gan"] | {"width": i}
        shutil.copytree(project / "runs/gan", project / f"runs/gan_{i}")
    write_yaml(project / "params.yaml", settings)
    report.build()
    page = Reader((project / "report/index.html").read_text(encoding="utf-8"))
    assert "25 generative models on digits" in " ".join(page.text.split())
    assert sum(tag == "article" for tag, _ in page.elements) == 5


def test_a_page_without_claims_to_judge_has_no_place_for_them(project: Path) -> None:
    settings = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    settings["models"] = {"gan": settings["models"]["gan"]}
    write_yaml(project / "params.yaml", settings)
    report.build()
    page = Reader((project / "report/index.html").read_text(encoding="utf-8"))
    assert not {("section", "claims"), ("a", "#claims")} & {
        (tag, value) for tag, attributes in page.elements for value in attributes.values()
    }


@pytest.mark.slow
def test_the_page_says_which_measures_can_be_trusted(project: Path) -> None:
    path = project / "data/audit/audit.json"
    audit = json.loads(path.read_text(encoding="utf-8"))
    report.build()
    text = " ".join(Reader((project / "report/index.html").read_text(encoding="utf-8")).text.split())
    assert "Every measure that ranks models tells both noise and independent pixels from real images" in text
    assert "from 20 %ρ +0.87" in text
    assert "fid" in summary_of(project)["verdicts"]
    audit["controls"]["noise"]["fid"] = audit["clean"]["fid"]
    write(path, audit)
    report.build()
    text = " ".join(Reader((project / "report/index.html").read_text(encoding="utf-8")).text.split())
    assert "classifier FID cannot tell noise from real images." in text
    assert "Not ranked, as the audit found: classifier FID cannot tell noise from real images." in text
    summary = summary_of(project)
    assert "fid" not in summary["verdicts"]
    assert not any(row.cells[0].best for row in model_rows(summary, "fid"))
    assert "No measure that rests on features can be trusted here" not in text
    audit["controls"] = dict.fromkeys(audit["controls"], audit["clean"])
    write(path, audit)
    report.build()
    text = " ".join(Reader((project / "report/index.html").read_text(encoding="utf-8")).text.split())
    assert "No measure that rests on features can be trusted here" in text
    write(path, {**audit, "clean": {}, "controls": {}, "damages": {}})
    report.build()
    text = " ".join(Reader((project / "report/index.html").read_text(encoding="utf-8")).text.split())
    assert "There are too few test images to try the measures on damaged ones" in text
    assert "fid" in summary_of(project)["verdicts"]


def test_a_critics_distance_has_a_chart_of_its_own(project: Path) -> None:
    history = project / "runs/gan/0/history.jsonl"
    lines = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    lines = [{**line, "valid_distance" if "valid_loss" in line else "critic_distance": 0.5} for line in lines]
    history.write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = read_results(params.load()).models["gan"]
    assert "Wasserstein" in panels(runs, "GAN", 0)[-1].title
    assert [panel.title for panel in panels(runs, "GAN", 0)[:-1]] == [
        "losses of the players", "validation loss", "accuracy, with a line at 50 %",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.000471, "0.000471"),
        (1.2345e-5, "1.23×10⁻⁵"),
        (12.5, "12.5"),
        (63830.2, "63,800"),
        (2e7, "2.00×10⁷"),
    ],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


def test_show_prints_the_table_and_makes_a_missing_or_other_page_again(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report.build()
    page = project / "report/index.html"
    first = page.read_text(encoding="utf-8")
    for spoilt in (None, first.replace(fingerprint(summary_of(project)), "0" * 64)):
        page.unlink()
        if spoilt:
            page.write_text(spoilt)
        report.show()
        assert fingerprint(summary_of(project)) in page.read_text(encoding="utf-8")
    page.write_text(kept := f"{page.read_text(encoding='utf-8')}<!-- kept -->")
    report.show()
    assert page.read_text(encoding="utf-8") == kept
    printed = capsys.readouterr().out
    assert str(page.resolve()) in printed
    assert re.search(r"VAE +≤ 1\.860 +2\.70 ", printed)
    assert re.search(r"GAN +– +0\.70\* ", printed)
    assert "interval, over 3 draws, 3 extractors and the choice of 40 test images; not over another" in printed


def test_the_command_reports_an_error_in_one_line(project: Path) -> None:
    (project / "runs/nice/0/metrics.json").unlink()
    command = [sys.executable, "-m", "stages.report"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: runs/nice/0/metrics.json: missing; run `dvc repro evaluate@nice-0`\n"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_browser(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 420])
def test_a_browser_shows_it_whole_and_runs_its_own_script_alone(
    hostile: Path, browser: Any, width: int, scheme: str
) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get((hostile / "report/index.html").as_uri())
    assert browser.get_log("browser") == []  # nor a script that the page's security policy had to stop
    assert browser.execute_script("return document.scripts.length") == 1
    images = browser.execute_script("return [...document.images].map(i => i.complete && i.naturalWidth > 0)")
    assert len(images) > 300
    assert all(images)
    heights = "return [...document.querySelectorAll('.stability tbody tr')].map(row => row.offsetHeight)"
    assert min(browser.execute_script(heights)) > 20
    page, room = browser.execute_script("const d = document.documentElement; return [d.scrollWidth, d.clientWidth]")
    assert page <= room <= width
    ink = browser.execute_script("return getComputedStyle(document.body).color")
    assert (int(re.findall(r"\d+", ink)[0]) > 128) == (scheme == "dark")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a finished report of one seed."""
    folder = tmp_path_factory.mktemp("plain")
    make_project(folder, small_sets(), 5, ["a", "b", "c"], [0])
    with contextlib.chdir(folder):
        report.build()
    return (folder / "report/index.html").as_uri()


def _open(browser: Any, address: str, width: int, height: int) -> Any:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get("about:blank")
    browser.get(address)
    return browser.execute_script


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (800, 1000), (390, 844)])
def test_the_first_samples_are_on_the_first_screen(plain: str, browser: Any, width: int, height: int) -> None:
    ask = _open(browser, plain, width, height)
    top, side = ask("const r = document.querySelector('#samples img').getBoundingClientRect(); return [r.top, r.width]")
    assert top + side < height
    assert side >= 60
    assert ask("return document.querySelectorAll('#results details[open]').length") == 0
    assert ask("return document.documentElement.scrollWidth") <= width
    rights = ask("return [...document.querySelectorAll('.answers div')].map((d) => d.getBoundingClientRect().right)")
    assert rights[-1] == pytest.approx(max(rights))  # no gap beside the last one


def test_a_click_enlarges_sorts_and_moves_through_the_training(plain: str, browser: Any) -> None:
    ask = _open(browser, plain, 1400, 900)
    wide = "return document.querySelector('#samples .strip img').getBoundingClientRect().width"
    small = ask(wide)
    ask("document.querySelector('#samples .zoom').click()")
    assert ask(wide) >= 2 * small
    ask("document.querySelector('#samples .zoom').click()")
    assert ask(wide) == small

    shown = """return [...document.querySelectorAll('#results table')][0].querySelectorAll('tr.model th').values()
        .filter((th) => th.offsetParent).map((th) => th.textContent.trim()).toArray()"""
    before = ask(shown)
    click = "document.querySelector('#results table th button').click()"
    ask(click)
    by_fid = ["GAN", "Gated PixelCNN", "VAE: most likely image", "VQ-VAE: most likely image", "VAE"]
    assert ask(shown)[:5] == by_fid
    ask(click)
    assert ask(shown)[0] == "NICE"
    ask(click)
    assert ask(shown) == before

    now = "return [document.querySelector('output').textContent, document.querySelectorAll('#training .now').length]"
    assert ask(now) == ["100 % of the training", 5]
    ask("const r = document.querySelector('input[type=range]'); r.value = 4; r.dispatchEvent(new Event('input'))")
    assert ask(now) == ["50 % of the training", 5]


def test_the_contents_mark_where_one_is(plain: str, browser: Any) -> None:
    ask = _open(browser, plain, 1400, 900)
    for place in ("samples", "claims", "provenance"):
        ask(f"document.getElementById('{place}').scrollIntoView({{behavior: 'instant'}})")
        ask("dispatchEvent(new Event('scroll'))")
        assert ask("return [...document.querySelectorAll('nav [aria-current]')].map((a) => a.hash)") == [f"#{place}"]


def test_on_a_phone_no_verdict_of_a_claim_is_out_of_sight(plain: str, browser: Any) -> None:
    ask = _open(browser, plain, 390, 844)
    edges = ask("return [...document.querySelectorAll('.verdict')].map((td) => td.getBoundingClientRect().right)")
    assert len(edges) > 5
    assert 0 < min(edges) <= max(edges) <= 390
