"""What is measured of a model that can do everything and of one that can only sample, and the real images' own row."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.cards import card
from tests.evaluated import (
    LEVELS,
    MEASURES,
    SAMPLES_ALONE,
    SHAPE,
    TEST,
    TRAIN,
    Estimated,
    Everything,
    Exact,
    OnlySamples,
    measure,
)
from workflow.data.arrays import Mixture
from workflow.data.tensors import ImageSet, read_tensors, write_tensors
from workflow.evaluation.classifier import Classifier, Outputs
from workflow.evaluation.evaluator import Evaluator
from workflow.evaluation.metrics.copying import copying, fit_memory, fit_training
from workflow.evaluation.metrics.diversity import kernel_width, renyi_modes, vendi_score
from workflow.evaluation.metrics.extrapolation import infinite_fid
from workflow.evaluation.metrics.fld import generalisation_gap
from workflow.evaluation.metrics.frechet import fit_gaussian, frechet_distance
from workflow.evaluation.metrics.inception import inception_score
from workflow.evaluation.metrics.kernel import kernel_distance
from workflow.evaluation.metrics.manifold import fit_manifold, manifold_scores, overlap
from workflow.evaluation.metrics.modes import mode_coverage
from workflow.evaluation.metrics.neighbours import nearest
from workflow.evaluation.metrics.prd import precision_and_recall
from workflow.evaluation.metrics.sharpness import sharpness
from workflow.evaluation.reference import reference
from workflow.evaluation.scores import read_real, write_real
from workflow.models.base import Model
from workflow.paths import PER_IMAGE, REAL_FEATURES


def _numbers(content: Any) -> Iterator[float]:
    if isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _numbers(value)
    elif isinstance(content, int | float):
        yield content


def _shown(pictures: dict[str, Any]) -> dict[str, Any]:
    """Those that are images."""
    return {
        name: value
        for name, value in pictures.items()
        if not name.startswith(("bits of ", "spectrum of ", "latent_shares", PER_IMAGE))
    }


def _sharp(images: Tensor) -> float:
    found = sharpness(images, LEVELS)
    assert found is not None
    return found


def test_every_model_is_reported_by_the_same_keys(evaluator: Evaluator, samples: Tensor) -> None:
    for model in (Everything(), OnlySamples()):
        assert measure(model, samples, evaluator, 0)[0].keys() == MEASURES


def test_a_model_that_only_samples_has_no_likelihood_and_no_features(evaluator: Evaluator, samples: Tensor) -> None:
    metrics, pictures = measure(OnlySamples(), samples, evaluator, 0)
    absent = {"bits_per_dim", "bits_per_dim_kind", "bits_per_dim_sem", "probe_accuracy", "reconstruction_mse"}
    absent |= {"oddity", "class_accuracy", "high_quality", "bits_gap", "cas", "cas_of_real", "bayes"}
    assert {key for key, value in metrics.items() if value is None} == absent
    assert _shown(pictures).keys() == {"neighbours_samples", "neighbours_train", "neighbours_by_features"}
    full, _ = measure(Everything(), samples, evaluator, 0)
    assert {key for key, value in full.items() if value is None} == {"high_quality", "bayes"}  # of points; of classes
    repeats = full.pop("repeats")
    for key in ("class_accuracy", "cas", "cas_of_real"):
        assert repeats.pop(key) == [[full[key]]]
    absent |= {"few_labels"}
    assert {path: table for path, table in repeats.items() if not path.startswith("few_labels")} == metrics["repeats"]
    assert {key: full[key] for key in full.keys() - absent} == {key: metrics[key] for key in full.keys() - absent}


@pytest.mark.parametrize(
    ("model", "kind"),
    [(Exact(), "exact"), (Everything(), "upper bound"), (Estimated(), "estimate"), (OnlySamples(), None)],
    ids=repr,
)
def test_says_what_its_bits_are(evaluator: Evaluator, samples: Tensor, model: Model, kind: str | None) -> None:
    metrics, _ = measure(model, samples, evaluator, 0)
    assert metrics["bits_per_dim_kind"] == kind
    assert (metrics["bits_per_dim"] is None) == (kind is None)
    assert metrics.get("bits_per_dim_error") == (pytest.approx(1 / (64 * math.log(2))) if kind == "estimate" else None)


def test_bits_and_their_standard_error_are_those_of_the_test_images(evaluator: Evaluator, samples: Tensor) -> None:
    metrics, _ = measure(Everything(), samples, evaluator, 0)
    bits = evaluator.test.images.numpy().mean((1, 2, 3))
    assert metrics["bits_per_dim"] == pytest.approx(bits.mean(), rel=1e-6)
    assert metrics["bits_per_dim_sem"] == pytest.approx(bits.std(ddof=1) / math.sqrt(TEST), rel=1e-5)


def test_overfitting_is_what_training_images_need_less(evaluator: Evaluator, samples: Tensor) -> None:
    metrics, pictures = measure(Everything(), samples, evaluator, 0)
    train = evaluator.train.images[torch.arange(TEST) * TRAIN // TEST]
    bits = [images.numpy().mean((1, 2, 3)) for images in (evaluator.test.images, train)]
    assert metrics["bits_gap"] == pytest.approx(bits[0].mean() - bits[1].mean(), abs=1e-6)
    variance = pictures[f"{PER_IMAGE}bits_gap"].var().item()
    assert variance == pytest.approx((bits[0] - bits[1]).var(ddof=1), rel=1e-4)


def test_probe_and_reconstruction_are_those_of_the_models_features(evaluator: Evaluator, samples: Tensor) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    metrics, _ = measure(Everything(), samples, evaluator, 0)
    x, test = (part.images.flatten(1)[:, 20:40].double().numpy() for part in (evaluator.train, evaluator.test))
    scaler = StandardScaler().fit(x)
    probe = LogisticRegression(max_iter=1000).fit(scaler.transform(x), evaluator.train.labels)
    expected = (probe.predict(scaler.transform(test)) == evaluator.test.labels.numpy()).mean()
    assert metrics["probe_accuracy"] == pytest.approx(expected, abs=1.01 / TEST)
    below_white = (evaluator.test.images < LEVELS - 1).double().mean().item()  # each of these is one level off
    assert metrics["reconstruction_mse"] == pytest.approx(below_white / 16**2, rel=1e-12)


def test_counts_and_operations_are_recorded(evaluator: Evaluator, samples: Tensor) -> None:
    metrics, _ = measure(OnlySamples(), samples, evaluator, 0)
    assert metrics["counts"] == {"samples": 90, "draws": 1, "train": TRAIN, "test": TEST}
    assert metrics["gflops_per_sample"] == pytest.approx(2 * 3 * 64 / 1e9)
    assert metrics["passes_in_sequence"] == 1


def test_repeats_and_depends_on_its_seed_alone(evaluator: Evaluator, samples: Tensor) -> None:
    model = Everything()
    model.noise = 1.0
    kept = samples.clone()
    results = []
    for seed, disturbance in ((1, 1), (1, 2), (2, 1)):
        torch.manual_seed(disturbance)
        np.random.seed(disturbance)
        results.append(measure(model, samples, evaluator, seed))
    (first, pictures), (again, pictures_again), (other, pictures_other) = results
    assert first == again
    assert first["bits_per_dim"] != other["bits_per_dim"]
    changed_keys = {"bits_per_dim", "bits_per_dim_sem", "bits_gap", "oddity"}
    assert {key for key in first if first[key] != other[key]} == changed_keys
    assert all(torch.equal(pictures[name], pictures_again[name]) for name in pictures)
    changed = {n for n in pictures if not torch.equal(pictures[n], pictures_other[n])}
    assert _shown(dict.fromkeys(changed)).keys() == {"completions"}
    assert torch.equal(samples, kept)


def test_results_are_finite_and_survive_json(evaluator: Evaluator, samples: Tensor) -> None:
    for content in (measure(Everything(), samples, evaluator, 0)[0], reference(evaluator, 40)[0]):
        assert json.loads(json.dumps(content, allow_nan=False)) == content
        assert all(math.isfinite(number) for number in _numbers(content))
        assert len(list(_numbers(content))) > 30


def test_out_of_distribution_inputs_are_ranked_by_bits(evaluator: Evaluator, samples: Tensor) -> None:
    from sklearn.metrics import roc_auc_score

    metrics, pictures = measure(Everything(), samples, evaluator, 0)
    bits = {name.removeprefix("bits of "): value for name, value in pictures.items() if name.startswith("bits of ")}
    assert bits["test images"].mean().item() == pytest.approx(metrics["bits_per_dim"], rel=1e-5)
    assert metrics["oddity"].keys() == bits.keys() - {"test images"}
    inside = bits.pop("test images")
    for name, outside in bits.items():
        is_outside = [0] * len(inside) + [1] * len(outside)
        expected = roc_auc_score(is_outside, torch.cat([inside, outside]))
        assert metrics["oddity"][name] == pytest.approx(expected, abs=1e-12)
    assert metrics["oddity"]["negatives"] == 1  # are bright, which this model's bits are all about
    assert metrics["oddity"]["upside down"] == pytest.approx(0.5, abs=0.02)  # has the same mean


def test_the_classifier_checks_the_requested_classes(evaluator: Evaluator, samples: Tensor) -> None:
    model = Everything()
    metrics, pictures = measure(model, samples, evaluator, 0)
    asked = torch.arange(4)
    seen = evaluator.outputs(model.sample_given(asked, torch.Generator()))[0].classes
    assert seen is not None
    right = seen == asked
    repeats = torch.bincount(torch.arange(len(samples)) % 4)
    assert metrics["class_accuracy"] == pytest.approx(float((right * repeats).sum() / len(samples)))
    grid = pictures["class_grid"]
    assert grid.shape == (6, 4, *SHAPE)
    assert (grid == asked.view(1, 4, 1, 1, 1)).all()


def test_of_a_known_mixture_modes_are_found_by_distance(evaluator: Evaluator, samples: Tensor) -> None:
    """The classifier sorts every image into a class; a component counts if a point lies within three deviations."""
    centres = ((40.0, 40.0), (200.0, 40.0), (120.0, 200.0))
    points = torch.tensor([[40, 43], [42, 38], [199, 41], [120, 190]], dtype=torch.uint8).view(-1, 1, 1, 2)
    plane = card((1, 1, 2), 256, 3, mixture=Mixture(centres, 2.0))
    known = replace(evaluator, test=ImageSet(points, torch.tensor([0, 0, 1, 2])), card=plane)
    found, influence = known._modes(points)
    assert influence["modes.kl"].tolist() == pytest.approx([-2 / 27, -2 / 27, 4 / 27, 0])
    assert found["high_quality"] == 0.75
    assert found["modes"]["found"] == 2
    assert found["modes"]["histogram"] == pytest.approx([2 / 3, 1 / 3, 0])
    nowhere, _ = known._modes(points * 0)
    assert (nowhere["high_quality"], nowhere["modes"]["found"], nowhere["modes"]["kl"]) == (0, 0, 0)


def test_the_probe_of_stacked_pictures_is_the_mean_of_one_a_channel(evaluator: Evaluator) -> None:
    """Features that tell the first two channels' classes, and nothing of the third's."""
    digits = torch.randint(2, (400, 3), generator=torch.Generator().manual_seed(0))
    features = digits.float() * torch.tensor([1, 1, 0])
    known = ImageSet(torch.zeros(200, 3, 8, 8, dtype=torch.uint8), digits[:200] @ torch.tensor([4, 2, 1]))
    unseen = ImageSet(known.images, digits[200:] @ torch.tensor([4, 2, 1]))
    stacked = replace(evaluator, card=card((3, 8, 8), LEVELS, 8, channelwise=True), train=known, test=unseen)
    guess = digits[:200, 2].bincount().argmax()
    expected = (2 + (digits[200:, 2] == guess).double().mean().item()) / 3
    hits = stacked.probe(features[:200], features[200:])
    assert hits.shape == (3, 200)
    assert hits.double().mean().item() == pytest.approx(expected, abs=0.03)


def test_pictures_are_images_that_fit_in_a_file(evaluator: Evaluator, samples: Tensor, tmp_path: Path) -> None:
    _, pictures = measure(Everything(), samples, evaluator, 0)
    pictures = _shown(pictures)
    row = (16, *SHAPE)
    assert {name: picture.shape for name, picture in pictures.items()} == {
        **dict.fromkeys(["neighbours_samples", "neighbours_train", "reconstruct_originals", "reconstructions"], row),
        **dict.fromkeys(["completions_originals", "completions", "neighbours_by_features"], row),
        "interpolations": (6, 10, *SHAPE),
        "class_grid": (6, 4, *SHAPE),
        "latent_map": (7, 7, *SHAPE),
    }
    assert all(picture.dtype == torch.uint8 for picture in pictures.values())
    write_tensors(tmp_path / "pictures", pictures)
    stored, _ = read_tensors(tmp_path / "pictures")
    assert all(torch.equal(stored[name], pictures[name]) for name in pictures)


def test_pictures_of_the_same_images_fit_in_a_file_when_each_is_shown(
    evaluator: Evaluator, samples: Tensor, tmp_path: Path
) -> None:
    """Tensors that share memory would be refused, and of so few images those shown lie side by side in it."""
    for n, walks in ((20, 6), (8, 4)):
        few = replace(evaluator, test=ImageSet(evaluator.test.images[:n], evaluator.test.labels[:n]))
        _, pictures = measure(Everything(), samples, few, 0)
        write_tensors(tmp_path / "pictures", pictures)
        assert pictures["interpolations"].shape == (walks, 10, *SHAPE)


def test_pictures_show_what_they_say(evaluator: Evaluator, samples: Tensor) -> None:
    images = evaluator.test.images.clone()
    _, shown = measure(Everything(), samples, evaluator, 0)
    assert torch.equal(shown["neighbours_samples"], samples[:16])
    assert torch.equal(
        shown["neighbours_train"], evaluator.train.images[nearest(samples[:16], evaluator.train.images, LEVELS)[1]]
    )
    drawn, train = (evaluator.outputs(x)[0].features for x in (samples[:16], evaluator.train.images))
    by_features = evaluator.train.images[torch.cdist(drawn, train).argmin(1)]
    assert torch.equal(shown["neighbours_by_features"], by_features)
    originals = shown["reconstruct_originals"]
    assert torch.equal(originals, images[:: TEST // 16][:16])
    assert torch.equal(shown["reconstructions"], (originals + 1).clamp(max=16))
    assert torch.equal(shown["interpolations"][:, 0], originals[:6])
    assert torch.equal(shown["interpolations"][:, -1], originals[6:12])
    assert torch.equal(shown["completions_originals"], originals)
    assert torch.equal(shown["completions"][:, :, :4], originals[:, :, :4])
    assert not torch.equal(shown["completions"][:, :, 4], originals[:, :, 4])
    assert torch.equal(evaluator.test.images, images)


def test_the_digits_that_a_number_is_spelt_with_are_the_channels_classes(evaluator: Evaluator) -> None:
    stacked = replace(evaluator, card=card((3, 8, 8), LEVELS, 1000, channelwise=True))
    assert [part.tolist() for part in stacked._parts(torch.tensor([0, 123, 905]))] == [[0, 1, 9], [0, 2, 0], [0, 3, 5]]


def test_scores_compare_the_classifiers_outputs(evaluator: Evaluator, samples: Tensor) -> None:
    (fake,), (real,) = evaluator.outputs(samples), evaluator.outputs(evaluator.test.images)
    (train,) = evaluator.outputs(evaluator.train.images)
    torch.testing.assert_close(fake.features, evaluator.extractors[0].outputs(samples, 1000).features)
    assert fake.logits is not None
    assert fake.classes is not None
    assert real.classes is not None
    assert torch.equal(fake.classes, fake.logits.argmax(1))
    kid, score = kernel_distance(fake.features, real.features, 4, 30), inception_score(fake.logits, 2)
    expected = {
        "fid": frechet_distance(fit_gaussian(fake.features), fit_gaussian(real.features)),
        **dict(zip(("kid", "kid_std"), kid, strict=True)),
        **dict(zip(("inception_score", "inception_score_std"), score, strict=True)),
        "fid_infinity": infinite_fid(fake.features, fit_gaussian(real.features)),
        **manifold_scores(overlap(fit_manifold(fake.features, 3), fit_manifold(real.features, 3)), 3),
        "modes": mode_coverage(fake.classes, real.classes, 10),
        "copying": {
            **copying(fake.features, fit_memory(fit_training(train.features), real.features))[0],
            "fld_gap": generalisation_gap(fake.features, train.features, real.features)[0],
        },
        "vendi": vendi_score(fake.features),
        "rke": renyi_modes(fake.features, kernel_width(real.features)),
        "prd": precision_and_recall(fake.features, real.features)[0],
        "high_quality": None,
        "sharpness": _sharp(samples) / _sharp(evaluator.test.images),
    }
    found = evaluator.scores([samples]).means
    assert found == expected
    assert found.keys() == SAMPLES_ALONE
    metrics, _ = measure(OnlySamples(), samples, evaluator, 0)
    assert {key: metrics[key] for key in SAMPLES_ALONE} == expected


def test_real_images_are_measured_once_and_the_same_from_a_file(
    evaluator: Evaluator, samples: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of images whose classes are known and of others; what was read leaves nothing to do but the samples' own part."""
    monkeypatch.chdir(tmp_path)
    known = evaluator.real[0]
    unknown = replace(known, classes=None)
    for real in ([known], [unknown], [known, unknown]):
        write_real(real, {})
        content = REAL_FEATURES.read_bytes()
        write_real(read_real(), {})
        assert REAL_FEATURES.read_bytes() == content
        assert [one.classes is None for one in read_real()] == [one is unknown for one in real]
    write_real([known], {"real/per_image/fid": torch.zeros(3)})
    expected = measure(Everything(), samples, evaluator, 0)[0]
    seen, whole = [], Classifier.outputs

    def outputs(self: Classifier, x: Tensor, batch_size: int) -> Outputs:
        seen.append(len(x))
        return whole(self, x, batch_size)

    monkeypatch.setattr(Classifier, "outputs", outputs)
    assert measure(OnlySamples(), samples, replace(evaluator, measured=read_real()), 0)[0].keys() == MEASURES
    assert seen == [len(samples), 16]  # those that are shown with their neighbours
    assert measure(Everything(), samples, replace(evaluator, measured=read_real()), 0)[0] == expected


def test_classifier_sees_no_more_images_at_once_than_a_batch(evaluator: Evaluator, samples: Tensor) -> None:
    sizes: list[int] = []
    (extractor,) = evaluator.extractors
    assert isinstance(extractor, Classifier)
    hook = extractor.body.register_forward_pre_hook(lambda _, x: sizes.append(len(x[0])))
    evaluator.outputs(samples)
    hook.remove()
    assert sizes == [16, 16, 16, 16, 16, 10]


def test_test_images_score_best_against_themselves(evaluator: Evaluator) -> None:
    found = evaluator.scores([evaluator.test.images]).means
    assert found["fid"] == pytest.approx(0, abs=1e-9)
    assert found["kid"] == pytest.approx(0, abs=10 * found["kid_std"])
    assert found["precision"] == found["recall"] == found["coverage"] == 1
    assert found["modes"]["histogram"] == found["modes"]["test_histogram"]
    assert found["modes"]["found"] == 10


def test_copies_of_training_images_are_found_out(evaluator: Evaluator) -> None:
    test = nearest(evaluator.test.images, evaluator.train.images, LEVELS)[0].median()
    copied, own = {"samples": 0, "test": test, "copies": 1}, {"samples": test, "test": test, "copies": 0}
    for images, expected in ((evaluator.train.images[:30], copied), (evaluator.test.images, own)):
        assert evaluator.memorisation([images]).means == {"nearest_neighbour": expected}
