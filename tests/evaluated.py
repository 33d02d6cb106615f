"""A model with every capability, one that can only sample, and evaluators on the digits."""

import math
from typing import Any

import torch
from torch import Generator, Tensor, nn

from tests.cards import card
from workflow.data.tensors import ImageSet
from workflow.evaluation.classifier import fit_classifier
from workflow.evaluation.evaluate import evaluate
from workflow.evaluation.evaluator import Evaluator
from workflow.models.base import Model
from workflow.models.taxonomy import Likelihood
from workflow.params import Evaluate, Extractor

SHAPE, LEVELS, TRAIN, TEST = (1, 8, 8), 17, 150, 60
SETTINGS = Evaluate(
    extractor="trained", draws=1, batch_size=16, splits=2, neighbours=3, kid_subsets=4, kid_subset_size=30,
    probe_regularisation=1.0,
)  # fmt: skip
MEASURES = {
    *("counts", "fid", "kid", "kid_std", "inception_score", "inception_score_std", "precision", "recall", "density"),
    *("coverage", "modes", "nearest_neighbour", "bits_per_dim", "bits_per_dim_kind", "bits_per_dim_sem"),
    *("probe_accuracy", "reconstruction_mse", "gflops_per_sample", "passes_in_sequence"),
    *("sharpness", "high_quality", "oddity", "class_accuracy", "fid_infinity", "repeats", "decoded"),
    *("copying", "bits_gap", "vendi", "rke", "prd", "cas", "cas_of_real", "few_labels", "bayes", "fine_tuned"),
}
SAMPLES_ALONE = MEASURES - {
    *("counts", "nearest_neighbour", "bits_per_dim", "bits_per_dim_kind", "bits_per_dim_sem", "few_labels", "bayes"),
    "fine_tuned",
    *("oddity", "class_accuracy", "repeats", "decoded", "bits_gap", "cas", "cas_of_real"),
    *("probe_accuracy", "reconstruction_mse", "gflops_per_sample", "passes_in_sequence"),
}


class OnlySamples(Model):
    """Can do nothing but sample: noise through one matrix product, of 2 · 3 · 64 operations an image."""

    likelihood: Likelihood = "implicit"

    def __init__(self) -> None:
        super().__init__(SHAPE, LEVELS)
        self.weight = nn.Parameter(torch.linspace(0, 1, 3 * 64).view(3, 64))

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        pixels = torch.rand(n, 3, generator=generator) @ self.weight
        return (pixels * 5).clamp(0, LEVELS - 1).to(torch.uint8).view(n, *SHAPE)


class Everything(OnlySamples):
    """Has every capability. An image's bits/dim are its mean pixel, and as much noise as one asks for."""

    likelihood: Likelihood = "bound"
    noise = 0.0
    classes = 4

    def sample_given(self, y: Tensor, generator: Generator) -> Tensor:
        assert len(y) <= SETTINGS.batch_size
        return y.to(torch.uint8).view(-1, 1, 1, 1).expand(len(y), *SHAPE) + 0

    def log_prob(self, x: Tensor, generator: Generator) -> Tensor:
        assert not torch.is_grad_enabled()
        assert len(x) <= SETTINGS.batch_size
        noise = self.noise * torch.rand(len(x), generator=generator)
        return -(x.flatten(1).float().mean(1) + noise) * 64 * math.log(2)

    def encode(self, x: Tensor) -> Tensor:
        assert len(x) <= SETTINGS.batch_size
        return x.flatten(1)[:, 20:40].float()

    def decode(self, z: Tensor) -> Tensor:
        assert len(z) <= SETTINGS.batch_size
        x = torch.zeros(len(z), math.prod(SHAPE))
        x[:, 20:40] = z
        return x.round().clamp(0, LEVELS - 1).to(torch.uint8).view(-1, *SHAPE)

    def scales(self) -> Tensor:
        return torch.linspace(1, 2, 64)

    def inputs(self, x: Tensor, generator: Generator) -> Tensor:
        assert len(x) <= SETTINGS.batch_size
        return x.flatten(1) + torch.rand(len(x), 64, generator=generator)

    def reconstruct(self, x: Tensor) -> Tensor:
        assert len(x) <= SETTINGS.batch_size
        return (x + 1).clamp(max=LEVELS - 1)

    def interpolate(self, a: Tensor, b: Tensor, steps: int) -> Tensor:
        share = torch.linspace(0, 1, steps).view(1, steps, 1, 1, 1)
        return ((1 - share) * a.unsqueeze(1) + share * b.unsqueeze(1)).round().to(torch.uint8)

    def complete(self, x: Tensor, rows: int, generator: Generator) -> Tensor:
        drawn = torch.randint(0, LEVELS, x.shape, dtype=torch.uint8, generator=generator)
        x[:, :, rows:] = drawn[:, :, rows:]  # in its place, as nobody forbids
        return x


class Exact(Everything):
    likelihood: Likelihood = "exact"


class Estimated(Everything):
    """Knows its normalising constant up to a factor of e, by its standard error."""

    likelihood: Likelihood = "estimate"
    log_prob_error = 1.0


BRIEF = Extractor(channels=4, features=12, dropout=0.1, epochs=10, batch_size=16, lr=0.02, seeds=[0])


def make_evaluator(digits: Tensor, labels: Tensor, seeds: list[int]) -> Evaluator:
    """An evaluator whose classifiers, one with each seed, were trained on the first digits."""
    torch.set_num_threads(1)
    train = ImageSet(digits[:TRAIN], labels[:TRAIN])
    test = ImageSet(digits[TRAIN : TRAIN + TEST].clone(), labels[TRAIN : TRAIN + TEST])
    brief = BRIEF.model_copy(update={"seeds": seeds})
    few = brief.model_copy(update={"epochs": 1})  # of classifiers trained on samples
    classifiers = [fit_classifier(train, test, LEVELS, 10, brief, torch.device("cpu"), seed=seed) for seed in seeds]
    return Evaluator(classifiers, train, test, card(SHAPE, LEVELS, 10), SETTINGS, few)


def measure(model: Model, samples: Tensor, evaluator: Evaluator, seed: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """All measures of a model, of which there is one draw."""
    return evaluate(model, [samples], evaluator, seed, {})


def spoilt(digits: Tensor) -> Tensor:
    """Digits that are in neither set, half of them spoilt."""
    some = digits[300:390].clone()
    some[::2] = LEVELS - 1 - some[::2]
    return some
