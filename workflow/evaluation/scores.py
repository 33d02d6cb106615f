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
from workflow.evaluation.metrics.fld import generalisation_gap
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
class Points:
    """What the distances between samples and test images need of the latter's features from one extractor.

    others: int64 (N, k), the nearest of the others of each image. kernels: float64 (N,), its mean kernel with all
    others.
    """

    gaussian: Gaussian
    manifold: Manifold
    others: Tensor
    kernels: Tensor


@dataclass(frozen=True)
class Real(Points):
    """All that there is to know of the test images' features from one extractor, the same for all models and seeds.

    classes: int64 (N,), None if the extractor does not know them. memory: of the training images. width: of the
    Gaussian kernel by which samples are alike.
    """

    classes: Tensor | None
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


def fit_points(features: Tensor, neighbours: int) -> Points:
    """Of the test images' features, float32 (N, d), by one extractor; neighbours: k."""
    others, kernels = nearest_others(features, neighbours), mean_other_kernels(features)
    return Points(fit_gaussian(features), fit_manifold(features, neighbours), others, kernels)


def fit_real(found: Outputs, neighbours: int, training: Training) -> Real:
    """Of what an extractor makes of the test images and of training images."""
    points = found.features
    own = vars(fit_points(points, neighbours))
    return Real(**own, classes=found.classes, memory=fit_memory(training, points), width=kernel_width(points))


def write_real(reals: Sequence[Real], further: Mapping[str, Tensor]) -> None:
    """Write it for `read_real`, one of each extractor; further: tensors for others to read from the same file."""
    tensors = dict(further)
    for place, real in enumerate(reals):
        own = {
            **tensors_of(real),
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


def tensors_of(points: Points) -> dict[str, Tensor]:
    """As they are written, for `points_of`."""
    return {
        "features": points.manifold.points,
        "squared_radii": points.manifold.squared_radii,
        "mean": points.gaussian.mean,
        "factor": points.gaussian.factor,
        "others": points.others,
        "kernels": points.kernels,
    }


def points_of(tensors: Mapping[str, Tensor]) -> Points:
    """What `tensors_of` made these of, among others."""
    gaussian = Gaussian(tensors["mean"], tensors["factor"], len(tensors["features"]))
    manifold = Manifold(tensors["features"], tensors["squared_radii"])
    return Points(gaussian, manifold, tensors["others"], tensors["kernels"])


def read_real() -> list[Real]:
    """What `write_real` wrote; raises BakeoffError if it is missing or damaged."""
    found: list[Real] = []
    for own in read_numbered():
        memory = Memory(Training(own["training"], own["apart"]), own["centres"], own["distances"], own["cells"])
        known = vars(points_of(own))
        found.append(Real(**known, classes=own.get("classes"), memory=memory, width=float(own["width"])))
    return found


def read_numbered(before: str = "") -> list[dict[str, Tensor]]:
    """The tensors of each extractor, whose names begin with its number, and with what may stand before that."""
    tensors, _ = read_tensors(REAL_FEATURES)
    found: list[dict[str, Tensor]] = []
    while f"{before}{len(found)}/features" in tensors:
        prefix = f"{before}{len(found)}/"
        found.append({name.removeprefix(prefix): held for name, held in tensors.items() if name.startswith(prefix)})
    return found


def of_draw(fake: Outputs, real: Real, settings: Evaluate, classes: int) -> Cell:
    """One draw's measures by one extractor, and how much each test image adds to them.

    Those that need classes are None where the extractor has none. classes: of the data; 0: modes are not for the
    extractor to tell.
    """
    points = real.manifold.points
    distances, overlaps, influence = _nearness(fake.features, real, settings)
    score, score_std = (None, None) if fake.logits is None else inception_score(fake.logits, settings.splits)
    scores: dict[str, Any] = {
        **distances,
        "inception_score": score,
        "inception_score_std": score_std,
        **overlaps,
        "modes": None,
        "vendi": vendi_score(fake.features),
        "rke": renyi_modes(fake.features, real.width),
    }
    scores["copying"], influence["copying.c_t"] = copying(fake.features, real.memory)
    gap, influence["copying.fld_gap"] = generalisation_gap(fake.features, real.memory.training.points, points)
    scores["copying"]["fld_gap"] = gap
    scores["prd"], moved = precision_and_recall(fake.features, points)
    influence |= {f"prd.{name}": values for name, values in moved.items()}
    if classes and fake.classes is not None and real.classes is not None:
        scores["modes"] = mode_coverage(fake.classes, real.classes, classes)
        influence["modes.kl"] = kl_influence(fake.classes, real.classes, classes)
    return scores, influence


def near(fake: Outputs, real: Points, settings: Evaluate) -> Cell:
    """Those of one draw's measures that hold samples against test images: FID, KID, precision and the like."""
    distances, overlaps, influence = _nearness(fake.features, real, settings)
    return distances | overlaps, influence


def _nearness(
    features: Tensor, real: Points, settings: Evaluate
) -> tuple[dict[str, float], dict[str, float], dict[str, Tensor]]:
    """Distances between distributions; how far their manifolds overlap, and how much each test image adds to that."""
    kid, kid_std = kernel_distance(features, real.manifold.points, settings.kid_subsets, settings.kid_subset_size)
    distances = {"fid": frechet_distance(fit_gaussian(features), real.gaussian), "kid": kid, "kid_std": kid_std}
    found = overlap(fit_manifold(features, settings.neighbours), real.manifold)
    return distances, manifold_scores(found, settings.neighbours), manifold_influence(found, real.others)


def of_all_draws(fakes: Sequence[Outputs], real: Points) -> Cell:
    """What one extractor sees in all draws together."""
    features, points = torch.cat([fake.features for fake in fakes]), real.manifold.points
    distance = frechet_influence(fit_gaussian(features), real.gaussian, points)
    influence = {
        "fid": distance,
        "fid_infinity": distance,
        "kid": kernel_influence(mean_kernels(points, features), real.kernels),
    }
    return {"fid_infinity": infinite_fid(features, real.gaussian)}, influence
