"""Every measure that a model allows, computed in the same way for all families.

What is measured depends on what a model can do (the protocols in `models/base.py`), never on its family.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from workflow.data.tensors import ImageSet
from workflow.evaluation.density import by_bayes_rule, density
from workflow.evaluation.evaluator import Evaluator
from workflow.evaluation.metrics.neighbours import nearest, spread
from workflow.evaluation.other_features import of_each
from workflow.evaluation.prompts import prompted
from workflow.evaluation.representation import fine_tuned, latent_space, representation
from workflow.evaluation.scores import Scores, combine
from workflow.evaluation.utility import hits_after_training_on
from workflow.models.base import (
    HasComplete,
    HasHold,
    HasInterpolate,
    HasReconstruct,
    HasSampleGiven,
    Model,
    reads_captions,
)
from workflow.operations import operations
from workflow.random_streams import Stream, make_generator

SHOWN, WALKS, WALK_STEPS = 16, 6, 10  # pictures for the report
CLASS_ROWS, COLUMNS = 6, 20  # of the grid with one column per class


def evaluate(
    model: Model, draws: Sequence[Tensor], evaluator: Evaluator, seed: int, decoded: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """All measures of a model and its samples, uint8 (N, C, H, W) a draw, and pictures for the report.

    A measure that the model does not allow is None; a picture of what it cannot do is absent. decoded: images of other
    decodings than draws, such as the mode, by name; they are scored by themselves.
    """
    counts = {"samples": len(draws[0]), "draws": len(draws), "train": len(evaluator.train), "test": len(evaluator.test)}
    scores = evaluator.scores(draws) | evaluator.memorisation(draws)
    known, bits = density(model, evaluator, seed)
    obedience, drawn = _conditional(model, evaluator, len(draws[0]), seed)
    prompts, of_prompts = _prompted(model, evaluator, len(draws[0]), seed)
    bayes, kept = by_bayes_rule(model, evaluator, seed, bits)
    learned, few, errors = representation(model, evaluator)
    seen_otherwise, moved = of_each(evaluator.others, draws)
    scores |= obedience | few | fine_tuned(model, evaluator, seed)
    metrics = {
        "counts": counts,
        **scores.means,
        "repeats": scores.repeats,
        "decoded": {name: evaluator.scores([images]).means for name, images in decoded.items()},
        **learned,
        **_cost(model),
        **seen_otherwise,
    }
    shown = _pictures(model, draws[0], evaluator, seed) | latent_space(model, evaluator, seed)
    pictures = shown | bits | kept | drawn | of_prompts | scores.pictures | errors | moved
    return metrics | known | bayes | prompts, pictures


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


@torch.no_grad()
def _prompted(model: Model, evaluator: Evaluator, count: int, seed: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a model with captions draws of prompts (`workflow.evaluation.prompts`); nothing of another."""
    generator, over = make_generator(model.device, seed, Stream.CLASS_SAMPLES), partial(evaluator.over, model)
    if not reads_captions(model):
        return {}, {}
    reader = model.sample_captioned

    def draw(captions: Tensor) -> Tensor:
        return over(reader, captions, generator)

    def classify(images: Tensor) -> list[Tensor]:
        return [found.classes for found in evaluator.outputs(images) if found.classes is not None]

    known = classify if evaluator.real[0].classes is not None else None
    return prompted(evaluator.card, evaluator.test.captions, model.caption_length, count, draw, known)


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
