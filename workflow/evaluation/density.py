"""How well a model knows the density: its bits/dim, odd inputs, Bayes' rule, and what it lacks of the truth."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from workflow.evaluation.evaluator import TEST_IMAGES, Evaluator
from workflow.evaluation.metrics.bayes import answers, log_prior
from workflow.evaluation.metrics.neighbours import spread
from workflow.evaluation.metrics.out_of_distribution import auroc
from workflow.evaluation.metrics.truth import divergence
from workflow.models.base import HasLogProb, HasLogProbByClass, HasLogProbError, HasLogWeight, Model, bits_per_dim
from workflow.models.layers.common import log_mean_exp
from workflow.models.taxonomy import BITS_KINDS
from workflow.paths import BITS, KEPT, PER_IMAGE, SHARED_ERROR
from workflow.random_streams import Stream, make_generator

SLACK_IMAGES, SLACK_DRAWS = 250, 8  # test images, at most, and how many times as many draws, that show a bound's slack
SLACK_WEIGHTS = 64  # or so many weights of an image, where the bound does not consist of any


@torch.no_grad()
def density(model: Model, evaluator: Evaluator, seed: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
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
def by_bayes_rule(
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
