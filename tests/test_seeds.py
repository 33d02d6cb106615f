"""What the report says of several seeds: intervals against all resamples there are, and orders that are known."""

import json
import re
import statistics
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from scipy import stats

from stages import report
from tests.invented_project import make_project, small_sets, write
from workflow import params
from workflow.evaluation.columns import MEASURED, OUT_OF_DISTRIBUTION, UNDERSTANDING
from workflow.report.charts import class_shares
from workflow.report.ranking import rankings
from workflow.report.results import read_results
from workflow.report.seeds import interval, spread
from workflow.report.summary import summarise
from workflow.report.tables import generation, in_words, over_seeds, stability
from workflow.report.terminal import table

COLUMNS = {column.key: column for column in MEASURED}
SEEDS = [0, 1, 2]
# Of what the invented runs would have in order under every seed, these change it.
CHANGED = {
    ("pixelcnn", 1): {"fid": 0.6},  # ahead of the GAN's 0.77 there, behind its 0.70 and 0.84 elsewhere
    ("vae", 1): {"bits_per_dim": 2.3},  # behind the VQ-VAE's 2.22 there, ahead of it elsewhere
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    make_project(folder, small_sets(), 5, ["a", "b", "c"], SEEDS)
    for (name, seed), changes in CHANGED.items():
        path = folder / f"runs/{name}/{seed}/metrics.json"
        write(path, json.loads(path.read_text(encoding="utf-8")) | changes)
    return folder


@pytest.fixture
def summary(project: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(project)
    return summarise(read_results(params.load()))


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.74, 1.91, 1.8], [0.3, 5.0, 0.7, 0.9], [9.0, 1.0, 2.0, 4.0, 7.5]])
def test_interval_is_students(values: list[float]) -> None:
    expected = stats.t.interval(0.95, len(values) - 1, statistics.fmean(values), stats.sem(values))
    assert interval(values) == pytest.approx(list(expected))


def test_equal_numbers_have_an_interval_of_no_width() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert interval([0.1, 0.1, 0.1]) == [0.1, 0.1]
        assert interval([0.25, 0.25]) == [0.25, 0.25]


@pytest.mark.parametrize("values", [[1.0], [1.0, None, 2.0], [None], [None, None]])
def test_one_seed_or_a_missing_number_has_no_interval(values: list[float | None]) -> None:
    found = spread({"fid": values})
    assert found["interval"]["fid"] is found["std"]["fid"] is None
    assert found["mean"]["fid"] == (1.0 if values == [1.0] else None)


def test_the_order_by_fid_swaps_where_it_was_made_to(summary: dict[str, Any]) -> None:
    (fid,) = summary["ranking"]["fid"]
    assert fid["order"] == ["gan", "pixelcnn", "vae", "vqvae", "nice"]
    assert fid["best_by_seed"] == {"0": ["gan"], "1": ["pixelcnn"], "2": ["gan"]}
    assert (fid["best"], fid["agree"], fid["pairs"], fid["swaps"]) == (["gan"], 2, 10, [["gan", "pixelcnn"]])


def test_orders_that_no_seed_changes_are_stable(summary: dict[str, Any]) -> None:
    for key in ("kid", "inception_score", "recall", "gflops_per_sample", "passes_in_sequence"):
        (group,) = summary["ranking"][key]
        assert (group["agree"], group["swaps"]) == (3, [])
    assert summary["ranking"]["recall"][0]["order"] == ["gan", "pixelcnn", "vae", "vqvae", "nice"]  # higher is better
    assert "modes_found" not in summary["ranking"]  # all equal
    assert not {"parameters", "sharpness"} & set(summary["ranking"])  # no direction


@pytest.mark.parametrize("exact", [0.5, 1.9, 9.0])
def test_orders_do_not_cross_kinds(summary: dict[str, Any], exact: float) -> None:
    models, bits = summary["models"], UNDERSTANDING[0]
    models["pixelcnn"]["values"]["bits_per_dim"] = [exact, 1.9, 3.0]
    (bounds,) = rankings(models, [bits], SEEDS)[bits.key]  # the one exact value has no rival
    assert (bounds["kind"], bounds["order"]) == ("upper bound", ["vae", "vqvae", "nice"])
    assert bounds["swaps"] == [["vae", "vqvae"]]
    models["gan"]["bits_per_dim_kind"] = "exact"
    for what, numbers in spread({bits.key: [exact + 1, 1.0, 2.0]}).items():
        models["gan"][what] |= numbers
    kinds = {group["kind"]: group["swaps"] for group in rankings(models, [bits], SEEDS)[bits.key]}
    assert [sorted(pair) for pair in kinds["exact"]] == [["gan", "pixelcnn"]]
    assert kinds["upper bound"] == bounds["swaps"]


def test_a_class_conditional_model_is_in_no_ranking_by_linear_probe(summary: dict[str, Any]) -> None:
    models, probe = summary["models"], COLUMNS["probe_accuracy"]
    models["vqvae"]["told_classes"] = True
    assert rankings(models, [probe], SEEDS)["probe_accuracy"][0]["order"] == ["vae", "nice"]


def test_equal_values_are_no_swap_and_share_the_first_place(summary: dict[str, Any]) -> None:
    models = {name: summary["models"][name] for name in ("gan", "vae")}
    for name, values in (("gan", [1.0, 2.0, 2.0]), ("vae", [1.0, 3.0, 2.0])):
        for what, numbers in spread({"fid": values}).items():
            models[name][what] |= numbers
    (group,) = rankings(models, [COLUMNS["fid"]], SEEDS)["fid"]
    assert group["best_by_seed"] == {"0": ["gan", "vae"], "1": ["gan"], "2": ["gan", "vae"]}
    assert (group["agree"], group["swaps"]) == (3, [])


def test_tables_give_spread_and_interval(summary: dict[str, Any]) -> None:
    rows = {row.label: row.cells for _, group in generation(summary).groups for row in group}
    fid, kid = rows["GAN"][:2]
    assert fid.best
    assert fid.text == "0.77"
    assert re.fullmatch(r"± 0\.07 \[0\.\d\d,\N{NO-BREAK SPACE}\d\.\d\d\]", fid.small_print)
    assert kid.best
    assert not kid.tied
    share = over_seeds(COLUMNS["probe_accuracy"], spread({"p": [0.9, 0.91, 0.95]}), "p")
    assert (share.spread, share.ends) == ("± 2.6", ("85.4", "98.6"))
    assert in_words(OUT_OF_DISTRIBUTION, summary["models"]["vae"]["oddity"], "noise") == "1.000"


def test_stability_names_who_is_ahead_instead_and_who_swaps(summary: dict[str, Any]) -> None:
    rows = {row.metric: row for row in stability(summary, MEASURED)}
    fid, bits, recall = rows["classifier FID"], rows["bits/dim, upper bound"], rows["recall"]
    assert (fid.best, fid.agree, fid.others) == ("GAN", 2, ("seed 1: Gated PixelCNN",))
    assert (fid.swapped, fid.pairs, fid.adjacent) == (1, 10, ("GAN and Gated PixelCNN",))
    assert (bits.best, bits.agree, bits.others, bits.pairs) == ("VAE", 2, ("seed 1: VQ-VAE",), 3)
    assert (recall.agree, recall.others, recall.swapped, recall.adjacent) == (3, (), 0, ())


def test_the_terminal_shows_both_and_says_what_the_marks_mean(summary: dict[str, Any]) -> None:
    console = Console(width=120, highlight=False)
    with console.capture() as captured:
        console.print(table(summary))
    lines = [line.split() for line in captured.get().splitlines()]
    gan = next(i for i, line in enumerate(lines) if line[:1] == ["GAN"])
    assert lines[gan][1:3] == ["–", "0.77±0.07*"]
    assert re.fullmatch(r"0\.\d\d–\d\.\d\d", lines[gan + 1][0])
    assert "mean ± standard deviation over seeds" in captured.get()
    assert "…" not in captured.get()


def test_bars_have_whiskers_only_over_several_seeds() -> None:
    one, other = [0.5, 0.3, 0.2], [0.3, 0.4, 0.3]
    bars = [class_shares("a", seeds, one, ["a", "b", "c"], 0, 1.0) for seeds in ([one], [one, other])]
    assert [chart.count("var(--paper)") for chart in bars] == [0, 3]
    many = [[1 / 100] * 100, [0.0] * 50 + [1 / 50] * 50]
    assert "opacity: 0.4" in class_shares("a", many, many[0], ["x"] * 100, 0, 1.0)
    assert "opacity: 0.4" not in class_shares("a", many[:1], many[0], ["x"] * 100, 0, 1.0)


def test_the_page_tells_what_the_seeds_say(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    report.build()
    text = (project / "report/index.html").read_text(encoding="utf-8")
    words = " ".join(re.sub("<[^>]*>", " ", text).replace("\N{NO-BREAK SPACE}", " ").split())
    assert "How stable is the ranking across seeds?" in words
    assert "classifier FID 0.77 ± 0.07 [0." in words
    assert "The best model is the same under every seed in 19 of 21 comparisons, the whole ranking in 19." in words


def test_intervals_of_two_seeds_may_reach_beyond_what_a_chart_can_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project(tmp_path, small_sets(), 5, ["a", "b", "c"], [0, 1])
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "runs/vae/1/metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8"))
    repeats = metrics["repeats"] | {"fid": [[5 * value for value in row] for row in metrics["repeats"]["fid"]]}
    write(path, metrics | {"fid": 5 * metrics["fid"], "gflops_per_sample": 0.01, "repeats": repeats})
    for file in (tmp_path / "timings").rglob("sample.json"):
        facts = json.loads(file.read_text(encoding="utf-8"))
        write(file, facts | {"images_per_second": facts["images_per_second"] * (1 + file.stat().st_ino % 7)})
    report.build()
    summary = json.loads(Path("report/summary.json").read_text(encoding="utf-8"))
    assert summary["models"]["vae"]["interval"]["fid"][0] == 0
    assert Path("report/speed.html").exists()


def test_the_page_of_one_model_compares_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path, small_sets(), 5, ["a", "b", "c"], [0, 1])
    monkeypatch.chdir(tmp_path)
    settings = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    settings["models"] = {"vae": settings["models"]["vae"]}
    Path("params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    report.build()
    page = Path("report/index.html").read_text(encoding="utf-8")
    assert "There is nothing to compare." in page
    assert "0 comparisons" not in page
    assert "Pairs that swap" not in page
