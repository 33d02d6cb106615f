"""Published sets: read from their own formats, fetched from their own addresses, kept apart as their authors did."""

import gzip
import hashlib
import io
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.mirror import Mirror
from workflow.data import catalogue, published
from workflow.data.arrays import Card, read_card, write_prepared
from workflow.data.tensors import ImageSet, read_split
from workflow.errors import BakeoffError
from workflow.params import Published

RNG = np.random.default_rng(0)
TRAIN, TEST = RNG.integers(0, 256, (60, 28, 28), np.uint8), RNG.integers(0, 256, (20, 28, 28), np.uint8)
LABELS = {"train": np.arange(60) % 10, "t10k": np.arange(20) % 10}


def _idx(array: Any) -> bytes:
    header = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape)
    return header + bytes(array.astype(np.uint8).tobytes())


FILES = {
    "train-images-idx3-ubyte": _idx(TRAIN),
    "train-labels-idx1-ubyte": _idx(LABELS["train"]),
    "t10k-images-idx3-ubyte": _idx(TEST),
    "t10k-labels-idx1-ubyte": _idx(LABELS["t10k"]),
}
PACKED = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in FILES.items()}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is fetched is kept in the current folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def mirrored(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """Two mirrors of a small MNIST, of which the first one lacks everything."""
    from torchvision import datasets

    mirror.files |= {f"good/{name}": content for name, content in PACKED.items()}
    resources = [(name, hashlib.md5(content).hexdigest()) for name, content in PACKED.items()]
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{mirror.address}bad/", f"{mirror.address}good/"])
    return mirror


def _settings(root: Path, **options: Any) -> Published:
    return Published.model_validate({"name": "mnist", "root": root, "valid": 0.1, "seed": 0, **options})


def _prepare(settings: Published, folder: Path) -> dict[str, ImageSet]:
    catalogue.download(settings, folder / "raw")
    sets, about = catalogue.prepare(settings, folder / "raw")
    write_prepared(folder / "prepared", sets, **about)
    return {split: read_split(split, folder / "prepared") for split in ("train", "valid", "test")}


def test_mnist_is_fetched_and_keeps_its_test_split(mirrored: Mirror, tmp_path: Path) -> None:
    splits = _prepare(_settings(tmp_path), tmp_path)
    assert mirrored.asked[:2] == ["bad/train-images-idx3-ubyte.gz", "good/train-images-idx3-ubyte.gz"]
    assert torch.equal(splits["test"].images, torch.from_numpy(TEST).unsqueeze(1))
    assert torch.equal(splits["test"].labels, torch.from_numpy(LABELS["t10k"]))
    assert (len(splits["train"]), len(splits["valid"])) == (50, 10)  # one of the six images of each class
    assert (splits["valid"].labels.bincount() == 1).all()
    assert not (tmp_path / "MNIST").exists()  # what is fetched lies apart from what is the user's
    card = read_card(tmp_path / "prepared")
    assert (card.name, card.levels, card.shape, card.leaks) == ("mnist", 256, (1, 28, 28), 0)
    assert card.split.startswith("train and test as the set comes, the rest by class")


def test_unpacked_files_are_used_without_the_network(mirrored: Mirror, tmp_path: Path) -> None:
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    for name, content in FILES.items():
        (tmp_path / "MNIST/raw" / name).write_bytes(content)
    splits = _prepare(_settings(tmp_path), tmp_path)
    assert torch.equal(splits["test"].images.squeeze(1), torch.from_numpy(TEST))
    assert mirrored.asked == []


def _put(root: Path, **changed: Any) -> Path:
    """MNIST's four files, unpacked, of which some have another content; returns their folder."""
    folder = root / "MNIST/raw"
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "train_images": TRAIN,
        "train_labels": LABELS["train"],
        "t10k_images": TEST,
        "t10k_labels": LABELS["t10k"],
    }
    for name, array in {**arrays, **changed}.items():
        split, what = name.split("_")
        (folder / f"{split}-{what}-idx{3 if what == 'images' else 1}-ubyte").write_bytes(_idx(array))
    return folder


def _card(tmp_path: Path, **options: Any) -> Card:
    _prepare(_settings(tmp_path, **options), tmp_path)
    return read_card(tmp_path / "prepared")


def test_own_files_are_called_so_unless_they_are_the_published_ones(
    mirrored: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = _card(tmp_path)
    assert (card.source, card.licence) == ("MNIST (LeCun, Cortes & Burges 1998)", "CC BY-SA 3.0")
    _put(tmp_path)
    card = _card(tmp_path)
    assert (card.source, card.licence) == ("own files in MNIST's format", "that of the files")
    assert card.classes == published.TEN_DIGITS
    known = {name: hashlib.md5(content).hexdigest() for name, content in FILES.items()}
    monkeypatch.setitem(published.UNPACKED, "MNIST", known)
    assert _card(tmp_path).source == "MNIST (LeCun, Cortes & Burges 1998)"


def test_labels_that_are_no_digits_are_classes_of_their_own(mirrored: Mirror, tmp_path: Path) -> None:
    labels = {"train_labels": np.arange(60) % 26 + 1, "t10k_labels": np.arange(20) + 1}  # as in EMNIST's letters
    folder = _put(tmp_path, **labels)
    splits = _prepare(_settings(tmp_path), tmp_path)
    card = read_card(tmp_path / "prepared")
    assert card.classes == tuple(str(letter) for letter in range(1, 27))
    assert splits["test"].labels.tolist() == list(range(20))
    with pytest.raises(BakeoffError) as error:
        catalogue.download(_settings(tmp_path, name="stacked_mnist"), tmp_path / "raw")
    assert str(error.value) == f"{folder}: labels up to 26: only digits, 0 to 9, can be stacked; set data.name: mnist"


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {"train_labels": np.arange(59) % 10},
            "train-labels-idx1-ubyte: shape (59,): should be (60,), a label for each image in train-images-idx3-ubyte; "
            "take both from the same set",
        ),
        (
            {"t10k_images": TEST[:, :14]},
            "t10k-images-idx3-ubyte: shape (20, 14, 28): should be (N, 28, 28); for other images, store them in an "
            ".npz and set data.name: arrays",
        ),
        (
            {"train_images": TRAIN[:0], "train_labels": LABELS["train"][:0]},
            "train-images-idx3-ubyte: shape (0, 28, 28): s",
        ),
        (
            {"train_images": TRAIN.reshape(60, -1)},
            "train-images-idx3-ubyte: shape (60, 784): should be (N, 28, 28); for",
        ),
        ({"t10k_labels": TEST}, "t10k-labels-idx1-ubyte: shape (20, 28, 28): should be (20,), a label for each"),
    ],
)
def test_files_that_do_not_fit_are_named(changed: dict[str, Any], line: str, mirrored: Mirror, tmp_path: Path) -> None:
    folder = _put(tmp_path, **changed)
    with pytest.raises(BakeoffError) as error:
        catalogue.download(_settings(tmp_path), tmp_path / "raw")
    assert str(error.value).startswith(f"{folder}/{line}")
    assert mirrored.asked == []


def test_own_files_are_not_mixed_with_published_ones(mirrored: Mirror, tmp_path: Path) -> None:
    folder = _put(tmp_path)
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(BakeoffError) as error:
        catalogue.download(_settings(tmp_path), tmp_path / "raw")
    missing = f"{folder}/t10k-labels-idx1-ubyte: missing"
    assert str(error.value) == f"{missing}; train-images-idx3-ubyte beside it is not the published file, so add it"
    assert mirrored.asked == []


@pytest.mark.parametrize("place", [".", "MNIST", "raw", "below/MNIST/raw"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_files_in_a_folder_above_or_below_are_named(place: str, ending: str, mirrored: Mirror, tmp_path: Path) -> None:
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    for name, content in (PACKED if ending else FILES).items():
        (tmp_path / place / name).write_bytes(content)
    with pytest.raises(BakeoffError) as error:
        catalogue.download(_settings(tmp_path), tmp_path / "raw")
    found = tmp_path / place / f"train-images-idx3-ubyte{ending}"
    there = f"is looked for in {tmp_path}/MNIST/raw; move it there with the files beside it"
    assert str(error.value) == f"data.root: {found}: {there}"
    assert mirrored.asked == []


def test_what_cannot_be_downloaded_is_to_be_put_where_the_users_files_are(mirrored: Mirror, tmp_path: Path) -> None:
    mirrored.files.clear()
    with pytest.raises(BakeoffError) as error:
        catalogue.download(_settings(tmp_path), tmp_path / "raw")
    file = "MNIST/raw/train-images-idx3-ubyte.gz"
    assert str(error.value).startswith(f"data/fetched/{file}: could not be downloaded; ")
    assert str(error.value).endswith(f"; try again, or put the file at {tmp_path}/{file}")


def test_a_file_that_changes_while_it_is_read_is_not_used(
    mirrored: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, read = _put(tmp_path), published._content

    def read_and_change(path: Path) -> Any:
        content = read(path)
        path.write_bytes(path.read_bytes() + b"more")
        return content

    monkeypatch.setattr(published, "_content", read_and_change)
    with pytest.raises(BakeoffError) as error:
        catalogue.download(_settings(tmp_path), tmp_path / "raw")
    assert str(error.value) == f"{folder}/train-images-idx3-ubyte: was changed while it was read; run again"


def test_packed_files_of_the_users_own_are_checked(mirrored: Mirror, tmp_path: Path) -> None:
    (tmp_path / "own/MNIST/raw").mkdir(parents=True)
    for name, content in PACKED.items():
        (tmp_path / "own/MNIST/raw" / name).write_bytes(content)
    _prepare(_settings(tmp_path / "own"), tmp_path)
    assert mirrored.asked == []
    bad = tmp_path / "own/MNIST/raw/t10k-images-idx3-ubyte.gz"
    bad.write_bytes(bad.read_bytes()[:-1])
    with pytest.raises(
        BakeoffError,
        match=r"-ubyte\.gz: its checksum is md5:.* remove it to download it; if it is your own, unpack it$",
    ):
        catalogue.download(_settings(tmp_path / "own"), tmp_path / "raw")
    assert mirrored.asked == []


def test_what_torchvision_unpacked_reads_the_same(mirrored: Mirror, tmp_path: Path) -> None:
    from torchvision import datasets

    splits = _prepare(_settings(tmp_path), tmp_path)
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    for name, content in FILES.items():
        (tmp_path / "MNIST/raw" / name).write_bytes(content)
    theirs = datasets.MNIST(str(tmp_path), train=False, download=False)
    assert torch.equal(theirs.data, splits["test"].images.squeeze(1))
    assert torch.equal(theirs.targets, splits["test"].labels)


@pytest.mark.parametrize("damage", [lambda b: b[:-5], lambda b: b"\0" + b[1:2] + b"\x0d" + b[3:], lambda b: b[:3]])
def test_a_damaged_file_is_named(damage: Any, mirrored: Mirror, tmp_path: Path) -> None:
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    for name, content in FILES.items():
        (tmp_path / "MNIST/raw" / name).write_bytes(damage(content) if "t10k-images" in name else content)
    with pytest.raises(BakeoffError, match="t10k-images-idx3-ubyte: damaged"):
        catalogue.download(_settings(tmp_path), tmp_path / "raw")


def test_a_test_image_that_was_trained_on_is_counted(mirrored: Mirror, tmp_path: Path) -> None:
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    leaky = np.concatenate([TEST[:17], TRAIN[:3]])
    for name, content in {**FILES, "t10k-images-idx3-ubyte": _idx(leaky)}.items():
        (tmp_path / "MNIST/raw" / name).write_bytes(content)
    _prepare(_settings(tmp_path), tmp_path)
    assert read_card(tmp_path / "prepared").leaks == 3


def test_a_leak_counts_if_both_images_are_left_under_the_limit(mirrored: Mirror, tmp_path: Path) -> None:
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    for name, content in {**FILES, "t10k-images-idx3-ubyte": _idx(TRAIN[:20])}.items():
        (tmp_path / "MNIST/raw" / name).write_bytes(content)
    splits = _prepare(_settings(tmp_path, limit=12), tmp_path)
    known = {image.numpy().tobytes() for split in ("train", "valid") for image in splits[split].images}
    leaks = sum(image.numpy().tobytes() in known for image in splits["test"].images)
    assert 0 < leaks < 12
    assert read_card(tmp_path / "prepared").leaks == leaks


def test_threshold_makes_pixels_black_or_white(mirrored: Mirror, tmp_path: Path) -> None:
    splits = _prepare(_settings(tmp_path, binarise="threshold"), tmp_path)
    assert torch.equal(splits["test"].images, (torch.from_numpy(TEST).unsqueeze(1) > 127).to(torch.uint8))
    card = read_card(tmp_path / "prepared")
    assert (card.levels, card.name) == (2, "mnist, threshold binarisation")


def test_stochastic_pixels_are_white_as_often_as_they_are_bright(mirrored: Mirror, tmp_path: Path) -> None:
    plain = _prepare(_settings(tmp_path), tmp_path / "plain")
    splits = _prepare(_settings(tmp_path, binarise="stochastic"), tmp_path / "drawn")
    white, rate = splits["train"].images.double(), plain["train"].images.double() / 255
    assert set(white.unique().tolist()) == {0.0, 1.0}
    for low, high in ((0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.01)):
        some = (rate >= low) & (rate < high)
        deviation = (rate * (1 - rate))[some].sum().sqrt() / some.sum()
        assert abs(white[some].mean() - rate[some].mean()) < 4 * deviation
    again = _prepare(_settings(tmp_path, binarise="stochastic"), tmp_path / "again")
    assert torch.equal(again["train"].images, splits["train"].images)
    assert splits["train"].brightness is None


def test_dynamic_binarisation_keeps_the_brightness_of_training_images_beside_one_draw(
    mirrored: Mirror, tmp_path: Path
) -> None:
    plain = _prepare(_settings(tmp_path), tmp_path / "plain")
    once = _prepare(_settings(tmp_path, binarise="stochastic"), tmp_path / "once")
    splits = _prepare(_settings(tmp_path, binarise="dynamic"), tmp_path / "anew")
    assert splits["train"].brightness is not None
    assert torch.equal(splits["train"].brightness, plain["train"].images)
    for split, images in splits.items():
        assert torch.equal(images.images, once[split].images)
        assert split == "train" or images.brightness is None
    card = read_card(tmp_path / "anew/prepared")
    assert (card.levels, card.name) == (2, "mnist, dynamic binarisation")


def test_limit_keeps_so_many_of_each_split(mirrored: Mirror, tmp_path: Path) -> None:
    splits = _prepare(_settings(tmp_path, limit=15), tmp_path)
    assert {split: len(images) for split, images in splits.items()} == {"train": 15, "valid": 10, "test": 15}
    known = {image.tobytes() for image in TEST}
    assert len({image.numpy().tobytes() for image in splits["test"].images} & known) == 15


def test_limit_keeps_so_many_stacked_pictures(mirrored: Mirror, tmp_path: Path) -> None:
    splits = _prepare(_settings(tmp_path, name="stacked_mnist", limit=10), tmp_path)
    assert {split: len(images) for split, images in splits.items()} == {"train": 10, "valid": 10, "test": 10}


def test_stacked_mnist_has_a_digit_a_channel(mirrored: Mirror, tmp_path: Path) -> None:
    splits = _prepare(_settings(tmp_path, name="stacked_mnist"), tmp_path)
    label_of = {image.tobytes(): int(label) for image, label in zip(TEST, LABELS["t10k"], strict=True)}
    assert splits["test"].images.shape == (20, 3, 28, 28)
    for image, label in zip(splits["test"].images, splits["test"].labels, strict=True):
        spelt = int("".join(str(label_of[channel.numpy().tobytes()]) for channel in image))
        assert spelt == label


def test_cifar10_is_read_from_its_binary_version(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = RNG.integers(0, 256, (60, 3, 32, 32), np.uint8), (np.arange(60) % 10).astype(np.uint8)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for number, file in enumerate(published.CIFAR10_FILES):
            part = slice(10 * number, 10 * number + 10)
            records = np.concatenate([labels[part, None], images[part].reshape(10, -1)], 1).tobytes()
            about = tarfile.TarInfo(f"cifar-10-batches-bin/{file}")
            about.size = len(records)
            archive.addfile(about, io.BytesIO(records))
    mirror.files["cifar.tar.gz"] = packed.getvalue()
    monkeypatch.setattr(published, "CIFAR10_ADDRESSES", (mirror.address + "cifar.tar.gz",))
    digest = hashlib.sha256(packed.getvalue()).hexdigest()
    monkeypatch.setattr(published, "CIFAR10_CHECKSUM", f"sha256:{digest}")
    splits = _prepare(_settings(tmp_path, name="cifar10", valid=0.2), tmp_path)
    assert torch.equal(splits["test"].images, torch.from_numpy(images[50:]))
    assert torch.equal(splits["test"].labels, torch.from_numpy(labels[50:].astype(np.int64)))
    assert (len(splits["train"]), len(splits["valid"])) == (40, 10)


def test_svhn_calls_ten_zero(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat
    from torchvision import datasets

    expected = {}
    split_list = {}
    for split, n in (("train", 40), ("test", 10)):
        expected[split] = RNG.integers(0, 256, (n, 3, 32, 32), np.uint8)
        file = io.BytesIO()
        savemat(file, {"X": expected[split].transpose(2, 3, 1, 0), "y": (np.arange(n) % 10 + 1)[:, None]})
        mirror.files[f"{split}_32x32.mat"] = file.getvalue()
        md5 = hashlib.md5(file.getvalue()).hexdigest()
        split_list[split] = [f"{mirror.address}{split}_32x32.mat", f"{split}_32x32.mat", md5]
    monkeypatch.setattr(datasets.SVHN, "split_list", split_list)
    splits = _prepare(_settings(tmp_path, name="svhn", valid=0.25), tmp_path)
    assert torch.equal(splits["test"].images, torch.from_numpy(expected["test"]))
    assert splits["test"].labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    theirs = datasets.SVHN(str(tmp_path / "data/fetched"), "test", download=False)
    assert np.array_equal(theirs.data, splits["test"].images.numpy())
    assert theirs.labels.tolist() == splits["test"].labels.tolist()


def test_every_set_can_be_asked_for_and_has_a_shape_and_classes() -> None:
    for name, source in published.SOURCES.items():
        assert len(set(source.classes)) == len(source.classes) > 1, name
        assert name in catalogue.SHAPES
        assert _settings(Path(), name=name).name == name
