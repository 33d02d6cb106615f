"""Encoders as a start for learning from few labels, against the same networks from scratch."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.evaluated import SHAPE, Everything, measure
from workflow.data.tensors import ImageSet
from workflow.evaluation import fine_tuning as module
from workflow.evaluation.evaluator import Evaluator
from workflow.evaluation.fine_tuning import hits_by_start, with_fresh_weights
from workflow.evaluation.metrics.few_labels import affordable
from workflow.evaluation.metrics.probe import probe_hits
from workflow.evaluation.representation import fine_tuned
from workflow.models.layers.common import to_unit

LEVELS, LR = 17, 0.002


def _noise(n: int, seed: int) -> ImageSet:
    """Noise of two classes, which differ in nothing but the brightness of the first pixel."""
    random = torch.Generator().manual_seed(seed)
    images, labels = torch.randint(LEVELS, (n, *SHAPE), dtype=torch.uint8, generator=random), torch.arange(n) % 2
    images[:, 0, 0, 0] = torch.where(labels == 1, 12, 4) + torch.randint(5, (n,), generator=random)
    return ImageSet(images, labels)


def _encoder(features: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, features))


def _planted() -> nn.Sequential:
    """Shows the first pixel and nothing else."""
    encoder = _encoder()
    weight, bias = encoder.parameters()
    nn.init.zeros_(bias)
    weight.data = (torch.arange(64) == 0).float().expand(3, 64).clone()
    return encoder


def test_an_encoder_that_knows_the_classes_beats_the_same_network_from_scratch() -> None:
    pretrained, scratch = hits_by_start(_planted(), _noise(4, 0), _noise(300, 1), LEVELS, 1.0, LR, 0)
    assert pretrained.double().mean() > 0.97
    assert scratch.double().mean() < 0.8


def test_from_the_same_weights_both_learn_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "with_fresh_weights", copy.deepcopy)
    encoder = nn.Sequential(_encoder(20), nn.Dropout(0.3))
    pretrained, scratch = hits_by_start(encoder, _noise(50, 0), _noise(200, 1), LEVELS, 1.0, LR, 0)
    assert pretrained.equal(scratch)
    assert 0.5 < pretrained.double().mean() < 1  # so that it could differ


def test_results_depend_on_the_seed_alone_and_nothing_else_is_changed() -> None:
    encoder = nn.Sequential(_encoder(20), nn.Dropout(0.3))
    before, state = copy.deepcopy(encoder.state_dict()), torch.get_rng_state()
    sets = _noise(20, 0), _noise(200, 1)
    first = hits_by_start(encoder, *sets, LEVELS, 1.0, LR, 0)
    assert torch.get_rng_state().equal(state)
    assert all(encoder.state_dict()[name].equal(weight) for name, weight in before.items())
    torch.manual_seed(5)
    again, other = (hits_by_start(encoder, *sets, LEVELS, 1.0, LR, seed) for seed in (0, 1))
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert not all(a.equal(b) for a, b in zip(first, other, strict=True))


def test_fresh_weights_are_those_of_a_new_network() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.SiLU(), nn.BatchNorm2d(3, affine=False), nn.Linear(6, 2))

    used = build()
    for tensor in used.state_dict().values():
        tensor.fill_(7)
    torch.manual_seed(3)
    fresh = with_fresh_weights(used)
    torch.manual_seed(3)
    assert all(tensor.equal(fresh.state_dict()[name]) for name, tensor in build().state_dict().items())


def test_without_steps_it_is_the_probe_of_the_encoders_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 0)
    encoder, train, test = nn.Sequential(_encoder(20), nn.Dropout(0.3)).eval(), _noise(50, 0), _noise(200, 1)
    torch.manual_seed(3)
    fresh = with_fresh_weights(encoder)
    hits = hits_by_start(encoder, train, test, LEVELS, 0.1, LR, 3)
    for network, found in zip((encoder, fresh), hits, strict=True):
        with torch.no_grad():
            features = [network(to_unit(part.images, LEVELS)) for part in (train, test)]
        expected = probe_hits(features[0], train.labels, features[1], test.labels, 0.1)
        assert found.equal(expected)
    assert not hits[0].equal(hits[1])


@pytest.mark.parametrize("count", [10, 50])
def test_images_are_seen_equally_often(count: int) -> None:
    batches = list(module._batches(count))
    assert [len(rows) for rows in batches] == [min(count, module.BATCH)] * module.STEPS
    assert all(len(rows.unique()) == len(rows) for rows in batches[:1])
    seen = torch.cat(batches).bincount(minlength=count)
    assert seen.max() - seen.min() <= 2


class Encoder(Everything):
    def __init__(self) -> None:
        super().__init__()
        self.network = _encoder()

    def encoder_network(self) -> nn.Module:
        return self.network


def test_every_encoder_is_tuned_on_the_labels_of_the_probe(
    evaluator: Evaluator, samples: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEPS", 5)
    metrics, pictures = measure(Encoder(), samples, evaluator, 0)
    found = metrics["fine_tuned"]
    assert found.keys() == metrics["few_labels"].keys() == {str(n) for n in affordable(evaluator.probed.labels)}
    for count, scores in found.items():
        for name in ("accuracy", "gain"):
            path = f"fine_tuned.{count}.{name}"
            rows = [row[0] for row in metrics["repeats"][path]]
            assert len(rows) == module.DRAWS
            assert scores[name] == pytest.approx(sum(rows) / module.DRAWS)
            assert pictures[f"per_image/{path}"].double().mean().item() == pytest.approx(scores[name], abs=1e-6)
    plain = replace(evaluator, card=replace(evaluator.card, classes=()))
    for model, without in ((Everything(), evaluator), (Encoder(), plain)):
        assert fine_tuned(model, without, 0).means == {"fine_tuned": {}}
