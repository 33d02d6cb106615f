"""A user's own pictures: any folder, read file by file, counting everything that was left out or changed."""

import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from workflow.data.arrays import Array
from workflow.data.decoding import MEGAPIXEL, LeftOutError, Square, read_square
from workflow.data.layout import ENDINGS, PICTURES, File, Layout, understand
from workflow.data.listing import list_files
from workflow.data.own import ORDER, Own, write_own
from workflow.params import Folder

# What to do if no picture is left, by what was counted.
REMEDIES = {
    "smaller than": "use larger pictures or lower data.size",
    "larger than": "raise data.most_megapixels",
    "links": "put the files themselves in place of the links",
    "not unpacked": "unpack the archives",
}
CONVERT = f"convert them to or add pictures of a format that is read: {', '.join(sorted(ENDINGS))}"


def read_pictures(settings: Folder, raw: Path) -> None:
    """Write the pictures under `settings.root`, cropped to squares of `size` pixels, into the folder `raw`.

    `workflow/data/layout.py` says what is a split and what is a class. Raises BakeoffError if no picture of a split can
    be used, or if the folder changes meanwhile: DVC hashes it afterwards, and would record pictures that nobody read.
    """
    root, before = settings.root, list_files(settings.root)
    layout = understand(root, before)
    raw.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=raw) as spool, _no_larger(settings):  # their number is known only at the end
        files, counts = _read_all(settings, layout, spool)
        images = _images(settings, spool)
        write_own(raw, Own(PICTURES, root, before, layout, images, files, counts), _remedy, levels=256)


@contextmanager
def _no_larger(settings: Folder) -> Iterator[None]:
    """Let Pillow refuse larger pictures, too: some of its decoders unpack a file before they tell its size."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = int(settings.most_megapixels * MEGAPIXEL)
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _shape(settings: Folder) -> tuple[int, int, int]:
    return (1 if settings.grey else 3, settings.size, settings.size)


def _images(settings: Folder, spool: IO[bytes]) -> Array:
    """The pictures that were written into a file, uint8 (N, C, size, size)."""
    shape = _shape(settings)
    count = os.fstat(spool.fileno()).st_size // math.prod(shape)
    return np.memmap(spool, np.uint8, "r", shape=(count, *shape)) if count else np.empty((0, *shape), np.uint8)


def _read_all(settings: Folder, layout: Layout, spool: IO[bytes]) -> tuple[dict[int, File], Counter[str]]:
    """Write the pixels of all pictures into `spool`; returns the files by their places in it, and counts for the card.

    Files with more than 8 bits are read again once the range of their values is known.
    """
    counts, files, wide = Counter(layout.left_out), dict[int, File](), list[int]()
    blank, brightest = bytes(math.prod(_shape(settings))), 0
    for file in sorted(layout.files, key=lambda file: (ORDER.index(file.split or "train"), file.parts)):
        if not (square := _read(settings, file, counts)):
            continue
        if not square.pixels:
            wide.append(len(files))
            brightest = max(brightest, square.brightest)
        spool.write(square.pixels or blank)
        files[len(files)] = file
    for place in wide:
        if square := _read(settings, files[place], counts, max(brightest.bit_length(), 8)):
            spool.seek(place * len(blank))
            spool.write(square.pixels)
        else:
            del files[place]
    spool.flush()
    return files, counts


def _read(settings: Folder, file: File, counts: Counter[str], bits: int = 0) -> Square | None:
    """The picture in a file, or None if it cannot be used; counts what was converted, or why it cannot."""
    try:
        square = read_square(settings.root.joinpath(*file.parts), settings, bits)
    except LeftOutError as reason:
        counts[str(reason)] += 1
        return None
    counts.update(square.notes)
    return square


def _remedy(counts: Counter[str]) -> str:
    """What to do if no picture is left, by what was counted."""
    remedies = [next((remedy for word, remedy in REMEDIES.items() if word in what), CONVERT) for what in sorted(counts)]
    return ", or ".join(dict.fromkeys(remedies or [CONVERT]))
