"""The real images' own row, the baseline of independent pixels, and what is measured of very many images."""

import bz2
import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.evaluated import LEVELS, SAMPLES_ALONE, TEST, TRAIN, Everything, measure
from workflow.data.tensors import ImageSet
from workflow.evaluation import evaluator as module
from workflow.evaluation import representation
from workflow.evaluation.columns import MEASURED
from workflow.evaluation.evaluator import Evaluator
from workflow.evaluation.metrics import formats, neighbours
from workflow.evaluation.reference import reference
from workflow.evaluation.scores import Scores


def test_reference_scores_training_images_at_the_models_count(evaluator: Evaluator) -> None:
    found = reference(evaluator, 40)[0]
    assert found["counts"] == {"samples": 40, "test": TEST}
    assert found["real"].keys() == SAMPLES_ALONE | {"repeats"}
    assert found["histogram_model"].keys() == SAMPLES_ALONE | {"repeats", "bits_per_dim"}
    assert found == reference(evaluator, 40)[0]
    everything, at_most = evaluator.scores([evaluator.train.images]).means, reference(evaluator, TRAIN + 50)[0]
    assert at_most["counts"] == {"samples": TRAIN, "test": TEST}
    assert at_most["real"]["fid"] == pytest.approx(everything["fid"], rel=1e-6)
    assert at_most["real"]["modes"] == everything["modes"]
    assert at_most["real"]["fid"] < found["real"]["fid"]  # more images, less of the estimate's bias


def test_reference_draws_distinct_training_images(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[Tensor] = []

    def scores(self: Evaluator, draws: list[Tensor]) -> Scores:
        scored.extend(draws)
        return Scores({}, {}, {})

    monkeypatch.setattr(Evaluator, "scores", scores)
    reference(evaluator, TRAIN + 50)[0]
    assert [len(images) for images in scored] == [TRAIN, TRAIN]  # all there are, and no more of the baseline's
    scored.clear()
    reference(evaluator, 40)[0]
    drawn, baseline = ({image.numpy().tobytes() for image in images} for images in scored)
    train = {image.numpy().tobytes() for image in evaluator.train.images}
    assert len(scored[0]) == len(drawn) == len(scored[1]) == 40
    assert drawn <= train
    assert not baseline & train
    assert not torch.equal(scored[0], evaluator.train.images[:40])  # they come in any order, as sets may be sorted


def test_reference_has_as_many_draws_as_there_are_training_images_for(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No image is in two; the first draw is the same whatever their number; the baseline always has all."""
    scored: list[list[Tensor]] = []
    whole = Evaluator.scores

    def scores(self: Evaluator, draws: list[Tensor]) -> Scores:
        scored.append(draws)
        return whole(self, draws)

    once, _ = reference(evaluator, 40)
    monkeypatch.setattr(Evaluator, "scores", scores)
    repeated = replace(evaluator, settings=evaluator.settings.model_copy(update={"draws": 5}))
    found, per_image = reference(repeated, 40)
    real, baseline = scored
    assert [len(images) for images in real] == [40, 40, 40]  # of 150
    assert len({image.numpy().tobytes() for images in real for image in images}) == 120
    assert [len(images) for images in baseline] == [40] * 5
    assert len({images.numpy().tobytes() for images in baseline}) == 5
    for row, draws in (("real", 3), ("histogram_model", 5)):
        tables = found[row]["repeats"]
        assert (len(tables["fid"]), len(tables["fid_infinity"])) == (draws, 1)
        assert tables["fid"][0] == [once[row]["fid"]]
        assert found[row]["fid"] == pytest.approx(sum(value for (value,) in tables["fid"]) / draws)
        assert per_image[f"{row}/per_image/fid"].shape == (TEST,)
    assert per_image["histogram_model/per_image/bits_per_dim"].mean().item() == pytest.approx(
        found["histogram_model"]["bits_per_dim"]
    )


def test_reference_is_what_one_computes_by_hand(evaluator: Evaluator) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    found = reference(evaluator, 60)[0]
    assert found["uniform_bits_per_dim"] == pytest.approx(math.log2(17), rel=1e-12)
    train, test = (part.images.flatten(1).numpy() for part in (evaluator.train, evaluator.test))
    counts = np.stack([(train == level).sum(0) + 1 for level in range(LEVELS)])
    bits = -np.log2(counts / (TRAIN + LEVELS))[test, np.arange(64)].mean()
    assert found["histogram_model"]["bits_per_dim"] == pytest.approx(bits, rel=1e-9)
    assert found["histogram_model"]["bits_per_dim"] < found["uniform_bits_per_dim"]
    assert found["histogram_model"]["fid"] > found["real"]["fid"]
    scaler = StandardScaler().fit(train)
    probe = LogisticRegression(max_iter=1000).fit(scaler.transform(train), evaluator.train.labels)
    expected = (probe.predict(scaler.transform(test)) == evaluator.test.labels.numpy()).mean()
    assert found["pixel_probe_accuracy"] == pytest.approx(expected, abs=1.01 / TEST)
    packed = bz2.compress(evaluator.test.images.numpy().tobytes())
    assert found["formats"]["bz2"] == pytest.approx(8 * len(packed) / (TEST * 64), rel=1e-12)


def test_the_probe_learns_from_some_training_images_evenly_spaced(
    evaluator: Evaluator, samples: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROBED", 50)
    few = replace(evaluator)
    assert torch.equal(few.probed.images, evaluator.train.images[::3])
    only = replace(evaluator, train=ImageSet(evaluator.train.images[::3], evaluator.train.labels[::3]))
    metrics, expected = measure(Everything(), samples, few, 0)[0], measure(Everything(), samples, only, 0)[0]
    assert metrics["probe_accuracy"] == expected["probe_accuracy"]
    assert reference(few, 40)[0]["pixel_probe_accuracy"] == reference(only, 40)[0]["pixel_probe_accuracy"]


def test_parts_do_not_change_the_reconstruction_error(
    evaluator: Evaluator, samples: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure(Everything(), samples, evaluator, 0)[0]["reconstruction_mse"]
    monkeypatch.setattr(representation, "CONVERTED", 7)
    assert measure(Everything(), samples, evaluator, 0)[0]["reconstruction_mse"] == pytest.approx(whole, rel=1e-12)


def test_the_page_tells_how_many_images_are_searched_and_probed() -> None:
    notes = {column.key: column.note for column in MEASURED}
    assert f"{neighbours.SEARCHED:,}" in notes["nearest_neighbour_ratio"]
    assert f"{module.PROBED:,}" in notes["probe_accuracy"]


def test_general_formats_take_what_they_take_of_all_images_together(digits: Tensor) -> None:
    images = digits[:10]
    sheet = np.zeros((32, 32), np.uint8)  # four by four places
    for i, image in enumerate(images.numpy()):
        sheet[i // 4 * 8 : i // 4 * 8 + 8, i % 4 * 8 : i % 4 * 8 + 8] = image[0]
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "PNG", optimize=True)
    found = formats.sizes(images)
    assert list(found) == ["bz2", "xz", "PNG", "WebP"]
    assert (found["bz2"], found["PNG"]) == (len(bz2.compress(images.numpy().tobytes())), len(file.getvalue()))
    points = torch.randint(0, 256, (1000, 2, 1, 1), dtype=torch.uint8)
    assert min(formats.sizes(points).values()) >= 2000  # noise cannot be packed, and points are no pictures
    assert list(formats.sizes(points)) == ["bz2", "xz"]
    colours = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    assert formats.sizes(colours)["PNG"] >= 5 * 48
