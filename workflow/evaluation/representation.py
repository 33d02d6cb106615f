"""How useful a model's features are: probes, reconstructions, its encoder as a start, and pictures of its latents."""

from typing import Any

import torch
from torch import Tensor

from workflow.data.tensors import ImageSet
from workflow.evaluation import fine_tuning
from workflow.evaluation.evaluator import Evaluator
from workflow.evaluation.latents import FITTED, STEPS, plane, principal_axes, principal_lengths
from workflow.evaluation.metrics.few_labels import affordable, labelled
from workflow.evaluation.metrics.neighbours import spread
from workflow.evaluation.metrics.probe import accuracy
from workflow.evaluation.scores import Cell, Scores, combine
from workflow.models.base import HasDecode, HasEncode, HasEncoder, HasReconstruct, HasScales, Model
from workflow.paths import PER_IMAGE, SPECTRUM
from workflow.random_streams import Stream, make_generator

CONVERTED = 2048  # images converted to float64 at once


@torch.no_grad()
def representation(model: Model, evaluator: Evaluator) -> tuple[dict[str, Any], Scores, dict[str, Tensor]]:
    """Accuracy of a linear probe and error of reconstructions; the probe's from few labels; the first two by image."""
    probe, error, per_image = None, None, {}
    few = combine([[({"few_labels": {}}, {})]])
    if evaluator.card.classes and isinstance(model, HasEncode):
        encode = model.encode
        train, test = (
            evaluator.over(model, lambda x, _: encode(x), part.images) for part in (evaluator.probed, evaluator.test)
        )
        hits = evaluator.probe(train, test)
        probe, per_image["probe_accuracy"] = accuracy(hits), hits.float().mean(0)
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


def fine_tuned(model: Model, evaluator: Evaluator, seed: int) -> Scores:
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
def latent_space(model: Model, evaluator: Evaluator, seed: int) -> dict[str, Tensor]:
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
