"""The data sets: fetching each as it comes, and turning it into the three splits that every family sees."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workflow.images import ImageSet, read_tensors, write_tensors
from workflow.params import Data

STACKED = 30_000  # pictures of three digits each, over all splits: thirty for each of the thousand numbers
POINTS = 25_000  # points of a two-dimensional mixture, over all splits
POINT_LEVELS = 256
MIXTURES = {  # centres, standard deviation and half the width of the square that the levels divide
    # Metz et al. 2017, Unrolled Generative Adversarial Networks, appendix A
    "ring": ([(2 * math.cos(a), 2 * math.sin(a)) for a in (2 * math.pi * k / 8 for k in range(8))], 0.02, 2.5),
    # Dumoulin et al. 2017, Adversarially Learned Inference, section 4.4, as in Lin et al. 2018, PacGAN
    "grid": ([(float(x), float(y)) for x in range(-4, 5, 2) for y in range(-4, 5, 2)], 0.05, 5.0),
}
DIGITS = {
    "source": "UCI Optical Recognition of Handwritten Digits (Alpaydin & Kaynak 1998), as in scikit-learn",
    "licence": "CC BY 4.0",
    "levels": 17,
}


def download(name: str, folder: Path) -> None:
    """Fetch the data set `name` into `folder`. The digits come with scikit-learn, mixtures are a formula."""
    if name in MIXTURES:
        write_tensors(folder / "mixture.safetensors", {"centres": torch.tensor(MIXTURES[name][0])})
        return
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.uint8)).unsqueeze(1)
    write_tensors(
        folder / "images.safetensors", {"images": images, "labels": torch.from_numpy(digits.target.astype(np.int64))}
    )


def prepare(settings: Data, folder: Path) -> tuple[dict[str, ImageSet], dict[str, Any]]:
    """Make the splits of what `download` fetched; returns them and what the card says of them."""
    if settings.name in MIXTURES:
        return _points(settings, folder)
    tensors, _ = read_tensors(folder / "images.safetensors")
    everything = ImageSet(tensors["images"], tensors["labels"])
    rng = np.random.default_rng(settings.seed)
    where = _split(everything, {"test": settings.test, "valid": settings.valid}, rng)
    sets = {
        split: ImageSet(everything.images[indices], everything.labels[indices])
        for split, indices in ((s, torch.from_numpy(np.flatnonzero(where == s))) for s in ("train", "valid", "test"))
    }
    about = {
        **DIGITS,
        "name": settings.name,
        "shape": list(everything.images.shape[1:]),
        "classes": [str(digit) for digit in range(10)],
        "split": f"by class, equal images together, seed {settings.seed}",
    }
    return (sets, about) if settings.name == "digits" else (_stack(sets, settings, rng), _about_stacked(about))


def _split(images: ImageSet, shares: dict[str, float], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """The split of each image: (N,) of "train" and the keys of `shares`.

    Each class is split by itself, so that all splits have the same mixture. Images that occur twice go to the same
    split, so that none of the test images has been trained on.
    """
    where = np.full(len(images), "train", dtype="U8")
    _, group = np.unique(images.images.flatten(1).numpy(), axis=0, return_inverse=True)
    first_label = images.labels.numpy()[np.unique(group, return_index=True)[1]]
    for label in np.unique(first_label):
        groups = rng.permutation(np.flatnonzero(first_label == label))
        start = 0
        for split, share in shares.items():
            count = round(share * len(groups))
            where[np.isin(group, groups[start : start + count])] = split
            start += count
    return where


def _stack(sets: dict[str, ImageSet], settings: Data, rng: np.random.Generator) -> dict[str, ImageSet]:
    """Pictures of three digits of the same split, drawn at random, one a colour channel: a thousand known modes.

    The label is the number that they spell, red first. After Metz et al. 2017, section 3.3.1, and Che et al. 2017.
    """
    shares = {"test": settings.test, "valid": settings.valid, "train": 1 - settings.test - settings.valid}
    stacked = {}
    for split, digits in sets.items():
        chosen = torch.from_numpy(rng.integers(len(digits), size=(round(shares[split] * STACKED), 3)))
        labels = digits.labels[chosen] @ torch.tensor([100, 10, 1])
        stacked[split] = ImageSet(digits.images[chosen].squeeze(2), labels)
    return stacked


def _about_stacked(digits: dict[str, Any]) -> dict[str, Any]:
    return {
        **digits,
        "shape": [3, *digits["shape"][1:]],
        "classes": [f"{number:03d}" for number in range(1000)],
        "split": f"digits split {digits['split']}; three of the same split drawn at random for each picture",
        "channelwise": True,
    }


def _points(settings: Data, folder: Path) -> tuple[dict[str, ImageSet], dict[str, Any]]:
    """Points of a mixture of Gaussians, each as an image of two pixels: its coordinates as levels."""
    centres = read_tensors(folder / "mixture.safetensors")[0]["centres"].double()
    _, std, half = MIXTURES[settings.name]
    rng = np.random.default_rng(settings.seed)
    shares = {"test": settings.test, "valid": settings.valid, "train": 1 - settings.test - settings.valid}
    sets = {}
    for split, share in shares.items():
        labels = torch.from_numpy(rng.integers(len(centres), size=round(share * POINTS)))
        points = centres[labels] + std * torch.from_numpy(rng.standard_normal((len(labels), 2)))
        sets[split] = ImageSet(_to_levels(points, half).round().to(torch.uint8).view(-1, 1, 1, 2), labels)
    return sets, {
        "name": settings.name,
        "source": f"drawn from a mixture of {len(centres)} Gaussians with standard deviation {std}",
        "licence": "none needed",
        "shape": [1, 1, 2],
        "levels": POINT_LEVELS,
        "classes": [str(mode) for mode in range(len(centres))],
        "split": f"each split drawn by itself, seed {settings.seed}",
        "mixture": {"centres": _to_levels(centres, half).tolist(), "std": std * (POINT_LEVELS - 1) / (2 * half)},
    }


def _to_levels(points: Tensor, half: float) -> Tensor:
    """Coordinates -half..half as numbers 0..levels-1, not rounded."""
    return (points + half) * ((POINT_LEVELS - 1) / (2 * half))
