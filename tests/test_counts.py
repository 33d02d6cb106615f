"""What the parameters ask of the data is refused before anything is trained, with one line that says what to do."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from stages import download, prepare
from tests.conftest import ROOT
from workflow import params
from workflow.data import catalogue
from workflow.data.arrays import Card
from workflow.data.catalogue import shape_of
from workflow.data.counts import check_counts
from workflow.errors import BakeoffError
from workflow.models.registry import check_builds
from workflow.params import Embedded, Params

SMOKE: dict[str, Any] = yaml.safe_load((ROOT / "presets/smoke.yaml").read_text(encoding="utf-8"))


def _settings(**changes: object) -> Params:
    """The smoke preset's, with values at paths like `evaluate__splits`."""
    content = copy.deepcopy(SMOKE)
    for path, value in changes.items():
        *parents, last = path.split("__")
        section: Any = content
        for part in parents:
            section = section.setdefault(part, {})
        section[last] = value
    return params.parse(yaml.safe_dump(content))


def _card(train: int, test: int, classes: int = 10) -> Card:
    counts = {"train": train, "valid": 1, "test": test}
    return Card("", "", "", (1, 8, 8), 17, tuple(map(str, range(classes))), counts, {}, "")


@pytest.mark.parametrize(
    ("changes", "card", "line"),
    [
        ({}, _card(10, 5), "evaluate.neighbours: 5: too many for 5 test images; set it to 4 or lower"),
        ({}, _card(5, 6), "evaluate.neighbours: 5: too many for 5 training images; set it to 4 or lower"),
        (
            {"evaluate__neighbours": 10, "sample__count": 10},
            _card(99, 99),
            "evaluate.neighbours: 10: too many for 10 samples (sample.count); set it to 9 or lower",
        ),
        (
            {"evaluate__splits": 40},
            _card(39, 99),
            "evaluate.splits: 40: too many for 39 training images; set it to 39 or lower",
        ),
        (
            {"evaluate__splits": 101},
            _card(999, 99),
            "evaluate.splits: 101: too many for 100 samples (sample.count); set it to 100 or lower",
        ),
        (
            {"models__vae__train__parts": 64},
            _card(63, 99),
            "models.vae.train.parts: 64: more than there are training images (63); set it to 32",
        ),
        (
            {
                "models__auto": {
                    "kind": "autoencoder",
                    "train": {"epochs": 1, "batch_size": 9, "lr": 0.1},
                    "components": 64,
                }
            },
            _card(63, 99),
            "models.auto.components: 64: more than there are training images (63); set it to 63 or lower",
        ),
        (
            {"models__gan__classes": 7},
            _card(99, 99),
            "models.gan.classes: 7: the data have 10 classes; set 10, or 0 for a model that is not conditioned on them",
        ),
        ({"models__gan__classes": 7}, _card(99, 99, 0), "models.gan.classes: 7: the data have no classes; set 0"),
    ],
)
def test_what_the_data_cannot_meet_is_refused(changes: dict[str, object], card: Card, line: str) -> None:
    with pytest.raises(BakeoffError) as error:
        check_counts(_settings(**changes), card)
    assert str(error.value) == f"params.yaml: {line}"


OWN = {"name": "folder", "root": "own", "size": 8, "valid": 0.1, "test": 0.1}
MNIST = {"name": "mnist", "root": "own", "valid": 0.1, "seed": 0}
GIVEN = "train and test as the set comes, the rest at random, equal images together, seed 0"


@pytest.mark.parametrize(
    ("data", "card", "line"),
    [
        (
            SMOKE["data"],
            _card(1, 9),
            "1 image to train on, of 11; at least 2 are needed: lower data.valid and data.test",
        ),
        (SMOKE["data"], _card(9, 1), "1 image to test with, of 11; at least 2 are needed: raise data.test"),
        (
            OWN,
            _card(10, 1),
            "1 image to test with, of 12; at least 2 are needed: add images, up to 20 in all, or raise data.test",
        ),
        (
            {**OWN, "valid": 0.45, "test": 0.45},
            _card(1, 4),
            "1 image to train on, of 6; at least 2 are needed: add images, up to 20 in all, or lower data.valid and "
            "data.test",
        ),
        (
            OWN,
            replace(_card(10, 1), split=GIVEN),
            "1 image to test with, of 12; at least 2 are needed: add images to the test split in own",
        ),
        (
            MNIST,
            replace(_card(1, 9), split=GIVEN),
            "1 image to train on, of 11; at least 2 are needed: add images to the train split in own, or lower "
            "data.valid",
        ),
    ],
)
def test_fewer_images_than_any_parameter_allows(data: dict[str, object], card: Card, line: str) -> None:
    with pytest.raises(BakeoffError) as error:
        check_counts(_settings(evaluate__neighbours=1, data=data), card)
    assert str(error.value) == f"data: {line}"


@pytest.mark.parametrize(
    ("changes", "card"),
    [
        ({}, _card(6, 6)),
        ({"evaluate__neighbours": 1, "evaluate__splits": 2}, _card(2, 2)),
        ({"evaluate__neighbours": 9, "sample__count": 10, "evaluate__splits": 10}, _card(10, 10)),
        ({"evaluate__splits": 40}, _card(39, 99, 0)),  # without classes there is no Inception Score
        ({"models__gan__classes": 10}, _card(99, 99)),
        ({"sweeps": {"gan": {"varied": ["classes"], "trials": ["nice"]}}}, _card(99, 99)),
    ],
)
def test_what_is_just_enough_is_taken(changes: dict[str, object], card: Card) -> None:
    if "sweeps" in changes:  # a trial that cannot be is for the sweep to set aside
        changes = {**changes, "models__nice": {**SMOKE["models"]["gan"], "classes": 7}}
    check_counts(_settings(**changes), card)


def test_too_few_pictures_are_refused_before_their_splits_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    settings = {**SMOKE, "data": {"name": "folder", "root": "own", "size": 8, "valid": 0.25, "test": 0.25}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")

    def add_pictures(numbers: range) -> None:
        for number in numbers:
            pixels = np.random.default_rng(number).integers(256, size=(8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"own/{number}.png")
        download.main()

    add_pictures(range(12))
    with pytest.raises(BakeoffError, match=r"^params\.yaml: evaluate\.neighbours: 5: too many for 3 test images; set"):
        prepare.main()
    assert not (tmp_path / "data/prepared").exists()
    add_pictures(range(12, 24))
    prepare.main()
    assert (tmp_path / "data/prepared/card.json").exists()


@pytest.mark.parametrize("name", ["digits", "stacked_digits", "glyphs", "tones", "ring", "grid"])
def test_the_images_have_the_shape_that_models_are_tried_with(name: Any, tmp_path: Path) -> None:
    settings = Embedded(name=name, root=Path(), valid=0.1, test=0.2, seed=0)
    catalogue.download(settings, tmp_path)
    assert tuple(catalogue.prepare(settings, tmp_path)[1]["shape"]) == shape_of(settings)


@pytest.mark.parametrize(
    "file",
    [
        ROOT / "params.yaml",
        *sorted((ROOT / "presets").glob("*.yaml")),
        *(pytest.param(file, marks=pytest.mark.slow) for file in sorted((ROOT / "presets").glob("*/*.yaml"))),
    ],
    ids=lambda file: file.stem,
)
def test_our_own_models_can_be_built(file: Path) -> None:
    settings = params.load(file)
    check_builds(settings, shape_of(settings.data))


HALVED = "this kind of model halves images twice"
ALONE = "this kind of model cannot be trained on one image of this size at a time"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"data": {"name": "folder", "root": "own", "size": 30}, "models": {"gan": SMOKE["models"]["gan"]}},
            f"models.gan: {HALVED}: 30x30 pixels are not multiples of 4; set data.size to 28 or 32",
        ),
        (
            {"data": {"name": "folder", "root": "own", "size": 5}, "models": {"vae": SMOKE["models"]["vae"]}},
            f"models.vae: {HALVED}: 5x5 pixels are not multiples of 4; set data.size to 4 or 8",
        ),
        (
            {"data__name": "ring"},
            f"models.gan: {HALVED}: 1x2 pixels are not multiples of 4; ring has no other size, so change the options "
            "of the model that depend on it, or remove the model",
        ),
        (
            {"data": {"name": "folder", "root": "own", "size": 4}, "models__vqvae__train__batch_size": 1},
            f"models.vqvae.train.batch_size: 1: {ALONE}; set it to 2 or more",
        ),
        (
            {
                "data": {"name": "folder", "root": "own", "size": 4},
                "models__vqvae__train": {"epochs": 1, "batch_size": 3, "lr": 0.1, "parts": 3},
            },
            f"models.vqvae.train.batch_size: 3: {ALONE} in 3 parts; set it to 6 or more",
        ),
        (
            {"models__gan__unrolled_steps": 2},
            "models.gan: unrolled_steps and unrolled_lr go together: both above zero, or neither",
        ),
    ],
)
def test_a_model_that_cannot_be_built_is_named(changes: dict[str, object], line: str) -> None:
    settings = _settings(**changes)
    with pytest.raises(BakeoffError) as error:
        check_builds(settings, shape_of(settings.data))
    assert str(error.value) == f"params.yaml: {line}"


@pytest.mark.parametrize(
    ("shape", "sizes"), [((40, 6, 6), "4x4 or 8x8"), ((40, 6, 9, 3), "8x8 or 12x12"), ((40, 3, 8, 10), "8x8 or 12x12")]
)
def test_arrays_of_a_size_that_cannot_be_are_to_be_cropped_or_padded(
    shape: tuple[int, ...], sizes: str, tmp_path: Path
) -> None:
    path = tmp_path / "own.npy"
    np.save(path, np.ones(shape, np.uint8))
    settings = _settings(data={"name": "arrays", "root": str(path)}, models={"gan": SMOKE["models"]["gan"]})
    with pytest.raises(BakeoffError, match=rf"; crop or pad the images in {path}, for example to {sizes} pixels$"):
        check_builds(settings, shape_of(settings.data))
