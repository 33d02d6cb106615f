"""Do the measures notice what is known to be wrong? Each is taken of real images that were damaged on purpose.

After Räisä, van Breugel & van der Schaar 2025, All Current Generative Fidelity and Diversity Metrics are Flawed. Every
damage comes in growing strengths; what is made of the values is in `trust.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from scipy.ndimage import gaussian_filter
from torch import Generator, Tensor

from workflow.data.tensors import ImageSet
from workflow.evaluation.columns import GENERATION
from workflow.evaluation.evaluator import Evaluator
from workflow.evaluation.metrics.baseline import PixelHistogram
from workflow.evaluation.metrics.copying import Training
from workflow.evaluation.metrics.neighbours import spread
from workflow.evaluation.scores import fit_real
from workflow.evaluation.statistics import Table
from workflow.evaluation.trust import COPIES, FEWER
from workflow.params import Evaluate
from workflow.random_streams import Stream, make_generator

SPLITS = 5  # of the test images, each into three parts
MOST, LEAST = 500, 8  # images in a part; with fewer there is no audit
TRAINING = 10 * MOST  # training images that copies are made of and looked for among, at most
SUBSETS = 10  # for KID, at most
SLIGHT, STRONG = 0.02, 0.25  # standard deviation of noise, as a share of the greatest pixel value
Values = dict[str, Table]  # by key of the column: a row a split, a column an extractor


@dataclass(frozen=True)
class Supply:
    """What damaged images are made of.

    images: those that are damaged. spare: other test images. train: training images. levels: pixel values are
    0..levels-1. classes: their number, 0 if there are none.
    """

    images: ImageSet
    spare: ImageSet
    train: Tensor
    levels: int
    classes: int


@dataclass(frozen=True)
class Damage:
    """A way to spoil images.

    Args:
        strengths: growing, none of them 0.
        make: from a supply, a strength and a source of random numbers to images, uint8 (N, C, H, W).
        classes: it needs images with classes.
        pixels: strengths are lengths in pixels, not shares, and images need at least 3x3 of these.

    """

    strengths: tuple[float, ...]
    make: Callable[[Supply, float, Generator], Tensor]
    classes: bool = False
    pixels: bool = False


def shifted(supply: Supply, strength: float, _: Generator) -> Tensor:
    """Every pixel brighter by a share of the greatest value."""
    return _whole(supply.images.images.float() + strength * (supply.levels - 1), supply.levels)


def blurred(supply: Supply, strength: float, _: Generator) -> Tensor:
    """Smoothed by a Gaussian with a standard deviation in pixels."""
    images = gaussian_filter(supply.images.images.float().numpy(), (0, 0, strength, strength), mode="nearest")
    return _whole(torch.from_numpy(images), supply.levels)


def noisy(supply: Supply, strength: float, random: Generator) -> Tensor:
    """Strong noise in a share of the images."""
    images = supply.images.images.clone()
    count = _part(strength, images)
    images[:count] = _with_noise(images[:count], STRONG, supply.levels, random)
    return images


def dropped(supply: Supply, strength: float, random: Generator) -> Tensor:
    """Without a share of the classes, at least one; images of the others take their place."""
    order = torch.randperm(supply.classes, generator=random)
    gone = order[: max(1, round(strength * supply.classes))]
    kept = [part.images[~torch.isin(part.labels, gone)] for part in (supply.images, supply.spare)]
    return torch.cat(kept)[: len(supply.images)]


def repeated(supply: Supply, strength: float, _: Generator) -> Tensor:
    """One image in place of a share of them."""
    images = supply.images.images.clone()
    images[: _part(strength, images)] = images[0]
    return images


def copied(supply: Supply, strength: float, random: Generator) -> Tensor:
    """Training images with slight noise in place of a share of the images."""
    images = supply.images.images.clone()
    count = _part(strength, images)
    chosen = torch.randint(len(supply.train), (count,), generator=random)
    images[:count] = _with_noise(supply.train[chosen], SLIGHT, supply.levels, random)
    return images


def lopsided(supply: Supply, strength: float, _: Generator) -> Tensor:
    """Images of the second half of the classes in place of a share of those of the first half."""
    images, first = supply.images.images.clone(), supply.classes // 2
    others = supply.spare.images[supply.spare.labels >= first]
    places = (supply.images.labels < first).nonzero().flatten()
    places = places[: min(round(strength * len(places)), len(others))]
    images[places] = others[: len(places)]
    return images


def fewer(supply: Supply, strength: float, _: Generator) -> Tensor:
    """Without a share of the images."""
    images = supply.images.images
    return images[: max(LEAST, len(images) - _part(strength, images))]


DAMAGES = {
    "mean shift": Damage((0.05, 0.1, 0.2, 0.4), shifted),
    "blur": Damage((0.4, 0.6, 1.0, 2.0), blurred, pixels=True),
    "noise in a share": Damage((0.05, 0.2, 0.5, 1.0), noisy),
    "classes dropped": Damage((0.1, 0.2, 0.3, 0.5), dropped, classes=True),
    "classes out of proportion": Damage((0.2, 0.4, 0.6, 0.8), lopsided, classes=True),
    "one image repeated": Damage((0.05, 0.2, 0.5, 0.9), repeated),
    COPIES: Damage((0.1, 0.25, 0.5, 1.0), copied),
    FEWER: Damage((0.25, 0.5, 0.75, 0.9), fewer),
}


def _only_noise(supply: Supply, random: Generator) -> Tensor:
    return torch.randint(supply.levels, supply.images.images.shape, dtype=torch.uint8, generator=random)


def _part(share: float, images: Tensor) -> int:
    return max(1, round(share * len(images)))


def _with_noise(images: Tensor, deviation: float, levels: int, random: Generator) -> Tensor:
    noise = torch.randn(images.shape, generator=random) * deviation * (levels - 1)
    return _whole(images.float() + noise, levels)


def _whole(images: Tensor, levels: int) -> Tensor:
    return images.round().clamp(0, levels - 1).to(torch.uint8)


def audit(evaluator: Evaluator) -> dict[str, Any]:
    """Every measure of samples of real images, damaged and not, and of what is no image at all.

    The test images are cut in three at random, `SPLITS` times: one part is damaged, one is what it is compared with,
    and one has images for what a damage takes away. Parts have at most `MOST` images. Of data with too few test images
    nothing is measured.
    """
    size = min(len(evaluator.test) // 3, MOST)
    kept = evaluator.train.images[spread(len(evaluator.train), TRAINING)]
    labels = evaluator.train.labels[spread(len(evaluator.train), TRAINING)]
    found: dict[str, Any] = {"counts": {"images": size, "training": len(kept), "splits": SPLITS}}
    if size < LEAST:
        return {**found, "clean": {}, "controls": {}, "damages": {}}
    evaluator = replace(
        evaluator,
        train=ImageSet(kept, labels),
        settings=_settings(evaluator.settings, size),
        measured=None,
        teacher=None,  # the truth is not on trial
    )
    trainings = evaluator.trainings(evaluator.outputs(kept[:1])[0].features.shape[1])
    splits = [_split(evaluator, trainings, size, number) for number in range(SPLITS)]
    found["clean"] = _measure(splits, lambda supply, _: supply.images.images)
    histogram = PixelHistogram(kept, evaluator.card.levels)
    found["controls"] = {
        "noise": _measure(splits, _only_noise),
        "independent pixels": _measure(splits, lambda supply, random: histogram.sample(len(supply.images), random)),
    }
    found["damages"] = {
        name: {
            "strengths": list(damage.strengths),
            "in_pixels": damage.pixels,
            "values": list(_damaged(splits, damage)),
        }
        for name, damage in DAMAGES.items()
        if _applies(damage, evaluator)
    }
    return found


def _settings(settings: Evaluate, size: int) -> Evaluate:
    """As for models, as far as so few images allow it."""
    subsets = min(settings.kid_subsets, SUBSETS) if size > settings.kid_subset_size else 1  # which would all be alike
    fewest = {"neighbours": min(settings.neighbours, LEAST - 1), "splits": min(settings.splits, LEAST)}
    return settings.model_copy(update={**fewest, "kid_subsets": subsets})


def _applies(damage: Damage, evaluator: Evaluator) -> bool:
    sides = evaluator.card.shape[1:]
    return (len(evaluator.card.classes) > 1 or not damage.classes) and (min(sides) >= 3 or not damage.pixels)


def _split(evaluator: Evaluator, trainings: list[Training], size: int, number: int) -> tuple[Supply, Evaluator]:
    """What is damaged in a split, and the evaluator with the images that it is compared with as its test images."""
    random, test = make_generator(torch.device("cpu"), 0, Stream.AUDIT, number), evaluator.test
    order = torch.randperm(len(test), generator=random)
    images, real, spare = (ImageSet(test.images[rows], test.labels[rows]) for rows in order[: 3 * size].split(size))
    seen = zip(evaluator.outputs(real.images), trainings, strict=True)
    measured = [fit_real(found, evaluator.settings.neighbours, training) for found, training in seen]
    card = evaluator.card
    supply = Supply(images, spare, evaluator.train.images, card.levels, len(card.classes))
    return supply, replace(evaluator, test=real, measured=measured)


def _damaged(splits: list[tuple[Supply, Evaluator]], damage: Damage) -> Iterator[Values]:
    for strength in damage.strengths:

        def make(supply: Supply, random: Generator, strength: float = strength) -> Tensor:
            return damage.make(supply, strength, random)

        yield _measure(splits, make)


def _measure(splits: list[tuple[Supply, Evaluator]], make: Callable[[Supply, Generator], Tensor]) -> Values:
    """Each measure that has a value for these images."""
    tables: dict[str, list[list[float]]] = {}
    for number, (supply, evaluator) in enumerate(splits):
        images = make(supply, make_generator(torch.device("cpu"), 0, Stream.AUDIT, number, 1))
        scores = evaluator.scores([images]) | evaluator.memorisation([images])
        for column in GENERATION:
            if row := scores.repeats.get(column.path or column.key):
                tables.setdefault(column.key, []).append(row[0])
    return {key: rows for key, rows in tables.items() if len(rows) == len(splits)}
