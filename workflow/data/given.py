"""Images that were made elsewhere, to be scored or completed: a folder of pictures, an .npz, an .npy, or one picture.

They must have the size of the data as they are: to scale or cut them would change what is measured.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from workflow.data import array_file
from workflow.data.arrays import Array, Card
from workflow.data.layout import ENDINGS
from workflow.data.listing import digest, list_files, shown
from workflow.data.pictures import in_levels
from workflow.errors import BakeoffError
from workflow.files import read_json
from workflow.params import PATH, Params
from workflow.paths import EXTERNAL, model_page, own

BYTES = 256  # levels of a picture's pixels
READ = 4096  # images of an array that are in memory at once
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Source:
    """A folder of pictures or a file of arrays, and the shape (C, H, W) of the data that it is to be like."""

    path: Path
    shape: Shape

    def count(self) -> int:
        """Number of images, by their files' headers alone; raises BakeoffError if one is none, or of another size."""
        if not self.path.is_dir():
            with array_file.images_in(self.path) as images:
                _check_size(self.path, images.shape[1:], self.shape)
                return len(images)
        files = _pictures(self.path)
        for file in files:
            with _opened(file) as picture:
                _check_picture(file, picture, self.shape)
        return len(files)

    def read(self, levels: int) -> Array:
        """All images, those of a folder in the order of their names: uint8 (N, C, H, W), the nearest of 0..levels-1.

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
        if (top := int(found.max())) < BYTES // 2:
            raise BakeoffError(
                f"{shown(self.path)}: the brightest pixel is only {top} of {BYTES - 1}; scale the images to 0 to 255"
                + (f": (x * (255 / {top})).round().astype('uint8')" if top else "")
            )
        return in_levels(found, levels)


def check_samples(settings: Params, shape: Shape) -> None:
    """Check the images that entries name as their samples, of shape (C, H, W), by the headers of their files.

    Raises BakeoffError, naming the parameter or the file, if they lie where DVC does not see that they change, if they
    are no images like those of the data, or if there are too few.
    """
    needed = settings.evaluate.draws * settings.sample.count
    for name, entry in settings.models.items():
        if entry.samples is None:
            continue
        where, place = f"{PATH}: models.{name}.samples: {shown(entry.samples)}", entry.samples
        if ".." in place.parts or not place.is_relative_to(EXTERNAL) or place == EXTERNAL:
            raise BakeoffError(f"{where}: should lie in {EXTERNAL}, where DVC sees when it changes; move it there")
        if (count := Source(own(place), shape).count()) < needed:
            raise BakeoffError(
                f"{where}: {count:,} images, but {needed:,} are needed (evaluate.draws × sample.count); add more, or "
                "lower one of these"
            )


def read_samples(name: str, place: Path, card: Card) -> tuple[Array, dict[str, Any]]:
    """The images of an entry, uint8 (N, C, H, W), values 0..levels-1, and where they are from, for the page.

    Raises BakeoffError as `Source.read`, or if they are not those that the ledger has seen.
    """
    path = own(place)
    images, found = Source(path, card.shape).read(card.levels), digest(path)
    if read_json(model_page(name)).get(str(place)) != found:
        raise BakeoffError(f"{shown(place)}: has changed since the run began; run again")
    return images, {"place": shown(place), "images": len(images), "sha256": found}


def read_picture(path: Path, shape: Shape) -> Array:
    """A picture that has the size of the data: uint8 (C, H, W), values 0..255.

    Raises BakeoffError, naming the file and the remedy, if it has not, or cannot be read.
    """
    with _opened(path) as picture:
        _check_picture(path, picture, shape)
        if "A" in picture.getbands() and picture.getchannel("A").getextrema() != (255, 255):
            raise BakeoffError(f"{shown(path)}: is transparent; put it on a background")
        pixels = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    (fitting,) = _channels(path, pixels[None], shape)
    found: Array = fitting
    return found


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
    found = [folder.joinpath(*entry.parts) for entry in list_files(folder)]
    for file in found:
        if file.suffix.lower() not in ENDINGS:
            raise BakeoffError(
                f"{shown(file)}: not a picture by its name; remove it, or name the file if it is an .npz or .npy"
            )
    if not found:
        raise BakeoffError(f"{shown(folder)}: has no pictures in it")
    return found


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
