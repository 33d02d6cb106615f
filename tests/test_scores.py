"""Measures over draws and extractors: what each was, and their means."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from tests.evaluated import SAMPLES_ALONE, TEST, Everything, OnlySamples
from workflow.evaluation.evaluate import evaluate
from workflow.evaluation.evaluator import Evaluator
from workflow.evaluation.scores import combine, mean_of

PER_DRAW = {"sharpness", "nearest_neighbour.samples", "nearest_neighbour.copies", "nearest_neighbour.ratio"}
TOGETHER = {"fid_infinity", "class_accuracy", "cas", "cas_of_real"}  # of all draws, or of other images
PER_IMAGE = {
    *("fid", "fid_infinity", "kid", "precision", "recall", "density", "coverage", "modes.kl", "sharpness"),
    *("bits_per_dim", "bits_gap", "copying.c_t", "copying.fld_gap", "probe_accuracy", "reconstruction_mse"),
    *("prd.precision", "prd.recall", "cas", "few_labels.1", "few_labels.5"),
}


@pytest.fixture(scope="module")
def draws(digits: Tensor) -> list[Tensor]:
    """Three draws of digits, ever more of them spoilt."""
    found = []
    for draw, spoilt in enumerate((2, 3, 5)):
        images = digits[300 + 60 * draw : 360 + 60 * draw].clone()
        images[::spoilt] = 16 - images[::spoilt]
        found.append(images)
    return found


def test_means_and_tables_by_hand() -> None:
    first = [({"a": 1, "b": {"c": 2.0, "d": [0, 1]}, "a_std": 9.0, "no": None}, {"a": torch.tensor([1.0, 2.0])})]
    second = [({"a": 2, "b": {"c": 5.0, "d": [1, 1]}, "a_std": 1.0, "no": None}, {"a": torch.tensor([3.0, 2.0])})]
    found = combine([first, second])
    assert found.means == {"a": 1.5, "b": {"c": 3.5, "d": [0.5, 1]}, "a_std": 5, "no": None}
    assert found.repeats == {"a": [[1], [2]], "b.c": [[2], [5]]}
    assert found.per_image["a"].tolist() == [2, 2]
    assert (combine([first]) | combine([[({"e": 3}, {})]])).means == {**first[0][0], "e": 3}


def test_the_mean_of_equal_values_is_their_value() -> None:
    assert mean_of([0.1] * 3) == 0.1
    assert isinstance(mean_of([7, 7, 7]), int)


def _numbers(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            yield prefix + key, value


def test_rows_are_draws_and_columns_extractors(two_eyes: Evaluator, draws: list[Tensor]) -> None:
    """Each place holds what this extractor alone says of this draw alone, and the measure is their mean."""
    metrics, _ = evaluate(OnlySamples(), draws, two_eyes, 0, {})
    tables = metrics["repeats"]
    assert metrics["counts"]["draws"] == 3
    assert metrics["counts"]["samples"] == 60
    for column, extractor in enumerate(two_eyes.extractors):
        alone = replace(two_eyes, extractors=[extractor])
        for row, draw in enumerate(draws):
            one = dict(_numbers((alone.scores([draw]) | alone.memorisation([draw])).means))
            for path in tables.keys() - TOGETHER - {"nearest_neighbour.ratio"}:
                assert tables[path][row][0 if path in PER_DRAW else column] == one[path], path
        assert tables["fid_infinity"][0][column] == alone.scores(draws).means["fid_infinity"]
    means = dict(_numbers(metrics))
    for path, table in tables.items():
        assert [len(line) for line in table] == [1 if path in PER_DRAW else 2] * (1 if path in TOGETHER else 3), path
        expected = sum(map(sum, table)) / sum(map(len, table))
        if path != "nearest_neighbour.ratio":
            assert means[path] == pytest.approx(expected), path
    near = metrics["nearest_neighbour"]
    assert tables["nearest_neighbour.ratio"] == [
        [line[0] / near["test"]] for line in tables["nearest_neighbour.samples"]
    ]
    told = {path for path, _ in _numbers({key: metrics[key] for key in (*SAMPLES_ALONE, "nearest_neighbour")})}
    assert tables.keys() - {"nearest_neighbour.ratio"} == {
        path for path in told if not path.endswith(("_std", "nearest_neighbour.test"))
    }


def test_the_first_draw_by_the_first_extractor_is_as_without_others(
    evaluator: Evaluator, two_eyes: Evaluator, draws: list[Tensor]
) -> None:
    alone, _ = evaluate(OnlySamples(), draws[:1], evaluator, 0, {})
    metrics, _ = evaluate(OnlySamples(), draws, two_eyes, 0, {})
    for path, table in alone["repeats"].items():
        if path != "fid_infinity":
            assert table == [metrics["repeats"][path][0][:1]], path
    untouched = {"counts", "repeats", "decoded", "gflops_per_sample", "passes_in_sequence"}
    assert {key for key in alone.keys() - untouched if alone[key] != metrics[key]} == {
        *("fid", "fid_infinity", "kid", "kid_std", "inception_score", "inception_score_std", "precision", "recall"),
        *("density", "coverage", "modes", "sharpness", "nearest_neighbour", "copying", "vendi", "rke", "prd"),
    }


def test_other_decodings_are_scored_by_themselves(two_eyes: Evaluator, draws: list[Tensor]) -> None:
    metrics, _ = evaluate(OnlySamples(), draws, two_eyes, 0, {"mode": draws[2], "mean": draws[1]})
    assert metrics["decoded"].keys() == {"mode", "mean"}
    assert metrics["decoded"]["mode"] == two_eyes.scores(draws[2:]).means
    assert metrics["decoded"]["mean"].keys() == SAMPLES_ALONE


def test_influence_values_are_means_over_draws_and_extractors(two_eyes: Evaluator, draws: list[Tensor]) -> None:
    metrics, pictures = evaluate(Everything(), draws, two_eyes, 0, {})
    found = {name.removeprefix("per_image/"): x for name, x in pictures.items() if name.startswith("per_image/")}
    assert found.keys() == PER_IMAGE
    assert all(x.shape == (TEST,) and x.dtype == torch.float32 for x in found.values())
    means = ("recall", "density", "coverage", "bits_per_dim", "bits_gap", "probe_accuracy", "reconstruction_mse", "cas")
    for path in means:
        assert found[path].double().mean().item() == pytest.approx(metrics[path], rel=1e-5), path
    centred = ("fid", "fid_infinity", "kid", "modes.kl", "sharpness", "copying.c_t", "copying.fld_gap")
    for path in (*centred, "prd.precision", "prd.recall"):
        assert found[path].double().mean().item() == pytest.approx(0, abs=0.02 * float(found[path].std())), path
    by_hand = [
        replace(two_eyes, extractors=[extractor]).scores([draw]).per_image["recall"]
        for extractor in two_eyes.extractors
        for draw in draws
    ]
    torch.testing.assert_close(found["recall"], torch.stack(by_hand).mean(0).float())
    assert torch.equal(found["bits_per_dim"], pictures["bits of test images"])


def test_each_extractor_judges_the_requested_classes(two_eyes: Evaluator, draws: list[Tensor]) -> None:
    class Likely(Everything):
        classes = 10

        def sample_given(self, y: Tensor, generator: Generator) -> Tensor:
            return two_eyes.train.images[y]

    metrics, _ = evaluate(Likely(), draws, two_eyes, 0, {})
    y = torch.arange(60) % 10
    expected = []
    for seen in two_eyes.outputs(two_eyes.train.images[y]):
        assert seen.classes is not None
        expected.append(float((seen.classes == y).double().mean()))
    assert metrics["repeats"]["class_accuracy"] == [expected]
    assert metrics["class_accuracy"] == pytest.approx(sum(expected) / 2)
