"""Every metric that a model allows, computed in the same way for all families.

What is measured depends on what a model can do (the protocols in `models/base.py`), never on its family.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workflow.data.arrays import Card, read_card
from workflow.data.teacher import weights_of
from workflow.data.tensors import ImageSet, read_split
from workflow.evaluation import fine_tuning
from workflow.evaluation.batching import in_batches
from workflow.evaluation.classifier import Classifier, FeatureExtractor, Outputs, load_classifiers
from workflow.evaluation.inception import Inception, load_inception
from workflow.evaluation.latents import FITTED, STEPS, plane, principal_axes, principal_lengths
from workflow.evaluation.metrics import formats
from workflow.evaluation.metrics.baseline import PixelHistogram
from workflow.evaluation.metrics.bayes import Answers, answers, log_prior, rejection
from workflow.evaluation.metrics.copying import Training, fit_training, most_kept, nearest_points
from workflow.evaluation.metrics.few_labels import DRAWS, affordable, few_label_hits, labelled
from workflow.evaluation.metrics.modes import kl_influence, mode_coverage, nearest_mode
from workflow.evaluation.metrics.neighbours import memorisation, nearest, spread
from workflow.evaluation.metrics.out_of_distribution import auroc, out_of_distribution_inputs
from workflow.evaluation.metrics.probe import probe_hits
from workflow.evaluation.metrics.sharpness import sharpness, sharpness_of_each
from workflow.evaluation.metrics.truth import divergence
from workflow.evaluation.network import Network, load_network
from workflow.evaluation.other_features import OtherFeatures, of_each
from workflow.evaluation.scores import Cell, Real, Scores, combine, fit_real, of_all_draws, of_draw
from workflow.evaluation.statistics import estimate
from workflow.evaluation.utility import hits_after_training_on
from workflow.models import registry
from workflow.models.base import (
    HasComplete,
    HasDecode,
    HasEncode,
    HasEncoder,
    HasHold,
    HasInterpolate,
    HasLogProb,
    HasLogProbByClass,
    HasLogProbError,
    HasLogWeight,
    HasReconstruct,
    HasSampleGiven,
    HasScales,
    Model,
    bits_per_dim,
)
from workflow.models.layers.common import log_mean_exp
from workflow.models.taxonomy import BITS_KINDS
from workflow.operations import operations
from workflow.params import Evaluate, Extractor, Params
from workflow.paths import BITS, EXTRACTOR, KEPT, PER_IMAGE, SHARED_ERROR, SPECTRUM
from workflow.random_streams import Stream, make_generator

LOADERS: dict[str, Callable[[Path, int | None], Sequence[Classifier | Inception | Network]]] = {
    "trained": load_classifiers,
    "inception": lambda path, part: [load_inception(path, part)],
}  # of others, files
TEST_IMAGES = "test images"  # their kind, beside those of out-of-distribution inputs
SHOWN, WALKS, WALK_STEPS = 16, 6, 10  # pictures for the report
CLASS_ROWS, COLUMNS = 6, 20  # of the grid with one column per class
PROBED = 20_000  # training images that a linear probe is fitted to, at most
CONVERTED = 2048  # images converted to float64 at once
PACKED = 2000  # test images that are written in general formats, at most
OUTSIDE = 100  # out-of-distribution inputs of each kind
JUDGED, JUDGED_PAIRS = 500, 10_000  # test images that Bayes' rule classifies, and pairs of these and classes, at most
JUDGED_CLASSES = 100  # with more, it is not tried
SLACK_IMAGES, SLACK_DRAWS = 250, 8  # test images, at most, and how many times as many draws, that show a bound's slack
SLACK_WEIGHTS = 64  # or so many weights of an image, where the bound does not consist of any


@dataclass(frozen=True)
class Evaluator:
    """The extractors of features and the real images against which all samples are judged.

    extractor: on the device that it runs on. train, test: real images. card: of the data. settings: the section
    `evaluate` of the parameters. classifier: the section `extractor`, for classifiers that are trained on samples.
    measured: the value of `real`, if it is known already. teacher: the model that the images were drawn from, if that
    is known. others: further extractors, which say how much rests on the choice of these.
    """

    extractors: Sequence[FeatureExtractor]
    train: ImageSet
    test: ImageSet
    card: Card
    settings: Evaluate
    classifier: Extractor
    measured: Sequence[Real] | None = None
    teacher: Model | None = None
    others: Sequence[OtherFeatures] = ()

    def outputs(self, images: Tensor) -> list[Outputs]:
        """Features and logits of images, uint8 (N, C, H, W), from each extractor."""
        return [extractor.outputs(images, self.settings.batch_size) for extractor in self.extractors]

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
    def real(self) -> Sequence[Real]:
        """Of the test images, by each extractor."""
        if self.measured:
            return self.measured
        found = self.outputs(self.test.images)
        pairs = zip(found, self.trainings(found[0].features.shape[1]), strict=True)
        return [fit_real(one, self.settings.neighbours, training) for one, training in pairs]

    def searched(self, features: int) -> Tensor | slice:
        """Index of the training images whose features are searched for neighbours; features: of an image."""
        return spread(len(self.train), most_kept(len(self.train), features))

    def trainings(self, features: int) -> list[Training]:
        """Those training images as each extractor sees them; features: of an image."""
        return [fit_training(one.features) for one in self.outputs(self.train.images[self.searched(features)])]

    def nearest_by_features(self, images: Tensor) -> Tensor:
        """The training image nearest to each image by the first extractor's features, uint8 (N, C, H, W) both."""
        points = self.real[0].memory.training.points
        index = nearest_points(self.extractors[0].outputs(images, self.settings.batch_size).features, points)[1]
        return self.train.images[torch.arange(len(self.train))[self.searched(points.shape[1])][index]]

    def scores(self, draws: Sequence[Tensor]) -> Scores:
        """The measures that need samples alone, uint8 (N, C, H, W) a draw, against the test images."""
        classes = 0 if self.card.mixture else len(self.card.classes)
        columns, together = [], []
        for extractor, real in zip(self.extractors, self.real, strict=True):
            fakes = [extractor.outputs(draw, self.settings.batch_size) for draw in draws]
            columns.append([of_draw(fake, real, self.settings, classes) for fake in fakes])
            together.append(of_all_draws(fakes, real))
        without = [[self._without_extractor(draw)] for draw in draws]
        return combine(list(zip(*columns, strict=True))) | combine([together]) | combine(without)

    def _without_extractor(self, samples: Tensor) -> Cell:
        """The measures of one draw that no extractor is involved in; modes are those of a known mixture."""
        sharp, sharp_influence = self._sharpness(samples)
        modes, modes_influence = self._modes(samples) if self.card.mixture else ({"high_quality": None}, {})
        true = {"true_bits": float(self.under_teacher(samples).mean())} if self.teacher else {}
        return {**modes, "sharpness": sharp, **true}, {**modes_influence, **sharp_influence}

    @torch.no_grad()
    def under_teacher(self, images: Tensor) -> Tensor:
        """bits/dim of images, uint8 (N, C, H, W), under the model that the data were drawn from: float64 (N,)."""
        teacher = self.teacher
        assert isinstance(teacher, Model)
        assert isinstance(teacher, HasLogProb)
        log_prob = self.over(teacher, teacher.log_prob, images, torch.Generator(teacher.device))
        return bits_per_dim(log_prob.double(), teacher.shape)

    @cached_property
    def true_bits(self) -> Tensor:
        """Of the test images, float64 (N,); their mean estimates the entropy of the data."""
        return self.under_teacher(self.test.images)

    def _modes(self, samples: Tensor) -> Cell:
        """Coverage of a known mixture's components, by the samples that are near one."""
        assert self.card.mixture
        centres, std = torch.tensor(self.card.mixture.centres), self.card.mixture.std
        (mode, near), (real_mode, real_near) = (
            nearest_mode(images, centres, std) for images in (samples, self.test.images)
        )
        found = mode[near], real_mode[real_near], len(centres)
        influence = torch.zeros(len(real_mode), dtype=torch.float64)
        influence[real_near] = kl_influence(*found) * len(real_mode) / max(1, int(real_near.sum()))
        scores = {"modes": mode_coverage(*found), "high_quality": float(near.double().mean())}
        return scores, {"modes.kl": influence}

    @cached_property
    def _real_sharpness(self) -> Tensor | None:
        """Of each test image and channel."""
        return sharpness_of_each(self.test.images, self.card.levels)

    def _sharpness(self, samples: Tensor) -> tuple[float | None, dict[str, Tensor]]:
        """Sharpness of the samples over that of the test images, and what each of these adds."""
        own, each = sharpness(samples, self.card.levels), self._real_sharpness
        if own is None or each is None or not (real := float(each.mean())):
            return None, {}
        return own / real, {"sharpness": own / real * (1 - each.mean(1) / real)}

    @cached_property
    def probed(self) -> ImageSet:
        """The training images that a linear probe is fitted to: at most `PROBED`, evenly spaced."""
        chosen = spread(len(self.train), PROBED)
        return ImageSet(self.train.images[chosen], self.train.labels[chosen])

    def probe(self, train: Tensor, test: Tensor) -> Tensor:
        """Which test images a linear probe on features (N, d) of the probed and the test images gets right.

        bool (parts, N) of data with classes; one part, but of pictures whose channels have classes of their own a part
        for each channel's.
        """
        strength, known = self.settings.probe_regularisation, (self.probed.labels, self.test.labels)
        pairs = zip(*map(self._parts, known), strict=True)
        return torch.stack([probe_hits(train, labels, test, test_labels, strength) for labels, test_labels in pairs])

    def few_labels(self, train: Tensor, test: Tensor) -> Scores:
        """Accuracy of the same probe from a few labels a class, a row a draw of the labels; {} of data without classes.

        train, test: features (N, d) of the probed and the test images.
        """
        known = (self.probed.labels, self.test.labels)
        pairs = list(zip(*map(self._parts, known), strict=True)) if self.card.classes else []
        cells: list[list[Cell]] = []
        for draw in range(DRAWS):
            order = torch.randperm(len(train), generator=make_generator(torch.device("cpu"), 0, Stream.LABELS, draw))
            hits = [
                few_label_hits(train, labels, test, test_labels, self.settings.probe_regularisation, order)
                for labels, test_labels in pairs
            ]
            counts = [count for count in (hits[0] if hits else ()) if all(count in part for part in hits)]
            each = {count: torch.stack([part[count] for part in hits]) for count in counts}
            scores = {"few_labels": {str(count): _accuracy(found) for count, found in each.items()}}
            cells.append([(scores, {f"few_labels.{count}": found.double().mean(0) for count, found in each.items()})])
        return combine(cells)

    @cached_property
    def outside(self) -> dict[str, Tensor]:
        """Out-of-distribution inputs, uint8 (N, C, H, W), by their kind, the same for all models."""
        random = make_generator(torch.device("cpu"), 0, Stream.OUT_OF_DISTRIBUTION)
        return out_of_distribution_inputs(self.test.images, self.train.images, self.card.levels, OUTSIDE, random)

    @cached_property
    def judged(self) -> Tensor:
        """Index of the test images that Bayes' rule is tried on, evenly spaced, int64 (N,); empty if not at all."""
        classes = len(self.card.classes)
        most = min(JUDGED, JUDGED_PAIRS // classes) if 0 < classes <= JUDGED_CLASSES else 0
        return torch.arange(len(self.test))[spread(len(self.test), most)] if most else torch.empty(0, dtype=torch.long)

    @cached_property
    def asked(self) -> dict[str, Tensor]:
        """These test images and all out-of-distribution inputs, uint8 (N, C, H, W), by their kind."""
        return {TEST_IMAGES: self.test.images[self.judged], **self.outside}

    def classified(self, found: Mapping[str, Answers]) -> tuple[Cell, dict[str, Tensor]]:
        """How well a classifier does by its answers for what is `asked`, and its accuracy on the images it keeps."""
        outside = {kind: answers for kind, answers in found.items() if kind != TEST_IMAGES}
        scores, influence, curves = rejection(found[TEST_IMAGES], self.test.labels[self.judged], outside)
        return ({"bayes": scores}, {f"bayes.{path}": values for path, values in influence.items()}), curves

    def naive_bayes(self) -> tuple[Scores, dict[str, Tensor]]:
        """Of independent pixels within each class: what a density of images given their class must beat."""
        train, prior = self.train, log_prior(self.train.labels, len(self.card.classes))
        columns = []
        for y, log_p in enumerate(prior):  # of all classes together the tables may not fit into memory
            within = PixelHistogram(train.images[train.labels == y], self.card.levels)
            columns.append({kind: within.log_prob(images) + log_p for kind, images in self.asked.items()})
        joint = {kind: torch.stack([column[kind] for column in columns], 1) for kind in self.asked}
        cell, curves = self.classified({kind: answers(one, one.logsumexp(1)) for kind, one in joint.items()})
        return combine([[cell]]), curves

    def discriminative(self) -> tuple[Scores, dict[str, Tensor]]:
        """Of the extractors, if these are classifiers of the data's classes: what p(y|x) alone can do."""
        each = []
        for extractor in self.extractors:
            seen = {kind: extractor.outputs(x, self.settings.batch_size).logits for kind, x in self.asked.items()}
            each.append(self.classified({kind: answers(one) for kind, one in seen.items() if one is not None}))
        curves = {name: torch.stack([kept[name] for _, kept in each]).mean(0) for name in each[0][1]}
        return combine([[cell for cell, _ in each]]), curves

    def _parts(self, labels: Tensor) -> list[Tensor]:
        """Classes, int64 (N,); for stacked images the digits that spell them, one int64 (N,) per channel."""
        if not self.card.channelwise:
            return [labels]
        channels = self.card.shape[0]
        base = round(len(self.card.classes) ** (1 / channels))
        return [labels // base**place % base for place in reversed(range(channels))]

    def memorisation(self, draws: Sequence[Tensor]) -> Scores:
        """How near samples are to training images. uint8 (N, C, H, W) a draw."""
        found = memorisation(draws, self.test.images, self.train.images, self.card.levels)
        scores = combine([[({"nearest_neighbour": near}, {})] for near in found])
        if test := found[0]["test"]:
            scores.repeats["nearest_neighbour.ratio"] = [[near["samples"] / test] for near in found]
        del scores.repeats["nearest_neighbour.test"]  # the same for all
        return scores


def read_evaluator(settings: Params, device: torch.device, measured: Sequence[Real] | None = None) -> Evaluator:
    """The evaluator of the prepared data, with the extractors on `device`; raises BakeoffError if a file is missing."""
    train, test, card = read_split("train"), read_split("test"), read_card()
    teacher = registry.load(weights_of(card.teacher)).model.to(device) if card.teacher else None
    first, *further = _load_extractors(settings.evaluate, device)
    pairs = zip(settings.evaluate.other_names, further, strict=True)
    others = [OtherFeatures(name, networks, test.images, settings.evaluate) for name, networks in pairs]
    if measured:
        others = [one.read_measured() for one in others]
    return Evaluator(first, train, test, card, settings.evaluate, settings.extractor, measured, teacher, others)


def _load_extractors(settings: Evaluate, device: torch.device) -> list[list[FeatureExtractor]]:
    """The networks of each extractor, the main one first."""
    names = settings.extractors
    places: Sequence[int | None] = range(len(names)) if len(names) > 1 else [None]
    found: list[list[FeatureExtractor]] = []
    for name, place in zip(names, places, strict=True):
        networks = LOADERS[name](EXTRACTOR, place) if name in LOADERS else [load_network(EXTRACTOR, place)]
        found.append([network.to(device) for network in networks])
    return found


def evaluate(
    model: Model, draws: Sequence[Tensor], evaluator: Evaluator, seed: int, decoded: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """All measures of a model and its samples, uint8 (N, C, H, W) a draw, and pictures for the report.

    A measure that the model does not allow is None; a picture of what it cannot do is absent. decoded: images of other
    decodings than draws, such as the mode, by name; they are scored by themselves.
    """
    counts = {"samples": len(draws[0]), "draws": len(draws), "train": len(evaluator.train), "test": len(evaluator.test)}
    scores = evaluator.scores(draws) | evaluator.memorisation(draws)
    density, bits = _density(model, evaluator, seed)
    obedience, drawn = _conditional(model, evaluator, len(draws[0]), seed)
    bayes, kept = _by_bayes_rule(model, evaluator, seed, bits)
    representation, few, errors = _representation(model, evaluator)
    seen_otherwise, moved = of_each(evaluator.others, draws)
    scores |= obedience | few | _fine_tuned(model, evaluator, seed)
    metrics = {
        "counts": counts,
        **scores.means,
        "repeats": scores.repeats,
        "decoded": {name: evaluator.scores([images]).means for name, images in decoded.items()},
        **representation,
        **_cost(model),
        **seen_otherwise,
    }
    shown = _pictures(model, draws[0], evaluator, seed) | _latent_space(model, evaluator, seed)
    return metrics | density | bayes, shown | bits | kept | drawn | scores.pictures | errors | moved


@torch.no_grad()
def _density(model: Model, evaluator: Evaluator, seed: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """bits/dim of the test images, how much fewer training images need, how well it detects out-of-distribution inputs,
    and the bits/dim of each kind of input.
    """
    kind = BITS_KINDS[model.likelihood]
    if not isinstance(model, HasLogProb):
        absent = dict.fromkeys(("bits_per_dim", "bits_per_dim_sem", "bits_gap", "oddity"))
        return {**absent, "bits_per_dim_kind": kind}, {}
    generator, outside = make_generator(model.device, seed, Stream.LIKELIHOOD), evaluator.outside
    bits = {}
    for name, images in {TEST_IMAGES: evaluator.test.images, **outside}.items():
        bits[name] = bits_per_dim(evaluator.over(model, model.log_prob, images, generator).double(), model.shape)
    inside = bits[TEST_IMAGES]
    gap = inside - _bits_of_training(model, evaluator, seed)
    metrics = {
        "bits_per_dim": float(inside.mean()),
        "bits_per_dim_kind": kind,
        "bits_per_dim_sem": float(inside.std() / len(inside) ** 0.5),
        "bits_gap": float(gap.mean()),
        "oddity": {name: auroc(-inside, -bits[name]) for name in outside},
    }
    if kind == "estimate" and isinstance(model, HasLogProbError):
        error = torch.tensor(-model.log_prob_error, dtype=torch.float64)
        metrics[f"bits_per_dim{SHARED_ERROR}"] = float(bits_per_dim(error, model.shape))
    pictures = {f"{BITS}{name}": values.float() for name, values in bits.items()}
    per_image = {"bits_per_dim": inside, "bits_gap": gap, **_truth(model, evaluator, inside, seed)}
    metrics |= {key: float(per_image[key].mean()) for key in per_image if key in ("true_kl", "bits_slack")}
    if f"bits_per_dim{SHARED_ERROR}" in metrics and "true_kl" in metrics:
        metrics[f"true_kl{SHARED_ERROR}"] = metrics[f"bits_per_dim{SHARED_ERROR}"]
    return metrics, pictures | {f"{PER_IMAGE}{key}": values.float() for key, values in per_image.items()}


@torch.no_grad()
def _by_bayes_rule(
    model: Model, evaluator: Evaluator, seed: int, bits: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """How well a class-conditional density classifies; how far each test image moves that; the accuracy kept.

    bits: bits/dim of each kind of images, with the prefix that they have among the pictures.
    """
    can = isinstance(model, HasLogProbByClass) and isinstance(model, HasLogProb)
    if not (can and model.classes == len(evaluator.card.classes) and len(evaluator.judged)):
        return {"bayes": None}, {}
    assert isinstance(model, HasLogProbByClass)
    generator, work = make_generator(model.device, seed, Stream.LIKELIHOOD, 1), model.log_prob_by_class
    prior, found = log_prior(evaluator.train.labels, model.classes), {}
    for kind, images in evaluator.asked.items():
        joint = evaluator.over(model, work, images, generator).double() + prior
        density = -bits[f"{BITS}{kind}"]
        found[kind] = answers(joint, density[evaluator.judged] if kind == TEST_IMAGES else density)
    (scores, influence), curves = evaluator.classified(found)
    pictures = {f"{PER_IMAGE}{path}": values.float() for path, values in influence.items()}
    return dict(scores), pictures | {f"{KEPT}{name}": curve.float() for name, curve in curves.items()}


def _truth(model: Model, evaluator: Evaluator, bits: Tensor, seed: int) -> dict[str, Tensor]:
    """Terms of the true KL divergence, float64 (N,), and what is seen of a bound's slack, float64 (M,), in bits/dim.

    Nothing of data whose density is unknown. bits: of the test images under the model, float64 (N,).
    """
    if not evaluator.teacher:
        return {}
    found = {"true_kl": divergence(bits, evaluator.true_bits)}
    if model.tightens and isinstance(model, HasLogProb):
        rows = spread(len(bits), SLACK_IMAGES)
        images, generator = evaluator.test.images[rows], make_generator(model.device, seed, Stream.LIKELIHOOD, 2)
        weigh, count = model.log_prob, SLACK_DRAWS
        if isinstance(model, HasLogWeight):
            weigh, count = model.log_weight, SLACK_WEIGHTS
        draws = torch.stack([evaluator.over(model, weigh, images, generator) for _ in range(count)]).double()
        loose = bits[rows] if isinstance(model, HasLogWeight) else bits_per_dim(draws.mean(0), model.shape)
        found["bits_slack"] = loose - bits_per_dim(log_mean_exp(draws), model.shape)
    return found


def _bits_of_training(model: HasLogProb, evaluator: Evaluator, seed: int) -> Tensor:
    """bits/dim of as many training images, evenly spaced, as there are test images, float64 (N,)."""
    assert isinstance(model, Model)
    count, train = len(evaluator.test), evaluator.train.images
    generator = make_generator(model.device, seed, Stream.TRAINING_LIKELIHOOD)
    images = train[torch.arange(count) * len(train) // count]
    return bits_per_dim(evaluator.over(model, model.log_prob, images, generator).double(), model.shape)


@torch.no_grad()
def _conditional(model: Model, evaluator: Evaluator, count: int, seed: int) -> tuple[Scores, dict[str, Tensor]]:
    """What `count` images drawn of given classes are worth, and some of them, a column a class.

    That is, the share that the extractors put into that class, if they know the classes, and the accuracy of
    classifiers trained on them.
    """
    if not (model.classes and isinstance(model, HasSampleGiven)):
        return combine([[({"class_accuracy": None, "cas": None, "cas_of_real": None}, {})]]), {}
    generator = make_generator(model.device, seed, Stream.CLASS_SAMPLES)
    y = torch.arange(max(count, model.classes)) % model.classes
    images = evaluator.over(model, model.sample_given, y, generator)
    known = evaluator.real[0].classes is not None
    seen = [found.classes for found in evaluator.outputs(images)] if known else [None]
    shares = [None if classes is None else float((classes == y).double().mean()) for classes in seen]
    columns = min(model.classes, COLUMNS)
    rows = [images[row : row + columns] for row in range(0, len(y) - columns + 1, model.classes)][:CLASS_ROWS]
    scores = combine([[({"class_accuracy": share}, {}) for share in shares]])
    return scores | _utility(ImageSet(images, y), evaluator, model.device), {"class_grid": torch.stack(rows)}


def _utility(drawn: ImageSet, evaluator: Evaluator, device: torch.device) -> Scores:
    """Accuracy on test images of classifiers trained on images of given classes, and on as many training images."""
    count, train = min(len(drawn), len(evaluator.train)), evaluator.train
    chosen = spread(len(train), count)
    sets = [ImageSet(drawn.images[:count], drawn.labels[:count]), ImageSet(train.images[chosen], train.labels[chosen])]
    cells = []
    for seed in evaluator.classifier.seeds:
        hits, of_real = (
            hits_after_training_on(images, evaluator.test, evaluator.card, evaluator.classifier, device, seed)
            for images in sets
        )
        accuracy, ceiling = (float(one.double().mean()) for one in (hits, of_real))
        cells.append(({"cas": accuracy, "cas_of_real": ceiling}, {"cas": hits.double()}))
    return combine([cells])


@torch.no_grad()
def _representation(model: Model, evaluator: Evaluator) -> tuple[dict[str, Any], Scores, dict[str, Tensor]]:
    """Accuracy of a linear probe and error of reconstructions; the probe's from few labels; the first two by image."""
    probe, error, per_image = None, None, {}
    few = combine([[({"few_labels": {}}, {})]])
    if evaluator.card.classes and isinstance(model, HasEncode):
        encode = model.encode
        train, test = (
            evaluator.over(model, lambda x, _: encode(x), part.images) for part in (evaluator.probed, evaluator.test)
        )
        hits = evaluator.probe(train, test)
        probe, per_image["probe_accuracy"] = _accuracy(hits), hits.float().mean(0)
        few = evaluator.few_labels(train, test)
    if isinstance(model, HasReconstruct):
        x, reconstruct = evaluator.test.images, model.reconstruct
        back = evaluator.over(model, lambda x, _: reconstruct(x), x)
        pairs = zip(back.split(CONVERTED), x.split(CONVERTED), strict=True)
        squares = [((b.double() - a.double()) / (evaluator.card.levels - 1)).square() for b, a in pairs]
        error = float(sum(part.sum() for part in squares) / x.numel())
        per_image["reconstruction_mse"] = torch.cat([part.flatten(1).mean(1) for part in squares]).float()
    metrics = {"probe_accuracy": probe, "reconstruction_mse": error}
    return metrics, few, {f"{PER_IMAGE}{key}": values for key, values in per_image.items()}


def _fine_tuned(model: Model, evaluator: Evaluator, seed: int) -> Scores:
    """Accuracy from a few labels a class of a network that starts as the model's encoder, and its gain over scratch.

    A row a draw of the labels, the first ones of the linear probe; {} of data without classes or with some of their
    own in each channel.
    """
    card, labels, train = evaluator.card, evaluator.probed.labels, evaluator.probed.images
    can = isinstance(model, HasEncoder) and card.classes and not card.channelwise
    chosen = spread(len(evaluator.test), fine_tuning.TESTED)
    test, cpu = ImageSet(evaluator.test.images[chosen], evaluator.test.labels[chosen]), torch.device("cpu")
    cells: list[list[Cell]] = []
    for draw in range(fine_tuning.DRAWS):
        order = torch.randperm(len(train), generator=make_generator(cpu, 0, Stream.LABELS, draw))
        own = make_generator(cpu, seed, Stream.FINE_TUNING, draw).initial_seed()
        scores: dict[str, dict[str, float]] = {}
        influence: dict[str, Tensor] = {}
        for count in affordable(labels) if can else ():
            assert isinstance(model, HasEncoder)
            rows = labelled(labels, count, order)
            few = ImageSet(train[rows], labels[rows])
            settings = card.levels, evaluator.settings.probe_regularisation, evaluator.classifier.lr
            both = fine_tuning.hits_by_start(model.encoder_network(), few, test, *settings, own)
            pretrained, scratch = (hits.double() for hits in both)
            found = {"accuracy": pretrained, "gain": pretrained - scratch}
            scores[str(count)] = {name: float(terms.mean()) for name, terms in found.items()}
            influence |= {f"fine_tuned.{count}.{name}": terms for name, terms in found.items()}
        cells.append([({"fine_tuned": scores}, influence)])
    return combine(cells)


@torch.no_grad()
def _latent_space(model: Model, evaluator: Evaluator, seed: int) -> dict[str, Tensor]:
    """Images on the plane of the latents' principal axes, with these axes' shares of the variance; and how far the
    model lets each latent vary, next to the principal axes of what it maps to latents.
    """
    images = evaluator.train.images[spread(len(evaluator.train), FITTED)]
    found: dict[str, Tensor] = {}
    if isinstance(model, HasDecode):
        encode, decode = model.encode, model.decode
        axes = principal_axes(evaluator.over(model, lambda x, _: encode(x), images))
        shown = evaluator.over(model, lambda z, _: decode(z), plane(axes).float())
        found = {"latent_map": shown.unflatten(0, (STEPS, STEPS)), "latent_shares": axes.shares.float()}
    if isinstance(model, HasScales):
        inputs = evaluator.over(model, model.inputs, images, make_generator(model.device, seed, Stream.SPECTRUM))
        found[f"{SPECTRUM}scales"] = model.scales().sort(descending=True).values.float().cpu()
        found[f"{SPECTRUM}PCA"] = principal_lengths(inputs).float()
    return found


def _accuracy(hits: Tensor) -> float:
    """The share of hits, bool (parts, N), as a mean over parts."""
    return sum(map(float, hits.double().mean(1))) / len(hits)


def _cost(model: Model) -> dict[str, float | None]:
    """What an image costs; None if it was made elsewhere."""
    if isinstance(model, HasHold):
        return {"gflops_per_sample": None, "passes_in_sequence": None}
    return {"gflops_per_sample": _gflops_per_sample(model), "passes_in_sequence": model.passes_in_sequence}


def _gflops_per_sample(model: Model, n: int = 8) -> float:
    """GFLOPs per sample: 10⁹ floating-point operations, counted, so that they are the same on every machine."""
    return operations(lambda: model.sample(n, torch.Generator(model.device))) / n / 1e9


@torch.no_grad()
def _pictures(model: Model, samples: Tensor, evaluator: Evaluator, seed: int) -> dict[str, Tensor]:
    shown, train = samples[:SHOWN], evaluator.train.images
    pictures = {
        "neighbours_samples": shown,
        "neighbours_train": train[nearest(shown, train, evaluator.card.levels)[1]],
        "neighbours_by_features": evaluator.nearest_by_features(shown),
    }
    x = evaluator.test.images[:: max(1, len(evaluator.test) // SHOWN)][:SHOWN].to(model.device)
    if isinstance(model, HasReconstruct):
        pictures |= {"reconstruct_originals": x, "reconstructions": model.reconstruct(x)}
    if isinstance(model, HasInterpolate):
        walks = min(WALKS, len(x) // 2)
        pictures["interpolations"] = model.interpolate(x[:walks], x[walks : 2 * walks], WALK_STEPS)
    if isinstance(model, HasComplete) and model.shape[1] > 1:  # a signal has no upper half
        generator = make_generator(model.device, seed, Stream.COMPLETIONS)
        completed = model.complete(x.clone(), model.shape[1] // 2, generator)
        pictures |= {"completions_originals": x.clone(), "completions": completed}
    return pictures


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
        "pixel_probe_accuracy": _accuracy(evaluator.probe(train, test)) if evaluator.card.classes else None,
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
