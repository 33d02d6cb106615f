"""Bayes' rule: posteriors by enumeration, scikit-learn's curve and AUROC, every family with classes and a density."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_curve, roc_auc_score
from torch import Generator, Tensor

from tests.evaluated import Everything, OnlySamples, measure
from tests.invented_project import BY_BAYES_RULE, make_project, small_sets
from tests.tiny_models import tiny_ddpm, tiny_vae
from workflow.evaluation.evaluator import Evaluator
from workflow.evaluation.metrics.bayes import (
    Answers,
    accuracy_kept,
    answers,
    area,
    area_influence,
    log_prior,
    rejection,
)
from workflow.evaluation.reference import reference
from workflow.models.base import HasLogProb, HasLogProbByClass, Model
from workflow.models.layers.common import log_mean_exp
from workflow.models.pixelcnn import PixelCNN
from workflow.params import load
from workflow.paths import KEPT, PER_IMAGE
from workflow.report.bayes_section import Bayes, bayes
from workflow.report.results import read_results
from workflow.report.summary import summarise


def _generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def _pixelcnn(shape: tuple[int, int, int], levels: int, classes: int) -> PixelCNN:
    torch.manual_seed(1)
    model = PixelCNN(shape, levels, channels=4, layers=2, dropout=0.0, classes=classes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model.eval()


def test_the_answer_is_the_posterior_of_all_images_of_a_tiny_domain() -> None:
    """All 81 images of 2x2 pixels and three levels, of which each of three classes has a probability that sums to 1."""
    model, prior = _pixelcnn((1, 2, 2), 3, 3), torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    images = torch.tensor(list(itertools.product(range(3), repeat=4)), dtype=torch.uint8).view(-1, 1, 2, 2)
    with torch.no_grad():
        given = model.log_prob_by_class(images, _generator()).double()
        one_by_one = [model.log_prob_given(images, torch.full((81,), y)) for y in range(3)]
    torch.testing.assert_close(given, torch.stack(one_by_one, 1).double())
    torch.testing.assert_close(given.exp().sum(0), torch.ones(3, dtype=torch.float64), rtol=1e-5, atol=0)
    joint = given.exp() * prior
    posterior = joint / joint.sum(1, keepdim=True)
    found = answers(given + prior.log(), (given + prior.log()).logsumexp(1))
    best, expected = posterior.max(1)
    assert torch.equal(found.classes, expected)
    assert len(expected.unique()) > 1
    torch.testing.assert_close(found.scores["confidence"].sigmoid(), best, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.scores["density"].exp(), joint.sum(1), rtol=1e-9, atol=0)


@pytest.mark.parametrize("model", [_pixelcnn((1, 4, 4), 2, 3), tiny_vae(latents=2, classes=3)], ids=["pixelcnn", "vae"])
def test_the_density_is_the_mean_of_those_given_each_class(model: Model) -> None:
    assert isinstance(model, HasLogProbByClass)
    assert isinstance(model, HasLogProb)
    x = torch.randint(0, 2, (6, 1, 4, 4), dtype=torch.uint8, generator=_generator(2))
    with torch.no_grad():
        given = model.log_prob_by_class(x, _generator())
        assert given.shape == (6, 3)
        torch.testing.assert_close(log_mean_exp(given.T), model.log_prob(x, _generator()))


def test_a_diffusion_models_bounds_differ_between_classes_by_what_it_knows_of_them_alone() -> None:
    model = tiny_ddpm(25, classes=3)
    x = torch.randint(17, (1, 1, 4, 4), dtype=torch.uint8, generator=_generator(3)).expand(400, -1, -1, -1)
    with torch.no_grad():
        given = model.log_prob_by_class(x, _generator())
        whole = torch.stack([model.log_prob_given(x, torch.full((400,), y), _generator(4)) for y in range(3)], 1)
    assert given.shape == (400, 3)
    error = ((given.var(0) + whole.var(0)) / 400).sqrt()
    assert ((given.mean(0) - whole.mean(0)).abs() < 4 * error).all()
    apart = given - given.mean(1, keepdim=True)
    assert apart.std(0).mean() < 0.25 * given.std(0).mean()  # their noise is the same
    model.network.embed_class.weight.data[:] = 0  # type: ignore[union-attr]
    with torch.no_grad():
        alike = model.log_prob_by_class(x, _generator())
    torch.testing.assert_close(alike, alike[:, :1].expand(-1, 3))


def test_confidence_does_not_saturate_and_impossible_images_have_none() -> None:
    joint = torch.tensor([[-300.0, -400.0], [-300.0, -500.0], [-math.inf, -math.inf]])
    assert answers(joint).scores["confidence"].tolist() == [100, 200, -math.inf]
    assert answers(torch.zeros(2, 1)).scores["confidence"].tolist() == [math.inf] * 2  # of the only class there is


def test_the_prior_is_that_of_training_and_excludes_no_class() -> None:
    assert log_prior(torch.tensor([0, 0, 2]), 4).exp().tolist() == pytest.approx([3 / 7, 1 / 7, 2 / 7, 1 / 7])


def _made(n: int, seed: int, ties: bool = False) -> tuple[Tensor, Tensor]:
    scores = torch.randn(n, generator=_generator(seed), dtype=torch.float64)
    scores = (2 * scores).round() if ties else scores
    return torch.rand(n, generator=_generator(seed + 1)) < (0.7 + 0.2 * scores).clamp(0, 1), scores


@pytest.mark.parametrize("ties", [False, True])
def test_accuracy_kept_is_scikit_learns_precision(ties: bool) -> None:
    """Of what is kept at a threshold, the share that is right is the precision of "right" at that threshold."""
    right, scores = _made(200, 1, ties)
    precision, _, thresholds = precision_recall_curve(right.numpy(), scores.numpy())
    curve = accuracy_kept(right, scores)
    for threshold, expected in zip(thresholds, precision[:-1], strict=True):
        assert curve[int((scores >= threshold).sum()) - 1].item() == pytest.approx(expected, abs=1e-12)
    assert area(right, scores) == pytest.approx(curve.mean().item())


def test_equal_scores_count_as_a_mean_over_all_orders() -> None:
    right, scores = torch.tensor([True, False, False, True, True]), torch.tensor([2.0, 1.0, 1.0, 1.0, 0.0])
    every = [
        accuracy_kept(right[[0, *order, 4]], torch.arange(5, 0, -1)) for order in itertools.permutations((1, 2, 3))
    ]
    torch.testing.assert_close(accuracy_kept(right, scores), torch.stack(every).mean(0))


def test_the_areas_influence_has_the_variance_of_the_bootstrap() -> None:
    right, scores = _made(150, 3)
    influence = area_influence(right, scores)
    drawn = torch.randint(150, (600, 150), generator=_generator(5))
    bootstrap = np.std([area(right[rows], scores[rows]) for rows in drawn])
    assert influence.mean().item() == pytest.approx(0, abs=1e-12)
    assert math.sqrt(influence.var().item() / 150) == pytest.approx(bootstrap, rel=0.15)


def test_rejection_by_hand() -> None:
    inside = Answers(torch.tensor([0, 1, 1]), {"confidence": torch.tensor([3.0, 2.0, 1.0])})
    odd = Answers(torch.tensor([0, 0]), {"confidence": torch.tensor([2.5, 0.0])})
    scores, influence, curves = rejection(inside, torch.tensor([0, 1, 0]), {"noise": odd})
    assert curves["confidence"].tolist() == pytest.approx([1, 1, 2 / 3])
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["kept"] == {"confidence": pytest.approx(8 / 9)}
    expected = roc_auc_score([1, 1, 1, 0, 0], [3, 2, 1, 2.5, 0])
    assert scores["odd"] == {"confidence": {"noise": pytest.approx(expected)}}
    assert influence["accuracy"].tolist() == [1, 1, 0]


class Sorted(Everything):
    """Knows the classes of all test images but the first ten, and nothing of other images."""

    classes = 10

    def __init__(self, evaluator: Evaluator) -> None:
        super().__init__()
        self.known = {x.numpy().tobytes(): int(y) for x, y in zip(*_parts(evaluator), strict=True)}

    def log_prob_by_class(self, x: Tensor, generator: Generator) -> Tensor:
        assert len(x) <= 16
        assert not torch.is_grad_enabled()
        found = torch.full((len(x), 10), -50.0)
        for row, image in enumerate(x):
            if (y := self.known.get(image.numpy().tobytes())) is not None:
                found[row, y] = -20.0 - row / 10
        return found


def _parts(evaluator: Evaluator) -> tuple[Tensor, Tensor]:
    return evaluator.test.images[10:], evaluator.test.labels[10:]


def test_a_model_that_knows_the_classes_of_most_test_images_is_right_and_knows_when_it_is_not(
    evaluator: Evaluator, samples: Tensor
) -> None:
    metrics, pictures = measure(Sorted(evaluator), samples, evaluator, 0)
    found, test = metrics["bayes"], evaluator.test
    guess = evaluator.train.labels.bincount(minlength=10).argmax()
    right = torch.cat([test.labels[:10] == guess, torch.ones(len(test) - 10).bool()])
    assert found["accuracy"] == pytest.approx(right.double().mean().item())
    assert found["kept"]["confidence"] > found["accuracy"]
    assert found["odd"]["confidence"]["noise"] == pytest.approx(1 - 5 / len(test), abs=0.1)
    assert found["odd"]["density"] == pytest.approx(metrics["oddity"])  # of all test images, as there are few
    assert torch.equal(pictures[f"{PER_IMAGE}bayes.accuracy"], right.float())
    curve = pictures[f"{KEPT}confidence"]
    assert curve[[0, -1]].tolist() == pytest.approx([1, found["accuracy"]])
    assert pictures[f"{KEPT}density"].shape == curve.shape == (len(test),)
    for model in (Everything(), OnlySamples()):  # of other classes than the data's, of none
        assert measure(model, samples, evaluator, 0)[0]["bayes"] is None


def test_naive_bayes_and_the_extractors_are_held_against_it(evaluator: Evaluator) -> None:
    found, tensors = reference(evaluator, 40)
    images, labels = evaluator.test.images, evaluator.test.labels
    (seen,) = evaluator.outputs(images)
    assert seen.logits is not None
    classifier = found["classifier"]
    assert classifier["bayes"]["accuracy"] == pytest.approx((seen.logits.argmax(1) == labels).double().mean().item())
    right, sure = seen.logits.argmax(1) == labels, seen.logits.softmax(1).max(1).values
    assert classifier["bayes"]["kept"] == {"confidence": pytest.approx(area(right, sure), abs=1e-3)}
    assert classifier["repeats"]["bayes.accuracy"] == [[classifier["bayes"]["accuracy"]]]
    assert tensors[f"classifier/{KEPT}confidence"].shape == (len(labels),)
    counts = torch.stack([(evaluator.train.images == level).flatten(1) for level in range(17)]).double()
    of_class = torch.stack([counts[:, evaluator.train.labels == y].sum(1) + 1 for y in range(10)])
    log_p = (of_class / of_class.sum(1, keepdim=True)).log()
    flat = images.flatten(1).long()
    joint = torch.stack([log_p[y].gather(0, flat).sum(1) for y in range(10)], 1)
    joint = joint + log_prior(evaluator.train.labels, 10)
    expected = (joint.argmax(1) == labels).double().mean().item()
    assert found["naive_bayes"]["bayes"]["accuracy"] == pytest.approx(expected)
    assert found["naive_bayes"]["bayes"]["odd"].keys() == {"confidence", "density"}


def test_it_is_not_tried_without_classes_or_with_very_many(evaluator: Evaluator) -> None:
    for classes in (0, 101):
        card = replace(evaluator.card, classes=tuple(map(str, range(classes))))
        assert len(replace(evaluator, card=card).judged) == 0
    hundred = replace(evaluator, card=replace(evaluator.card, classes=tuple(map(str, range(100)))))
    assert len(hundred.judged) == len(evaluator.test)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bayes | None, Bayes | None]:
    """The part of the page, and of a report without the model that it is about."""
    folder = tmp_path_factory.mktemp("bayes")
    make_project(folder, small_sets(), 5, ["a", "b", "c"], seeds=[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        whole, without = (read_results(load(), missing) for missing in ((), (BY_BAYES_RULE,)))
        return bayes(summarise(whole), whole), bayes(summarise(without), without)


def test_the_page_shows_what_is_kept_beside_classifiers(shown: tuple[Bayes | None, Bayes | None]) -> None:
    found, nothing = shown
    assert nothing is None
    assert found is not None
    rows = {row.label: [cell.text for cell in row.cells] for _, group in found.table.groups for row in group}
    assert list(rows) == ["Gated PixelCNN", "Naive Bayes", "Discriminative classifier"]
    assert rows["Gated PixelCNN"] == [f"{value}\N{NO-BREAK SPACE}%" for value in ("91.0", "95.5", "94.5")]
    assert rows["Discriminative classifier"][-1] == "–"
    labels = ["Gated PixelCNN, confidence", "Gated PixelCNN, p(x)", "Naive Bayes, confidence", "Naive Bayes, p(x)"]
    assert [label for _, label, _ in found.odd] == [*labels, "Discriminative classifier, confidence"]
    assert found.odd[0][2] == [("0.900", False), ("0.400", True)]
    assert all(
        text in found.chart for text in ("Gated PixelCNN", "Discriminative classifier", "share of the test images")
    )
