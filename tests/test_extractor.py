"""The classifier whose features the metrics use: it learns, repeats to the byte and survives its file."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages import extractor
from tests.conftest import ROOT
from workflow import params
from workflow.data.arrays import read_card, write_prepared
from workflow.data.tensors import ImageSet, read_tensors, write_tensors
from workflow.errors import BakeoffError
from workflow.evaluation import classifier
from workflow.evaluation.classifier import Classifier, accuracy, fit_classifier, load_classifiers, save_classifiers
from workflow.files import sha256
from workflow.params import Extractor

CPU = torch.device("cpu")
SETTINGS = Extractor(channels=12, features=32, dropout=0.1, epochs=10, batch_size=32, lr=0.01, seeds=[0])
BRIEF = SETTINGS.model_copy(update={"epochs": 3, "channels": 2, "features": 8})


@pytest.fixture(scope="module")
def sets(digits: Tensor) -> tuple[ImageSet, ImageSet]:
    """400 digits to train on and 300 to validate."""
    from sklearn.datasets import load_digits

    labels = torch.from_numpy(load_digits().target).long()
    return ImageSet(digits[:400], labels[:400]), ImageSet(digits[400:700], labels[400:700])


@pytest.fixture(scope="module")
def fitted(sets: tuple[ImageSet, ImageSet]) -> Classifier:
    torch.set_num_threads(1)
    return fit_classifier(*sets, 17, 10, SETTINGS, CPU, seed=0)


def _untrained(shape: tuple[int, int, int] = (1, 8, 8), levels: int = 17, dropout: float = 0.5) -> Classifier:
    return Classifier(shape, levels, classes=4, channels=2, features=5, dropout=dropout).eval()


def _images(n: int, shape: tuple[int, int, int] = (1, 8, 8), levels: int = 17) -> Tensor:
    return torch.randint(0, levels, (n, *shape), dtype=torch.uint8)


def _logits(model: Classifier, x: Tensor, batch: int = 64) -> Tensor:
    found = model.outputs(x, batch).logits
    assert found is not None
    return found


def test_learns_the_digits(fitted: Classifier, sets: tuple[ImageSet, ImageSet]) -> None:
    _, valid = sets
    assert accuracy(_logits(fitted, valid.images), valid.labels) > 0.8
    assert not fitted.training


def test_accuracy_is_the_share_of_right_answers() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [5.0, -1.0], [3.0, 4.0]])
    assert accuracy(logits, torch.tensor([0, 1, 1, 0])) == 0.5


def test_training_repeats_to_the_byte_and_depends_on_its_seed(sets: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    for name, seed, disturbance in (("one", 0, 1), ("two", 0, 2), ("other", 1, 1)):
        torch.manual_seed(disturbance)
        model = fit_classifier(*sets, 17, 10, BRIEF, CPU, seed=seed)
        save_classifiers([model], tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").read_bytes() != (tmp_path / "other").read_bytes()


@pytest.mark.parametrize("scores", [(0.2, 0.9, 0.4), (0.1, 0.2, 0.3), (0.5, 0.5, 0.5)])
def test_keeps_the_weights_that_did_best_and_of_equals_the_surest(
    sets: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch, scores: tuple[float, ...]
) -> None:
    train, valid = sets
    seen: list[Tensor] = []

    def scripted(logits: Tensor, labels: Tensor) -> float:
        assert torch.equal(labels, valid.labels)
        seen.append(logits)
        return scores[len(seen) - 1]

    monkeypatch.setattr(classifier, "accuracy", scripted)
    kept = _logits(fit_classifier(train, valid, 17, 10, BRIEF, CPU, seed=0), valid.images, 32)
    assert len(seen) == BRIEF.epochs
    order = [(score, -F.cross_entropy(logits, valid.labels).item()) for score, logits in zip(scores, seen, strict=True)]
    assert torch.equal(kept, seen[order.index(max(order))])
    assert sum(torch.equal(kept, logits) for logits in seen) == 1


@pytest.mark.parametrize("n", [1, 7, 40])
def test_sets_smaller_and_odder_than_a_batch_are_trained_on(sets: tuple[ImageSet, ImageSet], n: int) -> None:
    train, valid = sets
    few = ImageSet(train.images[:n], train.labels[:n])
    model = fit_classifier(few, valid, 17, 10, BRIEF, CPU, seed=0)
    assert torch.isfinite(_logits(model, valid.images, 32)).all()


@pytest.mark.parametrize(("shape", "levels"), [((1, 8, 8), 17), ((3, 7, 10), 256), ((2, 1, 3), 2)])
def test_outputs_are_features_and_logits_of_any_images(shape: tuple[int, int, int], levels: int) -> None:
    model, x = _untrained(shape, levels), _images(11, shape, levels)
    outputs = model.outputs(x, 4)
    assert (outputs.features.shape, outputs.features.dtype) == ((11, 5), torch.float32)
    assert outputs.logits is not None
    assert (outputs.logits.shape, outputs.logits.dtype) == ((11, 4), torch.float32)
    assert not outputs.features.requires_grad
    torch.testing.assert_close(outputs.logits, model(x).detach())
    torch.testing.assert_close(outputs.features, model.features(x).detach())
    torch.testing.assert_close(outputs.logits, model.head(outputs.features).detach())


def test_features_are_activations_whatever_the_batch(fitted: Classifier, sets: tuple[ImageSet, ImageSet]) -> None:
    images = sets[1].images[:50]
    whole, parts = fitted.outputs(images, 50), fitted.outputs(images, 7)
    assert whole.features.min() == 0
    assert whole.features.shape == (50, SETTINGS.features)
    torch.testing.assert_close(whole.features, parts.features)
    torch.testing.assert_close(_logits(fitted, images, 50), _logits(fitted, images, 7))


def test_pixels_are_scaled_by_their_levels() -> None:
    coarse, fine = _untrained(levels=2), _untrained(levels=256)
    fine.load_state_dict(coarse.state_dict())
    x = _images(6, levels=2)
    torch.testing.assert_close(_logits(coarse, x), _logits(fine, 255 * x))
    assert not torch.allclose(_logits(coarse, x), _logits(fine, x))


def test_dropout_works_in_training_alone() -> None:
    model, x = _untrained(dropout=0.9), _images(20)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_survives_its_file(fitted: Classifier, sets: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    images = sets[1].images[:40]
    save_classifiers([fitted], tmp_path / "model")
    (loaded,) = load_classifiers(tmp_path / "model")
    assert not loaded.training
    assert (loaded.shape, loaded.levels, loaded.arguments) == (fitted.shape, 17, fitted.arguments)
    assert loaded.arguments == {"classes": 10, "channels": 12, "features": 32, "dropout": 0.1, "channelwise": False}
    assert torch.equal(loaded.outputs(images, 40).features, fitted.outputs(images, 40).features)
    assert torch.equal(_logits(loaded, images), _logits(fitted, images))
    save_classifiers([loaded], tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()


def test_several_survive_one_file_in_their_order(tmp_path: Path) -> None:
    torch.manual_seed(0)
    models, images = [_untrained(), _untrained(), _untrained()], _images(9)
    save_classifiers(models, tmp_path / "model")
    loaded = load_classifiers(tmp_path / "model")
    assert len(loaded) == 3
    for model, read in zip(models, loaded, strict=True):
        assert not read.training
        assert torch.equal(read.outputs(images, 4).features, model.outputs(images, 4).features)
    save_classifiers(models[:2], tmp_path / "two")
    tensors, _ = read_tensors(tmp_path / "model")
    of_two, _ = read_tensors(tmp_path / "two")
    write_tensors(tmp_path / "model", of_two, json.dumps(_about(models[0], 3)))
    assert "not a classifier" in _refused(tmp_path / "model")  # one is missing
    write_tensors(tmp_path / "model", tensors, json.dumps(_about(models[0], 2)))
    assert "not a classifier" in _refused(tmp_path / "model")  # one too many


def test_each_is_trained_by_its_own_seed_whatever_the_others(
    digits: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage with several seeds: each comes out as if it were the only one, and accuracies are means."""
    from sklearn.datasets import load_digits

    monkeypatch.chdir(tmp_path)
    labels = torch.from_numpy(load_digits().target).long()
    places = {"train": slice(0, 200), "valid": slice(200, 260), "test": slice(260, 330)}
    sets = {split: ImageSet(digits[place], labels[place]) for split, place in places.items()}
    about = {"name": "digits", "source": "a source", "licence": "mine", "split": "in order"}
    classes = [str(digit) for digit in range(10)]
    write_prepared(Path("data/prepared"), sets, **about, shape=[1, 8, 8], levels=17, classes=classes)
    smoke = params.load(ROOT / "presets/smoke.yaml")
    found = {}
    for seeds in ([0], [1, 0]):
        settings = smoke.model_copy(update={"extractor": BRIEF.model_copy(update={"seeds": seeds})})
        facts = extractor.train(settings, read_card(), CPU, tmp_path / "model")
        assert [one["seed"] for one in facts["classifiers"]] == seeds
        for key in ("accuracy", "valid_accuracy"):
            assert facts[key] == pytest.approx(sum(one[key] for one in facts["classifiers"]) / len(seeds))
        assert facts["sha256"] == sha256(tmp_path / "model")
        found[len(seeds)] = facts["classifiers"], load_classifiers(tmp_path / "model")
    (alone,), (model,) = found[1]
    (_, beside), (other, again) = found[2]
    assert beside == alone
    weights = model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in again.state_dict().items())
    assert not all(torch.equal(weights[name], tensor) for name, tensor in other.state_dict().items())


def _about(model: Classifier, count: int) -> dict[str, object]:
    return {"shape": model.shape, "levels": 17, "arguments": model.arguments, "classifiers": count}


def _refused(path: Path) -> str:
    """The one line with which a file is refused, which names the file."""
    with pytest.raises(BakeoffError) as caught:
        load_classifiers(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_a_missing_or_damaged_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model"
    assert "missing" in _refused(path)
    save_classifiers([_untrained()], path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:20], whole[:-5], b"no safetensors at all"):
        path.write_bytes(damaged)
        assert "damaged" in _refused(path)


def test_a_file_of_something_else_is_refused_in_one_line(tmp_path: Path) -> None:
    model, path = _untrained(), tmp_path / "model"
    about = _about(model, 1)
    weights = {f"0.{name}": tensor for name, tensor in model.state_dict().items()}
    wrong = [
        {},
        {**about, "shape": [8, 8]},
        {**about, "classifiers": None},
        {**about, "arguments": {**model.arguments, "features": 6}},
        {**about, "arguments": {**model.arguments, "invented": 1}},
    ]
    for metadata in ("", "null", *map(json.dumps, wrong)):
        write_tensors(path, weights, metadata)
        assert "not a classifier" in _refused(path)
    write_tensors(path, {k: v for k, v in weights.items() if k != "0.head.1.bias"}, json.dumps(about))
    assert "not a classifier" in _refused(path)
    write_tensors(path, weights, json.dumps(about))
    load_classifiers(path)  # and with all of it in place it is read


def test_channelwise_it_reads_each_channel_by_itself(fitted: Classifier, sets: tuple[ImageSet, ImageSet]) -> None:
    """Three digits stacked as colours: the class is the number they spell, its probability the product of theirs."""
    whole = Classifier(
        (3, 8, 8), 17, classes=1000, channels=12, features=32, dropout=0.1, channelwise=True
    ).eval()  # fmt: skip
    whole.load_state_dict(fitted.state_dict())
    parts = [sets[1].images[i : i + 20] for i in (0, 20, 40)]
    with torch.no_grad():
        found = whole(torch.cat(parts, 1)).softmax(1)
        digit = [fitted(part).softmax(1) for part in parts]
        features = whole.features(torch.cat(parts, 1))
    assert found.shape == (20, 1000)
    for red, green, blue in ((0, 0, 0), (1, 2, 3), (9, 0, 5)):
        product = digit[0][:, red] * digit[1][:, green] * digit[2][:, blue]
        torch.testing.assert_close(found[:, 100 * red + 10 * green + blue], product, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(features, torch.cat([fitted.features(part) for part in parts], 1))
