"""Data that need no network: scikit-learn's digits, and mixtures of Gaussians in the plane."""

import math
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np

from workflow.data.arrays import Array, Arrays, read_arrays, write_arrays
from workflow.data.splits import check_sizes, write_raw
from workflow.params import Embedded

POINTS = 25_000  # points of a two-dimensional mixture, over all splits
POINT_LEVELS = 256
MIXTURES = {  # centres, standard deviation, and half the width of the square that is divided into levels
    # Metz et al. 2017, Unrolled Generative Adversarial Networks, appendix A
    "ring": ([(2 * math.cos(a), 2 * math.sin(a)) for a in (2 * math.pi * k / 8 for k in range(8))], 0.02, 2.5),
    # Dumoulin et al. 2017, Adversarially Learned Inference, section 4.4, as in Lin et al. 2018, PacGAN
    "grid": ([(float(x), float(y)) for x in range(-4, 5, 2) for y in range(-4, 5, 2)], 0.05, 5.0),
}
DIGITS = {
    "source": "UCI Optical Recognition of Handwritten Digits (Alpaydin & Kaynak 1998), as in scikit-learn",
    "licence": "CC BY 4.0",
    "levels": 17,
    "classes": [str(digit) for digit in range(10)],
}


def download_digits(folder: Path) -> None:
    """Write the 1,797 digits, 8x8 pixels of 17 levels, into `folder`."""
    # As sklearn.datasets.load_digits, which takes seconds to import. Each row has 64 pixels and the digit.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    rows = np.loadtxt(str(file), np.int64, delimiter=",")
    write_raw(folder, Arrays(rows[:, :-1].astype(np.uint8).reshape(-1, 1, 8, 8), rows[:, -1]), **DIGITS)


def download_mixture(name: str, folder: Path) -> None:
    """Write the centres of the mixture `name` into `folder`."""
    write_arrays(folder / "mixture.safetensors", {"centres": np.array(MIXTURES[name][0], np.float32)})


def prepare_mixture(settings: Embedded, raw: Path) -> tuple[dict[str, Arrays], dict[str, Any]]:
    """Draw points of a mixture of Gaussians; each becomes an image of two pixels, its coordinates as levels.

    Returns the splits and the fields of the card. Raises BakeoffError if a split would be empty.
    """
    centres = read_arrays(raw / "mixture.safetensors")["centres"].astype(np.float64)
    _, std, half = MIXTURES[settings.name]
    rng = np.random.default_rng(settings.seed)
    shares = {"test": settings.test, "valid": settings.valid, "train": 1 - settings.test - settings.valid}
    sets = {}
    for split, share in shares.items():
        labels = rng.integers(len(centres), size=round(share * POINTS))
        points = centres[labels] + std * rng.standard_normal((len(labels), 2))
        sets[split] = Arrays(_to_levels(points, half).round().astype(np.uint8).reshape(-1, 1, 1, 2), labels)
    check_sizes({split: len(points) for split, points in sets.items()})
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


def _to_levels(points: Array, half: float) -> Array:
    """Scale coordinates -half..half to 0..levels-1, without rounding."""
    return (points + half) * ((POINT_LEVELS - 1) / (2 * half))
