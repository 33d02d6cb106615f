"""Every family on a GPU that is pretended: nothing of it is left on the CPU, and its numbers are the CPU's."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.pretend_gpu import FarTensor, pretend_gpu
from tests.test_models import ENTRIES, small
from workflow.data import tensors
from workflow.data.tensors import ImageSet
from workflow.evaluation.classifier import Classifier, fit_classifier
from workflow.models import base, registry
from workflow.models.base import Model
from workflow.params import Entry, Extractor
from workflow.training.loop import fit
from workflow.training.validation import Fitted

SHAPE, LEVELS = (3, 4, 4), 4
MOST = 4  # layers, channels, steps, classes: an operation on a pretended GPU takes long
CPU = torch.device("cpu")


def some_images(n: int) -> ImageSet:
    random = torch.Generator().manual_seed(7)
    labels = torch.arange(n) % MOST
    return ImageSet(torch.randint(0, LEVELS, (n, *SHAPE), dtype=torch.uint8, generator=random), labels)


def without_dropout(entry: Entry) -> dict[str, Any]:
    """Its hyper-parameters made small, and without dropout, of which CPU and GPU have versions of their own."""
    return {name: 0.0 if name == "dropout" else value for name, value in small(entry, MOST).hyperparameters.items()}


def trained(entry: Entry, images: ImageSet, device: torch.device, *, bf16: bool = False) -> tuple[Model, Fitted]:
    """A model after two steps or one."""
    options = {"epochs": 1, "batch_size": 8, "ema": 0.5, "clip": 1.0, "bf16": bf16}
    model = registry.build(entry.kind, SHAPE, LEVELS, without_dropout(entry), seed=1).to(device)
    fitted = fit(model, images, images, entry.training.model_copy(update=options), 1, lambda _: None)
    return model.eval(), fitted


@torch.no_grad()
def capabilities(model: Model, device: torch.device) -> dict[str, Tensor]:
    """What it makes of images, by each of its methods."""
    able: Any = model
    images, random = some_images(4), torch.Generator(device).manual_seed(2)
    x, y = images.images.to(device), images.labels.to(device)
    found = {"sample": able.sample(3, random)}
    if isinstance(model, base.HasSampleGiven) and model.classes:
        found["sample_given"] = able.sample_given(y, random)
    if isinstance(model, base.HasLogProb):
        found["log_prob"] = able.log_prob(x, random)
    if isinstance(model, base.HasEncode):
        found["encode"] = able.encode(x)
    if isinstance(model, base.HasReconstruct):
        found["reconstruct"] = able.reconstruct(x)
    if isinstance(model, base.HasInterpolate):
        found["interpolate"] = able.interpolate(x[:2], x[2:], 3)
    if isinstance(model, base.HasComplete):
        found["complete"] = able.complete(x, 2, random)
    return found


def _code(entry: Entry) -> str:
    """What of an entry decides which code runs: its options, and of the numbers whether they are zero."""
    return str(
        (entry.kind, sorted((k, v if isinstance(v, str) else bool(v)) for k, v in without_dropout(entry).items()))
    )


RUN = list({_code(entry): (name, entry) for name, entry in reversed(ENTRIES)}.values())[::-1]


@pytest.fixture(scope="module", params=[entry for _, entry in RUN], ids=[name for name, _ in RUN])
def on_cpu(request: pytest.FixtureRequest) -> tuple[Entry, Model, Fitted]:
    """What the pretended GPU, and half the bits, are held against; each test may change the model alone."""
    torch.set_num_threads(1)
    return request.param, *trained(request.param, some_images(16), CPU)


def test_every_family_trains_and_does_all_it_can_on_a_gpu(
    on_cpu: tuple[Entry, Model, Fitted], monkeypatch: pytest.MonkeyPatch
) -> None:
    (entry, here, expected), images = on_cpu, some_images(16)
    with pretend_gpu(monkeypatch) as gpu:
        there, fitted = trained(entry, images, gpu)
        assert all(isinstance(value, FarTensor) for value in there.state_dict().values())
        found = capabilities(there, gpu)
        assert all(isinstance(value, FarTensor) for value in found.values())
        state = {name: value.cpu() for name, value in fitted.state.items()}
        found = {name: value.cpu() for name, value in found.items()}
        last = {name: value.cpu() for name, value in there.state_dict().items()}
    assert type(fitted.snapshots) is Tensor
    torch.testing.assert_close(state, expected.state, rtol=0.0, atol=entry.training.lr)  # Adam makes much of rounding
    here.load_state_dict(last)
    torch.testing.assert_close(found, capabilities(here, CPU))


def test_every_family_trains_with_half_the_bits(on_cpu: tuple[Entry, Model, Fitted]) -> None:
    entry, _, full = on_cpu
    _, fitted = trained(entry, some_images(16), CPU, bf16=True)
    assert all(value.dtype != torch.bfloat16 for value in fitted.state.values())
    assert all(torch.isfinite(value).all() for value in fitted.state.values())
    assert any(not torch.equal(value, full.state[name]) for name, value in fitted.state.items())


def _moved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the sets that are moved as a whole from now on."""
    moved: list[int] = []
    to = ImageSet.to

    def watched(self: ImageSet, device: torch.device) -> ImageSet:
        moved.append(len(self))
        return to(self, device)

    monkeypatch.setattr(ImageSet, "to", watched)
    return moved


@pytest.mark.parametrize("kind", ["nice", "autoencoder"])  # one is initialised, the other calibrated
def test_images_that_do_not_fit_on_a_gpu_go_there_batch_by_batch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, images = next(entry for _, entry in RUN if entry.kind == kind), some_images(16)
    size = images.images.nbytes
    moved, found = _moved(monkeypatch), []
    for free in (2 * size, 2 * size - 1):
        monkeypatch.setattr(tensors, "free_memory", lambda _, free=free: free)
        with pretend_gpu(monkeypatch) as gpu:
            _, fitted = trained(entry, images, gpu)
            found.append({name: value.cpu() for name, value in fitted.state.items()})
    assert moved == [16, 16]  # training and validation images, when there was room
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("classes", [0, MOST])
def test_the_classifier_trains_on_images_that_do_not_fit_on_a_gpu(
    classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Extractor(channels=4, features=8, dropout=0.0, epochs=1, batch_size=8, lr=0.01, seeds=[0])
    images, size = some_images(16), some_images(16).images.nbytes
    moved, found = _moved(monkeypatch), []
    for free in (2 * size, 2 * size - 1):
        monkeypatch.setattr(tensors, "free_memory", lambda _, free=free: free)
        with pretend_gpu(monkeypatch) as gpu:
            model = fit_classifier(images, some_images(4), LEVELS, classes, settings, gpu, seed=0)
            found.append({name: value.cpu() for name, value in model.state_dict().items()})
    assert moved == [16]  # when there was room
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_the_classifier_answers_from_the_gpu_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    x = some_images(5).images
    model = Classifier(SHAPE, LEVELS, classes=10, channels=4, features=8, dropout=0.0).eval()
    expected = model.outputs(x, 2)
    with pretend_gpu(monkeypatch) as gpu:
        found = model.to(gpu).outputs(x, 2)
    torch.testing.assert_close((found.features, found.logits), (expected.features, expected.logits))


WRONG = {
    "two devices": lambda x: x + torch.ones(3),
    "an index on the wrong device": lambda x: torch.ones(3)[x.long()],
    "the GPU's random numbers on the CPU": lambda x: torch.rand(3, generator=torch.Generator(x.device)),
    "the CPU's random numbers on the GPU": lambda x: x.uniform_(generator=torch.Generator(CPU)),
    "a sum by atomic additions": lambda x: F.cross_entropy(x.expand(1, 2, 2, 3), x.expand(1, 2, 3).long()),
    "no repeatable way back": lambda x: (
        F.interpolate(x.requires_grad_()[None, None], 5, mode="linear").sum().backward()
    ),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_the_pretended_gpu_refuses_what_a_real_one_would(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pretend_gpu(monkeypatch) as gpu,
        pytest.raises(RuntimeError, match=r"on the CPU and on the GPU|one device's generator|not repeatable"),
    ):
        wrong(torch.zeros(3, device=gpu))
