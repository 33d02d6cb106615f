"""A user's own pictures: whatever lies in the folder, the pictures are used, the rest is counted, nothing breaks."""

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import ROOT
from workflow.data import catalogue, folder
from workflow.data.arrays import Card, read_card, write_prepared
from workflow.data.decoding import read_square
from workflow.data.layout import ENDINGS
from workflow.data.tensors import ImageSet, read_split
from workflow.errors import BakeoffError
from workflow.params import Folder

Place = Callable[..., None]


def _pixels(seed: int, height: int = 12, width: int = 12) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten good pictures."""
    (tmp_path / "pictures").mkdir()
    for seed in range(10):
        Image.fromarray(_pixels(seed)).save(tmp_path / f"pictures/{seed}.png")
    return tmp_path / "pictures"


def read(root: Path, **options: Any) -> tuple[dict[str, ImageSet], Card]:
    values = {"name": "folder", "root": root, "size": 8, "valid": 0.2, "test": 0.2, **options}
    data, place = Folder.model_validate(values), root.parent
    catalogue.download(data, place / "raw")
    sets, about = catalogue.prepare(data, place / "raw")
    write_prepared(place / "prepared", sets, **about)
    return {s: read_split(s, place / "prepared") for s in ("train", "valid", "test")}, read_card(place / "prepared")


def _all(sets: dict[str, ImageSet]) -> torch.Tensor:
    return torch.cat([images.images for images in sets.values()])


def test_three_keys_are_enough(root: Path) -> None:
    data = Folder.model_validate({"name": "folder", "root": str(root), "size": 8})
    assert (data.root, data.valid, data.test, data.seed) == (root, 0.1, 0.1, 0)


def test_pictures_without_class_folders_have_no_classes(root: Path) -> None:
    sets, card = read(root)
    assert {split: len(images) for split, images in sets.items()} == {"train": 6, "valid": 2, "test": 2}
    assert (card.classes, card.shape, card.levels, card.files) == ((), (3, 8, 8), 256, {"pictures used": 10})
    assert card.split == "at random, equal images together, seed 0"
    assert not _all(sets).eq(0).all()
    assert sets["train"].labels.tolist() == [0] * 6


def test_a_picture_of_the_right_size_keeps_its_pixels(root: Path) -> None:
    sets, _ = read(root, size=12)
    expected = {_pixels(seed).transpose(2, 0, 1).tobytes() for seed in range(10)}
    assert {image.numpy().tobytes() for image in _all(sets)} == expected


def test_a_wide_picture_is_cut_in_its_middle(root: Path) -> None:
    for file in root.iterdir():
        file.unlink()
    for seed in range(10):
        wide = np.zeros((12, 40, 3), np.uint8)
        wide[:, 14:26] = 200 + seed
        Image.fromarray(wide).save(root / f"{seed}.png")
    sets, _ = read(root, size=12)
    assert {int(image.min()) for image in _all(sets)} == set(range(200, 210))


def test_folders_are_classes_and_each_is_split_by_itself(tmp_path: Path) -> None:
    for number, name in enumerate(("ants", "bees")):
        (tmp_path / "pictures" / name / "deeper").mkdir(parents=True)
        for seed in range(20):
            place = tmp_path / "pictures" / name / ("deeper" if seed % 2 else "") / f"{seed}.png"
            Image.fromarray(_pixels(100 * number + seed)).save(place)
    sets, card = read(tmp_path / "pictures", size=12)
    assert card.classes == ("ants", "bees")
    for split, n in (("train", 12), ("valid", 4), ("test", 4)):
        assert sets[split].labels.bincount().tolist() == [n, n]
    of_bees = {_pixels(100 + seed).transpose(2, 0, 1).tobytes() for seed in range(20)}
    for images in sets.values():
        assert [image.numpy().tobytes() in of_bees for image in images.images] == images.labels.bool().tolist()


def test_a_picture_beside_the_class_folders_makes_them_plain_folders(root: Path) -> None:
    (root / "cats").mkdir()
    (root / "dogs").mkdir()
    Image.fromarray(_pixels(50)).save(root / "cats/a.png")
    Image.fromarray(_pixels(51)).save(root / "dogs/a.png")
    _, card = read(root)
    assert (card.classes, card.files) == ((), {"pictures used": 12})


def test_folders_named_as_splits_are_the_splits_and_share_no_picture(tmp_path: Path) -> None:
    for split, seeds in (("train", range(20)), ("val", range(20, 25)), ("test", (*range(25, 30), 0, 1))):
        for seed in seeds:
            place = tmp_path / "pictures" / split / ("even" if seed % 2 == 0 else "odd")
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(_pixels(seed)).save(place / f"{seed}.png")
    sets, card = read(tmp_path / "pictures", size=12)
    assert {split: len(images) for split, images in sets.items()} == {"train": 18, "valid": 5, "test": 7}
    assert (card.classes, card.leaks, card.split) == (("even", "odd"), 0, "as the set comes")
    assert card.files == {"duplicates left out": 2, "pictures used": 30}
    expected = {_pixels(seed).transpose(2, 0, 1).tobytes() for seed in (*range(25, 30), 0, 1)}
    assert {image.numpy().tobytes() for image in sets["test"].images} == expected


def test_pictures_beside_the_splits_are_left_out_and_counted(tmp_path: Path) -> None:
    for split, seeds in (("train", range(20)), ("test", range(20, 25))):
        for seed in seeds:
            place = tmp_path / "pictures" / split / ("even" if seed % 2 == 0 else "odd")
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(_pixels(seed)).save(place / f"{seed}.png")
    for seed, name in ((50, "a"), (51, "z")):  # one is sorted before the folders, one after
        Image.fromarray(_pixels(seed)).save(tmp_path / f"pictures/{name}.png")
    (tmp_path / "pictures/notes").mkdir()  # a folder without pictures does not make the others classes
    (tmp_path / "pictures/notes/read me.txt").write_text("of my pictures")
    sets, card = read(tmp_path / "pictures", size=12)
    left_out = {"other files left out": 1, "beside the splits, left out": 2}
    assert card.files == {**left_out, "pictures used": 25}
    assert card.classes == ("even", "odd")
    expected = {_pixels(seed).transpose(2, 0, 1).tobytes() for seed in range(25)}
    assert {image.numpy().tobytes() for image in _all(sets)} == expected


def test_the_first_pictures_of_a_split_are_of_all_classes(tmp_path: Path) -> None:
    for number, name in enumerate(("ants", "bees", "cats")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for seed in range(20):
            Image.fromarray(_pixels(100 * number + seed)).save(tmp_path / f"pictures/{name}/{seed}.png")
    sets, _ = read(tmp_path / "pictures", size=12)
    assert len(sets["train"].labels[:12].unique()) == 3  # of 36
    assert all(len(images.labels[: len(images) // 3].unique()) > 1 for images in sets.values())
    assert read(tmp_path / "pictures", size=12)[0]["train"].labels.equal(sets["train"].labels)


def test_a_folder_without_a_picture_that_can_be_used_is_no_class(tmp_path: Path) -> None:
    for name, seeds in (("ants", range(10)), ("bees", ()), ("cats", range(10, 20))):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for seed in seeds:
            Image.fromarray(_pixels(seed)).save(tmp_path / f"pictures/{name}/{seed}.png")
    (tmp_path / "pictures/bees/0.png").write_bytes(b"damaged")
    sets, card = read(tmp_path / "pictures")
    assert card.classes == ("ants", "cats")
    assert sets["train"].labels.bincount().tolist() == [6, 6]


def test_equal_pictures_are_used_once(root: Path) -> None:
    Image.fromarray(_pixels(3)).save(root / "again.bmp")
    _, card = read(root)
    assert card.files == {"duplicates left out": 1, "pictures used": 10}


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _bomb(path: Path) -> None:
    """A PNG of a few kilobytes that unpacks to 40,000 x 40,000 pixels."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(10**7), 9)
    parts = (_png_chunk(b"IHDR", header), _png_chunk(b"IDAT", body), _png_chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def _animated(path: Path) -> None:
    frames = [Image.fromarray(_pixels(seed)) for seed in (60, 61)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def _sixteen_bits(path: Path) -> None:
    Image.fromarray(np.arange(144, dtype=np.uint16).reshape(12, 12) * 455).save(path)


def _turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = np.zeros((12, 12, 3), np.uint8)
    picture[:, :4] = 255  # to be turned a quarter clockwise: the white third comes to lie on top
    Image.fromarray(picture).save(path, exif=exif)


def _transparent(path: Path) -> None:
    Image.fromarray(np.zeros((12, 12, 4), np.uint8)).save(path)


@pytest.mark.parametrize(
    ("name", "make", "counted", "used"),
    [
        ("torn.png", lambda p: p.write_bytes((p.parent / "0.png").read_bytes()[:200]), "unreadable, left out", False),
        ("empty.jpg", lambda p: p.write_bytes(b""), "unreadable, left out", False),
        ("text.jpg", lambda p: p.write_text("no picture"), "unreadable, left out", False),
        ("notes.txt", lambda p: p.write_text("no picture"), "other files left out", False),
        ("script.eps", lambda p: p.write_text("%!PS-Adobe-3.0 EPSF-3.0\n"), "other files left out", False),
        ("eps.png", lambda p: Image.new("RGB", (12, 12)).save(p, "EPS"), "unreadable, left out", False),
        ("tiny.png", lambda p: Image.new("RGB", (7, 99)).save(p), "smaller than 8 pixels, left out", False),
        ("float.tif", lambda p: Image.new("F", (12, 12)).save(p), "floating-point numbers, left out", False),
        ("bomb.png", _bomb, "larger than 200 megapixels (data.most_megapixels), left out", False),
        ("link.png", lambda p: p.symlink_to(p.parent / "0.png"), "links left out", False),
        ("outside.png", lambda p: p.symlink_to("/etc/hostname"), "links left out", False),
        ("away", lambda p: p.symlink_to("/usr/share"), "links left out", False),
        ("pipe.png", os.mkfifo, "other files left out", False),
        ("moving.gif", _animated, "animated, first frame used", True),
        ("pages.tiff", _animated, "animated, first frame used", True),
        ("print.jpg", lambda p: Image.new("CMYK", (12, 12), (9, 99, 9, 0)).save(p), "CMYK converted", True),
        ("deep.png", _sixteen_bits, "16 bits reduced to 8", True),
        ("deep.tif", _sixteen_bits, "16 bits reduced to 8", True),
        ("phone.jpg", _turned, "turned upright by EXIF", True),
        ("clear.png", _transparent, "transparent, put on white", True),
    ],
)
def test_every_odd_file_is_handled_and_counted(
    name: str, make: Callable[[Path], Any], counted: str, used: bool, root: Path
) -> None:
    make(root / name)
    sets, card = read(root)
    assert card.files == {counted: 1, "pictures used": 10 + used}
    assert len(_all(sets)) == 10 + used


def test_what_is_changed_in_a_picture_is_changed_rightly(root: Path) -> None:
    for file in root.iterdir():
        file.unlink()
    _sixteen_bits(root / "deep.png")
    _turned(root / "phone.png")
    _transparent(root / "clear.png")
    Image.new("CMYK", (12, 12), (0, 255, 255, 0)).save(root / "print.tif")
    Image.new("L", (12, 12), 77).save(root / "grey.png")
    Image.new("1", (12, 12), 1).save(root / "white.bmp")
    found = _all(read(root, size=12)[0])
    deep, phone = (np.arange(144) * 455 >> 8).reshape(12, 12), np.zeros((12, 12))
    phone[:4] = 255
    red = np.zeros((3, 12, 12))
    red[0] = 255
    expected = [np.broadcast_to(e, (3, 12, 12)).astype(np.uint8) for e in (deep, phone, red, np.float64(77))]
    expected.append(np.full((3, 12, 12), 255, np.uint8))  # the transparent one, and the white one is its duplicate
    assert {image.numpy().tobytes() for image in found} == {e.tobytes() for e in expected}


def test_grey_makes_one_channel(root: Path) -> None:
    sets, card = read(root, grey=True, size=12)
    assert card.shape == (1, 12, 12)
    expected = {np.asarray(Image.fromarray(_pixels(seed)).convert("L")).tobytes() for seed in range(10)}
    assert {image.numpy().tobytes() for image in _all(sets)} == expected


def test_a_folder_without_pictures_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.txt").write_text("a")
    Image.new("RGB", (5, 5)).save(tmp_path / "pictures/small.png")
    with pytest.raises(BakeoffError) as error:
        read(tmp_path / "pictures")
    assert "no usable picture (1 other files left out, 1 smaller than 8 pixels, left out)" in str(error.value)


def test_too_few_pictures_for_three_splits_stop(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for seed in range(2):
        Image.fromarray(_pixels(seed)).save(tmp_path / f"pictures/{seed}.png")
    with pytest.raises(BakeoffError, match="the valid split of 2 images would be empty"):
        read(tmp_path / "pictures")


def test_duplicates_are_named_if_too_few_pictures_are_left(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(20):
        Image.fromarray(_pixels(0)).save(tmp_path / f"pictures/{number}.png")
    with pytest.raises(BakeoffError) as error:
        read(tmp_path / "pictures")
    assert "the valid split of 1 images would be empty (19 duplicates left out); add images" in str(error.value)


def test_formats_that_are_not_read_are_named_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("1.jp2", "2.JP2", "3.psd"):
        (tmp_path / "pictures" / name).touch()
    with pytest.raises(BakeoffError) as error:
        read(tmp_path / "pictures")
    assert str(error.value) == (
        f"data.root: {tmp_path / 'pictures'}: no usable picture (2 .jp2 files left out, a format that is not read, "
        "1 .psd files left out, a format that is not read); convert them to or add pictures of a format that is read: "
        f"{', '.join(sorted(ENDINGS))}"
    )


@pytest.mark.parametrize(
    ("write", "remedy"),
    [
        (lambda path: Image.new("RGB", (7, 9)).save(path), "use larger pictures or lower data.size"),
        (lambda path: Image.new("RGB", (9000, 9)).save(path), "raise data.most_megapixels"),
        (lambda path: path.symlink_to("/dev/null"), "put the files themselves in place of the links"),
        (lambda path: path.with_suffix(".tgz").touch(), "unpack the archives"),
    ],
)
def test_the_remedy_is_that_of_what_was_found(write: Any, remedy: str, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    write(tmp_path / "pictures/1.png")
    with pytest.raises(BakeoffError) as error:
        read(tmp_path / "pictures", most_megapixels=0.01)
    assert str(error.value).endswith(f"); {remedy}")


def test_equal_pictures_in_two_classes_are_counted_by_themselves(tmp_path: Path) -> None:
    """One of their classes is wrong."""
    for place, seeds in (("cat", range(20)), ("dog", range(18, 40))):
        (tmp_path / "pictures" / place).mkdir(parents=True)
        for seed in seeds:
            Image.fromarray(_pixels(seed)).save(tmp_path / f"pictures/{place}/{seed}.png")
    Image.fromarray(_pixels(0)).save(tmp_path / "pictures/cat/again.png")
    _, card = read(tmp_path / "pictures")
    assert card.files == {
        "duplicates left out": 1,
        "duplicates of pictures of another class left out": 2,
        "pictures used": 40,
    }


def test_a_split_of_which_no_picture_can_be_used_is_refused(tmp_path: Path) -> None:
    """It would otherwise be taken out of the training pictures."""
    for split, side in (("train", 12), ("test", 7)):
        (tmp_path / "pictures" / split).mkdir(parents=True)
        for seed in range(10):
            Image.fromarray(_pixels(seed, side, side)).save(tmp_path / f"pictures/{split}/{seed}.png")
    with pytest.raises(BakeoffError, match=r"no usable picture in test \(10 smaller than 8 pixels, left out\);"):
        read(tmp_path / "pictures")


def test_a_class_of_which_only_test_pictures_can_be_used_is_refused(tmp_path: Path) -> None:
    for place, seeds in (("train/cat", range(5)), ("train/dog", (9,)), ("test/cat", (7, 8)), ("test/dog", (9,))):
        (tmp_path / "pictures" / place).mkdir(parents=True)
        for seed in seeds:  # the only dog to train on is the one to test with
            Image.fromarray(_pixels(seed)).save(tmp_path / f"pictures/{place}/{seed}.png")
    with pytest.raises(BakeoffError, match="test has a class of which train has no usable picture: dog; add some"):
        read(tmp_path / "pictures")


def test_the_card_says_how_the_folder_was_understood_and_counts_classes(tmp_path: Path) -> None:
    for split, number, count in (("train", 0, 10), ("train", 1, 20), ("test", 1, 5)):
        (tmp_path / "pictures" / split / f"c{number}").mkdir(parents=True)
        for seed in range(count):
            path = tmp_path / f"pictures/{split}/c{number}/{seed}.png"
            Image.fromarray(_pixels(1000 * (split == "test") + 100 * number + seed)).save(path)
    sets, card = read(tmp_path / "pictures")
    assert card.understood == (
        "splits from folders (train, test), valid taken out of train; classes from folders below them: 2"
    )
    assert card.class_counts == {"train": [8, 16], "valid": [2, 4], "test": [0, 5]}
    assert {split: images.labels.bincount(minlength=2).tolist() for split, images in sets.items()} == card.class_counts
    assert card.split == "train and test as the set comes, the rest by class, equal images together, seed 0"


@pytest.mark.parametrize("change", ["added", "removed", "changed"])
def test_a_folder_that_changes_while_it_is_read_is_refused(
    change: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC hashes it afterwards, and would never read again what has been added."""

    def meanwhile(path: Path, *others: Any) -> Any:
        if path.name == "5.png":
            if change == "removed":
                (root / "0.png").unlink()
            else:
                Image.fromarray(_pixels(50)).save(root / ("new.png" if change == "added" else "0.png"))
        return read_square(path, *others)

    monkeypatch.setattr(folder, "read_square", meanwhile)
    name = "new.png" if change == "added" else "0.png"
    message = rf"changed while its pictures were read: 1 {change} \({name}\); run again once nothing writes to it$"
    with pytest.raises(BakeoffError, match=message):
        read(root)
    assert not (root.parent / "raw/images.safetensors").exists()


def test_the_same_folder_gives_the_same_bytes(root: Path) -> None:
    contents = []
    for _ in range(2):
        read(root)
        contents.append([(root.parent / "prepared" / f"{s}.safetensors").read_bytes() for s in ("train", "test")])
    assert contents[0] == contents[1]


@given(st.binary(max_size=400), st.sampled_from(["png", "jpg", "gif", "bmp", "tif", "webp", "ppm"]), st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_break_the_reader(root: Path, content: bytes, ending: str, begun: bool) -> None:
    """Noise, and noise in the middle of a picture."""
    file = root / f"noise.{ending}"
    if begun:
        Image.fromarray(_pixels(0)).save(file)
        good = file.read_bytes()
        content = good[: len(good) // 3] + content + good[len(good) // 3 + len(content) :]
    file.write_bytes(content)
    _, card = read(root)
    assert card.files["pictures used"] >= 10


PEAK = """
import sys
from pathlib import Path
from workflow.data import catalogue
from workflow.params import Folder
from workflow.data.arrays import write_prepared
data = Folder.model_validate({"name": "folder", "root": sys.argv[1], "size": 40})
def peak():
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
before, raw = peak(), Path(sys.argv[2])
sets, about = catalogue.prepare(data, raw)
highest = 0
class Watched:
    def __init__(self, images): self.images = images
    def __len__(self): return len(self.images)
    def pieces(self):
        global highest
        for piece in self.images.pieces():
            highest = max(highest, peak())
            yield piece
write_prepared(raw / "prepared", {split: Watched(images) for split, images in sets.items()}, **about)
print(highest - before)
"""


def test_preparing_takes_a_fraction_of_the_memory_of_the_pictures(tmp_path: Path) -> None:
    from workflow.data.splits import PIECE, write_raw

    n = 60 * PIECE  # many, beside what the allocator keeps of freed pieces: some tens of megabytes, now more, now less
    images = torch.randint(0, 256, (n, 3, 40, 40), dtype=torch.uint8)
    about = {"source": "", "licence": "", "levels": 256, "classes": []}
    write_raw(tmp_path, ImageSet(images, torch.zeros(n, dtype=torch.long)), **about)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path), str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) * 1024 < images.nbytes / 2
