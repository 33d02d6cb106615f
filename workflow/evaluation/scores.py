"""The measures that need samples alone, taken of every draw and by every extractor, and how much each test image adds.

A measure is a mean over draws and extractors; what it was of each is kept, as the intervals of the report rest on that.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from workflow.data.tensors import read_tensors, write_tensors
from workflow.evaluation.classifier import Outputs
from workflow.evaluation.metrics.copying import Memory, Training, copying, fit_memory
from workflow.evaluation.metrics.diversity import kernel_width, renyi_modes, vendi_score
from workflow.evaluation.metrics.extrapolation import infinite_fid
from workflow.evaluation.metrics.frechet import Gaussian, fit_gaussian, frechet_distance, frechet_influence
from workflow.evaluation.metrics.inception import inception_score
from workflow.evaluation.metrics.kernel import kernel_distance, kernel_influence, mean_kernels, mean_other_kernels
from workflow.evaluation.metrics.manifold import (
    Manifold,
    fit_manifold,
    manifold_influence,
    manifold_scores,
    nearest_others,
    overlap,
)
from workflow.evaluation.metrics.modes import kl_influence, mode_coverage
from workflow.evaluation.metrics.prd import precision_and_recall
from workflow.params import Evaluate
from workflow.paths import PER_IMAGE, REAL_FEATURES

Cell = tuple[Mapping[str, Any], Mapping[str, Tensor]]  # scores of one draw by one extractor, and influence values


@dataclass(frozen=True)
class Real:
    """What there is to know of the test images' features from one extractor, the same for all models and seeds.

    classes: int64 (N,), None if the extractor does not know them. others: int64 (N, k), the nearest of the others of
    each image. kernels: float64 (N,), its mean kernel with all others. memory: of the training images.
    width: of the Gaussian kernel by which samples are alike.
    """

    gaussian: Gaussian
    manifold: Manifold
    classes: Tensor | None
    others: Tensor
    kernels: Tensor
    memory: Memory
    width: float


@dataclass(frozen=True)
class Scores:
    """Measures of samples.

    means: as they stand in `metrics.json`. repeats: by dotted path, a row a draw and a column an extractor; one column
    where no extractor is involved. per_image: by dotted path, float64 (N,), influence of each test image; its variance
    over N is that of the measure by the choice of test images.
    """

    means: dict[str, Any]
    repeats: dict[str, list[list[float]]]
    per_image: dict[str, Tensor]

    def __or__(self, other: "Scores") -> "Scores":
        """Both together."""
        return Scores(
            self.means | other.means, self.repeats | other.repeats, self.per_image | other.per_image
        )  # fmt: skip

    @property
    def pictures(self) -> dict[str, Tensor]:
        """The influence values as they are written among the pictures, float32."""
        return {f"{PER_IMAGE}{path}": values.float() for path, values in self.per_image.items()}


def combine(cells: Sequence[Sequence[Cell]]) -> Scores:
    """The scores of all draws (rows) and extractors (columns) as one: means, and what they are means of."""
    every = [cell for row in cells for cell in row]
    numbers = [[dict(_numbers(scores)) for scores, _ in row] for row in cells]
    repeats = {path: [[cell[path] for cell in row] for row in numbers] for path in numbers[0][0]}
    per_image = {path: torch.stack([values[path] for _, values in every]).mean(0) for path in every[0][1]}
    return Scores({key: mean_of([scores[key] for scores, _ in every]) for key in every[0][0]}, repeats, per_image)


def mean_of(values: Sequence[Any]) -> Any:
    """The mean of numbers, or of all numbers in dictionaries and lists of one form; of equal values their value."""
    first = values[0]
    if all(value == first for value in values):
        return first
    if isinstance(first, Mapping):
        return {key: mean_of([value[key] for value in values]) for key in first}
    if isinstance(first, Sequence):
        return [mean_of(parts) for parts in zip(*values, strict=True)]
    return fmean(values)


def _numbers(scores: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Each single number by its dotted path; no lists, and no measure's own standard deviation."""
    for key, value in scores.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float)) and not key.endswith("_std"):
            yield prefix + key, float(value)


def fit_real(found: Outputs, neighbours: int, training: Training) -> Real:
    """Of what an extractor makes of the test images and of training images."""
    points = found.features
    manifold = fit_manifold(points, neighbours)
    others = nearest_others(points, neighbours)
    memory, kernels = fit_memory(training, points), mean_other_kernels(points)
    return Real(fit_gaussian(points), manifold, found.classes, others, kernels, memory, kernel_width(points))


def write_real(reals: Sequence[Real], further: Mapping[str, Tensor]) -> None:
    """Write it for `read_real`, one of each extractor; further: tensors for others to read from the same file."""
    tensors = dict(further)
    for place, real in enumerate(reals):
        own = {
            "features": real.manifold.points,
            "squared_radii": real.manifold.squared_radii,
            "mean": real.gaussian.mean,
            "factor": real.gaussian.factor,
            "others": real.others,
            "kernels": real.kernels,
            "training": real.memory.training.points,
            "apart": real.memory.training.apart,
            "centres": real.memory.centres,
            "distances": real.memory.distances,
            "cells": real.memory.cells,
            "width": torch.tensor([real.width], dtype=torch.float64),
        }
        classes = {} if real.classes is None else {"classes": real.classes}
        tensors |= {f"{place}/{name}": tensor for name, tensor in (own | classes).items()}
    write_tensors(REAL_FEATURES, tensors)


def read_real() -> list[Real]:
    """What `write_real` wrote; raises BakeoffError if it is missing or damaged."""
    tensors, _ = read_tensors(REAL_FEATURES)
    found: list[Real] = []
    while f"{len(found)}/features" in tensors:
        prefix = f"{len(found)}/"
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        gaussian = Gaussian(own["mean"], own["factor"], len(own["features"]))
        manifold = Manifold(own["features"], own["squared_radii"])
        memory = Memory(Training(own["training"], own["apart"]), own["centres"], own["distances"], own["cells"])
        given = own.get("classes"), own["others"], own["kernels"]
        found.append(Real(gaussian, manifold, *given, memory, float(own["width"])))
    return found


def of_draw(fake: Outputs, real: Real, settings: Evaluate, classes: int) -> Cell:
    """One draw's measures by one extractor, and how much each test image adds to them.

    Those that need classes are None where the extractor has none. classes: of the data; 0: modes are not for the
    extractor to tell.
    """
    points, neighbours = real.manifold.points, settings.neighbours
    kid, kid_std = kernel_distance(fake.features, points, settings.kid_subsets, settings.kid_subset_size)
    score, score_std = (None, None) if fake.logits is None else inception_score(fake.logits, settings.splits)
    found = overlap(fit_manifold(fake.features, neighbours), real.manifold)
    scores: dict[str, Any] = {
        "fid": frechet_distance(fit_gaussian(fake.features), real.gaussian),
        "kid": kid,
        "kid_std": kid_std,
        "inception_score": score,
        "inception_score_std": score_std,
        **manifold_scores(found, neighbours),
        "modes": None,
        "vendi": vendi_score(fake.features),
        "rke": renyi_modes(fake.features, real.width),
    }
    influence = manifold_influence(found, real.others)
    scores["copying"], influence["copying.c_t"] = copying(fake.features, real.memory)
    scores["prd"], moved = precision_and_recall(fake.features, points)
    influence |= {f"prd.{name}": values for name, values in moved.items()}
    if classes and fake.classes is not None and real.classes is not None:
        scores["modes"] = mode_coverage(fake.classes, real.classes, classes)
        influence["modes.kl"] = kl_influence(fake.classes, real.classes, classes)
    return scores, influence


def of_all_draws(fakes: Sequence[Outputs], real: Real) -> Cell:
    """What one extractor sees in all draws together."""
    features, points = torch.cat([fake.features for fake in fakes]), real.manifold.points
    distance = frechet_influence(fit_gaussian(features), real.gaussian, points)
    influence = {
        "fid": distance,
        "fid_infinity": distance,
        "kid": kernel_influence(mean_kernels(points, features), real.kernels),
    }
    return {"fid_infinity": infinite_fid(features, real.gaussian)}, influence
