"""Models that differ in nothing but how long they train: which are joined, what is drawn, and what is said of them."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages import report
from tests.conftest import ROOT
from tests.invented_project import make_project, small_sets, write
from workflow import params
from workflow.evaluation.columns import GENERATION, UNDERSTANDING
from workflow.evaluation.comparison import Measurement
from workflow.report.budget_section import Line, apart, budgets, in_words, lines, quality_against_budget
from workflow.report.budgets import Curves, Square, find_curves, series, squares, weigh
from workflow.report.results import read_results
from workflow.report.seeds import spread
from workflow.report.summary import summarise

SMOKE = params.load(ROOT / "presets/smoke.yaml")
FID, BITS = GENERATION[0], UNDERSTANDING[0]


def _curves(gflops: dict[str, float], **changes: dict[str, Any]) -> Curves:
    """The curves of variants of the smoke preset's VAE, each with its changes and its counted GFLOPs."""
    vae = SMOKE.models["vae"].model_dump(exclude_none=True)
    entries = {name: vae | own | {"train": vae["train"] | own.get("train", {})} for name, own in changes.items()}
    content = {**SMOKE.model_dump(mode="json", exclude_none=True), "models": entries}
    settings = params.parse(yaml.safe_dump(content, sort_keys=False))
    models = {name: {"title": "VAE", "mean": {"training_gflops": gflops[name]}} for name in entries}
    return find_curves(settings, models)


def test_models_that_differ_in_their_epochs_alone_are_joined_by_what_was_counted() -> None:
    gflops = {"long": 9.5, "short": 3.0, "again": 3.0, "middle": 6.1}
    lengths = {"long": 6, "short": 2, "again": 2, "middle": 4}
    found = _curves(gflops, **{name: {"train": {"epochs": epochs}} for name, epochs in lengths.items()})
    assert found == {"VAE": ["short", "middle", "long"]}  # a length that stands twice is one point


def test_a_budget_is_joined_to_epochs() -> None:
    content = {**SMOKE.model_dump(mode="json", exclude_none=True)}
    vae = content["models"]["vae"]
    train = {key: value for key, value in vae["train"].items() if key != "epochs"}
    content["models"] = {"a": vae, "b": {**vae, "train": {**train, "gflops": 5}}}
    models = {name: {"title": "VAE", "mean": {"training_gflops": at}} for name, at in (("a", 2.0), ("b", 5.1))}
    assert find_curves(params.parse(yaml.safe_dump(content)), models) == {"VAE": ["a", "b"]}


@pytest.mark.parametrize("other", [{"latents": 5}, {"train": {"lr": 0.1, "epochs": 3}}, {"beta": 2.0}])
def test_models_that_differ_in_anything_else_are_not_joined(other: dict[str, Any]) -> None:
    assert _curves({"a": 1.0, "b": 2.0}, a={}, b={"train": {"epochs": 3}}) == {"VAE": ["a", "b"]}
    longer = other | {"train": {"epochs": 3} | other.get("train", {})}
    assert _curves({"a": 1.0, "b": 2.0}, a={}, b=longer) == {}


def test_curves_of_one_title_are_told_apart_by_what_they_differ_in() -> None:
    long = {"train": {"epochs": 3}}
    found = _curves(
        {"a": 1.0, "b": 2.0, "c": 1.0, "d": 2.0},
        a={}, b=long, c={"latents": 5}, d={"latents": 5, **long},
    )  # fmt: skip
    assert found == {"VAE (latents 4)": ["a", "b"], "VAE (latents 5)": ["c", "d"]}


def test_the_preset_has_eight_families_at_three_budgets() -> None:
    preset, default = params.load(ROOT / "presets/budget.yaml"), params.load(ROOT / "params.yaml")
    known = params.load(ROOT / "presets/lectures.yaml").models | default.models
    bases = {name.rpartition("_")[0] for name in preset.models}
    assert len({known[name].kind for name in bases}) == 8
    assert set(preset.models) == {f"{name}_{gflops}" for name in bases for gflops in (75, 150, 300)}
    for name, entry in preset.models.items():
        base, _, gflops = name.rpartition("_")
        assert entry.flat == known[base].flat | {"train.gflops": float(gflops)}
    assert preset.seeds == [0, 1, 2]
    for section in ("data", "compute", "extractor", "sample", "evaluate"):
        assert getattr(preset, section) == getattr(default, section)


OFF = [0.0003, -0.0002, 0.0001]  # so that no two differences are the same under every seed
KINDS = {"pixelcnn": "exact", "vae": "upper bound", "nice": "upper bound", "gan": None}


def _about(value: float, place: int = 0) -> list[float]:
    return [value + off for off in (OFF[place % 3 :] + OFF[: place % 3])]


def _summary(key: str, **curves: dict[float, list[float]]) -> tuple[dict[str, Any], dict[str, Measurement]]:
    """A summary of curves, named by their kinds: a number of each budget under each seed; and the measurements."""
    models, measured, found = {}, {}, {}
    for kind, values in curves.items():
        names = found[kind.upper()] = [f"{kind}_{gflops:g}" for gflops in values]
        for name, (gflops, numbers) in zip(names, values.items(), strict=True):
            constant = [gflops] * len(numbers)
            models[name] = {"kind": kind, "bits_per_dim_kind": KINDS[kind], "told_classes": False}
            models[name] |= spread({key: numbers, "training_gflops": constant})
            bits = KINDS[kind] if key == "bits_per_dim" else None
            measured[name] = Measurement([[number] for number in numbers], kind=bits)  # type: ignore[arg-type]
    return {"extractor": {"name": "classifier"}, "models": models, "budgets": found}, measured


def test_models_of_a_curve_share_colour_and_marker_and_all_others_have_their_own() -> None:
    summary = {"models": dict.fromkeys(["a", "b_1", "c", "b_2"]), "budgets": {"B": ["b_1", "b_2"]}}
    assert series(summary) == {"a": 0, "b_1": 1, "c": 2, "b_2": 1}
    del summary["budgets"]
    assert series(summary) == {"a": 0, "b_1": 1, "c": 2, "b_2": 3}


def test_curves_are_compared_at_budgets_that_both_have() -> None:
    one = [0.0]
    summary, _ = _summary(
        "fid", vae={10.0: one, 20.0: one, 40.0: one}, gan={9.0: one, 19.0: one}, nice={42.0: one, 80.0: one}
    )
    assert squares(summary) == {("VAE", "GAN"): Square(("vae_10", "gan_9"), ("vae_20", "gan_19"))}


@pytest.mark.parametrize(
    ("vae", "gan", "expected"),  # at the smaller and the larger budget
    [
        ((9.0, 3.0), (8.0, 2.0), 1),  # both are better with the larger budget than either with the smaller one
        ((2.0, 8.0), (3.0, 9.0), 1),  # or worse
        ((9.0, 8.0), (3.0, 2.0), -1),
        ((9.0, 3.0), (2.0, 8.0), 0),  # what the one gains, the other loses: both differences are the same
        ((9.0, 5.0), (5.0, 2.0), 0),  # nothing tells the two in the middle apart
    ],
)
def test_what_differs_more_between_budgets_than_between_curves(
    vae: tuple[float, float], gan: tuple[float, float], expected: int
) -> None:
    small, large = (dict(zip(("vae", "gan"), ends, strict=True)) for ends in zip(vae, gan, strict=True))
    values = {f"{name}_{size}": at[name] for size, at in (("small", small), ("large", large)) for name in at}
    measured = {name: Measurement([[v] for v in _about(value, i)]) for i, (name, value) in enumerate(values.items())}
    square = Square(("vae_small", "gan_small"), ("vae_large", "gan_large"))
    assert weigh([square], measured) == [expected]
    between = sum(abs(at["vae"] - at["gan"]) for at in (small, large))
    over = sum(abs(small[name] - large[name]) for name in small)
    assert expected in (0, (over > between) - (over < between))


def test_of_many_squares_each_counts_only_after_holms_adjustment() -> None:
    close = {"a": [1.0, 1.1, 1.2], "b": [1.05, 1.1, 1.3], "c": [1.5, 1.7, 1.7], "d": [1.6, 1.7, 1.9]}
    measured = {name: Measurement([[value] for value in values]) for name, values in close.items()}
    square = Square(("a", "b"), ("c", "d"))
    assert weigh([square], measured) == [1]
    assert weigh([square] * 10, measured) == [0] * 10


def test_lines_have_what_was_counted_the_mean_over_seeds_and_its_interval() -> None:
    summary, _ = _summary("fid", vae={10.5: [3.0, 4.0], 21.0: [2.0, 2.5]}, gan={10.0: [1.0, 1.0], 20.0: [0.5, 0.7]})
    vae, gan = lines(FID, summary)
    assert (vae.label, vae.series, vae.budgets, vae.values) == ("VAE", 0, (10.5, 21.0), (3.5, 2.25))
    assert vae.ends[0] == pytest.approx(
        (3.5 - 12.706 * 0.5, 3.5 + 12.706 * 0.5), abs=1e-3
    )  # t of one degree of freedom
    assert (gan.series, gan.ends[0], gan.bound) == (1, [1.0, 1.0], False)


def test_bits_are_drawn_of_models_with_a_density_and_bounds_are_marked() -> None:
    one = {10.0: [2.0], 20.0: [1.9]}
    summary, _ = _summary("bits_per_dim", pixelcnn=one, vae=one, gan={10.0: [None], 20.0: [None]})  # type: ignore[list-item]
    assert [(line.label, line.bound) for line in lines(BITS, summary)] == [("PIXELCNN", False), ("VAE", True)]
    assert lines(BITS, summary)[0].ends == ((2.0, 2.0), (1.9, 1.9))


def test_the_words_count_changes_and_reversals() -> None:
    summary, measured = _summary(
        "fid",
        vae={10.0: _about(9.0), 20.0: _about(5.0, 1)},
        gan={10.0: _about(10.0, 1), 20.0: _about(2.0)},  # overtakes the VAE
        nice={10.0: _about(20.0, 2), 20.0: [19.0, 20.0, 21.0]},
        pixelcnn={10.0: _about(1.0), 20.0: _about(1.5, 2)},
    )
    assert in_words(FID, summary, measured) == (
        f"From the smallest budget to the largest, {FID.title} falls in 2 of 4 families and rises in 1; in 1, the "
        "difference may be due to chance. Of 6 pairs of families, 5 keep their order from the smallest to the largest "
        "budget that both have, 1 reverses it, and none are undecided at one of these budgets or at both."
    )


def test_a_bound_may_fall_but_is_in_no_order_with_another() -> None:
    summary, measured = _summary(
        "bits_per_dim", vae={10.0: _about(2.0), 20.0: _about(1.9, 1)}, nice={10.0: _about(3.0, 2), 20.0: _about(2.5)}
    )
    assert in_words(BITS, summary, measured) == (
        "From the smallest budget to the largest, bits/dim or its bound falls in 2 of 2 families and rises in none. "
        "Of 1 pair of families, none keep their order from the smallest to the largest budget that both have, none "
        "reverse it, and 1 is undecided at one of these budgets or at both."
    )


def test_two_curves_without_common_budgets_are_in_no_order() -> None:
    summary, measured = _summary(
        "fid", vae={10.0: _about(2.0), 20.0: _about(1.9, 1)}, nice={50.0: _about(3.0, 2), 99.0: _about(2.5)}
    )
    assert in_words(FID, summary, measured).endswith(
        "No two families have two budgets in common, so their order is not compared."
    )


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([10.0, 30.0, 90.0], [10.0, 30.0, 90.0]),
        ([10.0, 11.0, 90.0], [10.0, 21.0, 90.0]),
        ([85.0, 96.0, 99.0], [78.0, 89.0, 100.0]),
        ([-5.0, 2.0], [0.0, 11.0]),
        ([50.0] * 21, [5.0 * i for i in range(21)]),  # more than there is room for
    ],
)
def test_labels_are_moved_apart_and_stay_within_the_frame(heights: list[float], expected: list[float]) -> None:
    assert apart(heights, 11.0, 0.0, 100.0) == pytest.approx(expected)


def _lengthen(folder: Path, name: str, longer: str, gflops: float, factor: float) -> None:
    """Add a model that is trained twice as long as another, with a FID of so much of its own."""
    path = folder / "params.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    entry = settings["models"][name]
    settings["models"][longer] = {**entry, "train": {**entry["train"], "epochs": 6}}
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    for seed in settings["seeds"]:
        shutil.copytree(folder / f"runs/{name}/{seed}", target := folder / f"runs/{longer}/{seed}")
        metrics = json.loads((target / "metrics.json").read_text(encoding="utf-8"))
        table = [[factor * value for value in row] for row in metrics["repeats"]["fid"]]
        changed = {"fid": factor * metrics["fid"], "training_gflops": gflops}
        write(target / "metrics.json", {**metrics, **changed, "repeats": {**metrics["repeats"], "fid": table}})


def test_the_page_draws_curves_over_seeds_with_their_names_right_of_the_axes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project(tmp_path, small_sets(), 5, ["a", "b", "c"], [0, 1])
    for name, factor in (("vae", 0.5), ("pixelcnn", 0.9)):
        _lengthen(tmp_path, name, f"{name}_6", 800.5, factor)
    monkeypatch.chdir(tmp_path)
    report.build()
    summary = json.loads(Path("report/summary.json").read_text(encoding="utf-8"))
    assert summary["budgets"] == {"Gated PixelCNN": ["pixelcnn", "pixelcnn_6"], "VAE": ["vae", "vae_6"]}
    _, vae = lines(FID, summary)
    assert vae.values == pytest.approx((2.7 * 1.05, 2.7 * 1.05 * 0.5))  # the mean of two seeds
    assert vae.budgets == (400.25, 800.5)
    page = Path("report/index.html").read_text(encoding="utf-8")
    section = page[page.index('<section id="budgets">') :].partition("</section>")[0]
    assert '<a href="#budgets">' in page
    charts = re.findall(r"<svg class=\"chart.*?</svg>", section, re.DOTALL)
    assert [re.findall(r'aria-label="(.*?)"', chart)[0] for chart in charts] == [
        "classifier FID against training GFLOPs, a line each for Gated PixelCNN, VAE, with the floor of real images",
        "bits/dim against training GFLOPs, a line each for Gated PixelCNN, VAE",
    ]
    for chart in charts:
        paths = re.findall(r'<path d="([^"]*)"[^>]*style="fill: none; [^"]*stroke: var\(--series', chart)
        ends = [float(x) for path in paths for x in re.findall(r"[ML] ([\d.]+) ", path)]
        names = {
            text: float(x) for x, text in re.findall(r'<text [^>]*\bx="([\d.]+)"[^>]*>(Gated PixelCNN|VAE)<', chart)
        }
        assert len(names) == 2
        assert min(names.values()) > max(ends)
        assert len(paths) == 6  # a line and two intervals each
    words = " ".join(re.sub("<[^>]*>", " ", section).split())
    assert "falls in " in words
    assert "Dashed: upper bounds" in words
    for number in ("400", "800", f"{vae.values[1]:.2f}"):
        assert f" {number} " in words
    swatches = re.findall(r'series-(\d)\)">(?:(?!</svg>).)*</svg>(VAE \(vae_6\)|VAE)<', page)
    assert len({number for number, _ in swatches}) == 1  # the same in every table


def test_a_page_without_such_models_has_no_place_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path, small_sets(), 5, ["a", "b", "c"], [0])
    monkeypatch.chdir(tmp_path)
    results = read_results(params.load())
    summary = summarise(results)
    assert "budgets" not in summary
    assert budgets(summary, results.measurements) is None


def test_names_are_whole_if_there_is_room_and_cut_if_there_is_none() -> None:
    (line,) = lines(FID, _summary("fid", vae={10.0: [3.0, 4.0], 20.0: [2.0, 2.5]})[0])
    assert re.findall(">([^<>]*[a-zA-Z…]{3})</text>", quality_against_budget(FID, [line], 0.4))[-2:] == [
        "real images", "VAE",
    ]  # fmt: skip
    long = quality_against_budget(FID, [replace(line, label="VAE " * 50)], 0.4)
    assert re.search(">(VAE ){5,8}[VAE]*…</text>", long)


def test_each_budget_has_its_tick_although_whole_steps_miss_it_by_a_little() -> None:
    line = Line("VAE", 0, False, (74.7, 150.3, 301.0), (3.0, 2.0, 1.0), ((2.9, 3.1), (1.9, 2.1), (0.9, 1.1)))
    drawn = quality_against_budget(FID, [line, replace(line, budgets=(75.4, 149.1, 299.2))], None)
    ticks = [label.get_text() for label in drawn.figure.axes[0].get_xticklabels()]
    assert ticks == ["75", "150", "300"]
