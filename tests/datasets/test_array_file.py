"""A user's own arrays: found by their names, read in any of their layouts, refused in one line that says what to do."""

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflow.data import array_file, catalogue
from workflow.data.arrays import Card, read_card, write_prepared
from workflow.data.listing import shown
from workflow.data.splits import write_raw
from workflow.data.tensors import ImageSet, read_split
from workflow.errors import BakeoffError
from workflow.params import ArrayFile

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 6, 8), np.uint8)
COLOUR = RNG.integers(0, 256, (40, 6, 8, 3), np.uint8)
LABELS = np.arange(40) % 4


def _settings(path: Path, **options: Any) -> ArrayFile:
    return ArrayFile.model_validate({"name": "arrays", "root": path, "valid": 0.25, "test": 0.25, **options})


def _read(path: Path, **options: Any) -> tuple[dict[str, ImageSet], Card]:
    data, folder = _settings(path, **options), path.parent
    catalogue.download(data, folder / "raw")
    sets, about = catalogue.prepare(data, folder / "raw")
    write_prepared(folder / "prepared", sets, **about)
    card = read_card(folder / "prepared")
    assert card.shape == catalogue.shape_of(data)
    return {s: read_split(s, folder / "prepared") for s in ("train", "valid", "test")}, card


def _file(folder: Path, arrays: dict[str, Any], write: Callable[..., None] = np.savez) -> Path:
    path = folder / "own.npz"
    write(path, **arrays)
    return path


def _rows(sets: dict[str, ImageSet]) -> set[Any]:
    """Every image with its label."""
    return {
        (x.numpy().tobytes(), int(y))
        for s in sets.values()
        for x, y in zip(s.images.contiguous(), s.labels, strict=True)
    }


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "names", [("images", "labels"), ("x", "y"), ("X", "Y"), ("arr_0", "arr_1"), ("data", "targets")]
)
def test_arrays_are_found_by_their_names(write: Callable[..., None], names: tuple[str, str], tmp_path: Path) -> None:
    sets, card = _read(_file(tmp_path, dict(zip(names, (COLOUR, LABELS), strict=True)), write))
    assert _rows(sets) == {(x.transpose(2, 0, 1).tobytes(), y) for x, y in zip(COLOUR, LABELS, strict=True)}
    assert {split: len(images) for split, images in sets.items()} == {"train": 24, "valid": 8, "test": 8}
    assert (card.name, card.levels, card.shape, card.classes) == ("arrays", 256, (3, 6, 8), ("0", "1", "2", "3"))
    assert card.source == "own arrays, file own.npz"
    assert card.understood == f"images in {names[0]}, (N, H, W, C); classes in {names[1]}"
    assert (card.files, card.split) == ({"images used": 40}, "by class, equal images together, seed 0")


@pytest.mark.parametrize(
    ("images", "layout"),
    [
        (GREY, "(N, H, W)"),
        (GREY[..., None], "(N, H, W, C)"),
        (GREY[:, None], "(N, C, H, W)"),
        (COLOUR, "(N, H, W, C)"),
        (np.ascontiguousarray(COLOUR.transpose(0, 3, 1, 2)), "(N, C, H, W)"),
        (np.asfortranarray(COLOUR), "(N, H, W, C)"),
    ],
)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_every_layout_is_known_by_its_shape(images: Array, layout: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"own.{ending}"
    np.save(path, images) if ending == "npy" else np.savez(path, pictures=images)
    sets, card = _read(path)
    same = COLOUR.transpose(0, 3, 1, 2) if images.size > GREY.size else GREY
    assert _rows(sets) == {(x.tobytes(), 0) for x in same}
    name = "the array" if ending == "npy" else "pictures"
    assert card.understood == f"images in {name}, {layout}; no classes"
    assert card.classes == ()


@pytest.mark.parametrize(
    "names",
    [("x_train", "y_train", "x_test", "y_test"), ("train_images", "train_labels", "test_images", "test_labels")],
)
def test_splits_that_the_file_has_are_kept(names: tuple[str, ...], tmp_path: Path) -> None:
    arrays = (GREY[:30], LABELS[:30], GREY[30:], LABELS[30:])
    sets, card = _read(_file(tmp_path, {**dict(zip(names, arrays, strict=True)), "meta": np.zeros(3)}))
    assert {split: len(images) for split, images in sets.items()} == {"train": 22, "valid": 8, "test": 10}
    assert _rows({"test": sets["test"]}) == {(x.tobytes(), y) for x, y in zip(GREY[30:], LABELS[30:], strict=True)}
    assert card.split == "train and test as the set comes, the rest by class, equal images together, seed 0"
    understood = f"images in {names[0]} and {names[2]}, (N, H, W); classes in {names[1]} and {names[3]}"
    assert card.understood == understood
    assert card.class_counts["test"] == [2, 2, 3, 3]
    assert array_file.look(_settings(tmp_path / "own.npz")) == [
        f"{tmp_path}/own.npz: {understood}",
        "images of 6x8 pixels in grey: 30 train, 10 test; other arrays, left out: meta",
    ]
    assert card.files == {"images used": 40, "other arrays left out": 1}


def test_a_validation_split_of_the_file_is_kept_too(tmp_path: Path) -> None:
    sets, card = _read(_file(tmp_path, {"val_images": GREY[:5], "test_images": GREY[5:12], "train_images": GREY[12:]}))
    assert {split: len(images) for split, images in sets.items()} == {"train": 28, "valid": 5, "test": 7}
    assert _rows({"valid": sets["valid"]}) == {(x.tobytes(), 0) for x in GREY[:5]}
    assert card.split == "as the set comes"


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (LABELS + 1, ("1", "2", "3", "4")),
        (LABELS.astype(np.uint8) * 50 + 7, ("7", "57", "107", "157")),
        (LABELS[:, None], ("0", "1", "2", "3")),
        (np.array(["dog", "cat", "hen", "ox"])[LABELS], ("cat", "dog", "hen", "ox")),
        (LABELS > 1, ("False", "True")),
        (np.arange(40) % 12, tuple(map(str, range(12)))),
        ((np.arange(40) % 12).astype(str), tuple(map(str, range(12)))),
        (np.array(["a\nb", "cat"])[LABELS % 2], ("a\\nb", "cat")),
        (np.full(40, 3), ()),
    ],
)
def test_labels_become_numbers_and_classes_keep_their_names(
    labels: Array, classes: tuple[str, ...], tmp_path: Path
) -> None:
    sets, card = _read(_file(tmp_path, {"images": GREY, "labels": labels}))
    assert card.classes == classes
    named = {x.tobytes(): shown(y) for x, y in zip(GREY, labels.reshape(-1), strict=True)}
    for pixels, number in _rows(sets):
        assert not classes or classes[number] == named[pixels]
    assert {number for _, number in _rows(sets)} == set(range(max(1, len(classes))))


def test_labels_of_one_class_are_said_to_be_so(tmp_path: Path) -> None:
    _, card = _read(_file(tmp_path, {"images": GREY, "labels": np.full(40, 3)}))
    assert card.understood == "images in images, (N, H, W); one class in labels"


def test_labels_of_splits_may_differ_in_their_kind_of_integer(tmp_path: Path) -> None:
    """NumPy would join them as floating-point numbers, and call the classes 0.0 and 1.0."""
    labels = {"y_train": LABELS[:30].astype(np.uint64), "y_test": LABELS[30:]}
    _, card = _read(_file(tmp_path, {"x_train": GREY[:30], "x_test": GREY[30:], **labels}))
    assert card.classes == ("0", "1", "2", "3")


def test_values_may_have_another_range(tmp_path: Path) -> None:
    path = _file(tmp_path, {"images": GREY % 17})
    sets, card = _read(path, levels=17)
    assert (card.levels, int(torch.cat([s.images for s in sets.values()]).max())) == (17, 16)


def _names(*names: str) -> dict[str, Array]:
    return dict.fromkeys(names, GREY)


SHAPES = "should be (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels C and sides of 4 to 1024 pixels; "
BOTH = "call the arrays images and labels, x and y, or x_train, y_train, x_test and y_test"


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        (
            {"x": GREY / 255},
            "x: float64: images should be uint8, 0 to 255; convert them: (x * 255).round().astype('uint8') if they are "
            "0 to 1, x.round().astype('uint8') if they are 0 to 255",
        ),
        (
            {"x": GREY.astype(np.uint16) * 16},
            "x: uint16: images should be uint8, 0 to 255; convert them: x.astype('uint8') if they are 0 to 255, "
            "(x * (255 / x.max())).round().astype('uint8') if they are larger",
        ),
        (
            {"x": GREY > 127},
            "x: bool: images should be uint8, 0 to 255; convert them: x.astype('uint8'), and set data.levels to 2",
        ),
        ({"x": GREY.reshape(40, -1)}, f"x: shape (40, 48): {SHAPES}reshape flat images, as in x.reshape(-1, 28, 28)"),
        (
            {"x": COLOUR.transpose(1, 2, 3, 0)},
            f"x: shape (6, 8, 3, 40): {SHAPES}put the images first: x.transpose(3, 0, 1, 2)",
        ),
        (
            {"x": np.zeros((9, 8, 8, 4), np.uint8)},
            f"x: shape (9, 8, 8, 4): {SHAPES}leave out the alpha channel: x[..., :3]",
        ),
        ({"x": np.zeros((9, 3, 3, 3), np.uint8)}, f"x: shape (9, 3, 3, 3): {SHAPES}change it"),
        ({"x": np.zeros((9, 3, 8, 3), np.uint8)}, f"x: shape (9, 3, 8, 3): {SHAPES}change it"),
        ({"x": np.zeros((1, 2000, 8), np.uint8)}, f"x: shape (1, 2000, 8): {SHAPES}change it"),
        ({"x": GREY[:0]}, "x: there are no images in it"),
        ({"x": GREY * 0}, "x: every pixel is 0; store the images again"),
        ({"x": GREY, "y": LABELS[:-1]}, "y: shape (39,): should be (40,), a label for each of x"),
        (
            {"x": GREY, "y": LABELS / 1},
            "y: float64: labels should be whole numbers or names (text); convert them: y.astype(",
        ),
        ({"x": GREY, "y": LABELS - 1}, "y: -1: labels should be 0 or more; leave such images out"),
        (
            {"x": GREY, "y": np.eye(4)[LABELS].astype(int)},
            "y: shape (40, 4): should be (N,); if it is one-hot, store y.argm",
        ),
        ({"x": GREY, "y": np.eye(4)[LABELS]}, "y: shape (40, 4): should be (N,); if it is one-hot, store y.argmax(1)"),
        (
            {"x": GREY, "y": LABELS.astype(object)},
            "y: object: labels should be whole numbers or names (text); convert them: y.astype(str)",
        ),
        ({"x": GREY, "y": LABELS.astype("S1")}, "y: |S1: labels should be whole numbers or names (text); convert them"),
        ({"x": GREY, "y": np.array(["cat", ""])[LABELS % 2]}, "y: 20 labels are empty; name these classes, or leave"),
        (
            {"x": np.array([None])},
            "x: object: images should be uint8, 0 to 255; store images of one size in one array: np.stack(x)",
        ),
        (
            {"x_train": GREY, "y_train": LABELS // 2, "x_test": GREY[:9], "y_test": LABELS[:9]},
            "y_test: has 2 classes that are not in y_train: 2, 3; add such images to x_train, or leave them out",
        ),
        (
            _names("arr_0", "arr_1", "arr_2", "arr_3"),
            f"has arr_0, arr_1, arr_2 and 1 more, of which arr_2 could be anything; {BOTH}",
        ),
        (_names("a", "b"), f"has a, b; images are not found by name: {BOTH}"),
        (_names("x", "images"), "x and images could both be the images; rename one of them"),
        (
            _names("x", "x_train"),
            "x and x_train: with splits or as a whole, but not both; remove or rename one of them",
        ),
        (_names("x_test"), "x_test: there are no images to train on; call those x_train"),
        ({**_names("x_train", "x_test"), "y_train": LABELS}, f"x_test: has no labels, unlike other images; {BOTH}"),
        ({"x_train": GREY, "y_train": LABELS, "y_test": LABELS}, f"y_test: labels without images; {BOTH}"),
        (
            {"x_train": GREY, "x_test": COLOUR},
            "x_test: images of 6x8 pixels in colour, but x_train has 6x8 pixels in grey; g",
        ),
        (
            {"x_train": GREY, "x_test": GREY[:, :5]},
            "x_test: images of 5x8 pixels in grey, but x_train has 6x8 pixels in grey",
        ),
        ({}, f"has nothing; images are not found by name: {BOTH}"),
    ],
)
def test_what_is_no_set_of_images_is_refused_with_a_remedy(arrays: dict[str, Any], line: str, tmp_path: Path) -> None:
    path = _file(tmp_path, arrays)
    with pytest.raises(BakeoffError) as error:
        array_file.read_file(_settings(path), tmp_path / "raw")
    assert str(error.value).startswith(f"{path}: {line}")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "raw/about.json").exists()


@pytest.mark.parametrize(
    ("images", "levels", "line"),
    [
        (
            GREY % 17,
            256,
            "256: {}: the brightest pixel is only 16; set it to 17 if pixels are 0 to 16, or scale the images",
        ),
        (GREY // 2, 17, "17: {}: the array has values up to 127; set it to 128 or more, or scale the images"),
    ],
)
def test_a_range_that_is_not_that_of_the_pixels_is_refused(
    images: Array, levels: int, line: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "own.npy", images)
    with pytest.raises(BakeoffError) as error:
        array_file.read_file(_settings(tmp_path / "own.npy", levels=levels), tmp_path / "raw")
    assert str(error.value) == f"params.yaml: data.levels: {line.format(tmp_path / 'own.npy')}"


def _packed(content: bytes, name: str = "x.npy") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "EOF"),
        (b"PK", "not a zip file"),
        (b"\x89PNG and so on", "magic string is not correct"),
        (_npy(GREY)[:-1], "the array is cut off"),
        (_packed(_npy(GREY)[:-1]), "x is cut off"),
        (_npy(GREY).replace(b"(40, 6, 8), ", b"(-4, 6, 8), "), r"shape \(-4, 6, 8\)"),
        (_packed(_npy(GREY)).replace(GREY.tobytes()[:8], b"changed!", 1), "Bad CRC-32"),
        (_packed(_npy(GREY)[:20]), "EOF"),
        (_packed(_npy(GREY), "a\nb.npy"), r"an array is called 'a\\nb'"),
    ],
)
def test_a_damaged_file_is_named(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    path.write_bytes(content)
    message = (
        rf"^{re.escape(str(path))}: cannot be read \(.*{reason}.*\); write it again with numpy\.save or numpy\.savez$"
    )
    with pytest.raises(BakeoffError, match=message):
        array_file.read_file(_settings(path), tmp_path / "raw")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.npz", "no such file"), (tmp_path, "Is a directory")):
        for read in (catalogue.shape_of, lambda data: catalogue.download(data, tmp_path / "raw")):
            with pytest.raises(BakeoffError) as error:
                read(_settings(path))
            assert str(error.value) == f"data.root: {path}: {reason}; for `name: arrays` it is an .npz or .npy"


def test_a_file_that_changes_while_it_is_read_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file(tmp_path, {"images": GREY})

    def write_and_change(*args: Any, **about: Any) -> None:
        write_raw(*args, **about)
        _file(tmp_path, {"images": GREY[:30]})

    monkeypatch.setattr(array_file, "write_raw", write_and_change)
    with pytest.raises(BakeoffError) as error:
        array_file.read_file(_settings(path), tmp_path / "raw")
    assert str(error.value) == f"{path}: was changed while it was read; run again"


@settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.sampled_from([0, 1, 3, 4, 5, 9]), max_size=5),
    dtype=st.sampled_from(["uint8", "int32", "float32", "bool", "U3", "O"]),
    labels=st.sampled_from(["none", "int8", "U2", "float16", "short"]),
    names=st.sampled_from([("x", "y"), ("x_train", "y_train"), ("x_test", "y_train"), ("a", "b")]),
)
def test_anything_is_read_or_refused_in_one_line(
    shape: list[int], dtype: str, labels: str, names: tuple[str, str], tmp_path: Path
) -> None:
    images = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    arrays = {names[0]: images}
    if labels != "none":
        count = len(images) if shape else 1
        arrays[names[1]] = np.arange(max(0, count - (labels == "short"))).astype(
            labels if labels != "short" else "int8"
        )
    message = ""
    try:
        array_file.read_file(_settings(_file(tmp_path, arrays), levels=256), tmp_path / "raw")
    except BakeoffError as error:
        message = str(error)
    assert "\n" not in message
