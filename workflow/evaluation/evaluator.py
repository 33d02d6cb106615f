"""Every measure that the theory allows, for every family the same.

What is measured depends on what a model can do (the protocols of `models/base.py`), never on which family it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workflow.data.arrays import Card, read_card
from workflow.data.tensors import ImageSet, read_split, read_tensors, write_tensors
from workflow.evaluation.batching import in_batches
from workflow.evaluation.classifier import Classifier, FeatureExtractor, Outputs, load_classifier
from workflow.evaluation.inception import Inception, load_inception
from workflow.evaluation.metrics.baseline import PixelHistogram
from workflow.evaluation.metrics.frechet import Gaussian, fit_gaussian, frechet_distance
from workflow.evaluation.metrics.inception import inception_score
from workflow.evaluation.metrics.kernel import kernel_distance
from workflow.evaluation.metrics.manifold import Manifold, fit_manifold, manifold_scores
from workflow.evaluation.metrics.modes import mode_coverage, nearest_mode
from workflow.evaluation.metrics.neighbours import memorisation, nearest, spread
from workflow.evaluation.metrics.operations import operations
from workflow.evaluation.metrics.out_of_distribution import auroc, out_of_distribution_inputs
from workflow.evaluation.metrics.probe import probe_accuracy
from workflow.evaluation.metrics.sharpness import sharpness
from workflow.models.base import (
    HasComplete,
    HasEncode,
    HasInterpolate,
    HasLogProb,
    HasReconstruct,
    HasSampleGiven,
    Model,
    bits_per_dim,
)
from workflow.models.taxonomy import BITS_KINDS
from workflow.params import Evaluate, Params
from workflow.paths import EXTRACTOR, REAL_FEATURES
from workflow.random_streams import Stream, make_generator

LOADERS: dict[str, Callable[[Path], Classifier | Inception]] = {"trained": load_classifier, "inception": load_inception}
SHOWN, WALKS, WALK_STEPS = 16, 6, 10  # pictures for the report
CLASS_ROWS, COLUMNS = 6, 20  # of the grid with a column a class
PROBED = 20_000  # training images that a linear probe learns from, at the most
SOME = 2048  # images that are turned into float64 at once
OUTSIDE = 100  # out-of-distribution inputs of each kind
BITS = "bits of "  # begins the names of the bits/dim among the pictures


@dataclass(frozen=True)
class Real:
    """What there is to know of the test images' features, the same for all models and seeds.

    classes: int64 (N,), None if the extractor does not know them.
    """

    gaussian: Gaussian
    manifold: Manifold
    classes: Tensor | None


@dataclass(frozen=True)
class Evaluator:
    """The extractor of features and the real images against which all samples are judged.

    measured: what `real` is, where that is known.
    """

    extractor: FeatureExtractor
    train: ImageSet
    test: ImageSet
    card: Card
    settings: Evaluate
    measured: Real | None = None

    def outputs(self, images: Tensor) -> Outputs:
        """Features and logits of images, uint8 (N, C, H, W)."""
        return self.extractor.outputs(images, self.settings.batch_size)

    def over(
        self,
        model: Model,
        work: Callable[[Tensor, torch.Generator], Tensor],
        x: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """What `work` makes of each row of x, in batches on the model's device; on the CPU."""

        def of_batch(rows: range, random: torch.Generator) -> Tensor:
            return work(x[rows.start : rows.stop].to(model.device), random).cpu()

        return torch.cat(in_batches(of_batch, len(x), self.settings.batch_size, generator))

    @cached_property
    def real(self) -> Real:
        """Of the test images."""
        if self.measured:
            return self.measured
        found = self.outputs(self.test.images)
        manifold = fit_manifold(found.features, self.settings.neighbours)
        return Real(fit_gaussian(found.features), manifold, found.classes)

    def scores(self, samples: Tensor) -> dict[str, Any]:
        """The measures that need samples alone, uint8 (N, C, H, W), against the test images.

        Those that need classes are None where the extractor has none.
        """
        fake, real, settings = self.outputs(samples), self.real, self.settings
        points = real.manifold.points
        kid, kid_std = kernel_distance(fake.features, points, settings.kid_subsets, settings.kid_subset_size)
        score, score_std = (None, None) if fake.logits is None else inception_score(fake.logits, settings.splits)
        manifold = fit_manifold(fake.features, settings.neighbours)
        return {
            "fid": frechet_distance(fit_gaussian(fake.features), real.gaussian),
            "kid": kid,
            "kid_std": kid_std,
            "inception_score": score,
            "inception_score_std": score_std,
            **manifold_scores(manifold, real.manifold, settings.neighbours),
            **self._modes(samples, fake.classes, real.classes),
            "sharpness": self._sharpness(samples),
        }

    def _modes(self, samples: Tensor, fake: Tensor | None, real: Tensor | None) -> dict[str, Any]:
        """Coverage of the classes, int64 (N,); of a known mixture's components, by the samples that are near one."""
        if self.card.mixture is None:
            if fake is None or real is None:
                return {"modes": None, "high_quality": None}
            return {"modes": mode_coverage(fake, real, len(self.card.classes)), "high_quality": None}
        centres, std = torch.tensor(self.card.mixture.centres), self.card.mixture.std
        (mode, near), (real_mode, real_near) = (
            nearest_mode(images, centres, std) for images in (samples, self.test.images)
        )
        coverage = mode_coverage(mode[near], real_mode[real_near], len(centres))
        return {"modes": coverage, "high_quality": float(near.double().mean())}

    def _sharpness(self, samples: Tensor) -> float | None:
        """Sharpness of the samples over that of the test images."""
        own, real = sharpness(samples, self.card.levels), sharpness(self.test.images, self.card.levels)
        return own / real if own is not None and real else None

    @cached_property
    def probed(self) -> ImageSet:
        """The training images that a linear probe learns from: at most `PROBED`, evenly spaced."""
        chosen = spread(len(self.train), PROBED)
        return ImageSet(self.train.images[chosen], self.train.labels[chosen])

    def probe(self, train: Tensor, test: Tensor) -> float:
        """Accuracy of a linear probe on features (N, d) of the probed and the test images, of data with classes.

        Of pictures whose channels have classes of their own, the mean of a probe for each channel's.
        """
        strength, known = self.settings.probe_regularisation, (self.probed.labels, self.test.labels)
        pairs = zip(*map(self._parts, known), strict=True)
        found = [probe_accuracy(train, labels, test, test_labels, strength) for labels, test_labels in pairs]
        return sum(found) / len(found)

    def _parts(self, labels: Tensor) -> list[Tensor]:
        """Classes int64 (N,); of stacked pictures the digits that spell them, one tensor int64 (N,) a channel."""
        if not self.card.channelwise:
            return [labels]
        channels = self.card.shape[0]
        base = round(len(self.card.classes) ** (1 / channels))
        return [labels // base**place % base for place in reversed(range(channels))]

    def memorisation(self, samples: Tensor) -> dict[str, float]:
        """How near samples are to training images. uint8 (N, C, H, W)."""
        return memorisation(samples, self.test.images, self.train.images, self.card.levels)


def read_evaluator(settings: Params, device: torch.device, measured: Real | None = None) -> Evaluator:
    """The evaluator of the prepared data, with the extractor on `device`; raises BakeoffError if a file is missing."""
    extractor = LOADERS[settings.evaluate.extractor](EXTRACTOR).to(device)
    return Evaluator(extractor, read_split("train"), read_split("test"), read_card(), settings.evaluate, measured)


def write_real(real: Real) -> None:
    """Write it for `read_real`."""
    gaussian, manifold = real.gaussian, real.manifold
    tensors = {"features": manifold.points, "squared_radii": manifold.squared_radii}
    classes = {} if real.classes is None else {"classes": real.classes}
    write_tensors(REAL_FEATURES, {**tensors, "mean": gaussian.mean, "factor": gaussian.factor, **classes})


def read_real() -> Real:
    """What `write_real` wrote; raises BakeoffError if it is missing or damaged."""
    tensors, _ = read_tensors(REAL_FEATURES)
    gaussian = Gaussian(tensors["mean"], tensors["factor"], len(tensors["features"]))
    return Real(gaussian, Manifold(tensors["features"], tensors["squared_radii"]), tensors.get("classes"))


def evaluate(
    model: Model, samples: Tensor, evaluator: Evaluator, seed: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """All measures of a model and its `samples`, uint8 (N, C, H, W), and pictures for the report.

    A measure that the model does not allow is None; a picture of what it cannot do is absent.
    """
    counts = {"samples": len(samples), "train": len(evaluator.train), "test": len(evaluator.test)}
    metrics = {
        "counts": counts,
        **evaluator.scores(samples),
        "nearest_neighbour": evaluator.memorisation(samples),
        **_representation(model, evaluator),
        "gflops_per_sample": _gflops_per_sample(model),
        "passes_in_sequence": model.passes_in_sequence,
    }
    density, bits = _density(model, evaluator, seed)
    obedience, drawn = _conditional(
        model, evaluator, len(samples) if evaluator.real.classes is not None else None, seed
    )
    return metrics | density | obedience, _pictures(model, samples, evaluator, seed) | bits | drawn


@torch.no_grad()
def _density(model: Model, evaluator: Evaluator, seed: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """bits/dim of the test images, how well it detects out-of-distribution inputs, and the bits/dim of each kind."""
    kind = BITS_KINDS[model.likelihood]
    if not isinstance(model, HasLogProb):
        return {"bits_per_dim": None, "bits_per_dim_kind": kind, "bits_per_dim_sem": None, "oddity": None}, {}
    generator, test = make_generator(model.device, seed, Stream.LIKELIHOOD), evaluator.test.images
    inputs = make_generator(torch.device("cpu"), 0, Stream.OUT_OF_DISTRIBUTION)
    outside = out_of_distribution_inputs(test, evaluator.train.images, evaluator.card.levels, OUTSIDE, inputs)
    bits = {}
    for name, images in {"test images": test, **outside}.items():
        bits[name] = bits_per_dim(evaluator.over(model, model.log_prob, images, generator).double(), model.shape)
    inside = bits["test images"]
    metrics = {
        "bits_per_dim": float(inside.mean()),
        "bits_per_dim_kind": kind,
        "bits_per_dim_sem": float(inside.std() / len(inside) ** 0.5),
        "oddity": {name: auroc(-inside, -bits[name]) for name in outside},
    }
    return metrics, {f"{BITS}{name}": values.float() for name, values in bits.items()}


@torch.no_grad()
def _conditional(
    model: Model, evaluator: Evaluator, count: int | None, seed: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Share of `count` images drawn of a class that the extractor puts into it, and some of them, a column a class.

    count: None if the extractor does not know the classes.
    """
    if not (model.classes and isinstance(model, HasSampleGiven)):
        return {"class_accuracy": None}, {}
    generator = make_generator(model.device, seed, Stream.CLASS_SAMPLES)
    y = torch.arange(max(count, model.classes) if count else CLASS_ROWS * model.classes) % model.classes
    images = evaluator.over(model, model.sample_given, y, generator)
    seen = evaluator.outputs(images).classes if count else None
    accuracy = None if seen is None else float((seen == y).double().mean())
    columns = min(model.classes, COLUMNS)
    rows = [images[row : row + columns] for row in range(0, len(y) - columns + 1, model.classes)][:CLASS_ROWS]
    return {"class_accuracy": accuracy}, {"class_grid": torch.stack(rows)}


@torch.no_grad()
def _representation(model: Model, evaluator: Evaluator) -> dict[str, Any]:
    probe = error = None
    if evaluator.card.classes and isinstance(model, HasEncode):
        encode = model.encode
        train, test = (
            evaluator.over(model, lambda x, _: encode(x), part.images) for part in (evaluator.probed, evaluator.test)
        )
        probe = evaluator.probe(train, test)
    if isinstance(model, HasReconstruct):
        x, reconstruct = evaluator.test.images, model.reconstruct
        back = evaluator.over(model, lambda x, _: reconstruct(x), x)
        pairs = zip(back.split(SOME), x.split(SOME), strict=True)
        squares = [((b.double() - a.double()) / (evaluator.card.levels - 1)).square().sum() for b, a in pairs]
        error = float(sum(squares) / x.numel())
    return {"probe_accuracy": probe, "reconstruction_mse": error}


def _gflops_per_sample(model: Model, n: int = 8) -> float:
    """GFLOPs per sample: 10⁹ floating-point operations, counted, so that they are the same on every machine."""
    return operations(lambda: model.sample(n, torch.Generator(model.device))) / n / 1e9


@torch.no_grad()
def _pictures(model: Model, samples: Tensor, evaluator: Evaluator, seed: int) -> dict[str, Tensor]:
    shown, train = samples[:SHOWN], evaluator.train.images
    pictures = {"neighbours_samples": shown, "neighbours_train": train[nearest(shown, train, evaluator.card.levels)[1]]}
    x = evaluator.test.images[:: max(1, len(evaluator.test) // SHOWN)][:SHOWN].to(model.device)
    if isinstance(model, HasReconstruct):
        pictures |= {"reconstruct_originals": x, "reconstructions": model.reconstruct(x)}
    if isinstance(model, HasInterpolate):
        walks = min(WALKS, len(x) // 2)
        pictures["interpolations"] = model.interpolate(x[:walks], x[walks : 2 * walks], WALK_STEPS)
    if isinstance(model, HasComplete):
        generator = make_generator(model.device, seed, Stream.COMPLETIONS)
        completed = model.complete(x.clone(), model.shape[1] // 2, generator)
        pictures |= {"completions_originals": x.clone(), "completions": completed}
    return pictures


def reference(evaluator: Evaluator, count: int) -> dict[str, Any]:
    """Real against real, the floor of every distance and the ceiling of every score, and the baseline to beat.

    `count` training images (all, if there are fewer) stand where a model's samples do.
    """
    cpu = torch.device("cpu")
    drawn = torch.randperm(len(evaluator.train), generator=make_generator(cpu, 0, Stream.REAL_SAMPLES))[:count]
    histogram = PixelHistogram(evaluator.train.images, evaluator.card.levels)
    shape = tuple(evaluator.test.images.shape[1:])
    assert len(shape) == 3
    train, test = (images.images.flatten(1) for images in (evaluator.probed, evaluator.test))
    return {
        "counts": {"samples": len(drawn), "test": len(evaluator.test)},
        "real": evaluator.scores(evaluator.train.images[drawn]),
        "histogram_model": {
            **evaluator.scores(histogram.sample(len(drawn), make_generator(cpu, 0, Stream.HISTOGRAM_SAMPLES))),
            "bits_per_dim": float(bits_per_dim(histogram.log_prob(evaluator.test.images), shape).mean()),
        },
        "uniform_bits_per_dim": float(torch.tensor(evaluator.card.levels).double().log2()),
        "pixel_probe_accuracy": evaluator.probe(train, test) if evaluator.card.classes else None,
    }
