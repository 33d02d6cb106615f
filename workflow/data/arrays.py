"""Images and other arrays on disk: sealed files, the three splits, and the card that describes them.

This module does without torch, which takes seconds to import: `download`, `prepare` and readers of the card do not need
it.
"""

import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from workflow.errors import BakeoffError
from workflow.files import read_json, replacing, sha256, write_json
from workflow.paths import PREPARED

SPLITS = ("train", "valid", "test")
# A safetensors file begins with the length of its header (8 bytes); the header begins with the metadata.
BLANK_SEAL, SEAL_AT = "0" * 64, 8 + len('{"__metadata__":{"bakeoff":"')
HASHED_AT_ONCE = 2**20  # bytes
REMEDY = "delete it and run `dvc repro`"
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Arrays:
    """Images with their classes, as stored on disk; training uses an `ImageSet`.

    images: uint8 (N, C, H, W), values 0..levels-1. labels: int64 (N,).
    brightness: uint8 (N, C, H, W), 255 times the probability that a pixel is white, if training draws them anew.
    captions: int16 (N, K, length), K of each image as numbers of words (`workflow.data.captions`), if they have any.
    """

    images: Array
    labels: Array
    brightness: Array | None = None
    captions: Array | None = None

    def __len__(self) -> int:
        return len(self.images)

    def pieces(self) -> Iterator["Arrays"]:
        """Everything in one piece; makes this a `Pieces`."""
        yield self


class Pieces(Protocol):
    """Images that come piece by piece, so that they need not be in memory together."""

    def __len__(self) -> int:
        """Number of images in all pieces."""

    def pieces(self) -> Iterator[Arrays]:
        """The images, in order."""


@dataclass(frozen=True)
class Mixture:
    """The Gaussians that points were drawn from: their centres (x, y) and common standard deviation, in levels."""

    centres: tuple[tuple[float, float], ...]
    std: float


@dataclass(frozen=True)
class Card:
    """The content of `data/prepared/card.json`, which describes the prepared data.

    name, source, licence: of the data set. shape: of an image, (C, H, W). levels: pixel values are 0..levels-1.
    classes: their names; empty if none are known, in which case all labels are 0.
    counts, sha256: number of images and hash of the file, by split. split: how the data were split.
    leaks: number of test images that are also among the training or validation images.
    files: what happened to the user's own files, with counts. understood: how their folder was read, in words.
    class_counts: number of images of each class, by split; only of the user's own.
    channelwise: whether each channel is an image with a class of its own; these classes spell that of the whole.
    mixture: if the data are points, stored as images of two pixels.
    teacher: name of the frozen model that the images were drawn from, whose density is known exactly; "" if it is not.
    rate: samples a second, if the data are signals by µ-law, stored as images of one row; else 0.
    words, caption_length: the vocabulary of the user's own captions, and how many words one has at most.
    """

    name: str
    source: str
    licence: str
    shape: tuple[int, int, int]
    levels: int
    classes: tuple[str, ...]
    counts: dict[str, int]
    sha256: dict[str, str]
    split: str
    leaks: int = 0
    files: dict[str, int] = field(default_factory=dict)
    understood: str = ""
    class_counts: dict[str, list[int]] = field(default_factory=dict)
    channelwise: bool = False
    mixture: Mixture | None = None
    teacher: str = ""
    rate: int = 0
    words: tuple[str, ...] = ()
    caption_length: int = 0


def write_arrays(path: Path, arrays: dict[str, Array], metadata: str = "") -> None:
    """Write contiguous arrays as safetensors, atomically and sealed; equal content gives equal bytes.

    All metadata goes under a single key, because the format's writer orders several keys at random.

    Args:
        path: of the file.
        arrays: by name.
        metadata: any text.
    """
    from safetensors.numpy import save

    content = save(arrays, metadata={"bakeoff": BLANK_SEAL + metadata})
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        _seal(temporary)


def read_arrays(path: Path) -> dict[str, Array]:
    """Read what `write_arrays` wrote; raises BakeoffError, naming the file, if it is missing or damaged."""
    with reading(path, "np") as file:
        read_metadata(path, file)
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no dictionary


@contextmanager
def reading(path: Path, framework: str) -> Iterator[Any]:
    """The format's reader of a file, for arrays of "np" or "pt"; it reads only the header at first.

    Raises BakeoffError, naming the file, if it is missing or its header is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except FileNotFoundError:
        raise BakeoffError(f"{path}: missing; run the stage that makes it (`dvc repro`)") from None
    except SafetensorError as error:
        raise BakeoffError(f"{path}: damaged ({error}); {REMEDY}") from None


def read_metadata(path: Path, file: Any) -> str:
    """The metadata that `write_arrays` wrote; `file` comes from `reading` this path.

    Raises BakeoffError, naming the file, if even a single bit is damaged.
    """
    metadata: str = (file.metadata() or {}).get("bakeoff", "")
    if metadata[: len(BLANK_SEAL)] != _digest(path):
        raise BakeoffError(f"{path}: damaged (its SHA-256 does not match); {REMEDY}")
    return metadata[len(BLANK_SEAL) :]


def _seal(path: Path) -> None:
    """Write the SHA-256 of the file, computed with a blank seal, into its header."""
    digest = _digest(path)
    with path.open("rb+") as file:
        file.seek(SEAL_AT)
        file.write(digest.encode())


def _digest(path: Path) -> str:
    """SHA-256 of the file with a blank seal, in hex."""
    with path.open("rb") as file:
        hashed = hashlib.sha256(file.read(SEAL_AT) + BLANK_SEAL.encode())
        file.seek(SEAL_AT + len(BLANK_SEAL))
        while block := file.read(HASHED_AT_ONCE):
            hashed.update(block)
    return hashed.hexdigest()


def write_images(path: Path, images: Pieces) -> None:
    """Write images, labels and, if there are any, captions and brightness piece by piece, atomically.

    The bytes are those of `write_arrays` for the whole.
    """
    pieces, count = images.pieces(), len(images)
    first = next(pieces)
    shape = (count, *first.images.shape[1:])
    pixels = ["images"] if first.brightness is None else ["brightness", "images"]
    header: dict[str, Any] = {"__metadata__": {"bakeoff": BLANK_SEAL}}
    header["labels"] = {"dtype": "I64", "shape": [count], "data_offsets": (0, 8 * count)}
    done = 8 * count
    if first.captions is not None:
        words = (count, *first.captions.shape[1:])
        header["captions"] = {"dtype": "I16", "shape": words, "data_offsets": (done, done + 2 * math.prod(words))}
        done += 2 * math.prod(words)
    for i, name in enumerate(pixels):
        ends = tuple(done + n * math.prod(shape) for n in (i, i + 1))
        header[name] = {"dtype": "U8", "shape": shape, "data_offsets": ends}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # layout of the format: length of the header, header, tensors
    start = 8 + len(text)
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            os.posix_fallocate(
                file.fileno(), 0, start + header["images"]["data_offsets"][1]
            )  # on a full disk, writing to a memory map kills the process
        maps = {"labels": np.memmap(temporary, "<i8", "r+", start, (count,))}
        if "captions" in header:
            maps["captions"] = np.memmap(temporary, "<i2", "r+", start + 8 * count, header["captions"]["shape"])
        for name in pixels:
            maps[name] = np.memmap(temporary, np.uint8, "r+", start + header[name]["data_offsets"][0], shape)
        done = 0
        for piece in itertools.chain([first], pieces):
            for name, there in maps.items():
                there[done : done + len(piece)] = getattr(piece, name)
            done += len(piece)
        for there in maps.values():
            there.flush()
        _seal(temporary)


def read_images(path: Path) -> Arrays:
    """Read what `write_images` wrote; the images, which come last in the file, stay memory-mapped.

    Raises BakeoffError, naming the file, if it is missing or even a single bit is damaged.
    """
    with reading(path, "np") as file:
        read_metadata(path, file)
        labels, shape = file.get_tensor("labels"), tuple(file.get_slice("images").get_shape())
    return Arrays(np.memmap(path, np.uint8, "r", path.stat().st_size - math.prod(shape), shape), labels)


def write_prepared(folder: Path, sets: Mapping[str, Pieces], **about: Any) -> None:
    """Write the three splits and their `card.json`.

    Args:
        folder: to write to.
        sets: images of each split, by its name.
        about: the fields of the card except counts and hashes.
    """
    for split in SPLITS:
        write_images(folder / f"{split}.safetensors", sets[split])
    write_json(
        folder / "card.json",
        {
            **about,
            "counts": {split: len(sets[split]) for split in SPLITS},
            "sha256": {split: sha256(folder / f"{split}.safetensors") for split in SPLITS},
        },
    )


def read_card(folder: Path = PREPARED) -> Card:
    """Read the card; raises BakeoffError if it is missing or incomplete."""
    content = read_json(folder / "card.json")
    try:
        return as_card(content)
    except (AttributeError, TypeError, KeyError) as error:
        raise BakeoffError(f"{folder / 'card.json'}: {error}; run the prepare stage again") from None


def as_card(content: dict[str, Any]) -> Card:
    """The card from the content of its file."""
    mixture = content.get("mixture") and Mixture(**content["mixture"])
    lists = {key: tuple(content[key]) for key in ("shape", "classes")} | {"words": tuple(content.get("words", ()))}
    return Card(**{**content, **lists, "mixture": mixture})
