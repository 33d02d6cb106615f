"""The data sets: fetching each as it comes, and turning it into the three splits that every family sees."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from workflow.images import ImageSet, read_tensors, write_tensors
from workflow.params import Data


def download(name: str, folder: Path) -> None:
    """Fetch the data set `name` into `folder`. The digits come with scikit-learn: nothing is fetched."""
    from sklearn.datasets import load_digits

    assert name == "digits"  # the schema knows no other yet
    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.uint8)).unsqueeze(1)
    write_tensors(
        folder / "images.safetensors", {"images": images, "labels": torch.from_numpy(digits.target.astype(np.int64))}
    )


def prepare(settings: Data, folder: Path) -> tuple[dict[str, ImageSet], dict[str, Any]]:
    """Split what `download` fetched; returns the splits and what the card says of them.

    Each class is split by itself, so that all splits have the same mixture. Images that occur twice go to the same
    split, so that none of the test images has been trained on.
    """
    tensors, _ = read_tensors(folder / "images.safetensors")
    everything = ImageSet(tensors["images"], tensors["labels"])
    rng = np.random.default_rng(settings.seed)
    where = _split(everything, {"test": settings.test, "valid": settings.valid}, rng)
    sets = {
        split: ImageSet(everything.images[indices], everything.labels[indices])
        for split, indices in ((s, torch.from_numpy(np.flatnonzero(where == s))) for s in ("train", "valid", "test"))
    }
    return sets, {
        "name": "digits",
        "source": "UCI Optical Recognition of Handwritten Digits (Alpaydin & Kaynak 1998), as in scikit-learn",
        "licence": "CC BY 4.0",
        "shape": list(everything.images.shape[1:]),
        "levels": 17,
        "classes": [str(digit) for digit in range(10)],
        "split": f"by class, equal images together, seed {settings.seed}",
    }


def _split(images: ImageSet, shares: dict[str, float], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """The split of each image: (N,) of "train" and the keys of `shares`."""
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
