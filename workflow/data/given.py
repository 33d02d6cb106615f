"""Images that were made elsewhere, to be scored or completed: a folder of pictures, an .npz, an .npy, or one picture.

They must have the size of the data as they are: to scale or cut them would change what is measured.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from workflow.data import array_file
from workflow.data.arrays import Array
from workflow.data.layout import ENDINGS
from workflow.data.listing import SYSTEM, shown
from workflow.data.pictures import in_levels
from workflow.errors import BakeoffError

BYTES = 256  # levels of a picture's pixels
READ = 4096  # images of an array that are in memory at once
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Source:
    """A folder of pictures or a file of arrays, and what is expected of it.

    path: of it. shape: (C, H, W) of the data. levels: of its pixels, 0..levels-1; 256 for pictures.
    """

    path: Path
    shape: Shape
    levels: int = BYTES

    def count(self) -> int:
        """Number of images, by their files' headers alone; raises BakeoffError if one is none, or of another size."""
        if not self.path.is_dir():
            with array_file.images_in(self.path) as images:
                _check_size(self.path, images.shape[1:], self.shape)
                return len(images)
        if self.levels != BYTES:
            raise BakeoffError(f"{shown(self.path)}: pixels of pictures are 0 to 255; leave out levels: {self.levels}")
        files = _pictures(self.path)
        for file in files:
            with _opened(file) as picture:
                _check_picture(file, picture, self.shape)
        return len(files)

    def read(self, levels: int) -> Array:
        """All images in the order of their files' names, uint8 (N, C, H, W), as the nearest of 0..levels-1.

        Raises BakeoffError, naming the file and the remedy, if they are not images like those of the data.
        """
        count = self.count()
        found = np.empty((count, *self.shape), np.uint8)
        if self.path.is_dir():
            for place, file in enumerate(_pictures(self.path)):
                found[place] = read_picture(file, self.shape)
        else:
            with array_file.images_in(self.path) as images:
                for start in range(0, count, READ):
                    found[start : start + READ] = _channels(self.path, images[start : start + READ], self.shape)
        self._check_range(found)
        return found if self.levels == levels else _in(found, self.levels, levels)

    def _check_range(self, images: Array) -> None:
        """Raise BakeoffError if pixels exceed the levels, or all stay in their lower half: hardly their range."""
        top = int(images.max())
        if top >= self.levels:
            raise BakeoffError(
                f"{self.path}: has values up to {top}, but levels is {self.levels}; leave it out if pixels are 0 to 255"
            )
        if 2 * top < self.levels - 1:
            raise BakeoffError(
                f"{self.path}: the brightest pixel is only {top} of {self.levels - 1}; scale the images to 0 to 255, "
                f"or give levels: {top + 1} if pixels of this .npz or .npy are 0 to {top}"
            )


def _in(images: Array, own: int, levels: int) -> Array:
    """Images of 0..own-1 as the nearest of 0..levels-1."""
    if own == BYTES:
        return in_levels(images, levels)
    table: Array = (np.arange(own) * ((levels - 1) / (own - 1))).round().astype(np.uint8)
    return table[images]


def read_picture(path: Path, shape: Shape) -> Array:
    """A picture that has the size of the data: uint8 (C, H, W), values 0..255.

    Raises BakeoffError, naming the file and the remedy, if it has not, or cannot be read.
    """
    with _opened(path) as picture:
        _check_picture(path, picture, shape)
        if "A" in picture.getbands() and picture.getchannel("A").getextrema() != (255, 255):
            raise BakeoffError(f"{shown(path)}: is transparent; put it on a background")
        pixels = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    return _channels(path, pixels[None], shape)[0]


def _channels(path: Path, images: Array, shape: Shape) -> Array:
    """The images with as many channels as the data; raises BakeoffError if they have colours and the data have not."""
    if images.shape[1] == shape[0]:
        return images
    if (images != images[:, :1]).any():
        raise BakeoffError(f"{shown(path)}: is in colour, but the data are grey; convert it")
    return images[:, :1]


def _check_picture(path: Path, picture: Image.Image, shape: Shape) -> None:
    """Raise BakeoffError if the header of a picture's file says that it is not like the data."""
    if picture.mode.startswith(("I", "F")):
        raise BakeoffError(f"{shown(path)}: has more than 8 bits per pixel and channel; convert it to 8")
    _check_size(path, (3, picture.height, picture.width), shape)


def _check_size(path: Path, found: Sequence[int], shape: Shape) -> None:
    """Raise BakeoffError if images of shape (C, H, W) do not fit the data; three equal channels may be grey."""
    if tuple(found[1:]) != shape[1:]:
        sizes = [f"{height}x{width}" for height, width in (found[1:], shape[1:])]
        raise BakeoffError(f"{shown(path)}: {sizes[0]} pixels, but the data have {sizes[1]}; resize what you compare")
    if found[0] < shape[0]:
        raise BakeoffError(f"{shown(path)}: is grey, but the data have {shape[0]} channels; repeat the one channel")


def _pictures(folder: Path) -> list[Path]:
    """The files in a folder and those below it, by name; raises BakeoffError if one is no picture, or if none is."""
    found = sorted(file for file in _files(folder))
    for file in found:
        if file.suffix.lower() not in ENDINGS:
            raise BakeoffError(
                f"{shown(file)}: not a picture by its name; remove it, or name the file if it is an .npz or .npy"
            )
    if not found:
        raise BakeoffError(f"{shown(folder)}: has no pictures in it")
    return found


def _files(folder: Path) -> Iterator[Path]:
    for above, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if _counts(name)]
        yield from (Path(above, name) for name in names if _counts(name))


def _counts(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in SYSTEM


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture of which only the header has been read; raises BakeoffError if it is none."""
    from workflow.data.decoding import FORMATS

    try:
        with Image.open(path, formats=FORMATS) as picture:
            yield picture
    except BakeoffError:
        raise
    except FileNotFoundError:
        raise BakeoffError(f"{shown(path)}: no such file") from None
    except Exception:  # decoders may raise anything on damaged files
        raise BakeoffError(f"{shown(path)}: cannot be read as a picture; write it again, or leave it out") from None
