"""One picture from its file: upright, 8 bits, cut to a square.

Files with more than 8 bits may hold any range of values: 12 bits of an X-ray, or 8. So they are scaled by the brightest
value in all such files of the folder, which takes two readings: `read_square` without `bits` reports the brightest
value, and with `bits` gives the pixels.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

from workflow.params import Folder

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow's names; none starts other programs
MEGAPIXEL = 10**6
ORIENTATION, SAMPLE_FORMAT, UNSIGNED = 0x0112, 339, 1  # tags of EXIF and TIFF
# Pillow decodes 16 bits per colour to their higher bytes; with the other order of bytes, it gives the lower ones.
OTHER_BYTES = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
Values = np.ndarray[Any, Any]


class LeftOutError(Exception):
    """Why a file is not used, as the card words it."""


@dataclass
class Square:
    """A picture, cut and scaled.

    pixels: the bytes of uint8 (C, size, size); empty if the file has more than 8 bits and their range is not yet known.
    brightest: the largest value of such a file, else 0. notes: what was converted, as the card words it.
    """

    pixels: bytes = b""
    brightest: int = 0
    notes: list[str] = field(default_factory=list)


def read_square(path: Path, settings: Folder, bits: int = 0) -> Square:
    """Read a picture; raises LeftOutError with the reason if it cannot be used.

    Args:
        path: of the file.
        settings: size and colours.
        bits: 8 to 32; files with more than 8 bits hold values below 2**bits. 0: not yet known.
    """
    square = Square()
    with _opened(path, settings.most_megapixels) as picture:
        if min(picture.size) < settings.size:
            raise LeftOutError(f"smaller than {settings.size} pixels, left out")
        if picture.mode == "F":
            raise LeftOutError("floating-point numbers, left out")
        wide = _wide(picture, path)
        if wide is not None and not bits:
            square.brightest = int(wide.max())
            return square
        if picture.format != "MPO" and getattr(picture, "is_animated", False):  # a phone's MPO adds maps of brightness
            square.notes.append("animated, first frame used")
        upright = _upright(
            picture if wide is None else _narrow(wide, picture, bits, square.notes), picture, square.notes
        )
        fitted = ImageOps.fit(
            _grey_or_rgb(upright, square.notes), (settings.size, settings.size), Image.Resampling.LANCZOS
        )
    pixels = np.asarray(fitted.convert("L" if settings.grey else "RGB"))
    square.pixels = (pixels if settings.grey else pixels.transpose(2, 0, 1)).tobytes()
    return square


@contextmanager
def _opened(path: Path, most: float) -> Iterator[Image.Image]:
    """The picture in a file; whatever its decoder raises becomes a LeftOutError."""
    too_large = LeftOutError(f"larger than {most:g} megapixels (data.most_megapixels), left out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged metadata and the like; what matters is counted
        try:
            with Image.open(path, formats=FORMATS) as picture:
                if picture.width * picture.height > most * MEGAPIXEL:
                    raise too_large
                yield picture
        except LeftOutError:
            raise
        except Image.DecompressionBombError:
            raise too_large from None
        except Exception:  # decoders may raise anything on damaged files
            raise LeftOutError("unreadable, left out") from None


def _wide(picture: Image.Image, path: Path) -> Values | None:
    """The values of a picture with more than 8 bits: unsigned (H, W) or (H, W, 3); None if it has 8."""
    raw = _raw_mode(picture)
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        unsigned = getattr(picture, "tag_v2", {}).get(SAMPLE_FORMAT, UNSIGNED) in (UNSIGNED, (UNSIGNED,))
        if values.dtype == np.int32 and picture.format == "TIFF" and raw.startswith("I;32") and unsigned:
            values = values.view(np.uint32)
        if values.min() < 0:
            raise LeftOutError("negative values, left out")
        return values
    kind, _, depth = raw.partition(";")
    if depth not in OTHER_BYTES or kind == "CMYK":
        return None
    if kind == "LA":  # four bytes a pixel, which Pillow gives one by one if told that they are four colours
        with _with_raw_mode(path, "RGBA") as other:
            bytes_of = np.asarray(other)
        return _joined(bytes_of[..., 0], bytes_of[..., 1])
    if kind not in ("RGB", "RGBA", "RGBX"):
        raise LeftOutError("16 bits per colour in an unusual order, left out")
    with _with_raw_mode(path, f"{kind};{OTHER_BYTES[depth]}") as other:
        return _joined(np.asarray(picture)[..., :3], np.asarray(other)[..., :3])


def _joined(upper: Values, lower: Values) -> Values:
    """16-bit values from their two bytes."""
    values: Values = upper.astype(np.uint16) << 8
    return values | lower


def _raw_mode(picture: Image.Image) -> str:
    """How Pillow says that the pixels lie in the file: `RGB;16B`; "" if it does not say."""
    if not isinstance(picture, ImageFile) or not picture.tile or not (arguments := picture.tile[0].args):
        return ""
    return arguments if isinstance(arguments, str) else str(arguments[0])


@contextmanager
def _with_raw_mode(path: Path, raw: str) -> Iterator[Image.Image]:
    """The picture, to be decoded as if its pixels lay in the file like that."""
    with Image.open(path, formats=FORMATS) as picture:
        assert isinstance(picture, ImageFile)
        picture.tile = [
            tile._replace(args=raw if isinstance(tile.args, str) else (raw, *(tile.args or ())[1:]))
            for tile in picture.tile
        ]
        yield picture


def _narrow(wide: Values, picture: Image.Image, bits: int, notes: list[str]) -> Image.Image:
    """The picture in 8 bits per colour: the highest 8 of `bits`."""
    notes.append(f"{bits} bits reduced to 8" if bits > 8 else "8-bit values in files of more bits")
    narrow = Image.fromarray((wide >> (bits - 8)).astype(np.uint8))
    if picture.mode == "RGBA":
        narrow = narrow.convert("RGB")
        narrow.putalpha(picture.getchannel("A"))
    return narrow


def _upright(image: Image.Image, picture: Image.Image, notes: list[str]) -> Image.Image:
    """The image turned as the metadata of its file say; picture: the file."""
    if (orientation := picture.getexif().get(ORIENTATION, 1)) in (0, 1):
        return image
    notes.append("turned upright by EXIF")
    image.getexif()[ORIENTATION] = orientation
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _grey_or_rgb(picture: Image.Image, notes: list[str]) -> Image.Image:
    """The picture in 8 bits of grey or RGB."""
    if picture.mode in ("CMYK", "YCCK"):
        notes.append("CMYK converted")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        notes.append("transparent, put on white")
        colours = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")
    return picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
