"""Whole folder trees, drawn at random: every file is used or counted, and the card says what a naive reader finds."""

import csv
import io
import json
import stat
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from workflow.data import catalogue
from workflow.data.layout import look, understand
from workflow.data.listing import Entry, list_files, shown
from workflow.errors import BakeoffError
from workflow.params import Folder

SIDE = 4  # pixels
WORDS = {"test": ("test", "Testing"), "valid": ("val", "Valid", "validation", "dev"), "train": ("train", "TRAIN")}
KINDS = ("png", "bmp", "tif", "wide", "small", "damaged", "txt", "heic", "link", "twin")
GOOD = ("png", "bmp", "tif", "wide", "twin")
ENDINGS = dict.fromkeys(("wide", "small", "damaged", "link", "twin"), "png")
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=5).filter(
    lambda name: name[0] != "." and name.casefold() not in {"train", "test", "dev", "val", "valid"}
)


@dataclass(frozen=True)
class Placed:
    """A file; seed: of its picture. split, label: as its folders or the table say, "" if these say nothing.

    table: that names it, or is in the place for that and does not.
    """

    path: str
    seed: int
    kind: str
    split: str
    label: str
    table: str = ""
    named: bool = True


@st.composite
def trees(draw: Any) -> list[Placed]:
    """With or without splits, classes, folders around all and around all of a split, folders deeper down, and tables.

    Odd files are among good ones. A split to test with may have just some of the classes.
    """
    classes = draw(st.lists(names, min_size=2, max_size=3, unique_by=str.casefold) | st.just([""]))
    splits = draw(st.sampled_from([("",), ("train", "test"), ("train", "valid", "test"), ("train", "valid")]))
    called = {split: draw(st.sampled_from(WORDS[split])) if split else "" for split in splits}
    around, files, firsts = draw(st.sampled_from(["", "data set", "a/b"])), list[Placed](), list[int]()
    plain = all(label.isprintable() and label == label.strip() for label in classes)  # as cells of CSV are
    table = draw(st.sampled_from(["", "", "labels.csv", "metadata.csv", "Metadata.jsonl"])) if plain else ""
    each = draw(st.booleans()) if splits != ("",) else False
    for split in splits:
        within = called[split] = "/".join(filter(None, (called[split], draw(_wrappers(split)) if split else "")))
        place = "/".join(
            filter(None, (around, draw(st.sampled_from([within, within.partition("/")[0]])) if each else ""))
        )
        have = classes if split in ("", "train") else draw(st.lists(st.sampled_from(classes), min_size=1, unique=True))
        for label in have:
            deeper = draw(st.sampled_from(["", "deeper"])) if label else ""
            for number, kind in enumerate(["png"] * 5 + draw(st.lists(st.sampled_from(KINDS), max_size=4))):
                firsts += [len(files)] if number == 0 else []
                seed = draw(st.sampled_from(firsts)) if kind == "twin" else len(files)  # it shows what another shows
                parts = (around, called[split], label, deeper, f"{number}.{ENDINGS.get(kind, kind)}")
                file = Placed("/".join(part for part in parts if part), seed, kind, split, label)
                if table and kind not in ("txt", "heic"):
                    said = replace(file, label=f"class {number % 2}", table=f"{place}/{table}".lstrip("/"))
                    file = replace(said, named=number != 4)
                files.append(file)
    return files


def _wrappers(split: str) -> st.SearchStrategy[str]:
    """Folders around all that a split has."""
    return st.sampled_from(["", "", split, split.upper(), "images", "pack", "pack/Data", f"{split}/pack"])


def _table(path: str, files: list[Placed]) -> str:
    """The table with this path."""
    place = path.rpartition("/")[0]
    rows = [(file.path.removeprefix(f"{place}/" if place else ""), file.label) for file in files if file.named]
    if path.endswith("jsonl"):
        return "\n".join(json.dumps({"file_name": name, "label": label}) for name, label in rows)
    text = io.StringIO()
    csv.writer(text).writerows([("file_name", "label"), *rows])
    return text.getvalue()


def _picture(seed: int) -> Any:
    """Noise (4, 4), of which no two are equal."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), np.uint8)
    pixels[0, :2] = (255, seed)
    return pixels


def _write(path: Path, file: Placed) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = _picture(file.seed)
    if file.kind == "wide":  # 12 bits, of which the lower four are lost
        Image.fromarray((pixels.astype(np.uint16) << 4) | 15).save(path)
    elif file.kind == "small":
        Image.fromarray(pixels[: SIDE - 1]).save(path)
    elif file.kind in ("damaged", "txt", "heic"):
        path.write_bytes(b"damaged")
    elif file.kind == "link":
        path.symlink_to("/dev/null")
    else:
        Image.fromarray(pixels).save(path)


def _expected(files: list[Placed]) -> dict[bytes, Placed]:
    """The pictures that can be used: of equal ones the first, those to test with before those to train on."""
    found: dict[bytes, Placed] = {}
    for file in sorted(files, key=lambda file: ([*WORDS].index(file.split or "train"), file.path.split("/"))):
        if file.kind in GOOD and file.named:
            found.setdefault(_picture(file.seed).tobytes(), file)
    return found


@given(trees())
@settings(max_examples=15, deadline=None, derandomize=True)
def test_every_file_is_used_or_counted_and_the_card_says_what_is_there(files: list[Placed]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, raw = Path(folder, "pictures"), Path(folder, "raw")
        for file in files:
            _write(root / file.path, file)
        for table in {file.table for file in files} - {""}:
            told_of = [file for file in files if file.table == table]
            (root / table).write_text(_table(table, told_of), encoding="utf-8")
        values = {"name": "folder", "root": root, "size": SIDE, "grey": True, "valid": 0.2, "test": 0.2}
        data = Folder.model_validate(values)
        catalogue.download(data, raw)
        sets, about = catalogue.prepare(data, raw)
        found = {
            split: [
                (image.tobytes(), int(label))
                for piece in images.pieces()
                for image, label in zip(piece.images, piece.labels, strict=True)
            ]
            for split, images in sets.items()
        }
        told = look(root)
    expected, every = _expected(files), {image for images in found.values() for image, _ in images}
    assert every == expected.keys()
    assert about["files"]["pictures used"] == len(every) == sum(map(len, found.values()))
    assert sum(n for what, n in about["files"].items() if "left out" in what) == len(files) - len(every)
    given_splits = {file.split for file in files} - {""}
    for split, images in found.items():
        for image, label in images:
            assert not about["classes"] or about["classes"][label] == shown(expected[image].label)
            assert expected[image].split in ((split,) if split in given_splits else ("", "train"))
    assert {shown(file.label) for file in expected.values()} - {""} == {*about["classes"]}
    for split, counts in about.get("class_counts", {}).items():
        assert Counter(about["classes"][label] for _, label in found[split]) == {
            name: number for name, number in zip(about["classes"], counts, strict=True) if number
        }
    assert told[0].endswith(about["understood"])
    assert all(f"classes from {Path(file.table).name}: 2" in about["understood"] for file in files if file.table)
    assert about["understood"].startswith("splits from folders" if given_splits else "no splits")


parts = st.lists(
    st.sampled_from(
        ["train", "Train", "val", "valid", "test", "cat", "dog", "extra", "train2017", "testset", "images"]
    ),
    max_size=3,
)


@given(st.sets(parts.map("/".join), min_size=1, max_size=6))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_whatever_folders_are_called_a_test_folder_is_not_trained_on(places: set[str]) -> None:
    """Either the folder is refused in a line, or pictures in a top folder `test` or `valid` are in that split."""
    with tempfile.TemporaryDirectory() as folder:
        for place in places:
            Path(folder, place).mkdir(parents=True, exist_ok=True)
            Path(folder, place, "1.png").touch()
        try:
            layout = understand(Path(folder), list_files(Path(folder)))
        except BakeoffError as error:
            refused = str(error)
        else:
            refused = ""
    assert "\n" not in refused
    if not refused:
        assert len(layout.files) + layout.left_out.total() == len(places)
        shared = _shared([place.split("/") if place else [] for place in places])
        for file in layout.files:
            top = file.parts[shared].casefold()
            assert file.split == {"test": "test", "val": "valid", "valid": "valid"}.get(top, file.split)


@st.composite
def split_places(draw: Any) -> set[tuple[str, ...]]:
    """Folders of splits, each with a few folders, and one or two around all of these; any may be called like any."""
    found = set()
    for split in draw(st.sampled_from([("train", "test"), ("train", "valid", "test")])):
        names = st.sampled_from(["cat", "dog", "a", split, "test", "images"])
        around = draw(st.just([]) | st.lists(names, min_size=1, max_size=2))
        few = st.lists(names, max_size=2) | st.sampled_from([["cat"], ["dog"]])
        found |= {(split, *around, *below) for below in draw(st.lists(few, min_size=1, max_size=3))}
        if draw(st.booleans()):
            found |= {(split, *around, "cat"), (split, *around, "dog")}
    return found


@given(split_places())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_whatever_is_around_classes_none_is_lost_or_looked_through(places: set[tuple[str, ...]]) -> None:
    """Either the folder is refused, or the classes are those that a naive reader finds."""
    entries = [Entry((*place, "1.png"), size=0, changed=0, mode=stat.S_IFREG) for place in sorted(places)]
    try:
        layout = understand(Path("pictures"), entries)
    except BakeoffError:
        return
    expected = {place: _class(place, places) for place in places}
    if len({*expected.values()}) == 1 or "" in expected.values():
        assert layout.classes == []
    else:
        assert {file.parts[:-1]: file.label for file in layout.files} == expected


def _class(place: tuple[str, ...], places: set[tuple[str, ...]]) -> str:
    """The first folder of a path that some split has beside others, below those that all paths of all splits share."""
    shared = 1 + _shared([list(other[1:]) for other in places])
    beside, own = set[str](), 0
    for split in {other[0] for other in places}:
        folders = [list(other[1:]) for other in places if other[0] == split]
        ends = _shared(folders)
        beside |= {names[ends] for names in folders if len(names) > ends and split != place[0]}
        own = 1 + ends if split == place[0] else own
    return next((name for at, name in enumerate(place) if at >= shared and (at == own or name in beside)), "")


def _shared(folders: list[list[str]]) -> int:
    """The number of folders around everything."""
    count = 0
    while all(len(names) > count for names in folders) and len({names[count] for names in folders}) == 1:
        count += 1
    return count
