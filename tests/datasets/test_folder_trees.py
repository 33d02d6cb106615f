"""Whole folder trees, drawn at random: every file is used or counted, and the card says what a naive reader finds."""

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from workflow.data import catalogue
from workflow.data.layout import look, understand
from workflow.data.listing import list_files, shown
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
    """A file; seed: of its picture. split, label: as its folders say, "" if they say nothing."""

    path: str
    seed: int
    kind: str
    split: str
    label: str


@st.composite
def trees(draw: Any) -> list[Placed]:
    """With or without splits, classes, a folder around all, folders deeper down, and odd files among good ones."""
    classes = draw(st.lists(names, min_size=2, max_size=3, unique_by=str.casefold) | st.just([""]))
    splits = draw(st.sampled_from([("",), ("train", "test"), ("train", "valid", "test"), ("train", "valid")]))
    called = {split: draw(st.sampled_from(WORDS[split])) if split else "" for split in splits}
    around, files, firsts = draw(st.sampled_from(["", "data set", "a/b"])), list[Placed](), list[int]()
    for split in splits:
        for label in classes:
            deeper = draw(st.sampled_from(["", "deeper"])) if label else ""
            for number, kind in enumerate(["png"] * 5 + draw(st.lists(st.sampled_from(KINDS), max_size=4))):
                firsts += [len(files)] if number == 0 else []
                seed = draw(st.sampled_from(firsts)) if kind == "twin" else len(files)  # it shows what another shows
                parts = (around, called[split], label, deeper, f"{number}.{ENDINGS.get(kind, kind)}")
                files.append(Placed("/".join(part for part in parts if part), seed, kind, split, label))
    return files


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
        if file.kind in GOOD:
            found.setdefault(_picture(file.seed).tobytes(), file)
    return found


@given(trees())
@settings(max_examples=15, deadline=None, derandomize=True)
def test_every_file_is_used_or_counted_and_the_card_says_what_is_there(files: list[Placed]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, raw = Path(folder, "pictures"), Path(folder, "raw")
        for file in files:
            _write(root / file.path, file)
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
    assert {shown(file.label) for file in files} - {""} == {*about["classes"]}
    for split, counts in about.get("class_counts", {}).items():
        assert Counter(about["classes"][label] for _, label in found[split]) == {
            name: number for name, number in zip(about["classes"], counts, strict=True) if number
        }
    assert told[0].endswith(about["understood"])
    assert about["understood"].startswith("splits from folders" if given_splits else "no splits")


parts = st.lists(
    st.sampled_from(["train", "Train", "val", "valid", "test", "cat", "dog", "extra", "train2017", "testset"]),
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


def _shared(folders: list[list[str]]) -> int:
    """The number of folders around everything."""
    count = 0
    while all(len(names) > count for names in folders) and len({names[count] for names in folders}) == 1:
        count += 1
    return count
