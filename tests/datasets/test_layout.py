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
            f"{WITHOUT_VALID}; classes from folders below them: 2; train/images and test/images looked through",
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


NO_TABLE = (
    "tables left out that are no labels.csv, metadata.csv or metadata.jsonl with classes or splits, at the top or in "
    "the folder of a split"
)
FOLDERS = "classes from folders below them: 2"


@pytest.mark.parametrize(
    ("tree", "counts", "in_words"),
    [
        (  # Kaggle's archives, unpacked beside each other
            {"train/train/cat": 4, "train/train/dog": 3, "test/test/cat": 2, "test/test/dog": 1},
            CLASSES,
            f"{FOLDERS}; train/train and test/test looked through",
        ),
        (
            {"train/train": 4, "test/test": 2},
            {"train/": 4, "test/": 2},
            "no classes; train/train and test/test looked through",
        ),
        (
            {"train/train2017": 4, "test/test_images": 2, "train/__MACOSX/a": 1, "test/.hidden": 1},
            {"train/": 4, "test/": 2},
            "no classes; train/train2017 and test/test_images looked through",
        ),
        (
            {"train/TRAIN/data/cat": 4, "train/TRAIN/data/dog": 3, "test/cat": 2, "test/dog": 1},
            CLASSES,
            f"{FOLDERS}; train/TRAIN/data looked through",
        ),
        (  # any name, as there are folders in it
            {"train/pack A/cat": 4, "train/pack A/dog": 3, "test/pack B/cat": 2, "test/pack B/dog": 1},
            CLASSES,
            f"{FOLDERS}; train/pack A and test/pack B looked through",
        ),
        (  # train shows that cat is a class, whatever folders it has
            CLASSES | {"test/cat": 0, "test/dog": 0, "test/cat/young": 1, "test/cat/old": 1},
            {"train/cat": 4, "train/dog": 3, "test/cat": 2},
            FOLDERS,
        ),
        (
            {"train/train/cat": 4, "train/train/dog": 3, "valid/dog/old": 1, "test/test/cat/young": 1},
            {"train/cat": 4, "train/dog": 3, "valid/dog": 1, "test/cat": 1},
            f"{FOLDERS}; train/train and test/test looked through",
        ),
        (  # locomotives
            {"train/train": 4, "train/bus": 3, "test/train": 2},
            {"train/train": 4, "train/bus": 3, "test/train": 2},
            FOLDERS,
        ),
        (
            {"train/cat": 4, "test/cat": 2},
            {"train/": 4, "test/": 2},
            "no classes; train/cat and test/cat looked through",
        ),
        ({"train/cat": 4, "test/test/cat": 2}, {"train/": 4, "test/": 2}, "no classes; test/test looked through"),
        ({"train/train/cat": 4, "test": 2}, {"train/": 4, "test/": 2}, "no classes; train/train looked through"),
        (
            {"train/dog/cat": 4, "train/dog/dog": 3, "test/dog/cat": 2, "test/dog/dog": 1},
            CLASSES,
            f"{FOLDERS}; train/dog and test/dog looked through",
        ),
    ],
)  # fmt: skip
def test_a_folder_around_all_that_a_split_has_is_looked_through_unless_another_split_shows_a_class(
    tree: dict[str, int], counts: dict[str, int], in_words: str, tmp_path: Path
) -> None:
    layout = _understand(tmp_path, tree)
    assert _counts(layout) == counts
    assert layout.in_words(len(layout.classes)).partition("; ")[2] == in_words


def test_a_folder_with_pictures_that_cannot_be_read_is_a_folder_beside(tmp_path: Path) -> None:
    """It shows that cat is a class, of which there is then just one that can be used."""
    for place in ("train/cat/a", "train/cat/b", "test/cat/a", "test/cat/b", "train/dog", "test/dog"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "1.png").symlink_to("/dev/null") if "dog" in place else (tmp_path / place / "1.png").touch()
    assert understand(tmp_path, list_files(tmp_path)).classes == []


def test_a_second_copy_of_the_splits_beside_them_is_left_out(tmp_path: Path) -> None:
    """chest_xray of Kaggle has such a one."""
    again = {f"chest_xray/chest_xray/{name}": count for name, count in CLASSES.items()}
    layout = _understand(tmp_path, {f"chest_xray/{name}": count for name, count in CLASSES.items()} | again)
    assert _counts(layout) == CLASSES
    assert layout.left_out == {"in chest_xray, which is no split, left out": 10}


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
            {"train/train/cat": 2, "train/train/dog": 2, "test/test": 2, "valid/images": 1},
            "has classes in train, but none in valid and test; sort these pictures, too",
        ),
        (
            {"train/cat": 2, "train/dog": 2, "test/test/CAT/old": 2, "test/test/CAT/young": 2},
            "test has a class of which train has no usable picture: CAT;",
        ),
        (
            {"train/cat": 1, "train/cat/young": 2, "train/cat/old": 2, "test/dog": 2},
            "test has a class of which train has no usable picture: dog;",
        ),
        ({"train/pack/cat": 2, "train/pack/dog": 2, "test": 2}, "has classes in train, but none in test;"),
        (
            {"train/cat/young": 2, "train/cat/old": 2, "test/cat": 2, "test/dog": 1},
            "test has a class of which train has no usable picture: dog;",
        ),
        (
            {"train/cat": 2, "train/dog": 2, "test/cat/cat": 2, "test/cat/dog": 1},
            "has test/cat, which may be the class cat or a folder around the classes in it (cat, dog); rename it if it "
            "is no class, and otherwise the folders in it",
        ),
        (
            {"train/cat": 2, "train/dog": 2, "test/cat/dog": 2},
            "has test/cat, which may be the class cat or a folder around the classes in it (dog);",
        ),
        (
            {"train/test_images": 2, "test/1": 2},
            "has train/test_images, which looks like the split test inside train; move its pictures to where they "
            "belong, or rename it",
        ),
        ({"train/val/cat": 2, "train/val/dog": 2, "test/cat": 2}, "has train/val, which looks like the split valid"),
        (
            {"images": 3, "annotations/trimaps": 3},
            "has images beside annotations, which look like pictures and their masks rather than classes; move what is "
            "not to be trained on elsewhere, or rename images if that is a class",
        ),
        (
            {"train/data": 2, "train/masks": 2, "test/data": 1, "test/masks": 1},
            "has data beside masks, which look like pictures and their masks rather than classes;",
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


@pytest.mark.parametrize(
    ("files", "understood"),
    [
        (
            "train/train/cat.0.jpg train/train/dog.0.jpg test1/test1/1.jpg",
            "has train and test1, which look like splits;",
        ),
        (  # ImageNet: test and validation pictures are in no classes
            "I/Data/train/n01/1.JPEG I/Data/train/n02/1.JPEG I/Data/val/1.JPEG I/Data/test/1.JPEG I/Annotations/1.xml",
            "has classes in train, but none in valid and test;",
        ),
        (  # Tiny ImageNet
            "train/n01/images/1.JPEG train/n02/images/1.JPEG val/images/1.JPEG val/annotations.txt test/images/1.JPEG",
            "has classes in train, but none in valid and test;",
        ),
        (  # CelebA
            "img_align_celeba/img_align_celeba/1.jpg img_align_celeba/img_align_celeba/2.jpg list_eval_partition.csv",
            "no splits; no classes; all in img_align_celeba/img_align_celeba",
        ),
        (  # Oxford's pets
            "images/Abyssinian_1.jpg annotations/trimaps/Abyssinian_1.png annotations/list.txt",
            "has images beside annotations, which look like pictures and their masks",
        ),
        (  # chest X-rays
            "chest_xray/chest_xray/train/NORMAL/1.jpeg chest_xray/chest_xray/train/PNEUMONIA/1.jpeg "
            "chest_xray/chest_xray/test/NORMAL/1.jpeg chest_xray/__MACOSX/._train",
            f"{WITHOUT_VALID}; classes from folders below them: 2; all in chest_xray/chest_xray",
        ),
        (  # scenes of Intel
            "seg_train/seg_train/sea/1.jpg seg_train/seg_train/forest/1.jpg seg_test/seg_test/sea/1.jpg "
            "seg_pred/seg_pred/1.jpg",
            "has seg_test and seg_train, which look like splits; call them train, valid and test if they are",
        ),
        (
            "train/seg_train/sea/1.jpg train/seg_train/forest/1.jpg test/seg_test/sea/1.jpg seg_pred/seg_pred/1.jpg",
            f"{WITHOUT_VALID}; classes from folders below them: 2; 1 in seg_pred, which is no split, left out; "
            "train/seg_train and test/seg_test looked through",
        ),
        ("data/train-0.png data/train-1.png data/test-0.png", "has pictures whose names begin with splits"),
        ("root/dog/xxx.png root/dog/a/xxz.png root/cat/123.png", "no splits; classes from folders: 2; all in root"),
        (  # Open Images, as FiftyOne stores them, and as they are downloaded
            "train/data/1.jpg train/labels/masks/0/1.png validation/data/2.jpg test/data/3.jpg train/metadata/c.csv",
            "has data beside labels, which look like pictures and their masks",
        ),
        (
            "train_0/1.jpg train_1/2.jpg validation/3.jpg",
            "has validation, train_0 and train_1, which look like splits;",
        ),
        (  # YOLO
            "train/images/1.jpg train/labels/1.txt valid/images/2.jpg test/images/3.jpg data.yaml",
            "splits from folders (train, valid, test); no classes; train/images, valid/images and test/images looked "
            "through",
        ),
    ],
)
def test_data_sets_as_they_are_published_are_understood_or_refused(files: str, understood: str, tmp_path: Path) -> None:
    for name in files.split(" "):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    try:
        told = look(tmp_path)[0]
    except BakeoffError as error:
        told = str(error)
    assert told.split(": ", 2)[2].startswith(understood)


def test_splits_in_the_names_of_pictures_are_refused(tmp_path: Path) -> None:
    """An image folder of Hugging Face may have them there; pictures to test with would be trained on."""
    (tmp_path / "data").mkdir()
    for name in ("train-0001.png", "train_2.png", "Test-1.png"):
        (tmp_path / "data" / name).touch()
    with pytest.raises(BakeoffError) as error:
        understand(tmp_path, list_files(tmp_path))
    assert str(error.value) == (
        f"data.root: {tmp_path}/data: has pictures whose names begin with splits (Test-1.png, train-0001.png); put "
        "them into folders train, valid and test, say in labels.csv which split each is of, or rename them"
    )
    (tmp_path / "data/other.png").touch()
    assert len(understand(tmp_path, list_files(tmp_path)).files) == 4


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
        NO_TABLE: 1,
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
