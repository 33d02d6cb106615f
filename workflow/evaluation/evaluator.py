"""Every metric that a model allows, computed in the same way for all families.

What is measured depends on what a model can do (the protocols in `models/base.py`), never on its family.
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
CLASS_ROWS, COLUMNS = 6, 20  # of the grid with one column per class
PROBED = 20_000  # training images that a linear probe is fitted to, at most
CONVERTED = 2048  # images converted to float64 at once
OUTSIDE = 100  # out-of-distribution inputs of each kind
BITS = "bits of "  # begins the names of the bits/dim among the pictures


@dataclass(frozen=True)
class Real:
    """Statistics of the test images' features, the same for all models and seeds.

    gaussian, manifold: fitted to the features. classes: predicted, int64 (N,); None if the extractor knows none.
    """

    gaussian: Gaussian
    manifold: Manifold
    classes: Tensor | None


@dataclass(frozen=True)
class Evaluator:
    """The feature extractor and the real images that samples are compared with.

    extractor: on the device that it runs on. train, test: real images. card: of the data. settings: the section
    `evaluate` of the parameters. measured: the value of `real`, if it is known already.
    """

    extractor: FeatureExtractor
    train: ImageSet
    test: ImageSet
    card: Card
    settings: Evaluate
    measured: Real | None = None

    def outputs(self, images: Tensor) -> Outputs:
        """Features, and logits and classes if there are any, of images, uint8 (N, C, H, W)."""
        return self.extractor.outputs(images, self.settings.batch_size)

    def over(
        self,
        model: Model,
        work: Callable[[Tensor, torch.Generator], Tensor],
        x: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Results of `work` on the rows of x, computed in batches on the model's device, concatenated on the CPU.

        Args:
            model: whose device is used.
            work: from a batch of rows and a generator to one result per row.
            x: (N, *S), on any device.
            generator: of the random numbers, on the model's device.
        """

        def of_batch(rows: range, random: torch.Generator) -> Tensor:
            return work(x[rows.start : rows.stop].to(model.device), random).cpu()

        return torch.cat(in_batches(of_batch, len(x), self.settings.batch_size, generator))

    @cached_property
    def real(self) -> Real:
        """Statistics of the test images."""
        if self.measured:
            return self.measured
        found = self.outputs(self.test.images)
        manifold = fit_manifold(found.features, self.settings.neighbours)
        return Real(fit_gaussian(found.features), manifold, found.classes)

    def scores(self, samples: Tensor) -> dict[str, Any]:
        """The metrics that need only samples, uint8 (N, C, H, W), and the test images.

        Those that need classes are None if the extractor has none.
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
        """Mode coverage: of classes, int64 (N,), or of the components of a known mixture, by the points near them."""
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
        """Sharpness of the samples relative to the test images."""
        own, real = sharpness(samples, self.card.levels), sharpness(self.test.images, self.card.levels)
        return own / real if own is not None and real else None

    @cached_property
    def probed(self) -> ImageSet:
        """The training images that a linear probe is fitted to: at most `PROBED`, evenly spaced."""
        chosen = spread(len(self.train), PROBED)
        return ImageSet(self.train.images[chosen], self.train.labels[chosen])

    def probe(self, train: Tensor, test: Tensor) -> float:
        """Accuracy of a linear probe; if each channel has a class of its own, the mean over one probe per channel.

        Args:
            train: features of the images `probed`, (N, d).
            test: features of the test images, (M, d).
        """
        strength, known = self.settings.probe_regularisation, (self.probed.labels, self.test.labels)
        pairs = zip(*map(self._parts, known), strict=True)
        found = [probe_accuracy(train, labels, test, test_labels, strength) for labels, test_labels in pairs]
        return sum(found) / len(found)

    def _parts(self, labels: Tensor) -> list[Tensor]:
        """Classes, int64 (N,); for stacked images the digits that spell them, one int64 (N,) per channel."""
        if not self.card.channelwise:
            return [labels]
        channels = self.card.shape[0]
        base = round(len(self.card.classes) ** (1 / channels))
        return [labels // base**place % base for place in reversed(range(channels))]

    def memorisation(self, samples: Tensor) -> dict[str, float]:
        """How near samples, uint8 (N, C, H, W), are to training images."""
        return memorisation(samples, self.test.images, self.train.images, self.card.levels)


def read_evaluator(settings: Params, device: torch.device, measured: Real | None = None) -> Evaluator:
    """The evaluator of the prepared data; raises BakeoffError if a file is missing.

    Args:
        settings: the whole parameters.
        device: for the extractor.
        measured: statistics of the real images, if they are known already.
    """
    extractor = LOADERS[settings.evaluate.extractor](EXTRACTOR).to(device)
    return Evaluator(extractor, read_split("train"), read_split("test"), read_card(), settings.evaluate, measured)


def write_real(real: Real) -> None:
    """Write statistics of real images for `read_real`."""
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
    """All metrics of a model and its samples, and pictures for the report.

    Args:
        model: in evaluation mode.
        samples: drawn from it, uint8 (N, C, H, W).
        evaluator: of the data.
        seed: of the random streams.

    Returns:
        Metrics by name, None where the model does not allow one; and tensors by name, absent where it does not.
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
    accuracy, drawn = _conditional(model, evaluator, len(samples) if evaluator.real.classes is not None else None, seed)
    return metrics | density | accuracy, _pictures(model, samples, evaluator, seed) | bits | drawn


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
    """Share of class-conditional samples that the extractor assigns to the requested class, and a grid of some.

    Args:
        model: conditional or not.
        evaluator: of the data.
        count: number of samples; None if the extractor does not know the classes.
        seed: of the random streams.
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
        pairs = zip(back.split(CONVERTED), x.split(CONVERTED), strict=True)
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
    """Scores of real images, the floor of every distance and the ceiling of every score, and those of the baseline.

    Args:
        evaluator: of the data.
        count: training images that stand in for a model's samples; all, if there are fewer.
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
