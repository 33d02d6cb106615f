"""Image sets on disk and in memory."""

import hashlib
import io
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from workflow.errors import BakeoffError
from workflow.files import read_json, replacing, sha256, write_json

PREPARED = Path("data/prepared")
POINT = (1, 1, 2)  # the shape of a point of a plane, stored as an image of two pixels
PLANE_LEVELS = 256
SPLITS = ("train", "valid", "test")
# A safetensors file begins with the length of its header, in 8 bytes, and the header with the metadata.
BLANK_SEAL, SEAL_AT = "0" * 64, 8 + len('{"__metadata__":{"bakeoff":"')
HASHED_AT_ONCE = 2**20  # bytes
REMEDY = "delete it and run `dvc repro`"


@dataclass(frozen=True)
class ImageSet:
    """Images with their classes.

    images: uint8 (N, C, H, W), values 0..levels-1. labels: int64 (N,).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "ImageSet":
        """The same on another device."""
        return ImageSet(self.images.to(device), self.labels.to(device))

    def pieces(self) -> Iterator["ImageSet"]:
        """All of it, at once; with `__len__` what `write_images` asks for."""
        yield self

    def split(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels in batches of up to `size`, in order."""
        return zip(self.images.split(size), self.labels.split(size), strict=True)


class Pieces(Protocol):
    """Images that come a piece at a time, so that they need not be in memory together."""

    def __len__(self) -> int:
        """Number of images in all pieces."""

    def pieces(self) -> Iterator[ImageSet]:
        """The images, in order."""


@dataclass(frozen=True)
class Mixture:
    """The Gaussians that points were drawn from: centres (x, y) and their one standard deviation, in levels."""

    centres: tuple[tuple[float, float], ...]
    std: float


@dataclass(frozen=True)
class Card:
    """What `data/prepared/card.json` says of the prepared data.

    classes: their names; empty if none are known, then all labels are 0. files: what became of the user's own files.
    leaks: number of test images that stand among the training or validation images too.
    channelwise: each channel is a picture with a class of its own; that of the whole is the number that they spell.
    mixture: of data that are points, stored as images of two pixels.
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
    channelwise: bool = False
    mixture: Mixture | None = None


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: str = "") -> None:
    """Write tensors as safetensors, atomically and sealed; the same tensors and metadata give the same bytes.

    All metadata goes under one key: with several, the format's writer puts them in a random order.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(tensors, metadata={"bakeoff": BLANK_SEAL + metadata})
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        _seal(temporary)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read what `write_tensors` wrote: the tensors, on the CPU, in the file's memory map, and the metadata.

    Raises BakeoffError, naming the file, if it is missing or damaged, be it in a single bit.
    """
    tensors, metadata = _open_tensors(path)
    if metadata[: len(BLANK_SEAL)] != _digest(path):
        raise BakeoffError(f"{path}: damaged (SHA-256 is not the one inside); {REMEDY}")
    return tensors, metadata[len(BLANK_SEAL) :]


def _open_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """As `read_tensors`, with the seal before the metadata, and not held against it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # no dictionary: it cannot be iterated over
            return {name: file.get_tensor(name) for name in names}, (file.metadata() or {}).get("bakeoff", "")
    except FileNotFoundError:
        raise BakeoffError(f"{path}: missing; run the stage that makes it (`dvc repro`)") from None
    except SafetensorError as error:
        raise BakeoffError(f"{path}: damaged ({error}); {REMEDY}") from None


def _seal(path: Path) -> None:
    """Put the SHA-256 of the file, taken while the seal is blank, into its header."""
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
    """Write images and labels piece by piece, atomically: the bytes that `write_tensors` would write of the whole."""
    pieces, count = images.pieces(), len(images)
    first = next(pieces)
    shape = (count, *first.images.shape[1:])
    ends = (8 * count, 8 * count + math.prod(shape))
    header = json.dumps(
        {
            "__metadata__": {"bakeoff": BLANK_SEAL},
            "labels": {"dtype": "I64", "shape": [count], "data_offsets": [0, ends[0]]},
            "images": {"dtype": "U8", "shape": shape, "data_offsets": ends},
        },
        separators=(",", ":"),
    ).encode()
    header += b" " * (-len(header) % 8)  # the format's layout: the header's length, the header, the tensors
    start = 8 + len(header)
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            os.posix_fallocate(file.fileno(), 0, start + ends[1])  # on a full disk a memory map would end the process
        labels = np.memmap(temporary, "<i8", "r+", start, (count,))
        pixels = np.memmap(temporary, np.uint8, "r+", start + ends[0], shape)
        done = 0
        for piece in itertools.chain([first], pieces):
            labels[done : done + len(piece)] = piece.labels.numpy()
            pixels[done : done + len(piece)] = piece.images.numpy()
            done += len(piece)
        labels.flush()
        pixels.flush()
        _seal(temporary)


def write_prepared(folder: Path, sets: Mapping[str, Pieces], **about: Any) -> None:
    """Write the three splits and their `card.json`; `about` gives the card's fields but counts and hashes."""
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
    """Read the card; raises BakeoffError if it is missing or lacks a field."""
    content = read_json(folder / "card.json")
    try:
        mixture = content.get("mixture") and Mixture(**content["mixture"])
        lists = {key: tuple(content[key]) for key in ("shape", "classes")}
        return Card(**{**content, **lists, "mixture": mixture})
    except (AttributeError, TypeError, KeyError) as error:
        raise BakeoffError(f"{folder / 'card.json'}: {error}; run the prepare stage again") from None


def read_split(split: str, folder: Path = PREPARED) -> ImageSet:
    """Read one split; raises BakeoffError if its bytes are not those that the card recorded."""
    path, expected = folder / f"{split}.safetensors", read_card(folder).sha256[split]
    if not path.exists():
        raise BakeoffError(f"{path}: missing; run `dvc repro prepare`")
    if (found := sha256(path)) != expected:
        raise BakeoffError(
            f"{path}: SHA-256 {found[:12]}… is not the recorded {expected[:12]}…; "
            f"the file was changed or damaged: delete it and run `dvc repro prepare`"
        )
    tensors, _ = _open_tensors(path)
    return ImageSet(tensors["images"], tensors["labels"])


def grid(images: Tensor, levels: int, columns: int, scale: int | None = None, gap: int = 1) -> Image.Image:
    """Lay images out in rows of `columns`, on white, each pixel drawn `scale` wide (default: about 48 an image).

    images: uint8 (N, C, H, W), values 0..levels-1, C 1 or 3.
    """
    n, channels, height, width = images.shape
    scale = scale or max(1, round(48 / width))
    rows = math.ceil(n / columns)
    bright = (images.float() * (255 / (levels - 1))).round().to(torch.uint8)
    bright = bright.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    step_y, step_x = height * scale + gap, width * scale + gap
    canvas = torch.full((channels, rows * step_y - gap, columns * step_x - gap), 255, dtype=torch.uint8)
    for i, image in enumerate(bright):
        top, left = (i // columns) * step_y, (i % columns) * step_x
        canvas[:, top : top + height * scale, left : left + width * scale] = image
    array = canvas.permute(1, 2, 0).numpy()
    return Image.fromarray(array.squeeze(2) if channels == 1 else array)


def scatter(points: Tensor, levels: int, side: int) -> Tensor:
    """Points of a plane, uint8 (N, 1, 1, 2), x to the right and y upwards, as one picture, dark where they are.

    uint8 (1, 1, side, side) of PLANE_LEVELS, with a thin frame.
    """
    x, y = points.view(-1, 2).long().unbind(1)
    place = (levels - 1 - y) * side // levels * side + x * side // levels
    counts = place.bincount(minlength=side * side).view(1, 1, side, side).float()
    spread = F.max_pool2d(counts, 3, 1, 1)  # a point is three pixels wide
    plane = (PLANE_LEVELS - 1) * (1 - 0.35 * spread.sqrt()).clamp(min=0)
    inner = plane[:, :, 1:-1, 1:-1]
    return F.pad(inner, (1, 1, 1, 1), value=0.8 * PLANE_LEVELS).to(torch.uint8)


def overview(images: Tensor, levels: int) -> Image.Image:
    """The first hundred images as one picture; of points, all of them in one plane."""
    if images.shape[1:] == POINT:
        return grid(scatter(images, levels, 3 * levels // 2), PLANE_LEVELS, columns=1, scale=1)
    return grid(images[:100], levels, columns=10)


def png(image: Image.Image) -> bytes:
    """The picture as PNG bytes, with nothing in them but the pixels."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
