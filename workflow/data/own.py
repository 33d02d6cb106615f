"""What a user's own pictures and recordings have in common once their files are read."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workflow.data.arrays import Array, Arrays
from workflow.data.layout import File, Layout, Medium, check_classes, classes_of
from workflow.data.listing import Entry, differences, list_files, shown
from workflow.data.splits import Chosen, write_raw
from workflow.errors import BakeoffError

ORDER = ("test", "valid", "train")  # of equal ones the first is kept, so that training data stay clean


@dataclass(frozen=True)
class Own:
    """What was read of a user's folder.

    medium: pictures or recordings. root: the folder. before: what was in it before it was read. layout: how it is
    understood. images: uint8 (N, C, H, W). files: by their places among these. counts: what happened to files.
    """

    medium: Medium
    root: Path
    before: list[Entry]
    layout: Layout
    images: Array
    files: dict[int, File]
    counts: Counter[str]


def write_own(raw: Path, own: Own, remedy: Callable[[Counter[str]], str], **about: Any) -> None:
    """Write what was read into the folder `raw`, without duplicates.

    Raises BakeoffError if a split is empty, if a class of another split is not among those of `train`, or if the folder
    has changed since it was listed.

    Args:
        raw: to write to.
        own: what was read.
        remedy: what to do if a split is empty, by what was counted.
        about: further fields of the card.
    """
    word, root, files, layout = own.medium.word, own.root, own.files, own.layout
    _drop_duplicates(own.images, files, own.counts, word)
    if changed := differences(own.before, list_files(root)):
        raise BakeoffError(
            f"data.root: {shown(root)}: changed while its {word}s were read: {changed}; run again once nothing "
            "writes to it"
        )
    _refuse_empty(own, remedy)
    check_classes(root, files.values(), word)
    classes = classes_of(file.label for file in files.values())
    number_of, labels = {name: number for number, name in enumerate(classes)}, np.zeros(len(own.images), np.int64)
    labels[list(files)] = [number_of.get(file.label, 0) for file in files.values()]
    given = Counter(file.split for file in files.values())
    write_raw(
        raw,
        Chosen(Arrays(own.images, labels), np.array(list(files))),
        source=f"own {word}s, folder {shown(root.resolve().name)}",
        licence=f"that of the {word}s",
        **about,
        classes=[shown(name) for name in classes],
        understood=layout.in_words(len(classes)),
        files=dict(sorted((own.counts + Counter({f"{word}s used": len(files)})).items())),
        **({"given": dict(given)} if layout.splits else {}),
        **({"captions": [file.captions for file in files.values()]} if any(f.captions for f in files.values()) else {}),
    )


def _drop_duplicates(images: Array, files: dict[int, File], counts: Counter[str], word: str) -> None:
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


def _refuse_empty(own: Own, remedy: Callable[[Counter[str]], str]) -> None:
    """Raise BakeoffError if nothing of a split, or nothing at all, can be used."""
    left_out = ", ".join(f"{number:,} {what}" for what, number in sorted(own.counts.items())) or "it is empty"
    used = {file.split for file in own.files.values()}
    for split in own.layout.splits or ("",):
        if split not in used:
            where = f" in {split}" if split else ""
            raise BakeoffError(
                f"data.root: {shown(own.root)}: no usable {own.medium.word}{where} ({left_out}); {remedy(own.counts)}"
            )
