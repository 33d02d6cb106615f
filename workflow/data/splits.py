"""From the raw images of a data set to the three splits that every family sees.

Images stay in the memory map of the raw file and are copied from there to the files of the splits piece by piece, so a
million images need no more memory than a thousand.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from workflow.data.arrays import SPLITS, Array, Arrays, Pieces, read_images, write_images
from workflow.data.captions import in_numbers, learn
from workflow.errors import BakeoffError
from workflow.files import read_json, write_json
from workflow.params import ArrayFile, Data, Embedded, Folder, Published, Signals

PIECE = 1024  # images in memory at once
STACKED_DIGITS = 30_000  # images of three digits, over all splits: thirty for each of the thousand numbers
FEW_BYTES = 2**20  # of pixels, up to which images are compared directly instead of by hash
Indices = np.ndarray[Any, np.dtype[np.int64]]
Rows = Array  # one row per image, equal for equal images


def write_raw(folder: Path, images: Pieces, **about: Any) -> None:
    """Write the raw data set into a folder: `images.safetensors`, and `about.json`, which describes it.

    Args:
        folder: to write to.
        images: all images of the set.
        about: source, licence, levels, classes; and, if the set comes with splits, `given`: the number of images in
            each, in their order in the file; if it has captions, `captions`: the texts of each image.
    """
    write_images(folder / "images.safetensors", images)
    write_json(folder / "about.json", about)


@dataclass(frozen=True)
class Chosen:
    """Some images of a set, in a chosen order.

    images: the set. indices: (n,), or (n, 3) for images whose channels are images of the set.
    binarise: how pixels become black or white: not at all ("none"), white above half brightness ("threshold"), or with
    their brightness as the probability of white ("stochastic": Salakhutdinov & Murray 2008, On the Quantitative
    Analysis of Deep Belief Networks); "dynamic" keeps their brightness beside one such draw, so that training can draw
    them anew. seed: of the draw.
    """

    images: Arrays
    indices: Indices
    binarise: str = "none"
    seed: int = 0

    def __len__(self) -> int:
        return len(self.indices)

    def pieces(self) -> Iterator[Arrays]:
        """The images in their order, up to `PIECE` at a time."""
        rng = np.random.default_rng(self.seed)
        for start in range(0, len(self), PIECE):
            chosen = self.indices[start : start + PIECE]
            x, y = self.images.images[chosen], self.images.labels[chosen]
            if chosen.ndim == 2:  # the label is the number that the channels spell, the first digit leading
                x, y = x.squeeze(2), y @ (100, 10, 1)
            brightness = None
            if self.binarise == "threshold":
                x = (x > 127).astype(np.uint8)
            elif self.binarise in ("stochastic", "dynamic"):
                brightness = x if self.binarise == "dynamic" else None
                x = (rng.random(x.shape, np.float32) * 255 < x).astype(np.uint8)
            captions = None if self.images.captions is None else self.images.captions[chosen]
            yield Arrays(x, y, brightness, captions)


def prepare(settings: Data, raw: Path) -> tuple[dict[str, Chosen], dict[str, Any]]:
    """The splits of what `write_raw` wrote, and the fields of the card that describe them.

    Splits that the set comes with are kept. Missing ones are split off from the training images, stratified by class;
    classes too small for that are split together. Equal images go to the same split, so that no test image has been
    trained on. Raises BakeoffError if a split would be empty.
    """
    everything, about = read_images(raw / "images.safetensors"), read_json(raw / "about.json")
    captions: list[list[str]] = about.pop("captions", [])
    given: dict[str, int] = about.pop("given", {})
    rng = np.random.default_rng(settings.seed)
    shares = {"test": settings.test, "valid": settings.valid} if settings.test else {"valid": settings.valid}
    where = np.repeat(list(given) or ["train"], list(given.values()) or [len(everything)])
    rows = _rows(everything)
    missing = {split: share for split, share in shares.items() if split not in given}
    by_class = _split_off(missing, where, rows, everything.labels, rng)
    places = {split: np.flatnonzero(where == split) for split in SPLITS}
    check_sizes({split: len(indices) for split, indices in places.items()}, about.get("files", {}))
    if isinstance(settings, Published) and settings.limit:
        places = {split: _some(indices, settings.limit, rng) for split, indices in places.items()}
    if isinstance(
        settings, Folder | ArrayFile | Signals
    ):  # they may be sorted by class, and some code uses only the first images of a split
        places = {split: rng.permutation(indices) for split, indices in places.items()}
        if count := len(about["classes"]):
            labels = everything.labels
            numbers = {split: np.bincount(labels[i], minlength=count).tolist() for split, i in places.items()}
            about["class_counts"] = {split: numbers[split] for split in SPLITS}
    if captions:
        everything, told = _captioned(everything, captions, places["train"])
        about |= told
    about |= {
        "name": settings.name,
        "shape": list(everything.images.shape[1:]),
        "split": _how([split for split in SPLITS if split in given], settings.seed, by_class),
        "leaks": _leaks(rows, places),
    }
    if settings.name in ("stacked_digits", "stacked_mnist"):
        return _stack(everything, places, settings, rng), _about_stacked(about)
    if isinstance(settings, Published):
        return _published(everything, places, settings), _about_published(about, settings)
    return {split: Chosen(everything, indices) for split, indices in places.items()}, about


def _captioned(images: Arrays, captions: list[list[str]], train: Indices) -> tuple[Arrays, dict[str, Any]]:
    """The images with their captions in the language of those of the training images; what the card says of it.

    captions: texts of each image. train: places of the training images.
    """
    language = learn(text for place in train.tolist() for text in captions[place])
    told = {"words": list(language.words), "caption_length": language.length}
    return replace(images, captions=in_numbers(captions, language)), told


def check_sizes(sizes: Mapping[str, int], files: Mapping[str, int] | None = None) -> None:
    """Raise BakeoffError if a split would be empty.

    Args:
        sizes: number of images by split.
        files: what happened to the user's own files, if the images come from these, with counts.
    """
    left_out = ", ".join(f"{number} {what}" for what, number in (files or {}).items() if "left out" in what)
    for split, size in sizes.items():
        if not size:
            raise BakeoffError(
                f"data: the {split} split of {sum(sizes.values())} images would be empty"
                f"{f' ({left_out})' if left_out else ''}; add images or change data.valid and data.test"
            )


def _split_off(shares: dict[str, float], where: Any, rows: Rows, labels: Indices, rng: np.random.Generator) -> str:
    """Reassign some training images to other splits, in place; returns how, for the card.

    Classes that are too small to give every split an image are split together.

    Args:
        shares: of the images, by name of the split.
        where: name of the split of each image, (N,).
        rows: from `_rows`.
        labels: classes, (N,).
        rng: random numbers.
    """
    mine = np.flatnonzero(where == "train")
    labels = labels[mine]
    # Equal images form a group; groups are numbered in the order of their pixels.
    _, first, group = np.unique(rows[mine], axis=0, return_index=True, return_inverse=True)
    strata, sizes = np.unique(labels[first], return_counts=True)
    small = [label for label, size in zip(strata, sizes, strict=True) if not _divides(int(size), shares)]
    stratum = np.where(np.isin(labels[first], small), -1, labels[first])
    for label in np.unique(stratum):
        groups = rng.permutation(np.flatnonzero(stratum == label))
        start = 0
        for split, share in shares.items():
            count = round(share * len(groups))
            where[mine[np.isin(group, groups[start : start + count])]] = split
            start += count
    if len(strata) == 1:
        return "at random"
    if len(small) == len(strata):
        return "at random, as no class is large enough to be split by itself"
    return f"by class, those too small for that ({len(small)}) together at random" if small else "by class"


def _divides(size: int, shares: dict[str, float]) -> bool:
    """Whether every split, including what is left to train on, gets at least one of so many."""
    counts = [round(share * size) for share in shares.values()]
    return all(counts) and sum(counts) < size


def _rows(images: Arrays) -> Rows:
    """What distinguishes images, one row each: their pixels or, if there are many, a hash."""
    pixels = images.images.reshape(len(images), -1)
    if pixels.nbytes <= FEW_BYTES:
        return pixels
    digests = b"".join(hashlib.blake2b(row.data, digest_size=16).digest() for row in pixels)
    return np.frombuffer(digests, np.uint64).reshape(len(pixels), 2)


def _leaks(rows: Rows, places: dict[str, Indices]) -> int:
    """Number of test images that equal a training or validation image in every pixel."""
    known = {rows[i].tobytes() for split in ("train", "valid") for i in places[split]}
    return sum(rows[i].tobytes() in known for i in places["test"])


def _how(given: list[str], seed: int, by_class: str) -> str:
    """How the set was split, for the card; by_class: what `_split_off` returned."""
    if len(given) == len(SPLITS):
        return "as the set comes"
    rest = f"{by_class}, equal images together, seed {seed}"
    return f"{' and '.join(given)} as the set comes, the rest {rest}" if given else rest


def _some(indices: Indices, limit: int, rng: np.random.Generator) -> Indices:
    """At most `limit` of the indices, in order."""
    return indices if len(indices) <= limit else np.sort(rng.choice(indices, limit, replace=False))


def _published(images: Arrays, places: dict[str, Indices], settings: Published) -> dict[str, Chosen]:
    """The images of each split, binarised if the settings ask for it."""
    splits = {}
    for number, split in enumerate(SPLITS):
        binarise = settings.binarise
        if binarise == "dynamic" and split != "train":
            binarise = "stochastic"
        splits[split] = Chosen(images, places[split], binarise, 3 * settings.seed + number)
    return splits


def _about_published(about: dict[str, Any], settings: Published) -> dict[str, Any]:
    if settings.binarise == "none":
        return about
    return {**about, "name": f"{settings.name}, {settings.binarise} binarisation", "levels": 2}


def _stack(images: Arrays, places: dict[str, Indices], settings: Data, rng: np.random.Generator) -> dict[str, Chosen]:
    """Images of three random digits of the same split, one per colour channel: a thousand known modes.

    The label is the number that they spell, red first. After Metz et al. 2017, Unrolled Generative Adversarial
    Networks, section 3.3.1, and Che et al. 2017, Mode Regularized Generative Adversarial Networks.
    """
    sizes = {split: len(indices) for split, indices in places.items()}
    if isinstance(settings, Embedded):  # so few that each must appear in many images
        shares = {"test": settings.test, "valid": settings.valid, "train": 1 - settings.test - settings.valid}
        sizes = {split: round(share * STACKED_DIGITS) for split, share in shares.items()}
    return {
        split: Chosen(images, indices[rng.integers(len(indices), size=(sizes[split], 3))])
        for split, indices in places.items()
    }


def _about_stacked(digits: dict[str, Any]) -> dict[str, Any]:
    return {
        **digits,
        "shape": [3, *digits["shape"][1:]],
        "classes": [f"{number:03d}" for number in range(1000)],
        "split": f"digits split {digits['split']}; three of the same split drawn at random for each picture",
        "channelwise": True,
    }
