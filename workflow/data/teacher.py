"""Images drawn from a frozen model whose density is known exactly, so that the truth about every other model is known.

The files in `teachers/` hold the weights of each teacher and images drawn from it. The images are kept, rather than
drawn anew, because the last bit of a probability may decide a pixel, and it depends on the processor. `python -m
stages.teacher` makes both files again.
"""

import hashlib
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workflow.data.arrays import Arrays, read_images
from workflow.data.splits import check_sizes, write_raw
from workflow.errors import BakeoffError
from workflow.files import read_json, sha256
from workflow.params import Embedded

FOLDER = Path(__file__).parent / "teachers"
COUNT = 8000  # images drawn from each teacher, over all splits
SHAPE = (1, 8, 8)
REMEDY = "get the file again with `git checkout {}`"


@dataclass(frozen=True)
class Teacher:
    """What is known of a teacher; its name is that of the data.

    about: what it is, for the card. levels: pixel values are 0..levels-1. classes: their names; empty if it has none.
    weights, images: SHA-256 of the file of its weights, and of the labels and pixels of its images.
    """

    about: str
    levels: int
    classes: tuple[str, ...]
    weights: str
    images: str


TEACHERS = {
    "teacher": Teacher(
        about="a PixelCNN of p(x|y), trained on scikit-learn's digits; log p(x) is its log-mean over the ten classes",
        levels=17,
        classes=tuple("0123456789"),
        weights="2c7170cb39e0a88e1a1764590cf97651b9e546f67b471171da7f93c0c3bc1a86",
        images="dd122ec0676b5632156f4fc0db750e4f44e877a3c7230943dd22f73d49f215a4",
    ),
    "teacher_rbm": Teacher(
        about=(
            "an RBM with 20 hidden units, trained on scikit-learn's digits in black and white; log Z is a sum over "
            "their 1,048,576 states"
        ),
        levels=2,
        classes=(),
        weights="c02b645d946ab46f686ffad8ff67280143b04ec86bcf7f8daa0b529f8031dcc9",
        images="539f7823fe4662b158715b5750eb2b43abd1d877bfaf0195bf22a21b808a3db8",
    ),
}


def weights_of(name: str) -> Path:
    """The file with the weights of a teacher; raises BakeoffError if it is missing or another one."""
    path = FOLDER / f"{name}.safetensors"
    if not path.exists():
        raise BakeoffError(f"{path}: missing; {REMEDY.format(path)}")
    if (digest := sha256(path)) != TEACHERS[name].weights:
        raise BakeoffError(f"{path}: not the published weights (SHA-256 {digest}); {REMEDY.format(path)}")
    return path


def pack(images: Arrays) -> bytes:
    """Labels below 256, then pixels, a byte each, before compression."""
    return images.labels.astype(np.uint8).tobytes() + images.images.tobytes()


def download_teacher(name: str, folder: Path) -> None:
    """Write the images drawn from a teacher, uint8 (N, 1, 8, 8), into `folder`.

    Raises BakeoffError if their file is missing or damaged.
    """
    path = FOLDER / f"{name}.xz"
    try:
        content = lzma.decompress(path.read_bytes())
    except FileNotFoundError:
        raise BakeoffError(f"{path}: missing; {REMEDY.format(path)}") from None
    except lzma.LZMAError as error:
        raise BakeoffError(f"{path}: damaged ({error}); {REMEDY.format(path)}") from None
    teacher = TEACHERS[name]
    if (digest := hashlib.sha256(content).hexdigest()) != teacher.images:
        raise BakeoffError(f"{path}: not the published images (SHA-256 {digest}); {REMEDY.format(path)}")
    values = np.frombuffer(content, np.uint8)
    images = Arrays(values[COUNT:].reshape(COUNT, *SHAPE), values[:COUNT].astype(np.int64))
    about = {"source": f"drawn from {teacher.about}", "licence": "of the digits: CC BY 4.0"}
    write_raw(folder, images, **about, levels=teacher.levels, classes=list(teacher.classes))


def prepare_teacher(settings: Embedded, raw: Path) -> tuple[dict[str, Arrays], dict[str, Any]]:
    """Independent draws for each split, and the fields of the card.

    The images are shuffled and cut, not split by class, and equal ones are not kept together: each split is drawn from
    the teacher by itself. Raises BakeoffError if one would be empty.
    """
    everything, about = read_images(raw / "images.safetensors"), read_json(raw / "about.json")
    order = np.random.default_rng(settings.seed).permutation(len(everything))
    test, valid = (round(share * len(order)) for share in (settings.test, settings.valid))
    places = {"test": order[:test], "valid": order[test : test + valid], "train": order[test + valid :]}
    check_sizes({split: len(indices) for split, indices in places.items()})
    sets = {split: Arrays(everything.images[rows], everything.labels[rows]) for split, rows in places.items()}
    return sets, about | {
        "name": settings.name,
        "shape": list(SHAPE),
        "split": f"independent draws, seed {settings.seed}",
        "teacher": settings.name,
    }
