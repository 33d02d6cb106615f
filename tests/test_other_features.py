"""Other extractors: the same network given twice says the same twice, and pairs that change order are found."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from stages import evaluate as evaluating
from stages import extractor, reference, report, sample, train
from tests.conftest import ROOT
from tests.evaluated import MEASURES, SETTINGS, OnlySamples, measure
from tests.invented_project import PER_IMAGE, make_project, small_sets, write
from tests.test_network import EYE, Eye, save
from workflow import params
from workflow.data.arrays import read_arrays, write_arrays, write_prepared
from workflow.data.tensors import ImageSet
from workflow.errors import BakeoffError
from workflow.evaluation.comparison import Measurement
from workflow.evaluation.evaluator import Evaluator
from workflow.evaluation.other_features import OtherFeatures
from workflow.evaluation.ranks import order, ranks, reversed_pairs
from workflow.evaluation.reference import reference as measure_references
from workflow.evaluation.scores import write_real
from workflow.files import read_json, sha256
from workflow.paths import stage_page
from workflow.report.other_features import Others, others
from workflow.report.results import read_results
from workflow.report.summary import summarise
from workflow.tracking.mirror import figures

NEAR = {"fid", "fid_infinity", "kid", "kid_std", "precision", "recall", "density", "coverage"}


def twice(evaluator: Evaluator) -> Evaluator:
    """The same with its own extractors as others."""
    again = OtherFeatures("again", evaluator.extractors, evaluator.test.images, SETTINGS)
    return replace(evaluator, others=[again])


def test_the_same_network_says_the_same_twice(two_eyes: Evaluator, samples: Tensor) -> None:
    metrics, pictures = measure(OnlySamples(), samples, twice(two_eyes), 0)
    assert metrics.keys() == MEASURES | {"other_features"}
    again = metrics["other_features"]["again"]
    assert again.keys() == NEAR | {"repeats"}
    assert {key: again[key] for key in NEAR} == {key: metrics[key] for key in NEAR}
    assert again["repeats"] == {key: metrics["repeats"][key] for key in NEAR - {"kid_std"}}
    for key in NEAR - {"kid_std"}:
        assert torch.equal(pictures[f"other features/again/per_image/{key}"], pictures[f"per_image/{key}"])
    alone, of_one = measure(OnlySamples(), samples, two_eyes, 0)
    assert alone == {key: value for key, value in metrics.items() if key != "other_features"}
    assert of_one.keys() == {name for name in pictures if not name.startswith("other features/")}


def test_real_images_are_measured_once_for_all(
    evaluator: Evaluator, samples: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    both = twice(evaluator)
    found, per_image = measure_references(both, 40)
    for row in ("real", "histogram_model"):
        again = found[row]["other_features"]["again"]
        assert {key: again[key] for key in NEAR} == {key: found[row][key] for key in NEAR}
        assert again["repeats"]["fid"] == found[row]["repeats"]["fid"]
    write_real(both.real, per_image)
    (other,) = both.others
    read = other.read_measured()
    assert read.measured
    assert len(read.measured) == 1
    fresh, known = other.scores([samples]), read.scores([samples])
    assert fresh.means == known.means
    assert all(torch.equal(fresh.per_image[key], known.per_image[key]) for key in fresh.per_image)


def _model(value: float, *doubt: float) -> Measurement:
    return Measurement([[value + off] for off in doubt])


def test_ranks_are_as_sure_as_the_pairs() -> None:
    models = {
        "a": _model(1.0, -0.01, 0.01, 0.0),
        "b": _model(2.0, 0.01, 0.0, -0.01),
        "c": _model(2.001, -0.01, 0.01, 0.0),
        "d": _model(9.0, 0.0, 0.02, -0.02),
    }
    found = order(models, "lower")
    assert found == {("a", "b"): 1, ("a", "c"): 1, ("a", "d"): 1, ("b", "c"): 0, ("b", "d"): 1, ("c", "d"): 1}
    assert ranks(models, found) == {"a": (1, 1), "b": (2, 3), "c": (2, 3), "d": (4, 4)}
    upside = order(models, "higher")
    assert upside == {pair: -way for pair, way in found.items()}
    assert reversed_pairs(found, upside) == [pair for pair, way in found.items() if way]
    assert reversed_pairs(upside, found)[0] == ("b", "a")
    assert reversed_pairs(found, found) == []
    signs = {"a": 1, "b": -1, "c": 2, "d": -2}
    doubtful = {name: _model(one.mean, -50.0 * signs[name], 60.0 * signs[name]) for name, one in models.items()}
    assert set(ranks(doubtful, order(doubtful, "lower")).values()) == {(1, 4)}


# The report


def _add(folder: Path, change: Callable[[Any], Any]) -> None:
    """Another extractor, whose measures are those of the main one, `change` of each number."""
    settings = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    settings["evaluate"]["extractor"] = ["trained", str(EYE)]
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    facts = read_json(folder / "data/extractor/metrics.json")
    other = {"name": "eye", "about": "the network in a file", "features": 5, "sha256": "cd" * 32}
    write(folder / "data/extractor/metrics.json", {**facts, "others": [other]})

    def seen(metrics: dict[str, Any]) -> dict[str, Any]:
        tables = {key: change(np.array(metrics["repeats"][key])).tolist() for key in NEAR & metrics["repeats"].keys()}
        return {"other_features": {"eye": {**{k: np.mean(v) for k, v in tables.items()}, "repeats": tables}}}

    real = read_json(folder / "data/reference/reference.json")
    for row in ("real", "histogram_model"):
        real[row] |= seen(real[row])
    write(folder / "data/reference/reference.json", real)
    for path in folder.glob("runs/*/*/metrics.json"):
        metrics, pictures = read_json(path), path.with_name("pictures.safetensors")
        write(path, metrics | seen(metrics))
        arrays = read_arrays(pictures)
        for key in NEAR & set(PER_IMAGE):
            arrays[f"other features/eye/per_image/{key}"] = arrays[f"per_image/{key}"]
        write_arrays(pictures, arrays)


def _summary(folder: Path, change: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    make_project(folder, small_sets(), 5, ["a", "b", "c"], [0])
    _add(folder, change)
    monkeypatch.chdir(folder)
    return summarise(read_results(params.load()))


def _said(summary: dict[str, Any]) -> Others:
    found = others(summary)
    assert found
    return found


def test_the_same_features_give_the_same_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = _summary(tmp_path, lambda values: values, monkeypatch)
    found = summary["other_features"]
    assert found["ranks"]["eye"] == found["ranks"]["trained"]
    assert found["ranks"]["trained"]["gan"] == [1, 1]
    change = found["changes"]["eye"]
    assert (change["reversed"], change["correlation"], found["pairs"]) == ([], 1.0, 10)
    assert change["before"] == change["now"] == change["alike"] > 0
    eye = found["extractors"]["eye"]
    for name, model in summary["models"].items():
        for key in NEAR - {"kid_std"}:
            assert eye["models"][name]["mean"][key] == pytest.approx(model["mean"][key])
            assert eye["models"][name]["interval"][key] == pytest.approx(model["interval"][key])
    assert eye["verdicts"]["fid"]["best"] == summary["verdicts"]["fid"]["best"]
    said = _said(summary)
    assert said.heads == ["classifier", "eye"]
    assert [row.label for row in said.rows][:2] == ["GAN", "Gated PixelCNN"]
    assert all(row.cells[0][2] == row.cells[1][2] for row in said.rows)
    assert said.rows[0].cells[1][0] == "0.7"
    assert said.words == [
        f"eye: of 10 pairs of models, classifier features decide {change['before']}, eye features {change['before']}; "
        f"{change['before']} alike, 0 the other way round. Rank correlation of the two FIDs: +1.00. No pair changes "
        "places."
    ]


def test_pairs_that_change_places_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the other network the lower FID is the higher one, but independent pixels are still the worst."""
    summary = _summary(tmp_path, lambda values: np.where(values < 50, 20 - values, 1.0) + 1, monkeypatch)
    assert summary["other_features"]["refused"] == {"eye": "cannot tell independent pixels from real images"}
    said = _said(summary)
    (words,) = said.words
    assert words == "FID by eye features cannot tell independent pixels from real images, so it ranks nobody there."
    assert {row.cells[1][2] for row in said.rows[:5]} == {"–"}
    assert said.rows[0].cells[0][2] == "1"

    summary = _summary(tmp_path, lambda values: np.where(values < 50, 20 - values, 99.0), monkeypatch)
    found = summary["other_features"]
    change = found["changes"]["eye"]
    assert change["correlation"] == -1
    assert change["alike"] == 0
    assert len(change["reversed"]) == change["before"] == change["now"]
    assert ["gan", "nice"] in change["reversed"]
    assert found["ranks"]["eye"]["gan"] == [6 - place for place in reversed(found["ranks"]["trained"]["gan"])]
    words = "GAN and NICE change places: GAN is ahead by classifier features, NICE by eye features."
    assert words in _said(summary).words


def test_one_extractor_adds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path, small_sets(), 5, ["a", "b", "c"], [0])
    monkeypatch.chdir(tmp_path)
    summary = summarise(read_results(params.load()))
    assert "other_features" not in summary
    assert others(summary) is None
    results = read_results(params.load())
    with pytest.raises(BakeoffError, match=r"^runs/gan/0/metrics\.json: 'other_features' has no 'eye'; run `dvc repro"):
        results.models["gan"][0].seen_by("eye")


@pytest.mark.slow
def test_the_stages_measure_by_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Tensor, digit_labels: Tensor
) -> None:
    """From the file to the page; and the columns of the main extractor are what they are without the other."""
    monkeypatch.chdir(tmp_path)
    save(Eye())
    settings = yaml.safe_load((ROOT / "presets/smoke.yaml").read_text(encoding="utf-8"))
    settings["models"] = {name: settings["models"][name] for name in ("gan", "nice")}
    places = {"train": slice(0, 200), "valid": slice(200, 300), "test": slice(300, 400)}
    sets = {split: ImageSet(digits[place], digit_labels[place]) for split, place in places.items()}
    about = {"name": "digits", "source": "a source", "licence": "mine", "split": "in order"}
    classes = [str(digit) for digit in range(10)]
    write_prepared(Path("data/prepared"), sets, **about, shape=[1, 8, 8], levels=17, classes=classes)
    write(stage_page("extractor"), {str(EYE): sha256(EYE)})
    found, files = [], []
    for chosen in ("trained", ["trained", str(EYE)]):
        settings["evaluate"]["extractor"] = chosen
        Path("params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        extractor.main()
        reference.main()
        for name in settings["models"]:
            write(Path(f"data/ledger/models/{name}.json"), {"sha256": name})
            if chosen == "trained":
                train.main(name, 0)
                sample.main(name, 0)
            evaluating.main(name, 0)
        found.append(json.loads(Path("runs/gan/0/metrics.json").read_text(encoding="utf-8")))
        files.append(read_arrays(Path("runs/gan/0/pictures.safetensors")))
    alone, both = found
    assert figures(both, {}).keys() - figures(alone, {}).keys() >= {"eye/FID", "eye/KID", "eye/coverage"}
    assert both.pop("other_features")["eye"].keys() == NEAR | {"repeats"}
    assert json.dumps(alone) == json.dumps(both)
    assert all(np.array_equal(values, files[1][name]) for name, values in files[0].items())
    write(Path("data/audit/audit.json"), {"counts": {}, "clean": {}, "controls": {}, "damages": {}})
    report.build()
    page = Path("report/index.html").read_text(encoding="utf-8")
    assert "Ranks under other features" in page
    assert "All measures on eye features" in page
