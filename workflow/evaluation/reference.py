"""What models are held against: real images against real images, independent pixels, formats and classifiers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workflow.evaluation.evaluator import Evaluator
from workflow.evaluation.metrics import formats
from workflow.evaluation.metrics.baseline import PixelHistogram
from workflow.evaluation.metrics.neighbours import spread
from workflow.evaluation.metrics.probe import accuracy
from workflow.evaluation.metrics.truth import divergence
from workflow.evaluation.other_features import of_each
from workflow.evaluation.scores import Scores
from workflow.evaluation.statistics import estimate
from workflow.models.base import bits_per_dim
from workflow.paths import KEPT
from workflow.random_streams import Stream, make_generator

PACKED = 2000  # test images that are written in general formats, at most


def reference(evaluator: Evaluator, count: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Real against real, the floor of every distance, and the baseline to beat; and how much each test image adds.

    `count` training images (all, if there are fewer) stand where a model's samples do, in as many draws as there are
    training images for, none of which is in two.
    """
    cpu, draws = torch.device("cpu"), evaluator.settings.draws
    order = torch.randperm(len(evaluator.train), generator=make_generator(cpu, 0, Stream.REAL_SAMPLES))
    subsets = [rows for rows in order.split(count)[:draws] if len(rows) == min(count, len(order))]
    histogram = PixelHistogram(evaluator.train.images, evaluator.card.levels)
    random = make_generator(cpu, 0, Stream.HISTOGRAM_SAMPLES)
    real, real_otherwise = _with_others(evaluator, [evaluator.train.images[rows] for rows in subsets])
    noise = [histogram.sample(len(subsets[0]), random) for _ in range(draws)]
    baseline, baseline_otherwise = _with_others(evaluator, noise)
    shape = tuple(evaluator.test.images.shape[1:])
    assert len(shape) == 3
    bits = bits_per_dim(histogram.log_prob(evaluator.test.images), shape)
    baseline.per_image["bits_per_dim"] = bits
    train, test = (images.images.flatten(1) for images in (evaluator.probed, evaluator.test))
    few = evaluator.few_labels(train, test)
    found: dict[str, Any] = {
        "counts": {"samples": len(subsets[0]), "test": len(evaluator.test)},
        "real": {**real.means, "repeats": real.repeats, **real_otherwise},
        "histogram_model": {
            **baseline.means,
            "repeats": baseline.repeats,
            "bits_per_dim": float(bits.mean()),
            **baseline_otherwise,
        },
        "uniform_bits_per_dim": float(torch.tensor(evaluator.card.levels).double().log2()),
        "pixel_probe_accuracy": accuracy(evaluator.probe(train, test)) if evaluator.card.classes else None,
        "formats": _formats(evaluator.test.images[spread(len(evaluator.test), PACKED)]),
        "pixel_few_labels": {**few.means["few_labels"], "repeats": few.repeats},
    }
    if evaluator.teacher:
        found["teacher"] = _of_teacher(evaluator.true_bits)
        baseline.per_image["true_kl"] = divergence(bits, evaluator.true_bits)
        found["histogram_model"]["true_kl"] = float(baseline.per_image["true_kl"].mean())
    rows = {"real": real, "histogram_model": baseline, "raw_pixels": few}
    kept: dict[str, Tensor] = {}
    for row, (scores, curves) in _classifiers(evaluator).items():
        rows[row] = scores
        found[row] = {**scores.means, "repeats": scores.repeats}
        kept |= {f"{row}/{KEPT}{name}": curve.float() for name, curve in curves.items()}
    per_image = {f"{row}/{name}": values for row, scores in rows.items() for name, values in scores.pictures.items()}
    return found, per_image | kept | {name: x for one in evaluator.others for name, x in one.tensors.items()}


def _with_others(evaluator: Evaluator, draws: Sequence[Tensor]) -> tuple[Scores, dict[str, Any]]:
    """The measures of samples, uint8 (N, C, H, W) a draw, by the main extractor and by others."""
    return evaluator.scores(draws), of_each(evaluator.others, draws)[0]


def _classifiers(evaluator: Evaluator) -> dict[str, tuple[Scores, dict[str, Tensor]]]:
    """What a class-conditional density is held against as a classifier; {} without classes, or with very many."""
    if not len(evaluator.judged):
        return {}
    naive = {"naive_bayes": evaluator.naive_bayes()}
    known = evaluator.real[0].classes is not None
    return {**naive, "classifier": evaluator.discriminative()} if known else naive


def _of_teacher(bits: Tensor) -> dict[str, Any]:
    """The entropy of the data in bits/dim, by Monte Carlo, and its 95 % interval. bits: of test images, (N,)."""
    found = estimate([[float(bits.mean())]], float(bits.var()) / len(bits))
    assert found
    return {"bits_per_dim": found.mean, "interval": list(found.interval)}


def _formats(images: Tensor) -> dict[str, float]:
    """bits/dim of images, uint8 (N, C, H, W), in each general lossless format."""
    return {name: 8 * size / images.numel() for name, size in formats.sizes(images).items()}
