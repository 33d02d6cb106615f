from pathlib import Path

import pytest
import torch

from workflow.datasets import download, prepare
from workflow.images import ImageSet, read_split, write_prepared, write_tensors
from workflow.params import Data

SETTINGS = Data(name="digits", valid=0.1, test=0.2, seed=0)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    download("digits", folder)
    return folder


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
    write_tensors(tmp_path / "images.safetensors", {"images": images, "labels": torch.arange(300) % 100 % 2})
    sets, _ = prepare(SETTINGS, tmp_path)
    assert not _rows(sets["train"]) & (_rows(sets["test"]) | _rows(sets["valid"]))
    assert sum(len(s) for s in sets.values()) == 300


def test_prepared_files_repeat_to_the_byte(raw: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        sets, about = prepare(SETTINGS, raw)
        write_prepared(tmp_path / name, sets, **about)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    assert torch.equal(read_split("train", tmp_path / "one").labels, sets["train"].labels)
