"""The real images' own row, the baseline of independent pixels, and what is measured of very many images."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.judged import LEVELS, SAMPLES_ALONE, TEST, TRAIN, Everything
from workflow.data.tensors import ImageSet
from workflow.evaluation import evaluator
from workflow.evaluation.columns import MEASURED
from workflow.evaluation.evaluator import Judge, evaluate, reference
from workflow.evaluation.metrics import neighbours


def test_reference_scores_training_images_at_the_models_count(judge: Judge) -> None:
    found = reference(judge, 40)
    assert found["counts"] == {"samples": 40, "test": TEST}
    assert found["real"].keys() == SAMPLES_ALONE
    assert found["histogram_model"].keys() == SAMPLES_ALONE | {"bits_per_dim"}
    assert found == reference(judge, 40)
    everything, at_most = judge.scores(judge.train.images), reference(judge, TRAIN + 50)
    assert at_most["counts"] == {"samples": TRAIN, "test": TEST}
    assert at_most["real"]["fid"] == pytest.approx(everything["fid"], rel=1e-6)
    assert at_most["real"]["modes"] == everything["modes"]
    assert at_most["real"]["fid"] < found["real"]["fid"]  # more images, less of the estimate's bias


def test_reference_draws_distinct_training_images(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[Tensor] = []

    def scores(self: Judge, images: Tensor) -> dict[str, Any]:
        scored.append(images)
        return {}

    monkeypatch.setattr(Judge, "scores", scores)
    reference(judge, TRAIN + 50)
    assert [len(images) for images in scored] == [TRAIN, TRAIN]  # all there are, and no more of the baseline's
    scored.clear()
    reference(judge, 40)
    drawn, baseline = ({image.numpy().tobytes() for image in images} for images in scored)
    train = {image.numpy().tobytes() for image in judge.train.images}
    assert len(scored[0]) == len(drawn) == len(scored[1]) == 40
    assert drawn <= train
    assert not baseline & train
    assert not torch.equal(scored[0], judge.train.images[:40])  # they come in any order, as sets may be sorted


def test_reference_is_what_one_computes_by_hand(judge: Judge) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    found = reference(judge, 60)
    assert found["uniform_bits_per_dim"] == pytest.approx(math.log2(17), rel=1e-12)
    train, test = (part.images.flatten(1).numpy() for part in (judge.train, judge.test))
    counts = np.stack([(train == level).sum(0) + 1 for level in range(LEVELS)])
    bits = -np.log2(counts / (TRAIN + LEVELS))[test, np.arange(64)].mean()
    assert found["histogram_model"]["bits_per_dim"] == pytest.approx(bits, rel=1e-9)
    assert found["histogram_model"]["bits_per_dim"] < found["uniform_bits_per_dim"]
    assert found["histogram_model"]["fid"] > found["real"]["fid"]
    scaler = StandardScaler().fit(train)
    probe = LogisticRegression(max_iter=1000).fit(scaler.transform(train), judge.train.labels)
    expected = (probe.predict(scaler.transform(test)) == judge.test.labels.numpy()).mean()
    assert found["pixel_probe_accuracy"] == pytest.approx(expected, abs=1.01 / TEST)


def test_the_probe_learns_from_some_training_images_evenly_spaced(
    judge: Judge, samples: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator, "PROBED", 50)
    few = replace(judge)
    assert torch.equal(few.probed.images, judge.train.images[::3])
    only = replace(judge, train=ImageSet(judge.train.images[::3], judge.train.labels[::3]))
    metrics, expected = evaluate(Everything(), samples, few, 0)[0], evaluate(Everything(), samples, only, 0)[0]
    assert metrics["probe_accuracy"] == expected["probe_accuracy"]
    assert reference(few, 40)["pixel_probe_accuracy"] == reference(only, 40)["pixel_probe_accuracy"]


def test_parts_do_not_change_the_reconstruction_error(
    judge: Judge, samples: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(Everything(), samples, judge, 0)[0]["reconstruction_mse"]
    monkeypatch.setattr(evaluator, "SOME", 7)
    assert evaluate(Everything(), samples, judge, 0)[0]["reconstruction_mse"] == pytest.approx(whole, rel=1e-12)


def test_the_page_tells_how_many_images_are_searched_and_probed() -> None:
    notes = {column.key: column.note for column in MEASURED}
    assert f"{neighbours.SEARCHED:,}" in notes["nearest_neighbour_ratio"]
    assert f"{evaluator.PROBED:,}" in notes["probe_accuracy"]
