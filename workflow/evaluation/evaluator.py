"""What every model is judged by: the extractors of features, the real images, and the measures of samples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from workflow.data.arrays import Card, read_card
from workflow.data.teacher import weights_of
from workflow.data.tensors import ImageSet, read_split
from workflow.evaluation.batching import in_batches
from workflow.evaluation.classifier import Classifier, FeatureExtractor, Outputs, load_classifiers
from workflow.evaluation.inception import Inception, load_inception
from workflow.evaluation.metrics.baseline import PixelHistogram
from workflow.evaluation.metrics.bayes import Answers, answers, log_prior, rejection
from workflow.evaluation.metrics.copying import Training, fit_training, most_kept, nearest_points
from workflow.evaluation.metrics.few_labels import DRAWS, few_label_hits
from workflow.evaluation.metrics.modes import kl_influence, mode_coverage, nearest_mode
from workflow.evaluation.metrics.neighbours import memorisation, spread
from workflow.evaluation.metrics.out_of_distribution import out_of_distribution_inputs
from workflow.evaluation.metrics.probe import accuracy, probe_hits
from workflow.evaluation.metrics.sharpness import sharpness, sharpness_of_each
from workflow.evaluation.network import Network, load_network
from workflow.evaluation.other_features import OtherFeatures
from workflow.evaluation.scores import Cell, Real, Scores, combine, fit_real, of_all_draws, of_draw
from workflow.models import registry
from workflow.models.base import HasLogProb, Model, bits_per_dim
from workflow.params import Evaluate, Extractor, Params
from workflow.paths import EXTRACTOR
from workflow.random_streams import Stream, make_generator

LOADERS: dict[str, Callable[[Path, int | None], Sequence[Classifier | Inception | Network]]] = {
    "trained": load_classifiers,
    "inception": lambda path, part: [load_inception(path, part)],
}  # of others, files
TEST_IMAGES = "test images"  # their kind, beside those of out-of-distribution inputs
PROBED = 20_000  # training images that a linear probe is fitted to, at most
OUTSIDE = 100  # out-of-distribution inputs of each kind
JUDGED, JUDGED_PAIRS = 500, 10_000  # test images that Bayes' rule classifies, and pairs of these and classes, at most
JUDGED_CLASSES = 100  # with more, it is not tried


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
            scores = {"few_labels": {str(count): accuracy(found) for count, found in each.items()}}
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
