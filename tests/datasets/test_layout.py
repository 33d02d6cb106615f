"""How a folder of pictures is understood from its names: what is a split, what a class, and what is refused."""

from collections import Counter
from pathlib import Path

import pytest

from workflow.data.layout import HEIC_PLUGIN, Layout, look, understand
from workflow.data.listing import list_files
from workflow.errors import BakeoffError


def _understand(root: Path, tree: dict[str, int]) -> Layout:
    """A folder with so many pictures in each folder below it; the file names tell where they were put."""
    for folder, count in tree.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / folder / f"{number}.png").touch()
    return understand(root, list_files(root))


def _counts(layout: Layout) -> dict[str, int]:
    return dict(Counter(f"{file.split}/{file.label}" for file in layout.files))


CLASSES = {"train/cat": 4, "train/dog": 3, "test/cat": 2, "test/dog": 1}
WITHOUT_VALID = "splits from folders (train, test), valid taken out of train"


@pytest.mark.parametrize(
    ("tree", "counts", "in_words"),
    [
        ({"": 3}, {"/": 3}, "no splits; no classes"),
        ({"cat": 3, "dog/deeper": 2}, {"/cat": 3, "/dog": 2}, "no splits; classes from folders: 2"),
        ({"cat": 3}, {"/": 3}, "no splits; no classes; all in cat"),
        (
            {"train/cat": 4, "validation/cat": 2, "test/cat": 1, "train/dog": 3},
            {"train/cat": 4, "train/dog": 3, "valid/cat": 2, "test/cat": 1},
            "splits from folders (train, validation, test); classes from folders below them: 2",
        ),
        (
            {"Training/cat": 4, "DEV/cat": 2, "Testing/cat": 1, "Training/dog": 3},
            {"train/cat": 4, "train/dog": 3, "valid/cat": 2, "test/cat": 1},
            "splits from folders (Training, DEV, Testing); classes from folders below them: 2",
        ),
        (
            {"train": 3, "val": 2},
            {"train/": 3, "valid/": 2},
            "splits from folders (train, val), test taken out of train; no classes",
        ),
        (CLASSES, CLASSES, f"{WITHOUT_VALID}; classes from folders below them: 2"),
        (
            CLASSES | {"unlabeled": 5, "": 1},
            CLASSES,
            f"{WITHOUT_VALID}; classes from folders below them: 2; 1 beside the splits, left out; 5 in unlabeled, "
            "which is no split, left out",
        ),
        (
            CLASSES | {"__MACOSX/train": 5, ".hidden/other": 2, "@eaDir": 1},
            CLASSES,
            f"{WITHOUT_VALID}; classes from folders below them: 2",
        ),
        (
            {f"data set/v1/{name}": count for name, count in CLASSES.items()},
            CLASSES,
            f"{WITHOUT_VALID}; classes from folders below them: 2; all in data set/v1",
        ),
        (
            {name.replace("/", "/images/"): count for name, count in CLASSES.items()},
            CLASSES,
            f"{WITHOUT_VALID}; classes from folders below them: 2",
        ),
        ({"train/cat": 2, "train/dog": 3}, {"/cat": 2, "/dog": 3}, "no splits; classes from folders: 2; all in train"),
        ({"bus": 2, "train": 3}, {"/bus": 2, "/train": 3}, "no splits; classes from folders: 2"),  # a locomotive
        (
            {"cat": 2, "dog": 3, "": 4},
            {"/": 9},
            "no splits; no classes; 4 pictures lie in none of the 2 folders that could be classes: 0.png, 1.png, 2.png "
            "and 1 more",
        ),
        (
            CLASSES | {"train": 1},
            {"train/": 8, "test/": 3},
            f"{WITHOUT_VALID}; no classes; 1 picture lies in none of the 2 folders that could be classes: train/0.png",
        ),
        ({"train/cat": 2, "train/dog": 3, "test/cat": 1}, {"train/cat": 2, "train/dog": 3, "test/cat": 1},
         f"{WITHOUT_VALID}; classes from folders below them: 2"),
        ({"1": 1, "10": 1, "9": 1}, {"/1": 1, "/9": 1, "/10": 1}, "no splits; classes from folders: 3"),
    ],
)  # fmt: skip
def test_what_names_say_is_understood(
    tree: dict[str, int], counts: dict[str, int], in_words: str, tmp_path: Path
) -> None:
    layout = _understand(tmp_path, tree)
    assert _counts(layout) == counts
    assert layout.in_words(len(layout.classes)) == in_words


def test_classes_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    assert _understand(tmp_path, {"1": 1, "10": 1, "9": 1}).classes == ["1", "9", "10"]


@pytest.mark.parametrize(
    ("tree", "refused"),
    [
        ({"valid": 2, "test": 2}, "has test and valid like a split, but no train;"),
        ({"test/cat": 2, "test/dog": 2}, "has test like a split, but no train;"),
        ({"cat": 2, "dog": 2, "test": 2}, "has test like a split, but no train, only cat, dog;"),
        (CLASSES | {"val/cat": 1, "Valid/cat": 1}, "has Valid and val, both names of the split valid;"),
        (
            {"train/cat": 2, "train/dog": 2, "extra": 1},
            "has train with folders in it, like a split, and beside it extra;",
        ),
        ({"train2017": 2, "val2017": 2}, "has train2017 and val2017, which look like splits;"),
        ({"train": 2, "test_images": 2}, "has train and test_images, which look like splits;"),
        ({"seg_train/a": 2, "seg_test/a": 2, "seg_pred": 1}, "has seg_test and seg_train, which look like splits;"),
        ({"cat/train": 2, "cat/test": 1, "dog/train": 2}, "has cat/test and dog/train, which look like splits below"),
        (
            {"train/cat": 2, "train/dog": 2, "test": 2},
            "has classes in train, but none in test; sort these pictures, too",
        ),
        (
            {"train": 2, "test/cat": 2, "test/dog": 2},
            "has classes in test, but none in train; sort these pictures, too",
        ),
        (
            {"train/cat": 2, "train/dog": 2, "test/Cat": 2, "test/dog": 1},
            "test has a class of which train has no usable picture: Cat; add some, or remove or rename it",
        ),
    ],
)
def test_what_is_nearly_a_split_is_refused(tree: dict[str, int], refused: str, tmp_path: Path) -> None:
    with pytest.raises(BakeoffError) as error:
        _understand(tmp_path, tree)
    assert str(error.value).startswith(f"data.root: {tmp_path}: {refused}")
    assert "\n" not in str(error.value)


def test_every_other_file_is_counted_but_those_that_systems_leave(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in (
        "1.png",
        "a/2.JPEG",
        "3.jp2",
        "a/4.JP2",
        "notes.txt",
        "a.ZIP",
        "train.csv",
        ".DS_Store",
        "Thumbs.db",
        "a/Icon\r",
    ):
        (tmp_path / name).touch()
    (tmp_path / "link.png").symlink_to(tmp_path / "1.png")
    layout = understand(tmp_path, list_files(tmp_path))
    assert {"/".join(file.parts) for file in layout.files} == {"1.png", "a/2.JPEG"}
    jp2 = ".jp2 files left out, a format that is not read"
    assert layout.left_out == {
        jp2: 2,
        ".zip files left out, which are not unpacked": 1,
        "tables left out that are no labels.csv or metadata.csv with classes or splits": 1,
        "other files left out": 1,
        "links left out": 1,
    }


@pytest.mark.skipif(HEIC_PLUGIN, reason="HEIC is read")
def test_what_lets_heic_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.HEIC").touch()
    layout = understand(tmp_path, list_files(tmp_path))
    assert layout.left_out == {".heic files left out, which `uv pip install pillow-heif` lets be read": 1}


def test_a_look_needs_names_alone_and_escapes_them(tmp_path: Path) -> None:
    tree = {"train/a\nb": 1200, "train/\x1b[31m": 2, "test/a\nb": 1, "test/\x1b[31m": 1}
    _understand(tmp_path, tree)  # files without content
    assert look(tmp_path) == [
        f"data.root: {tmp_path}: {WITHOUT_VALID}; classes from folders below them: 2",
        "          train  test",
        "\\x1b[31m      2     1",
        "a\\nb      1,200     1",
        "all       1,202     2",
    ]


def test_a_look_names_some_of_many_classes(tmp_path: Path) -> None:
    _understand(tmp_path, {str(number): 1 for number in range(30)})
    lines = look(tmp_path)
    assert [lines[1].split(), lines[-3].split(), lines[-2].split(), lines[-1].split()] == [
        ["files"], ["19", "1"], ["and", "10", "more"], ["all", "30"]
    ]  # fmt: skip
