import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from workflow.data import catalogue, embedded
from workflow.data.arrays import SPLITS, Arrays, read_card, write_prepared
from workflow.data.catalogue import download
from workflow.data.splits import write_raw
from workflow.data.tensors import ImageSet, read_split
from workflow.errors import BakeoffError
from workflow.evaluation.metrics.modes import nearest_mode
from workflow.params import Embedded

SETTINGS = Embedded(name="digits", root=Path(), valid=0.1, test=0.2, seed=0)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    download(SETTINGS, folder)
    return folder


def prepare(settings: Embedded, raw: Path) -> tuple[dict[str, ImageSet], dict[str, Any]]:
    """The splits as they stand in their files."""
    sets, about = catalogue.prepare(settings, raw)
    write_prepared(raw / "prepared", sets, **about)
    return {split: read_split(split, raw / "prepared") for split in SPLITS}, about


def _rows(images: ImageSet) -> set[bytes]:
    return {image.numpy().tobytes() for image in images.images}


def test_splits_share_no_image_and_lose_none(raw: Path) -> None:
    sets, about = prepare(SETTINGS, raw)
    assert sum(len(images) for images in sets.values()) == 1797
    assert not _rows(sets["train"]) & _rows(sets["test"])
    assert not _rows(sets["train"]) & _rows(sets["valid"])
    assert not _rows(sets["valid"]) & _rows(sets["test"])
    assert max(int(images.images.max()) for images in sets.values()) == about["levels"] - 1


def test_every_split_has_the_same_mixture_of_classes(raw: Path) -> None:
    sets, _ = prepare(SETTINGS, raw)
    everything = torch.cat([images.labels for images in sets.values()]).bincount() / 1797
    for share, images in ((0.7, sets["train"]), (0.1, sets["valid"]), (0.2, sets["test"])):
        assert len(images) == pytest.approx(1797 * share, abs=6)
        assert (images.labels.bincount() / len(images) - everything).abs().max() < 0.01


def test_labels_stay_with_their_images(raw: Path, digits: torch.Tensor) -> None:
    from sklearn.datasets import load_digits

    label_of = {image.numpy().tobytes(): label for image, label in zip(digits, load_digits().target, strict=True)}
    for images in prepare(SETTINGS, raw)[0].values():
        assert [label_of[image.numpy().tobytes()] for image in images.images] == images.labels.tolist()


def test_the_seed_decides(raw: Path) -> None:
    first, again = prepare(SETTINGS, raw)[0], prepare(SETTINGS, raw)[0]
    other = prepare(SETTINGS.model_copy(update={"seed": 1}), raw)[0]
    assert torch.equal(first["test"].images, again["test"].images)
    assert _rows(first["test"]) != _rows(other["test"])


def test_equal_images_stay_in_one_split(tmp_path: Path) -> None:
    images = torch.randint(0, 17, (100, 1, 4, 4), dtype=torch.uint8).repeat(3, 1, 1, 1)
    write_raw(tmp_path, ImageSet(images, torch.arange(300) % 100 % 2), **embedded.DIGITS)
    sets, _ = prepare(SETTINGS, tmp_path)
    assert not _rows(sets["train"]) & (_rows(sets["test"]) | _rows(sets["valid"]))
    assert sum(len(s) for s in sets.values()) == 300


def _classes_of(sizes: list[int], folder: Path) -> Path:
    """A set with so many images of each class, no two of them equal."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    images = np.stack(np.divmod(np.arange(len(labels)), 256), 1).astype(np.uint8).reshape(-1, 1, 1, 2)
    classes = [str(number) for number in range(len(sizes))]
    write_raw(folder, Arrays(images, labels), source="", licence="", levels=256, classes=classes)
    return folder


@pytest.mark.parametrize(
    ("sizes", "how", "large"),
    [
        ([2] * 256, "at random, as no class is large enough to be split by itself, equal", 0),
        ([100] * 3 + [2] * 50, "by class, those too small for that (50) together at random, equal", 3),
        ([100] * 3 + [2], "by class, those too small for that (1) together at random, equal", 3),
        ([5] * 10, "by class, equal", 10),
        ([100], "at random, equal", 1),
    ],
)
def test_small_classes_are_split_together(sizes: list[int], how: str, large: int, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"valid": 0.15})
    sets, about = prepare(settings, _classes_of(sizes, tmp_path))
    counts = {split: len(images) for split, images in sets.items()}
    assert sum(counts.values()) == sum(sizes)
    assert counts["test"] == pytest.approx(0.2 * sum(sizes), abs=1 + large)
    assert counts["valid"] == pytest.approx(0.15 * sum(sizes), abs=1 + large)
    assert about["split"] == f"{how} images together, seed 0"
    for label in range(large):
        assert int((sets["test"].labels == label).sum()) == round(0.2 * sizes[label])
        assert int((sets["valid"].labels == label).sum()) == round(0.15 * sizes[label])


@pytest.mark.parametrize(("test", "valid"), [(0.3, 0.3), (0.6, 0.3)])
def test_training_has_some_of_a_small_class(test: float, valid: float, tmp_path: Path) -> None:
    """Each by itself, both classes of two would be gone."""
    settings = SETTINGS.model_copy(update={"test": test, "valid": valid})
    sets, _ = prepare(settings, _classes_of([2] * 10, tmp_path))
    assert [len(sets[split]) for split in ("test", "valid")] == [round(20 * test), round(20 * valid)]
    assert len(sets["train"])


def test_prepared_files_repeat_to_the_byte(raw: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        sets, about = catalogue.prepare(SETTINGS, raw)
        write_prepared(tmp_path / name, sets, **about)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    whole = np.concatenate([piece.images for piece in sets["train"].pieces()])
    assert np.array_equal(read_split("train", tmp_path / "one").images, whole)


STACKED = SETTINGS.model_copy(update={"name": "stacked_digits"})


def test_stacked_digits_are_three_digits_of_their_own_split(raw: Path) -> None:
    digits, _ = prepare(SETTINGS, raw)
    stacked, about = prepare(STACKED, raw)
    assert {split: len(images) for split, images in stacked.items()} == {"train": 21000, "valid": 3000, "test": 6000}
    assert (about["shape"], about["channelwise"], about["classes"][42]) == ([3, 8, 8], True, "042")
    for split, images in stacked.items():
        label_of = {
            image.numpy().tobytes(): int(label)
            for image, label in zip(digits[split].images, digits[split].labels, strict=True)
        }
        for image, label in zip(images.images[:200], images.labels[:200], strict=True):
            red, green, blue = (label_of[channel.numpy().tobytes()] for channel in image)
            assert 100 * red + 10 * green + blue == label


def test_stacked_digits_have_a_thousand_modes_about_equally_often(raw: Path) -> None:
    labels = prepare(STACKED, raw)[0]["train"].labels
    counts = labels.bincount(minlength=1000)
    assert (counts > 0).sum() == 1000
    assert counts.double().std() < 1.3 * 21**0.5  # of independent draws: the square root of their mean


@pytest.mark.parametrize(("name", "modes", "std"), [("ring", 8, 0.02), ("grid", 25, 0.05)])
def test_points_are_those_of_the_papers_mixture(tmp_path: Path, name: str, modes: int, std: float) -> None:
    settings = SETTINGS.model_copy(update={"name": name})
    download(settings, tmp_path)
    sets, about = prepare(settings, tmp_path)
    width = {"ring": 5.0, "grid": 10.0}[name] / 255
    centres = torch.tensor(about["mixture"]["centres"]) * width - width * 127.5
    assert about["mixture"]["std"] * width == pytest.approx(std)
    if name == "ring":
        assert centres.norm(dim=1) == pytest.approx([2.0] * 8, abs=1e-5)
        assert (centres - centres.roll(1, 0)).norm(dim=1) == pytest.approx([4 * math.sin(math.pi / 8)] * 8, abs=1e-5)
    else:
        expected = {(x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)}
        assert {tuple(c.round().int().tolist()) for c in centres} == expected
    images = sets["train"]
    assert (len(images), images.images.shape[1:], images.images.dtype) == (17500, (1, 1, 2), torch.uint8)
    offsets = images.images.flatten(1) * width - width * 127.5 - centres[images.labels]
    # Rounding to levels adds the variance of a uniform number, a twelfth.
    assert offsets.std(0) == pytest.approx([math.hypot(std, width / 12**0.5)] * 2, rel=0.03)
    assert offsets.mean(0) == pytest.approx([0, 0], abs=std / 40)
    assert (images.labels.bincount(minlength=modes) / 17500) == pytest.approx([1 / modes] * modes, abs=0.01)
    mode, near = nearest_mode(images.images, torch.tensor(about["mixture"]["centres"]), about["mixture"]["std"])
    assert torch.equal(mode[near], images.labels[near])
    assert near.double().mean() > 0.97  # of a Gaussian, 98.9 % are within three deviations


@pytest.mark.parametrize("name", ["digits", "stacked_digits", "ring"])
def test_a_split_without_an_image_stops(tmp_path: Path, name: Any) -> None:
    settings = Embedded(name=name, root=Path(), valid=1e-6, test=0.2, seed=0)
    download(settings, tmp_path)
    with pytest.raises(BakeoffError, match=r"the valid split of \d+ images would be empty; .*data\.valid"):
        catalogue.prepare(settings, tmp_path)


def test_points_repeat_and_the_splits_differ(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"name": "ring"})
    download(settings, tmp_path)
    first, again = prepare(settings, tmp_path)[0], prepare(settings, tmp_path)[0]
    assert all(torch.equal(first[split].images, again[split].images) for split in first)
    assert not torch.equal(first["test"].images[:2000], first["valid"].images[:2000])


def test_the_card_of_points_survives_its_file(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"name": "grid"})
    download(settings, tmp_path)
    prepare(settings, tmp_path)
    card = read_card(tmp_path / "prepared")
    assert card.mixture is not None
    assert (len(card.mixture.centres), card.shape, card.levels) == (25, (1, 1, 2), 256)
