"""Images without classes: what learns their features, and the whole pipeline down to the page."""

import contextlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from stages import audit, extractor, reference, report, sample, train
from stages import evaluate as evaluating
from tests.browser import open_browser
from tests.conftest import ROOT
from tests.invented_project import write
from workflow.data.arrays import write_prepared
from workflow.data.tensors import ImageSet
from workflow.evaluation.classifier import Classifier, accuracy, fit_classifier, load_classifiers, save_classifiers
from workflow.params import Extractor
from workflow.tracking.mirror import figures

CPU = torch.device("cpu")
BRIEF = Extractor(channels=8, features=16, dropout=0.1, epochs=6, batch_size=32, lr=0.01, seeds=[0])
MODELS = ("gan", "vae")


def _unknown(images: Tensor) -> ImageSet:
    return ImageSet(images, torch.zeros(len(images), dtype=torch.long))


def _network(shape: tuple[int, int, int]) -> Classifier:
    return Classifier(shape, 17, classes=0, channels=2, features=5, dropout=0).eval()


def test_it_learns_by_how_far_digits_were_turned(digits: Tensor) -> None:
    train, valid = _unknown(digits[:400]), _unknown(digits[400:600])
    model = fit_classifier(train, valid, 17, 0, BRIEF, CPU, seed=0)
    assert accuracy(*model.answers(valid, 64)) > 0.6  # of four; 0, 1 and 8 look alike both ways up
    found = model.outputs(valid.images, 64)
    assert found.features.shape == (200, 16)
    assert found.logits is None
    assert found.classes is None
    again = fit_classifier(train, valid, 17, 0, BRIEF, CPU, seed=0).outputs(valid.images, 64)
    assert torch.equal(found.features, again.features)


def test_its_task_is_every_turn_that_keeps_the_shape() -> None:
    corner = torch.zeros(2, 1, 3, 3, dtype=torch.uint8)
    corner[0, 0, 0, 0] = corner[1, 0, 0, 1] = 9  # a corner and an edge, each at the top
    turned, right = _network((1, 3, 3)).task(corner, torch.tensor([7, 7]))
    assert right.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [divmod(int(image.argmax()), 3) for image in turned[::2]] == [(0, 0), (2, 0), (2, 2), (0, 2)]
    assert [divmod(int(image.argmax()), 3) for image in turned[1::2]] == [(0, 1), (1, 0), (2, 1), (1, 2)]
    wide = torch.arange(6, dtype=torch.uint8).view(1, 1, 2, 3)
    turned, right = _network((1, 2, 3)).task(wide, torch.tensor([7]))
    assert right.tolist() == [0, 1]
    assert turned.flatten(1).tolist() == [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]]


def test_pictures_are_turned_a_batch_at_a_time(digits: Tensor) -> None:
    seen: list[int] = []
    model = _network((1, 8, 8))
    model.register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    logits, right = model.answers(_unknown(digits[:50]), 16)
    assert seen == [64, 64, 64, 8]
    assert (logits.shape, right.bincount().tolist()) == ((200, 4), [50] * 4)


def test_it_survives_its_file(digits: Tensor, tmp_path: Path) -> None:
    model = _network((1, 8, 8))
    save_classifiers([model], tmp_path / "model")
    (loaded,) = load_classifiers(tmp_path / "model")
    assert torch.equal(loaded.outputs(digits[:9], 4).features, model.outputs(digits[:9], 4).features)
    assert loaded.facts["name"] == "rotation network"


@pytest.fixture(scope="module")
def project(digits: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all stages after `prepare` have run on digits whose classes nobody told."""
    folder = tmp_path_factory.mktemp("without")
    settings = yaml.safe_load((ROOT / "presets/smoke.yaml").read_text(encoding="utf-8"))
    settings["models"] = {name: settings["models"][name] for name in MODELS}
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    starts = {"train": 0, "valid": 300, "test": 400}
    sets = {split: _unknown(digits[start : start + 100]) for split, start in starts.items()}
    card = {"name": "my pictures", "source": "a folder", "licence": "mine", "split": "at random"}
    write_prepared(folder / "data/prepared", sets, **card, shape=[1, 8, 8], levels=17, classes=[])
    with contextlib.chdir(folder):
        extractor.main()
        reference.main()
        audit.main()
        for name in MODELS:
            write(Path(f"data/ledger/models/{name}.json"), {"sha256": name})
            train.main(name, 0)
            sample.main(name, 0)
            evaluating.main(name, 0)
        report.build()
    return folder


def _read(project: Path, file: str) -> Any:
    return json.loads((project / file).read_text(encoding="utf-8"))


def test_what_needs_classes_is_left_out_and_all_else_is_measured(project: Path) -> None:
    for name in MODELS:
        metrics = _read(project, f"runs/{name}/0/metrics.json")
        absent = {"inception_score", "inception_score_std", "modes", "high_quality", "class_accuracy", "probe_accuracy"}
        absent |= {"cas", "cas_of_real", "bayes"}
        if name == "gan":
            absent |= {
                "bits_per_dim",
                "bits_per_dim_kind",
                "bits_per_dim_sem",
                "bits_gap",
                "oddity",
                "reconstruction_mse",
            }
        assert {key for key, value in metrics.items() if value is None} == absent
        assert metrics["extractor"]["name"] == "rotation network"
        assert metrics["fid"] > 0
    reference = _read(project, "data/reference/reference.json")
    assert reference["pixel_probe_accuracy"] is None
    assert reference["real"]["fid"] < reference["histogram_model"]["fid"]


def test_the_mirror_names_the_features(project: Path) -> None:
    found = figures(_read(project, "runs/vae/0/metrics.json"), {})
    assert "rotation network/FID" in found
    assert not [key for key in found if "modes" in key or "classifier" in key]
    assert all(math.isfinite(value) for value in found.values())


def test_the_page_says_what_is_left_out_and_why(project: Path, tmp_path: Path) -> None:
    page = project / "report/index.html"
    text = " ".join(
        re.sub(r"<style>.*?</style>|<[^>]+>", " ", page.read_text(encoding="utf-8"), flags=re.DOTALL).split()
    )
    assert "rotation network FID" in text
    assert "classifier FID" not in text
    reason = "Inception Score, modes, class shares and linear probe: they need classes, and these images have none."
    assert text.count(reason) == 1
    for heading in ("Class histograms", "Whose features separate the classes best?", "modes found", "probe accuracy"):
        assert heading not in text
    with open_browser(tmp_path / "browser") as browser:
        browser.get(page.as_uri())
        assert browser.get_log("browser") == []
        images = browser.execute_script("return [...document.images].map(i => i.complete && i.naturalWidth > 0)")
        assert len(images) > 50
        assert all(images)
        anchors = browser.execute_script(
            "return [...document.links].filter(a => a.hash && !document.getElementById(a.hash.slice(1))).length"
        )
        assert anchors == 0


def test_the_terminal_names_the_features(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.chdir(project):
        report.show()
    printed = capsys.readouterr().out
    assert re.search(r"VAE +≤ \d\.\d{3} ", printed)
    assert "rotation" in printed
    assert "classifier" not in printed
