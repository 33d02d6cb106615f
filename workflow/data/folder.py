"""A user's own pictures: any folder, read file by file, counting everything that was left out or changed."""

import hashlib
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

from workflow.data.arrays import Array, Arrays
from workflow.data.decoding import MEGAPIXEL, LeftOutError, Square, read_square
from workflow.data.layout import ENDINGS, File, Layout, check_classes, classes_of, understand
from workflow.data.listing import differences, list_files, shown
from workflow.data.splits import Chosen, write_raw
from workflow.errors import BakeoffError
from workflow.params import Folder

ORDER = ("test", "valid", "train")  # of equal pictures the first is kept, so that training data stay clean
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
        drop_duplicates(images, files, counts)
        if changed := differences(before, list_files(root)):
            raise BakeoffError(
                f"data.root: {shown(root)}: changed while its pictures were read: {changed}; run again once nothing "
                "writes to it"
            )
        _refuse_empty(root, layout, files, counts)
        check_classes(root, files.values())
        classes = classes_of(file.label for file in files.values())
        number_of, labels = {name: number for number, name in enumerate(classes)}, np.zeros(len(images), np.int64)
        labels[list(files)] = [number_of.get(file.label, 0) for file in files.values()]
        given = Counter(file.split for file in files.values())
        write_raw(
            raw,
            Chosen(Arrays(images, labels), np.array(list(files))),
            source=f"own pictures, folder {shown(root.resolve().name)}",
            licence="that of the pictures",
            levels=256,
            classes=[shown(name) for name in classes],
            understood=layout.in_words(len(classes)),
            files=dict(sorted((counts + Counter({"pictures used": len(files)})).items())),
            **({"given": dict(given)} if layout.splits else {}),
        )


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


def drop_duplicates(images: Array, files: dict[int, File], counts: Counter[str], word: str = "picture") -> None:
    """Keep the first of equal images; the others are counted.

    images: uint8 (N, C, H, W). files: by their places among these. word: for one of them.
    """
    seen = dict[bytes, str]()
    for place in list(files):
        digest = hashlib.blake2b(images[place], digest_size=16).digest()
        if digest in seen:
            same = files.pop(place).label == seen[digest]
            counts["duplicates left out" if same else f"duplicates of {word}s of another class left out"] += 1
        else:
            seen[digest] = files[place].label


def _refuse_empty(root: Path, layout: Layout, files: dict[int, File], counts: Counter[str]) -> None:
    """Raise BakeoffError if no picture of a split, or none at all, can be used."""
    left_out = ", ".join(f"{number:,} {what}" for what, number in sorted(counts.items())) or "it is empty"
    remedies = [next((remedy for word, remedy in REMEDIES.items() if word in what), CONVERT) for what in sorted(counts)]
    remedy = ", or ".join(dict.fromkeys(remedies or [CONVERT]))
    used = {file.split for file in files.values()}
    for split in layout.splits or ("",):
        if split not in used:
            where = f" in {split}" if split else ""
            raise BakeoffError(f"data.root: {shown(root)}: no usable picture{where} ({left_out}); {remedy}")
