"""Pictures with more than 8 bits: whatever range of values the files of a folder hold, one scale fits them all."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.datasets.test_folder import read
from workflow.data.decoding import LeftOutError, read_square
from workflow.params import Folder

SIDE = 8


def values(top: int, seed: int = 0, colours: int = 1) -> Any:
    """Random values (8, 8) or (8, 8, colours) from 0 to `top`, both of which occur."""
    found = np.random.default_rng(seed).integers(0, top + 1, (SIDE, SIDE, colours), np.int64)
    found[0, 0], found[-1, -1] = 0, top
    return found[..., 0] if colours == 1 else found


def _png(path: Path, pixels: Any, kind: int) -> None:
    """With 16 bits per colour, which Pillow does not write; kind: 0 grey, 2 RGB, 4 grey and alpha, 6 RGB and alpha."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 16, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))


def _tiff(path: Path, pixels: Any, order: str, signed: bool = False, packed: bool = False) -> None:
    """One strip of grey or RGB, in the type of `pixels`. order: of the bytes, "<" or ">". packed: deflated."""
    colours, bits = pixels.shape[2] if pixels.ndim == 3 else 1, 8 * pixels.dtype.itemsize
    body = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    body = zlib.compress(body) if packed else body
    depths = struct.pack(f"{order}{colours}H", *[bits] * colours)
    data = 8 + len(body)
    entries = [
        (256, 3, 1, SIDE), (257, 3, 1, SIDE), (258, 3, colours, data if colours > 2 else bits),
        (259, 3, 1, 8 if packed else 1), (262, 3, 1, 2 if colours == 3 else 1), (273, 4, 1, 8),
        (277, 3, 1, colours), (278, 3, 1, SIDE), (279, 4, 1, len(body)), (339, 3, 1, 2 if signed else 1),
    ]  # fmt: skip
    content = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, data + len(depths)) + body + depths
    content += struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        form = f"{order}HHIHxx" if kind == 3 and count == 1 else f"{order}HHII"
        content += struct.pack(form, tag, kind, count, value)
    path.write_bytes(content + bytes(4))


def _settings(root: Path, grey: bool = True, **more: Any) -> Folder:
    return Folder.model_validate({"name": "folder", "root": root, "size": SIDE, "grey": grey, **more})


def _pixels(path: Path, bits: int, grey: bool = True) -> Any:
    square = read_square(path, _settings(path.parent, grey), bits)
    return np.frombuffer(square.pixels, np.uint8).reshape(1 if grey else 3, SIDE, SIDE)


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.tiff", "x.pgm"])
@pytest.mark.parametrize(("top", "bits"), [(255, 8), (1000, 10), (4095, 12), (65535, 16)])
def test_grey_values_are_scaled_from_their_own_range(name: str, top: int, bits: int, tmp_path: Path) -> None:
    expected = values(top)
    if name.endswith("pgm"):  # which says what its largest value is, so Pillow scales it to 16 bits
        content = f"P5 {SIDE} {SIDE} {max(top, 256)}\n".encode() + expected.astype(">u2").tobytes()
        (tmp_path / name).write_bytes(content)
        expected, bits = np.round(expected / max(top, 256) * 65535).astype(np.int64), 16
    elif name.endswith("tiff"):
        _tiff(tmp_path / name, expected.astype(np.uint16), ">")
    else:
        Image.fromarray(expected.astype(np.uint16)).save(tmp_path / name)
    assert read_square(tmp_path / name, _settings(tmp_path)).brightest == expected.max()
    assert np.array_equal(_pixels(tmp_path / name, bits)[0], expected >> (bits - 8))


@pytest.mark.parametrize(("top", "bits"), [(255, 8), (4095, 12), (2**32 - 1, 32)])
@pytest.mark.parametrize("packed", [False, True])
def test_so_are_integers_of_32_bits(top: int, bits: int, packed: bool, tmp_path: Path) -> None:
    expected = values(top)
    _tiff(tmp_path / "x.tif", expected.astype(np.uint32), "<", packed=packed)
    assert read_square(tmp_path / "x.tif", _settings(tmp_path)).brightest == top
    assert np.array_equal(_pixels(tmp_path / "x.tif", bits)[0], expected >> (bits - 8))


@pytest.mark.parametrize("top", [255, 4095, 65535])
@pytest.mark.parametrize(
    "write",
    [
        lambda path, pixels: _png(path, pixels, 2),
        lambda path, pixels: _tiff(path, pixels, "<"),
        lambda path, pixels: _tiff(path, pixels, ">"),
        lambda path, pixels: _tiff(path, pixels, ">", packed=True),
    ],
    ids=["png", "little", "big", "deflated"],
)
def test_so_are_colours_of_which_pillow_gives_the_upper_bytes(write: Any, top: int, tmp_path: Path) -> None:
    expected, bits = values(top, colours=3).astype(np.uint16), top.bit_length()
    write(tmp_path / "x.tif", expected)
    assert read_square(tmp_path / "x.tif", _settings(tmp_path)).brightest == top
    assert np.array_equal(_pixels(tmp_path / "x.tif", bits, grey=False), (expected >> (bits - 8)).transpose(2, 0, 1))


@pytest.mark.parametrize(("kind", "colours"), [(4, 1), (6, 3)])
def test_transparency_of_16_bits_is_full_at_65535(kind: int, colours: int, tmp_path: Path) -> None:
    colour, alpha = values(4095, colours=colours).reshape(SIDE, SIDE, colours), np.zeros((SIDE, SIDE, 1), np.int64)
    alpha[:, 4:] = 65535
    _png(tmp_path / "x.png", np.concatenate([colour, alpha], 2), kind)
    found = _pixels(tmp_path / "x.png", 12, grey=False)
    assert (found[:, :, :4] == 255).all()
    expected = np.broadcast_to(colour.transpose(2, 0, 1) >> 4, (3, SIDE, SIDE))
    assert np.array_equal(found[:, :, 4:], expected[:, :, 4:])


def test_a_picture_with_more_bits_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    expected = values(4095)
    Image.fromarray(expected.astype(np.uint16)).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(_pixels(tmp_path / "x.png", 12)[0], np.rot90(expected >> 4, -1))


@pytest.mark.parametrize("kind", [np.int16, np.int32])
def test_negative_values_are_left_out(kind: type, tmp_path: Path) -> None:
    _tiff(tmp_path / "x.tif", (values(3000) - 1024).astype(kind), "<", signed=True)
    with pytest.raises(LeftOutError, match="negative values, left out"):
        read_square(tmp_path / "x.tif", _settings(tmp_path))


def test_a_folder_has_one_scale_and_8_bits_keep_theirs(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    dark, bright, usual = values(100, 1), values(4000, 2), values(200, 3)
    for number in range(4):
        Image.fromarray((dark + number).astype(np.uint16)).save(tmp_path / f"pictures/dark{number}.png")
        Image.fromarray((bright + number).astype(np.uint16)).save(tmp_path / f"pictures/bright{number}.png")
        Image.fromarray((usual + number).astype(np.uint8)).save(tmp_path / f"pictures/usual{number}.png")
    sets, card = read(tmp_path / "pictures", grey=True)
    found = {image.numpy().tobytes() for images in sets.values() for image in images.images}
    wide = [((x + number) >> 4).astype(np.uint8).tobytes() for x in (dark, bright) for number in range(4)]
    assert found == {*wide, *((usual + number).astype(np.uint8).tobytes() for number in range(4))}
    assert card.files == {"12 bits reduced to 8": 8, "pictures used": 12}


def test_values_of_8_bits_in_files_of_16_are_kept(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for seed in range(10):
        Image.fromarray(values(255, seed).astype(np.uint16)).save(tmp_path / f"pictures/{seed}.png")
    sets, card = read(tmp_path / "pictures", grey=True)
    found = {image.numpy().tobytes() for images in sets.values() for image in images.images}
    assert found == {values(255, seed).astype(np.uint8).tobytes() for seed in range(10)}
    assert card.files == {"8-bit values in files of more bits": 10, "pictures used": 10}


@pytest.mark.parametrize("name", ["x.avif", "x.jfif", "x.jpe", "x.mpo", "x.pnm", "x.WEBP"])
def test_pictures_of_phones_are_read(name: str, tmp_path: Path) -> None:
    kind = {"x.avif": "AVIF", "x.mpo": "MPO", "x.pnm": "PPM", "x.WEBP": "WEBP"}.get(name, "JPEG")
    more = {"save_all": True, "append_images": [Image.new("RGB", (9, 9))]} if kind == "MPO" else {}
    Image.new("RGB", (9, 9), (200, 100, 50)).save(tmp_path / name, kind, **more)
    square = read_square(tmp_path / name, _settings(tmp_path, grey=False))
    assert square.notes == []
    colour = np.frombuffer(square.pixels, np.uint8).reshape(3, -1).mean(1)
    assert np.abs(colour - (200, 100, 50)).max() < 4


def test_the_limit_of_pixels_is_a_parameter(tmp_path: Path) -> None:
    Image.new("L", (1000, 11)).save(tmp_path / "x.png")
    with pytest.raises(LeftOutError, match=r"^larger than 0\.01 megapixels \(data\.most_megapixels\), left out$"):
        read_square(tmp_path / "x.png", _settings(tmp_path, most_megapixels=0.01))
    assert read_square(tmp_path / "x.png", _settings(tmp_path, most_megapixels=0.011)).pixels
