"""A user's own pictures: any folder, read file by file, counting everything that was left out or changed."""

import hashlib
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from workflow.data.arrays import Arrays
from workflow.data.splits import Chosen, write_raw
from workflow.errors import BakeoffError
from workflow.params import Folder

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow's names; none starts other programs
ENDINGS = frozenset((".bmp", ".gif", ".jpg", ".jpeg", ".png", ".pbm", ".pgm", ".ppm", ".tif", ".tiff", ".webp"))
MOST_PIXELS = 2**26  # in one picture; a file of a few bytes can claim billions
SPLIT_NAMES = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}
ORDER = ("test", "valid", "train")  # of equal pictures the first is kept, so that training data stay clean


@dataclass(frozen=True)
class File:
    """A file that may be a picture. label: the name of its class folder, "" if there is none."""

    path: Path
    split: str
    label: str


class _LeftOutError(Exception):
    """Why a file is not used, as the card words it."""


def check_names(root: Path) -> None:
    """Raise BakeoffError for files at which DVC, which hashes the folder, would fail."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if not path.exists():
                raise BakeoffError(f"data.root: {path}: broken link; remove it")
            if not str(path).isprintable():
                raise BakeoffError(f"data.root: {str(path)!a}: its name has unprintable characters; rename it")


def read_pictures(settings: Folder, raw: Path) -> None:
    """Write the pictures under `settings.root`, cropped to squares of `size` pixels, into the folder `raw`.

    Top-level folders called train, valid (or val) and test are the splits, if no other top-level folder has pictures.
    Folders below are classes, if every usable picture lies in one. Links are not followed. Raises BakeoffError if no
    picture can be used.
    """
    root, counts = settings.root, Counter[str]()
    files = list(_files(root, counts))
    files.sort(key=lambda file: (ORDER.index(file.split or "train"), file.path))
    given: Counter[str] = Counter()
    raw.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=raw) as spool:  # their number is known only at the end
        labels, seen = list[str](), set[bytes]()
        for file in files:
            try:
                pixels = _read(file.path, settings, counts)
                digest = hashlib.blake2b(pixels, digest_size=16).digest()
                if digest in seen:
                    raise _LeftOutError("duplicates left out")
            except _LeftOutError as reason:
                counts[str(reason)] += 1
                continue
            seen.add(digest)
            spool.write(pixels)
            labels.append(file.label)
            given[file.split] += 1
        if not labels:
            left_out = ", ".join(f"{number} {what}" for what, number in sorted(counts.items())) or "it is empty"
            raise BakeoffError(f"data.root: {root}: no usable picture ({left_out})")
        counts["pictures used"] = len(labels)
        classes = sorted(set(labels))
        classes = classes if len(classes) > 1 and "" not in classes else []
        number_of = {name: number for number, name in enumerate(classes)}
        spool.flush()
        shape = (len(labels), 1 if settings.grey else 3, settings.size, settings.size)
        images = np.memmap(spool, np.uint8, "r", shape=shape)
        write_raw(
            raw,
            Chosen(Arrays(images, np.array([number_of.get(label, 0) for label in labels])), np.arange(len(labels))),
            source=f"own pictures, folder {root.resolve().name}",
            licence="that of the pictures",
            levels=256,
            classes=classes,
            files=dict(sorted(counts.items())),
            **({"given": dict(given)} if any(given[split] for split in ORDER) else {}),
        )


def _files(root: Path, counts: Counter[str]) -> Iterator[File]:
    """The files with a picture's extension; all others are counted."""
    folders = [entry.name for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False)]
    tops = [name for name in folders if _has_pictures(root / name)]
    splits = "train" in tops and all(top in SPLIT_NAMES or top.startswith(".") for top in tops)
    for folder, inner, names in os.walk(root):
        counts["links left out"] += sum(Path(folder, name).is_symlink() for name in inner)
        inner[:] = [name for name in inner if not name.startswith(".")]
        parts = Path(folder).relative_to(root).parts
        split = SPLIT_NAMES.get(parts[0], "") if splits and parts else ""
        below = parts[1:] if splits else parts
        for name in names:
            path = Path(folder, name)
            if name.startswith("."):
                continue
            if path.is_symlink():
                counts["links left out"] += 1
            elif path.suffix.lower() not in ENDINGS or not path.is_file():
                counts["other files left out"] += 1
            elif splits and not split:
                counts["outside the splits' folders, left out"] += 1
            else:
                yield File(path, split, below[0] if below else "")
    counts += Counter()  # drops the zeros


def _has_pictures(folder: Path) -> bool:
    """Whether a folder contains a file with a picture's extension, at any depth."""
    return any(
        Path(name).suffix.lower() in ENDINGS and not name.startswith(".")
        for _, _, names in os.walk(folder)
        for name in names
    )


def _read(path: Path, settings: Folder, counts: Counter[str]) -> bytes:
    """Read a picture: the bytes of uint8 (C, size, size). Counts conversions; raises _LeftOutError with the reason."""
    notes: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged metadata and the like; what matters is counted
        try:
            with Image.open(path, formats=FORMATS) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    raise _LeftOutError("too large, left out")
                if getattr(picture, "is_animated", False):
                    notes.append("animated, first frame used")
                pixels = _square(_eight_bits(picture, notes), settings)
        except _LeftOutError:
            raise
        except Image.DecompressionBombError:
            raise _LeftOutError("too large, left out") from None
        except Exception:  # decoders may raise anything on damaged files
            raise _LeftOutError("unreadable, left out") from None
    counts.update(notes)
    return pixels


def _eight_bits(picture: Image.Image, notes: list[str]) -> Image.Image:
    """The picture upright, in 8 bits of grey or RGB; conversions are added to `notes`."""
    if picture.getexif().get(0x0112, 1) not in (0, 1):
        notes.append("turned upright by EXIF")
        ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode.startswith("I"):
        notes.append("16 bits reduced to 8")
        wide = np.asarray(picture).astype(np.int64)
        return Image.fromarray((wide.clip(0, 65535) >> 8).astype(np.uint8))
    if picture.mode == "F":
        raise _LeftOutError("floating-point numbers, left out")
    if picture.mode in ("CMYK", "YCCK"):
        notes.append("CMYK converted")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        notes.append("transparent, put on white")
        colours = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")
    return picture if picture.mode in ("L", "RGB") else picture.convert("RGB")


def _square(picture: Image.Image, settings: Folder) -> bytes:
    """The centre of the picture, scaled down: uint8 (C, size, size)."""
    if min(picture.size) < settings.size:
        raise _LeftOutError(f"smaller than {settings.size} pixels, left out")
    fitted = ImageOps.fit(picture, (settings.size, settings.size), Image.Resampling.LANCZOS)
    pixels = np.asarray(fitted.convert("L" if settings.grey else "RGB"))
    return (pixels if settings.grey else pixels.transpose(2, 0, 1)).tobytes()
