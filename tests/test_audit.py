"""The audit: what is damaged and how, what it measures, and what is made of it."""

import copy
from dataclasses import replace

import pytest
import torch
from scipy.stats import spearmanr
from torch import Generator, Tensor

from tests.evaluated import LEVELS, TEST
from tests.invented_project import audited
from workflow.data.tensors import ImageSet
from workflow.evaluation import audit as module
from workflow.evaluation.audit import DAMAGES, Supply, audit
from workflow.evaluation.classifier import Classifier
from workflow.evaluation.evaluator import Evaluator
from workflow.evaluation.trust import COPIES, FEWER, apart, correlation, notices, unfit


@pytest.fixture
def supply(digits: Tensor, digit_labels: Tensor) -> Supply:
    images, spare = (ImageSet(digits[rows], digit_labels[rows]) for rows in torch.arange(400, 800).split(200))
    return Supply(images, spare, digits[:300], LEVELS, 10)


def _changed(one: Tensor, other: Tensor) -> float:
    return float((one != other).flatten(1).any(1).double().mean())


def test_every_damage_is_as_great_as_it_says(supply: Supply) -> None:
    clean, labels = supply.images.images, supply.images.labels

    def make(name: str, strength: float) -> Tensor:
        images = DAMAGES[name].make(supply, strength, Generator().manual_seed(0))
        assert images.dtype == torch.uint8
        assert images.shape[1:] == clean.shape[1:]
        assert int(images.max()) < LEVELS
        return images

    dark = clean < LEVELS - 3
    assert (make("mean shift", 0.125)[dark] == clean[dark] + 2).all()
    assert make("blur", 1.0).double().var() < make("blur", 0.5).double().var() < clean.double().var()
    assert _changed(make("noise in a share", 0.2), clean) == pytest.approx(0.2)
    known = {image.numpy().tobytes(): int(label) for image, label in zip(clean, labels, strict=True)}
    spare = zip(supply.spare.images, supply.spare.labels, strict=True)
    known |= {image.numpy().tobytes(): int(label) for image, label in spare}
    classes = [known[image.numpy().tobytes()] for image in make("classes dropped", 0.3)]
    assert len(classes) == 200
    assert len(set(classes)) == 7
    assert len({image.numpy().tobytes() for image in make("one image repeated", 0.5)}) == 101
    tilted = torch.tensor([known[image.numpy().tobytes()] for image in make("classes out of proportion", 0.8)])
    assert int((tilted < 5).sum()) == pytest.approx(0.2 * int((labels < 5).sum()), abs=1)
    assert len(make("fewer images", 0.75)) == 50
    copies = make(COPIES, 0.1)
    assert (copies[20:] == clean[20:]).all()
    off = (copies[:20].flatten(1)[:, None].int() - supply.train.flatten(1).int()).abs().sum(2).amin(1)
    assert 0 < float(off.double().mean()) < 64 / 2


def test_everything_is_measured_of_every_split(evaluator: Evaluator) -> None:
    found = audit(evaluator)
    assert found["counts"] == {"images": TEST // 3, "training": len(evaluator.train), "splits": 5}
    assert found["damages"].keys() == DAMAGES.keys()
    keys = {"fid", "kid", "precision", "recall", "density", "coverage", "c_t", "authentic", "sharpness", "copies"}
    keys |= {"fld_gap", "vendi", "rke", "prd_precision", "prd_recall"}
    assert keys <= found["clean"].keys()
    for name, damage in found["damages"].items():
        assert damage["strengths"] == sorted(damage["strengths"]), name
        for values in (*damage["values"], found["clean"], *found["controls"].values()):
            assert values.keys() == found["clean"].keys()
            assert all(len(table) == 5 and len(table[0]) == 1 for table in values.values())
    noticed = notices(found)
    assert (noticed["fid"]["classes dropped"].correlation or 0) > 0.6
    assert (noticed["sharpness"]["noise in a share"].correlation or 0) > 0.6
    assert noticed["authentic"][COPIES].correlation == -1
    assert (noticed["fld_gap"][COPIES].correlation or 0) < -0.8


def test_an_extractor_that_has_learned_nothing_is_caught(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its features are the same for all images, and so the distance to noise is that to real images: nearly 0."""
    (extractor,) = evaluator.extractors
    assert isinstance(extractor, Classifier)
    blind = copy.deepcopy(extractor)
    blind.load_state_dict({name: weight * 0 for name, weight in extractor.state_dict().items()})
    monkeypatch.setattr(module, "DAMAGES", {})
    refused = unfit(audit(replace(evaluator, extractors=[blind])))
    assert {"fid", "kid", "precision", "recall", "density", "coverage"} <= refused.keys()
    assert refused["fid"] == "cannot tell noise or independent pixels from real images"


def test_too_few_images_are_not_audited(evaluator: Evaluator) -> None:
    few = ImageSet(evaluator.test.images[:20], evaluator.test.labels[:20])
    found = audit(replace(evaluator, test=few))
    assert found["clean"] == {}
    assert unfit(found) == {}
    assert notices(found) == {}


def test_without_classes_their_damages_are_left_out(evaluator: Evaluator) -> None:
    found = audit(replace(evaluator, card=replace(evaluator.card, classes=())))
    assert DAMAGES.keys() - found["damages"].keys() == {"classes dropped", "classes out of proportion"}


def test_rank_correlation_is_that_of_scipy() -> None:
    random = torch.Generator().manual_seed(0)
    for levels in (3, 100):
        one, other = torch.randint(levels, (2, 30), generator=random).tolist()
        assert correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)
    assert correlation([1, 2, 3], [4, 4, 4]) is None


def test_what_is_noticed_from_which_strength_and_what_is_praised() -> None:
    found = audited()
    assert unfit(found) == {}
    shift = found["damages"]["mean shift"]
    seen = notices(found)["fid"]["mean shift"]
    assert (seen.strength, seen.way, seen.praises) == (0.2, 1, False)
    shift["values"][1]["fid"] = [[0.1 + 0.01 * split] * 3 for split in range(5)]
    seen = notices(found)["fid"]["mean shift"]
    assert (seen.strength, seen.way, seen.praises) == (0.2, -1, True)
    assert seen.correlation == pytest.approx(-0.866, abs=0.001)
    found["damages"] = {"mean shift": found["damages"]["mean shift"], FEWER: found["damages"][COPIES]}
    assert unfit(found) == {"fid": "notices no damage, however strong"}
    del found["damages"]["mean shift"]
    assert unfit(found) == {}
    found["controls"]["noise"]["recall"] = found["clean"]["recall"]
    found["controls"]["independent pixels"]["recall"] = [[0.9 + 0.01 * split] * 3 for split in range(5)]
    assert unfit(found) == {
        "recall": "cannot tell noise from real images, and takes independent pixels for better than real images"
    }


def test_sets_are_apart_only_if_every_extractor_says_so() -> None:
    clean = [[1.0, 1.0], [2.0, 2.0]]
    assert apart(clean, [[3.0, 3.0], [4.0, 4.0]]) == 1
    assert apart(clean, [[0.0, 0.5], [0.5, 0.0]]) == -1
    assert apart(clean, [[3.0, 1.5], [4.0, 4.0]]) == 0
