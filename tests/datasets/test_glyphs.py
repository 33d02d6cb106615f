"""Digits rendered from fonts: the same bytes everywhere, legible, all different, and of the fonts that are expected."""

import hashlib
import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.conftest import ROOT
from workflow.data import catalogue, glyphs
from workflow.data.arrays import Array, Arrays, read_images
from workflow.errors import BakeoffError
from workflow.files import read_json
from workflow.params import Embedded

SETTINGS = Embedded(name="glyphs", root=Path(), valid=0.05, test=0.2, seed=0)
INSTALLED = Path(str(distribution("matplotlib").locate_file("matplotlib/mpl-data/fonts/ttf")))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    catalogue.download(SETTINGS, folder)
    return folder


@pytest.fixture(scope="module")
def images(raw: Path) -> Arrays:
    return read_images(raw / "images.safetensors")


def _same(pixels: Array, labels: Array) -> str:
    return hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()


def test_twelve_hundred_grey_images_of_each_digit_with_empty_margins(images: Arrays) -> None:
    assert (images.images.dtype, images.images.shape) == (np.uint8, (12_000, 1, 28, 28))
    assert (images.labels.dtype, np.bincount(images.labels).tolist()) == (np.int64, [1200] * 10)
    ink = images.images[:, 0] > 0
    assert np.flatnonzero(ink.any((0, 1))).tolist() == np.flatnonzero(ink.any((0, 2))).tolist() == list(range(2, 26))
    assert 12 < ink.any(2).sum(1).mean() < 24  # rows with ink
    assert np.bincount(images.images.ravel(), minlength=256).min() > 0


def test_the_bytes_are_the_published_ones(images: Arrays) -> None:
    assert _same(images.images, images.labels) == "0a666c87a311f4489b166ea4ab942ba3ed646a78eaec86d69d69dc62bd70adec"


def test_another_process_with_other_threads_and_instructions_renders_the_same() -> None:
    name, digit = "cmti10.ttf", 2
    render = f"""
import sys, numpy
from workflow.data.glyphs import RANGES, fill, place, read_glyphs
glyph = read_glyphs({name!r})[{digit}]
drawn = numpy.random.default_rng(5).random((300, len(RANGES)))
sys.stdout.buffer.write(fill(place(glyph, drawn), glyph.following).tobytes())
"""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    others = {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "3", "NPY_DISABLE_CPU_FEATURES": " ".join(found)}
    done = subprocess.run(
        [sys.executable, "-c", render], cwd=ROOT, env={**os.environ, **others}, capture_output=True, check=True
    )
    glyph, drawn = glyphs.read_glyphs(name)[digit], np.random.default_rng(5).random((300, len(glyphs.RANGES)))
    assert done.stderr == b""
    assert done.stdout == glyphs.fill(glyphs.place(glyph, drawn), glyph.following).tobytes()


def test_no_two_images_are_equal_and_every_split_has_every_font(raw: Path, images: Arrays) -> None:
    fonts = {image.tobytes(): number // 10 % len(glyphs.FONTS) for number, image in enumerate(images.images)}
    assert len(fonts) == len(images)
    sets, about = catalogue.prepare(SETTINGS, raw)
    assert about["leaks"] == 0
    assert "validation and test images are of the same fonts as training images" in about["source"]
    for split, size in (("train", 9000), ("valid", 600), ("test", 2400)):
        chosen = [image.tobytes() for piece in sets[split].pieces() for image in piece.images]
        assert len(chosen) == size
        assert {fonts[image] for image in chosen} == set(range(21))


def test_the_card_names_the_fonts_licences(raw: Path) -> None:
    about = read_json(raw / "about.json")
    assert about["licence"] == "of the fonts: Bitstream Vera (DejaVu), SIL OFL 1.1 (STIX), BaKoMa (Computer Modern)"
    assert about["classes"] == list("0123456789")


def test_classes_can_be_told_apart_but_not_by_their_means(images: Arrays) -> None:
    pixels, labels = images.images[:5000].reshape(5000, -1).astype(np.float32), images.labels[:5000]
    known, asked = slice(400, 5000), slice(400)

    def nearest(to: Array) -> Array:
        index: Array = ((to * to).sum(1) - 2 * pixels[asked] @ to.T).argmin(1)
        return index

    means = np.stack([pixels[known][labels[known] == digit].mean(0) for digit in range(10)])
    assert (labels[known][nearest(pixels[known])] == labels[asked]).mean() > 0.97
    assert 0.7 < (nearest(means) == labels[asked]).mean() < 0.9


def test_a_pixel_is_as_bright_as_the_share_of_it_that_is_covered() -> None:
    """A square from 2.25 to 6.5 pixels with a hole of one pixel; above it a triangle that covers half a pixel."""
    square, hole = [(576, 576), (1664, 576), (1664, 1664), (576, 1664)], [(1024, 1024), (1024, 1280), (1280, 1280)]
    corners = np.array([[*square, *hole, (1280, 1024), (0, 0), (256, 0), (0, 256)]])
    (image,) = glyphs.fill(corners, np.array([1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 8]))
    side = np.zeros(28)
    side[2:7] = [0.75, 1, 1, 1, 0.5]
    expected = np.outer(side, side)
    expected[4, 4], expected[0, 0] = 0, 0.5
    assert image.tolist() == np.floor(255 * expected + 0.5).tolist()


def test_a_stroke_becomes_wider_on_both_sides() -> None:
    """A frame whose four strokes are 2 wide, each of its edges moved out by 1."""
    frame = [[(0.0, 0.0), (0.0, 20.0), (20.0, 20.0), (20.0, 0.0)], [(2.0, 2.0), (18.0, 2.0), (18.0, 18.0), (2.0, 18.0)]]
    glyph = glyphs._glyph(frame)
    moved = glyph.points + glyph.outwards
    assert moved.tolist() == [[-1, 1], [-1, -21], [21, -21], [21, 1], [3, -3], [17, -3], [17, -17], [3, -17]]
    assert glyph.stroke == 2 * (20 * 20 - 16 * 16) / (80 + 64)


def test_a_changed_or_missing_font_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "matplotlib/mpl-data/fonts/ttf/cmr10.ttf"
    file.parent.mkdir(parents=True)
    monkeypatch.setattr(glyphs, "distribution", lambda _: SimpleNamespace(locate_file=tmp_path.joinpath))
    remedy = (
        "install the locked packages again: `uv pip install --reinstall-package matplotlib --require-hashes -r requ"
    )
    with pytest.raises(BakeoffError) as missing:
        glyphs.read_glyphs("cmr10.ttf")
    assert str(missing.value).startswith(f"{file}: missing; {remedy}")
    shutil.copy(INSTALLED / "cmss10.ttf", file)
    with pytest.raises(BakeoffError) as changed:
        glyphs.read_glyphs("cmr10.ttf")
    found, expected = glyphs.FONTS["cmss10.ttf"], glyphs.FONTS["cmr10.ttf"]
    told = f"{file}: not the font that the glyphs are made of (SHA-256 {found} instead of {expected}); {remedy}"
    assert str(changed.value).startswith(told)


def test_other_images_are_not_taken_for_the_published_ones(
    images: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = images.images.copy()
    other[5, 0, 14, 14] ^= 1
    monkeypatch.setattr(glyphs, "render", lambda: Arrays(other, images.labels))
    with pytest.raises(BakeoffError) as error:
        catalogue.download(SETTINGS, tmp_path / "raw")
    assert str(error.value).startswith(
        "data.name: glyphs: other images than the published ones were rendered (SHA-256 "
        f"{_same(other, images.labels)} instead of {glyphs.CHECKSUM}); install the locked packages again: `uv pip"
    )
    assert not (tmp_path / "raw").exists()
