"""The probe from a few labels a class: which images are labelled, scikit-learn's accuracy, and its chart and table."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from tests.evaluated import Everything, OnlySamples, measure
from tests.invented_project import make_project, small_sets
from workflow.evaluation import fine_tuning
from workflow.evaluation.columns import FEW_LABELS, FINE_TUNED
from workflow.evaluation.evaluator import Evaluator
from workflow.evaluation.metrics import few_labels as module
from workflow.evaluation.metrics.few_labels import affordable, few_label_hits, labelled
from workflow.evaluation.metrics.probe import probe_hits
from workflow.evaluation.reference import reference
from workflow.params import load
from workflow.random_streams import Stream, make_generator
from workflow.report.few_labels import count_of, few_labels
from workflow.report.results import read_results
from workflow.report.summary import summarise


def _order(n: int, draw: int = 0) -> Tensor:
    return torch.randperm(n, generator=make_generator(torch.device("cpu"), 0, Stream.LABELS, draw))


def _oracle(train: Tensor, labels: Tensor, test: Tensor, truth: Tensor) -> float:
    scaler = StandardScaler().fit(train.double().numpy())
    probe = LogisticRegression(tol=1e-9, max_iter=10_000).fit(scaler.transform(train.double().numpy()), labels)
    return float(probe.score(scaler.transform(test.double().numpy()), truth))


def test_columns_are_those_of_the_counts() -> None:
    assert tuple(map(count_of, FEW_LABELS)) == module.COUNTS
    assert tuple(dict.fromkeys(map(count_of, FINE_TUNED))) == module.COUNTS
    assert (fine_tuning.DRAWS, fine_tuning.STEPS, fine_tuning.BATCH, fine_tuning.TESTED) == (3, 80, 32, 500)
    assert all(f"{module.MOST:,}" in column.note for column in FEW_LABELS)
    assert module.DRAWS == 5  # as the columns say


def test_only_counts_that_every_class_has_and_that_are_few_together(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.tensor([0] * 30 + [4] * 20)
    assert affordable(labels) == [1, 5, 20]
    assert affordable(labels[:-1]) == [1, 5]
    monkeypatch.setattr(module, "MOST", 39)
    assert affordable(labels) == [1, 5]


def test_as_many_of_each_class_are_labelled_at_random_and_more_labels_are_the_fewer_and_others() -> None:
    labels = torch.arange(40) % 4
    first, other = _order(40), _order(40, 1)
    few, more = labelled(labels, 2, first).tolist(), labelled(labels, 5, first).tolist()
    assert labels[more].bincount().tolist() == [5] * 4
    assert len(set(more)) == 20
    assert set(few) < set(more)
    assert set(few) != set(labelled(labels, 2, other).tolist())


def test_it_is_scikit_learns_probe_on_the_labelled_images(digits: Tensor, digit_labels: Tensor) -> None:
    """At one and five labels a class there are fewer images than pixels."""
    train, test = digits[:400].flatten(1), digits[400:800].flatten(1)
    labels, truth, order = digit_labels[:400], digit_labels[400:800], _order(400)
    found = few_label_hits(train, labels, test, truth, 1.0, order)
    assert list(found) == [1, 5, 20]
    for count, hits in found.items():
        rows = labelled(labels, count, order)
        assert hits.double().mean().item() == pytest.approx(_oracle(train[rows], labels[rows], test, truth), abs=0.003)


def test_fewer_images_than_features_are_probed_in_their_span(digits: Tensor, digit_labels: Tensor) -> None:
    """Features of which 300 are copies: the minimum is the same, and so are its answers."""
    train, test = (torch.cat([part.flatten(1)] * 5, 1) for part in (digits[:60], digits[400:700]))
    hits = probe_hits(train, digit_labels[:60], test, digit_labels[400:700], 0.2)
    once = probe_hits(train[:, :64], digit_labels[:60], test[:, :64], digit_labels[400:700], 1.0)
    assert (hits == once).double().mean() > 0.995  # five times the features at a fifth of their strength


def test_every_model_learns_from_the_same_labels(evaluator: Evaluator, samples: Tensor) -> None:
    metrics, pictures = measure(Everything(), samples, evaluator, 0)
    assert metrics["few_labels"].keys() == {str(count) for count in affordable(evaluator.probed.labels)}
    train, test = (part.images.flatten(1)[:, 20:40] for part in (evaluator.train, evaluator.test))
    expected = []
    for draw in range(module.DRAWS):
        rows = labelled(evaluator.train.labels, 5, _order(len(train), draw))
        expected.append(_oracle(train[rows], evaluator.train.labels[rows], test, evaluator.test.labels))
    assert [row[0] for row in metrics["repeats"]["few_labels.5"]] == pytest.approx(expected, abs=1.01 / len(test))
    assert metrics["few_labels"]["5"] == pytest.approx(sum(expected) / module.DRAWS, abs=0.01)
    per_image = pictures["per_image/few_labels.5"]
    assert per_image.double().mean().item() == pytest.approx(metrics["few_labels"]["5"], rel=1e-6)
    assert set(per_image.mul(module.DRAWS).round().tolist()) <= set(range(module.DRAWS + 1))
    assert measure(OnlySamples(), samples, evaluator, 0)[0]["few_labels"] == {}


def test_raw_pixels_are_probed_in_the_same_way(evaluator: Evaluator) -> None:
    found, tensors = reference(evaluator, 40)
    train, test = (part.images.flatten(1) for part in (evaluator.probed, evaluator.test))
    scores = evaluator.few_labels(train, test)
    assert found["pixel_few_labels"] == {**scores.means["few_labels"], "repeats": scores.repeats}
    assert torch.equal(tensors["raw_pixels/per_image/few_labels.1"], scores.per_image["few_labels.1"].float())


def test_without_classes_there_is_nothing_to_label(evaluator: Evaluator) -> None:
    features = torch.zeros(3, 2)
    found = replace(evaluator, card=replace(evaluator.card, classes=())).few_labels(features, features)
    assert (found.means, found.repeats) == ({"few_labels": {}}, {})


def test_channels_with_classes_of_their_own_are_probed_one_by_one(evaluator: Evaluator) -> None:
    """Each of three channels has a digit of 0 or 1, of which the features tell the first two."""
    digits = torch.randint(2, (400, 3), generator=torch.Generator().manual_seed(0))
    features = digits.double() * torch.tensor([1.0, 1.0, 0.0])
    images = torch.zeros(200, 3, 8, 8, dtype=torch.uint8)
    spelt = digits @ torch.tensor([4, 2, 1])
    card = replace(evaluator.card, channelwise=True, classes=tuple(map(str, range(8))), shape=(3, 8, 8))
    train, test = (replace(evaluator.train, images=images, labels=part) for part in spelt.split(200))
    stacked = replace(evaluator, card=card, train=train, test=test)
    found = stacked.few_labels(features[:200], features[200:]).means["few_labels"]
    assert found["20"] == pytest.approx((2 + 0.5) / 3, abs=0.06)


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("few")
    make_project(folder, small_sets(), 5, ["a", "b", "c"], seeds=[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        found: dict[str, Any] = json.loads(json.dumps(summarise(read_results(load()))))
    return found


def test_the_page_has_a_line_a_model_with_features_and_one_of_raw_pixels(summary: dict[str, Any]) -> None:
    found = few_labels(summary)
    assert found is not None
    assert [count_of(column) for column in found.table.columns] == [1, 5, 20]
    assert all(name in found.chart for name in ("VAE", "NICE", "raw pixels", "labelled training images of each class"))
    assert "GAN" not in found.chart
    rows = {row.label: row.cells for _, group in found.table.groups for row in group}
    assert rows["VAE"][1].text == f"{100 * summary['models']['vae']['mean']['few_labels_5']:.1f}\N{NO-BREAK SPACE}%"
    assert rows["VAE"][1].ends is not None
    assert rows["Raw pixels"][0].text == "40.0\N{NO-BREAK SPACE}%"


def test_the_page_has_what_encoders_gain_over_scratch(summary: dict[str, Any]) -> None:
    found = few_labels(summary)
    assert found is not None
    assert found.gains is not None
    assert [count_of(column) for column in found.gains.table.columns] == [1, 1, 5, 5]
    assert all(name in found.gains.chart for name in ("VAE", "VQ-VAE", "from scratch", "gain in accuracy"))
    rows = {row.label: [cell.text for cell in row.cells] for _, group in found.gains.table.groups for row in group}
    assert rows.keys() == {"VAE", "VQ-VAE"}
    assert rows["VAE"] == [f"{value}\N{NO-BREAK SPACE}%" for value in ("70.0", "10.0", "80.0", "−1.0")]
    without = {key: value for key, value in summary["models"].items() if key not in ("vae", "vqvae")}
    beside = few_labels({**summary, "models": without})
    assert beside is not None
    assert beside.gains is None


def test_without_features_there_is_no_such_part(summary: dict[str, Any]) -> None:
    assert few_labels({**summary, "models": {"gan": summary["models"]["gan"]}}) is None
