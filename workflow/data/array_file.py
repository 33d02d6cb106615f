"""A user's own images in one file of NumPy, as `numpy.savez`, Keras or MedMNIST write it."""

import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from workflow.data.arrays import SPLITS, Array, Arrays
from workflow.data.label_table import SPLIT_NAMES
from workflow.data.layout import classes_of
from workflow.data.listing import shown, some
from workflow.data.splits import PIECE, write_raw
from workflow.errors import NO_SPACE, BakeoffError
from workflow.files import unchanged
from workflow.params import PATH, ArrayFile

SIDES = (4, 1024)  # least and greatest height and width, as of pictures in a folder
IMAGES = frozenset(("images", "image", "x", "data"))
LABELS = frozenset(("labels", "label", "y", "targets", "target"))
UNNAMED = {"arr_0": "images", "arr_1": "labels"}  # by `numpy.savez`, of arrays that were given no name
ONLY = "the array"  # name of what an .npy holds
NAMES = "images and labels, x and y, or x_train, y_train, x_test and y_test"
Headers = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]


@dataclass(frozen=True)
class Part:
    """What the file has for one split, or as a whole (split is ""): the names of its arrays; labels may be missing."""

    split: str
    images: str
    labels: str = ""


@dataclass(frozen=True)
class _Joined:
    """The images of several parts, one after the other."""

    parts: Sequence[Arrays]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def pieces(self) -> Iterator[Arrays]:
        """The images in their order, up to `PIECE` at a time, read from their memory maps."""
        for part in self.parts:
            for start in range(0, len(part), PIECE):
                yield Arrays(part.images[start : start + PIECE], part.labels[start : start + PIECE])


@dataclass(frozen=True)
class _Contents:
    """What the headers in the file say.

    parts: training images first. left_out: arrays that are none of these. shape: (C, H, W) of every image.
    """

    headers: Headers
    parts: list[Part]
    left_out: list[str]
    shape: tuple[int, int, int]


def shape_of_images(settings: ArrayFile) -> tuple[int, int, int]:
    """Shape (C, H, W) of the images; only the headers of the arrays are read. Raises BakeoffError as `read_file`."""
    return _contents(settings.root).shape


def _contents(path: Path) -> _Contents:
    """Read the headers; raises BakeoffError if the arrays are not images of one size, with fitting labels if any."""
    with _reading(path):
        headers = _headers(path)
    parts, left_out = _parts(path, list(headers))
    shapes = {part.images: _shape(path, part.images, headers) for part in parts}
    (first, shape), *others = shapes.items()
    for key, other in others:
        if other != shape:
            raise BakeoffError(
                f"{path}: {key}: images of {_in_words(other)}, but {first} has {_in_words(shape)}; give all one size"
            )
    for part in parts:
        _check_labels(path, part, headers)
    return _Contents(headers, parts, left_out, shape)


def read_file(settings: ArrayFile, raw: Path) -> None:
    """Write the images and labels of the file into the folder `raw`; a few of them are in memory at a time.

    Arrays are found by their names, the layout by their shape: (N, H, W), (N, H, W, C) or (N, C, H, W). Labels become
    0..K-1 in their order, and classes bear the labels' names. Raises BakeoffError, which names the file and the array,
    if it cannot be read or is no such file.
    """
    path = settings.root
    with unchanged(path), ExitStack() as opened:
        contents = _contents(path)
        parts, left_out = contents.parts, contents.left_out
        raw.mkdir(parents=True, exist_ok=True)
        with _reading(path):
            keys = [key for part in parts for key in (part.images, part.labels) if key]
            found = {key: _mapped(path, key, raw, opened) for key in keys}
        images = [_channels_first(found[part.images]) for part in parts]
        counts = [len(array) for array in images]
        _check_range(settings, parts, images)
        labels, classes = _numbered(path, parts, found, counts)
        write_raw(
            raw,
            _Joined([Arrays(*pair) for pair in zip(images, labels, strict=True)]),
            source=f"own arrays, file {path.resolve().name}",
            understood=_understood(contents, "classes" if classes else "one class"),
            licence="that of the images",
            levels=settings.levels,
            classes=classes,
            files={"images used": sum(counts), **({"other arrays left out": len(left_out)} if left_out else {})},
            **({"given": dict(zip([part.split for part in parts], counts, strict=True))} if parts[0].split else {}),
        )


@contextmanager
def images_in(path: Path) -> Iterator[Array]:
    """The images of a file that has no others, uint8 (N, C, H, W), as a memory map; whatever else it has is left out.

    Raises BakeoffError, which names the file, if it is no such file.
    """
    if not path.is_file():
        raise BakeoffError(f"{path}: no such file or folder; name a folder of pictures, an .npz or an .npy")
    with ExitStack() as opened:
        with _reading(path):
            headers = _headers(path)
            parts, _ = _parts(path, list(headers))
            if len(parts) > 1:
                names = some(part.images for part in parts)
                raise BakeoffError(f"{path}: {names}: several arrays of images; store those that count alone")
            _shape(path, parts[0].images, headers)
            images = _mapped(path, parts[0].images, None, opened)
        yield _channels_first(images)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what NumPy and zipfile raise about a file that is missing, damaged or something else into one line."""
    try:
        yield
    except FileNotFoundError:
        raise BakeoffError(f"data.root: {path}: no such file; for `name: arrays` it is an .npz or .npy") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BakeoffError(
            f"{path}: cannot be read ({reason}); write it again with numpy.save or numpy.savez"
        ) from None
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise BakeoffError(f"data.root: {path}: {error.strerror}; for `name: arrays` it is an .npz or .npy") from None


@contextmanager
def _opened(path: Path, key: str) -> Iterator[IO[bytes]]:
    """One array of the file, as the bytes of an .npy."""
    if key == ONLY:
        with path.open("rb") as file:
            yield file
    else:
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as member:
            yield member


def _headers(path: Path) -> Headers:
    """Shape and type of each array, by its name."""
    keys = [ONLY]
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    if zipped:
        with zipfile.ZipFile(path) as archive:
            keys = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    headers = {}
    for key in keys:
        if not key.isprintable():
            raise ValueError(f"an array is called {key!a}")
        with _opened(path, key) as file:
            shape, _, dtype = _header(file)
        headers[key] = (shape, dtype)
    return headers


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the first dimension is the innermost, and type; what follows in the file are the values."""
    version = npy.read_magic(file)
    header = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    if any(size < 0 for size in header[0]):
        raise ValueError(f"shape {header[0]}")
    return header


def _mapped(path: Path, key: str, folder: Path | None, opened: ExitStack) -> Array:
    """An array as a memory map: of the file itself or, as an .npz may be compressed, of a copy that has no name.

    folder: where to put the copy; None: where temporary files go.
    """
    if key == ONLY:
        file: Any = opened.enter_context(path.open("rb"))
    else:
        file = opened.enter_context(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115 -- `opened` closes it
        with _opened(path, key) as packed:
            shutil.copyfileobj(packed, file, 2**20)
        file.seek(0)
    shape, innermost_first, dtype = _header(file)
    if dtype.hasobject:
        raise BakeoffError(f"{path}: {key}: Python objects, which could run code, are not read; store numbers")
    start, size = file.tell(), os.fstat(file.fileno()).st_size
    if size < start + dtype.itemsize * int(np.prod(shape, dtype=object)):
        raise ValueError(f"{key} is cut off")
    return np.memmap(file, dtype, "r", start, shape, "F" if innermost_first else "C")


def _parts(path: Path, keys: list[str]) -> tuple[list[Part], list[str]]:
    """What the file has, by the names of its arrays, training images first; and the arrays that have other names."""
    places: dict[tuple[str, str], str] = {}
    for key in keys:
        place = _place(key)
        if key not in UNNAMED and re.fullmatch(r"arr_\d+", key):  # perhaps images to test with
            raise BakeoffError(f"{path}: has {some(keys)}, of which {key} could be anything; call the arrays {NAMES}")
        if place and place in places:
            raise BakeoffError(f"{path}: {places[place]} and {key} could both be the {place[1]}; rename one of them")
        if place:
            places[place] = key
    if not any(role == "images" for _, role in places):
        if len(keys) != 1:
            listed = ", ".join(keys) or "nothing"
            raise BakeoffError(f"{path}: has {listed}; images are not found by name: call the arrays {NAMES}")
        places = {("", "images"): keys[0]}
    splits = [split for split in ("", *SPLITS) if (split, "images") in places]
    parts = [Part(split, places[split, "images"], places.get((split, "labels"), "")) for split in splits]
    if len(splits) > 1 and "" in splits:
        both = f"{parts[0].images} and {parts[1].images}"
        raise BakeoffError(f"{path}: {both}: with splits or as a whole, but not both; remove or rename one of them")
    if splits[0] not in ("", "train"):
        raise BakeoffError(f"{path}: {parts[0].images}: there are no images to train on; call those x_train")
    alone = [key for (split, _), key in places.items() if split not in splits]
    without = [part.images for part in parts if not part.labels]
    if alone or 0 < len(without) < len(parts):
        missing = f"{alone[0]}: labels without images" if alone else f"{without[0]}: has no labels, unlike other images"
        raise BakeoffError(f"{path}: {missing}; call the arrays {NAMES}")
    return parts, [key for key in keys if key not in places.values()]


def _place(key: str) -> tuple[str, str] | None:
    """The split ("" for none) and the role that the name of an array says; None if it says neither."""
    if key in UNNAMED:
        return "", UNNAMED[key]
    words = re.split(r"[^a-z]+", key.lower())
    roles = ["images" if word in IMAGES else "labels" for word in words if word in IMAGES | LABELS]
    splits = [SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES]
    if len(roles) != 1 or len(splits) != len(words) - 1 or len(splits) > 1:
        return None
    return "".join(splits), roles[0]


def _shape(path: Path, key: str, headers: Headers) -> tuple[int, int, int]:
    """Shape (C, H, W) of an array of images; raises BakeoffError if it is none."""
    shape, dtype = headers[key]
    if dtype != np.uint8:
        raise BakeoffError(f"{path}: {key}: {dtype}: images should be uint8, 0 to 255; {_conversion(dtype)}")
    found = _layout(shape)
    if not found or not all(SIDES[0] <= side <= SIDES[1] for side in found[1:]):
        raise BakeoffError(
            f"{path}: {key}: shape {shape}: should be (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels C "
            f"and sides of {SIDES[0]} to {SIDES[1]} pixels; {_reshaping(shape)}"
        )
    if not shape[0]:
        raise BakeoffError(f"{path}: {key}: there are no images in it")
    return found


def _conversion(dtype: np.dtype[Any]) -> str:
    """How images of another type become uint8; `astype` alone would wrap larger values around."""
    direct = "x.astype('uint8')"
    if dtype.kind == "f":
        scaled = "(x * 255).round().astype('uint8') if they are 0 to 1"
        return f"convert them: {scaled}, x.round().astype('uint8') if they are 0 to 255"
    if dtype.kind in "iu":
        scaled = "(x * (255 / x.max())).round().astype('uint8')"
        return f"convert them: {direct} if they are 0 to 255, {scaled} if they are larger"
    if dtype.kind == "b":
        return f"convert them: {direct}, and set data.levels to 2"
    return "store images of one size in one array: np.stack(x)" if dtype.hasobject else "store numbers"


def _reshaping(shape: tuple[int, ...]) -> str:
    """What to do about an array whose shape is not that of images."""
    if len(shape) == 2:
        return "reshape flat images, as in x.reshape(-1, 28, 28)"
    if len(shape) == 4 and shape[3] == 4:
        return "leave out the alpha channel: x[..., :3]"
    if len(shape) == 4 and shape[2] in (1, 3) and not _layout(shape):
        return "put the images first: x.transpose(3, 0, 1, 2)"
    return "change it"


def _layout(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Shape (C, H, W) of the images in an array; None if it is none of images.

    Sides are 4 pixels or more, so a dimension of 1 or 3 can only be the channels.
    """
    if len(shape) == 3:
        return 1, *shape[1:]
    if len(shape) == 4 and shape[3] in (1, 3):
        return shape[3], *shape[1:3]
    return shape[1:] if len(shape) == 4 and shape[1] in (1, 3) else None


def _channels_first(images: Array) -> Array:
    """An array in one of the three layouts as (N, C, H, W), without a copy."""
    if images.ndim == 3:
        return images[:, None]
    return images.transpose(0, 3, 1, 2) if images.shape[3] in (1, 3) else images


def _in_words(shape: tuple[int, int, int]) -> str:
    channels, height, width = shape
    return f"{height}x{width} pixels {'in grey' if channels == 1 else 'in colour'}"


def _check_labels(path: Path, part: Part, headers: Headers) -> None:
    """Raise BakeoffError if the labels of a part are none, or not as many as its images."""
    if not part.labels:
        return
    shape, dtype = headers[part.labels]
    where, count = f"{path}: {part.labels}", headers[part.images][0][0]
    if len(shape) == 2 and shape[1] > 1:
        raise BakeoffError(f"{where}: shape {shape}: should be (N,); if it is one-hot, store y.argmax(1)")
    if dtype.kind not in "biuU":
        remedy = f"; convert them: y.astype({'int' if dtype.kind == 'f' else 'str'})" if dtype.kind in "fSO" else ""
        raise BakeoffError(f"{where}: {dtype}: labels should be whole numbers or names (text){remedy}")
    if shape not in ((count,), (count, 1)):
        raise BakeoffError(f"{where}: shape {shape}: should be ({count},), a label for each of {part.images}")


def _check_range(settings: ArrayFile, parts: Sequence[Part], images: Sequence[Array]) -> None:
    """Raise BakeoffError if pixels exceed `levels`, or all stay in its lower half, so that it is hardly their range."""
    where, brightest = f"{PATH}: data.levels: {settings.levels}: {settings.root}", 0
    for part, array in zip(parts, images, strict=True):
        top = max(int(array[start : start + PIECE].max()) for start in range(0, len(array), PIECE))
        if top >= settings.levels:
            raise BakeoffError(
                f"{where}: {part.images} has values up to {top}; set it to {top + 1} or more, or scale the images"
            )
        brightest = max(brightest, top)
    if not brightest:
        raise BakeoffError(f"{settings.root}: {parts[0].images}: every pixel is 0; store the images again")
    if 2 * brightest < settings.levels - 1:
        raise BakeoffError(
            f"{where}: the brightest pixel is only {brightest}; set it to {brightest + 1} if pixels are 0 to "
            f"{brightest}, or scale the images"
        )


def _numbered(
    path: Path, parts: Sequence[Part], found: Mapping[str, Array], counts: Sequence[int]
) -> tuple[list[Array], list[str]]:
    """Labels of each part as numbers 0..K-1, int64 (N,), and the K classes' names; all 0 without classes."""
    if not parts[0].labels:
        return [np.zeros(count, np.int64) for count in counts], []
    labels = [np.asarray(found[part.labels]).reshape(-1) for part in parts]
    for part, array in zip(parts, labels, strict=True):
        where = f"{path}: {part.labels}"
        if array.dtype.kind == "i" and array.min() < 0:
            raise BakeoffError(f"{where}: {array.min()}: labels should be 0 or more; leave such images out")
        if array.dtype.kind == "U" and (empty := np.count_nonzero(array == "")):
            raise BakeoffError(f"{where}: {empty} labels are empty; name these classes, or leave such images out")
    if all(array.dtype.kind in "iu" for array in labels):  # NumPy joins int64 and uint64 as floating-point numbers
        labels = [array.astype(np.uint64) for array in labels]
    values, numbers = np.unique(np.concatenate(labels), return_inverse=True)
    names = [str(value) for value in values]
    classes = classes_of(names)
    place = {name: number for number, name in enumerate(classes)}
    numbers = np.array([place.get(name, 0) for name in names], np.int64)[numbers]
    given = np.split(numbers, np.cumsum(counts)[:-1])
    _check_classes(path, parts, given, classes)
    return given, [shown(name) for name in classes]


def _check_classes(path: Path, parts: Sequence[Part], labels: Sequence[Array], classes: Sequence[str]) -> None:
    """Raise BakeoffError if a class of another split is not among those to train on."""
    for part, array in zip(parts[1:], labels[1:], strict=True):
        if len(more := np.setdiff1d(array, labels[0])):
            count = "a class that is" if len(more) == 1 else f"{len(more)} classes that are"
            raise BakeoffError(
                f"{path}: {part.labels}: has {count} not in {parts[0].labels}: "
                f"{some(classes[number] for number in more)}; add such images to {parts[0].images}, or leave them out"
            )


def look(settings: ArrayFile) -> list[str]:
    """How the file is understood, in lines for people, by its headers alone; raises BakeoffError as `read_file`."""
    contents = _contents(settings.root)
    headers, left_out = contents.headers, contents.left_out
    counts = ", ".join(f"{headers[part.images][0][0]:,} {part.split}".rstrip() for part in contents.parts)
    others = f"; other arrays, left out: {some(left_out)}" if left_out else ""
    return [f"{settings.root}: {_understood(contents)}", f"images of {_in_words(contents.shape)}: {counts}{others}"]


def _understood(contents: _Contents, classes: str = "classes") -> str:
    """How the file is read, for the card; classes: what the labels hold."""
    parts, (shape, _) = contents.parts, contents.headers[contents.parts[0].images]
    layout = "(N, H, W)" if len(shape) == 3 else "(N, H, W, C)" if shape[3] in (1, 3) else "(N, C, H, W)"
    images, labels = (" and ".join(getattr(part, role) for part in parts) for role in ("images", "labels"))
    return f"images in {images}, {layout}; {f'{classes} in {labels}' if parts[0].labels else 'no classes'}"
