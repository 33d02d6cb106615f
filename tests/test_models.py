"""The contract, checked for every family that exists, with every setting that a params file gives it."""

import contextlib
import copy
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.conftest import ROOT
from tests.passes import count_passes
from workflow import params
from workflow.data.tensors import ImageSet
from workflow.engines.ledger import Code
from workflow.errors import BakeoffError
from workflow.evaluation.batching import in_batches
from workflow.evaluation.fine_tuning import with_fresh_weights
from workflow.models import base, kinds, registry
from workflow.models.base import Model
from workflow.models.layers.common import to_unit
from workflow.models.layers.noise import choices
from workflow.models.taxonomy import Family
from workflow.operations import operations
from workflow.params import Entry
from workflow.training.checkpoint import Checkpoint, CheckpointFile
from workflow.training.distributed import ProcessGroup
from workflow.training.history import Record
from workflow.training.loop import fit
from workflow.training.steps import Steps

SHAPES = [((1, 8, 8), 17), ((3, 8, 8), 4)]


MOST = 8


def small(entry: Entry, most: int) -> Entry:
    """The same with no whole number above `most`, be it of layers, channels, steps or draws: the same code runs."""
    numbers = {name: value for name, value in entry.hyperparameters.items() if type(value) is int}
    return entry.model_copy(update={name: min(value, most) for name, value in numbers.items()})


def _distinct(entries: Iterable[tuple[str, Entry]]) -> list[tuple[str, Entry]]:
    found: dict[str, tuple[str, Entry]] = {}
    for name, entry in entries:
        found.setdefault(json.dumps([entry.kind, entry.hyperparameters], sort_keys=True), (name, entry))
    return list(found.values())


def _of_other_choices(entries: Iterable[tuple[str, Entry]]) -> list[tuple[str, Entry]]:
    """One for each kind and combination of words and of what is on or off: other numbers run the same code."""
    found: dict[str, tuple[str, Entry]] = {}
    for name, entry in entries:
        options = {key: value for key, value in entry.hyperparameters.items() if key != "dropout"}
        values = {key: value if isinstance(value, str) else bool(value) for key, value in options.items()}
        found.setdefault(json.dumps([entry.kind, values], sort_keys=True), (name, entry))
    return list(found.values())


# Of params.yaml and the presets; the small ones of the smoke preset first, then those for the digits, of which the
# lectures' first RBM is small.
FILES = [ROOT / "presets/smoke.yaml", ROOT / "presets/lectures.yaml", ROOT / "params.yaml"]
FILES += sorted(set((ROOT / "presets").glob("*.yaml")) - set(FILES))
ENTRIES = _distinct(
    (f"{file.stem}-{name}", entry) for file in FILES for name, entry in params.load(file).models.items()
)
SMALL = [(name, small(entry, MOST)) for name, entry in _of_other_choices(ENTRIES)]


@pytest.fixture(params=SMALL, ids=[name for name, _ in SMALL])
def entry(request: pytest.FixtureRequest) -> Entry:
    found: tuple[str, Entry] = request.param
    return found[1]


@pytest.fixture(params=SHAPES, ids=["grey", "colour"])
def model(request: pytest.FixtureRequest, entry: Entry) -> Model:
    shape, levels = request.param
    return registry.build(entry.kind, shape, levels, entry.hyperparameters).eval()


def _images(model: Model, n: int) -> Tensor:
    return torch.randint(0, model.levels, (n, *model.shape), dtype=torch.uint8, generator=_generator(7))


def _classes(model: Model, n: int) -> Tensor:
    return torch.arange(n) % (model.classes or MOST)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_family_has_settings_in_a_params_file() -> None:
    held = {kind for kind in kinds() if issubclass(registry.model_class(kind), base.HasHold)}
    assert {entry.kind for _, entry in ENTRIES} == set(kinds()) - held
    assert held == {"external"}  # whose tests are in tests/test_external.py


@pytest.mark.parametrize("kind", kinds())
def test_a_family_is_one_file_on_the_shared_ground(kind: str) -> None:
    file = Path(f"workflow/models/{kind}.py")
    shared = {other for other in Code(ROOT).made_of(file) - {file} if other.name != "__init__.py"}
    names = ("errors", "models/base", "models/taxonomy")  # errors: of the package of models
    ground = {Path(f"workflow/{name}.py") for name in names}
    assert Path("workflow/models/base.py") in shared
    assert all(other.parent.name == "layers" for other in shared - ground)


@pytest.mark.parametrize(("shape", "levels"), SHAPES, ids=["grey", "colour"])
@pytest.mark.parametrize("entry", [entry for _, entry in ENTRIES], ids=[name for name, _ in ENTRIES])
def test_says_what_it_is_at_its_full_size(entry: Entry, shape: tuple[int, int, int], levels: int) -> None:
    model = registry.build(entry.kind, shape, levels, entry.hyperparameters)
    assert all(len(text) > 2 for text in (model.title, model.paper, model.objective))
    assert len(model.about) > 80
    assert model.family in get_args(Family)
    assert model.taxonomy.startswith("implicit") == (model.likelihood == "implicit")
    assert isinstance(model, base.HasLogProb) == (model.likelihood != "implicit")


def test_samples_are_images_and_depend_on_the_generator_alone(model: Model) -> None:
    torch.manual_seed(1)
    first = model.sample(5, _generator(0))
    torch.manual_seed(2)
    again = model.sample(5, _generator(0))
    assert first.shape == (5, *model.shape)
    assert first.dtype == torch.uint8
    assert first.max() < model.levels
    assert torch.equal(first, again)
    assert model.sample(1, _generator(0)).shape == (1, *model.shape)


def test_a_decoders_draws_are_the_samples(model: Model) -> None:
    if not isinstance(model, base.HasDecodings):
        return
    used, expected = _generator(0), _generator(0)
    decoded = model.decodings(6, used)
    assert isinstance(model, Model)
    assert torch.equal(decoded.draw, model.sample(6, expected))
    assert torch.equal(used.get_state(), expected.get_state())
    for images in decoded:
        assert (images.shape, images.dtype) == ((6, *model.shape), torch.uint8)
        assert images.max() < model.levels
    assert not torch.equal(decoded.mode, decoded.draw)


def test_every_parameter_gets_a_gradient(model: Model) -> None:
    model.train()
    if isinstance(model, base.HasInitialise):
        model.initialise(_images(model, 32), _generator(0))
    reached: set[str] = set()
    for player in model.turns:
        model.zero_grad()
        terms = model.loss(_images(model, 32), _classes(model, 32), player, _generator(0))
        assert all(term.ndim == 0 and torch.isfinite(term) for term in terms.values())
        terms["loss"].backward()
        owned = {id(p) for p in model.players[player].parameters()}
        reached |= {n for n, p in model.named_parameters() if id(p) in owned and p.grad is not None and p.grad.any()}
    assert reached == {name for name, _ in model.named_parameters()}


def test_log_prob_is_a_log_probability_of_each_image_by_itself(model: Model) -> None:
    if not isinstance(model, base.HasLogProb):
        assert not hasattr(model, "log_prob")
        return
    assert isinstance(model, Model)
    x = _images(model, 6)
    with torch.no_grad():
        log_prob = model.log_prob(x, _generator(0))
        again = model.log_prob(x, _generator(0))
        other = model.log_prob(torch.cat([x[:1], _images(model, 12)[6:11]]), _generator(0))
    assert log_prob.shape == (6,)
    assert (log_prob < 0).all()
    assert torch.equal(log_prob, again)
    torch.testing.assert_close(log_prob[0], other[0])


def test_capabilities_keep_their_shapes(model: Model) -> None:
    x, y = _images(model, 4), _images(model, 8)[4:]
    capabilities: Any = model
    with torch.no_grad():
        if isinstance(model, base.HasEncode):
            features = capabilities.encode(x)
            assert features.ndim == 2
            assert len(features) == 4
            assert torch.isfinite(features).all()
            assert torch.equal(features, capabilities.encode(x))
        if isinstance(model, base.HasEncoder):
            _check_encoder(capabilities.encoder_network(), to_unit(x, model.levels))
        if isinstance(model, base.HasDecode):
            decoded = capabilities.decode(capabilities.encode(x))
            assert (decoded.shape, decoded.dtype) == (x.shape, torch.uint8)
            assert decoded.max() < capabilities.levels
        if isinstance(model, base.HasScales):
            scales, inputs = capabilities.scales(), capabilities.inputs(x, _generator(0))
            assert scales.shape == inputs.shape[1:]
            assert (scales > 0).all()
        if isinstance(model, base.HasReconstruct):
            back = capabilities.reconstruct(x)
            assert (back.shape, back.dtype) == (x.shape, torch.uint8)
            assert back.max() < capabilities.levels
            assert torch.equal(back, capabilities.reconstruct(x))
        if isinstance(model, base.HasInterpolate):
            walk = capabilities.interpolate(x, y, 5)
            assert (walk.shape, walk.dtype) == ((4, 5, *capabilities.shape), torch.uint8)
            unlike = capabilities.interpolate(y, x, 5).flip(1) != walk
            assert unlike.double().mean() < 0.01  # but for what rounding decides
        if isinstance(model, base.HasComplete):
            completed = capabilities.complete(x, 3, _generator(0))
            assert (completed.shape, completed.dtype) == (x.shape, torch.uint8)
            assert torch.equal(completed[:, :, :3], x[:, :, :3])
            assert not torch.equal(completed, capabilities.complete(x, 3, _generator(1)))


def _check_encoder(encoder: nn.Module, x: Tensor) -> None:
    """It is a network of its own, and initialising its layers leaves nothing of what it was."""
    numbers = encoder(x)
    spoilt = copy.deepcopy(encoder)
    for tensor in spoilt.state_dict().values():
        tensor.fill_(1e9)
    fresh = with_fresh_weights(spoilt)
    assert fresh(x).shape == numbers.shape
    assert all((tensor < 1e8).all() for tensor in fresh.state_dict().values())
    assert torch.equal(encoder(x), numbers)


def test_the_operations_of_a_sample_are_those_that_torch_counts(model: Model) -> None:
    with FlopCounterMode(display=False) as counter:
        model.sample(3, _generator(0))
    assert operations(lambda: model.sample(3, _generator(0))) == counter.get_total_flops() > 0


class _NoModules(contextlib.nullcontext[None]):
    """Lets FlopCounterMode count for the whole, not for each module."""

    parents = frozenset({"Global"})


def test_the_operations_of_a_training_step_are_those_that_torch_counts(entry: Entry, digits: Tensor) -> None:
    images = ImageSet(digits[:8], torch.zeros(8, dtype=torch.int64))
    model = registry.build(entry.kind, (1, 8, 8), 17, entry.hyperparameters)
    settings = entry.training.model_copy(update={"epochs": 1, "gflops": None, "batch_size": 8, "parts": 1})
    steps = Steps(model, images, settings, 0, ProcessGroup())
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()  # type: ignore[assignment] # torch's own cannot follow a gradient of a gradient
    with counter:
        list(steps.take(1))
    assert steps.gflops == counter.get_total_flops() / 1e9 > 0


@pytest.mark.parametrize("shape", [(1, 8, 16), (3, 16, 8)], ids=["wide", "tall and in colour"])
def test_passes_in_sequence_are_those_that_wait_for_one_another(entry: Entry, shape: tuple[int, int, int]) -> None:
    model = registry.build(entry.kind, shape, 5, entry.hyperparameters).eval()
    assert model.passes_in_sequence == count_passes(model, lambda: model.sample(2, _generator(0)))


@pytest.mark.parametrize(
    ("name", "others", "passes"),
    [
        *[(name, {}, 1) for name in ("gan", "vae", "autoencoder", "nice", "realnvp")],
        ("pixelcnn", {}, 64),  # one a pixel
        ("pixelcnn", {"stack": "masked"}, 36),  # each row begins when four pixels of the one above are there
        ("ddpm", {}, 50),
        ("ddpm", {"sampling_steps": 7}, 7),
        ("vqvae", {}, 5),  # 2x2 codes, and the decoder
        ("vqvae", {"prior": "transformer"}, 5),
    ],
)
def test_passes_in_sequence_of_the_models_for_digits(name: str, others: dict[str, Any], passes: int) -> None:
    entry = params.load(ROOT / "presets/lectures.yaml").models[name]
    model = registry.build(entry.kind, (1, 8, 8), 17, {**entry.hyperparameters, **others}).eval()
    assert model.passes_in_sequence == passes
    assert count_passes(model, lambda: model.sample(2, _generator(0))) == passes


def test_a_probability_that_is_no_number_is_no_draw() -> None:
    probabilities = torch.tensor([[0.5, 0.5], [0.5, torch.nan]])
    with pytest.raises(RuntimeError, match="not finite"):
        choices(probabilities, _generator(0))


def test_choices_invert_the_distribution_function() -> None:
    probabilities = torch.rand(500, 17, generator=_generator(0), dtype=torch.float64)
    marks = torch.rand(500, 1, generator=_generator(1), dtype=torch.float64).numpy()
    drawn = choices(probabilities, _generator(1))
    for chosen, row, (mark,) in zip(drawn.tolist(), probabilities.numpy(), marks, strict=True):
        assert chosen == np.searchsorted(np.cumsum(row) / row.sum(), mark, side="right")


@pytest.mark.parametrize("mark", [0.0, 1 - 2**-24], ids=["least", "greatest"])
def test_what_has_no_probability_is_never_drawn(mark: float, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.rand(1000, 12, generator=_generator(0)) * 10 ** torch.randn(1000, 1, generator=_generator(1))
    weights[:, :3], weights[:, -2:] = 0, 0
    monkeypatch.setattr(torch, "rand", lambda size, **_: torch.full(size, mark))
    assert (choices(weights, _generator(0)) == (3 if mark == 0 else 9)).all()


def test_choices_are_as_frequent_as_they_are_probable() -> None:
    weights = torch.tensor([5.0, 0.0, 1.0, 4.0])
    drawn = choices(weights.expand(100_000, 4), _generator(0)).bincount(minlength=4)
    assert stats.chisquare(drawn[weights > 0], 10_000 * weights[weights > 0]).pvalue > 0.001
    assert drawn[1] == 0


def _bounded(work: Callable[[range, Generator], Tensor], most: int) -> Callable[[range, Generator], Tensor]:
    """`work` on a device whose memory is full with more than `most` images."""

    def bounded(rows: range, generator: Generator) -> Tensor:
        if len(rows) > most:
            torch.rand(3, generator=generator)  # it was already under way
            raise torch.OutOfMemoryError
        return work(rows, generator)

    return bounded


def test_a_batch_that_does_not_fit_gives_the_same_in_halves(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = _images(model, 11), torch.arange(11) % max(1, model.classes)
    works: dict[str, Callable[[range, Generator], Tensor]] = {"sample": lambda rows, g: model.sample(len(rows), g)}
    if isinstance(model, base.HasLogProb):
        log_prob = model.log_prob
        works["log_prob"] = lambda rows, g: log_prob(x[rows.start : rows.stop], g)
    if model.classes and isinstance(model, base.HasSampleGiven):
        sample_given = model.sample_given
        works["sample_given"] = lambda rows, g: sample_given(y[rows.start : rows.stop], g)
    for name, work in works.items():
        with torch.no_grad():
            of_all, of_parts = _generator(5), _generator(5)
            expected = torch.cat(in_batches(work, 11, 7, of_all))
            found = torch.cat(in_batches(_bounded(work, 2), 11, 7, of_parts))
        assert len(found) == 11
        if name == "log_prob":
            torch.testing.assert_close(found, expected)
        else:
            assert (found != expected).double().mean() < 0.01  # but for what rounding decides
        assert torch.equal(of_all.get_state(), of_parts.get_state())
        told = capsys.readouterr().err.splitlines()
        assert [line.split(";")[0] for line in told] == [
            f"warning: out of GPU memory with {n} images at once" for n in (7, 3)
        ]


def test_takes_images_of_any_size_or_refuses_them_in_one_line(entry: Entry) -> None:
    refused = ""
    try:
        odd = registry.build(entry.kind, (1, 7, 5), 17, entry.hyperparameters).eval()
        assert odd.sample(2, _generator(0)).shape == (2, 1, 7, 5)
    except BakeoffError as error:
        refused = str(error)
    assert re.fullmatch(rf"(model {entry.kind}: .*7x5 pixels.*)?", refused)


def test_survives_its_file(model: Model, entry: Entry, tmp_path: Path) -> None:
    for name in ("one", "two"):
        registry.save(model, tmp_path / name, entry.kind, entry.hyperparameters, {"step": 3})
    loaded = registry.load(tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (loaded.kind, loaded.about) == (entry.kind, {"step": 3})
    assert torch.equal(loaded.model.sample(3, _generator(0)), model.sample(3, _generator(0)))


# One entry of each kind, of the smoke preset where it has one: to train with every setting would take too long.
TRAINED = list({entry.kind: (name, entry) for name, entry in reversed(ENTRIES)}.values())[::-1]


class CutOff(CheckpointFile):
    """Keeps the state after one step, and ends the training there."""

    def __init__(self, path: Path, step: int) -> None:
        super().__init__(path, "key", math.inf)
        self.steps_left = step

    def due(self) -> bool:
        self.steps_left -= 1
        return self.steps_left == 0

    def write(self, state: Checkpoint) -> None:
        super().write(state)
        if self.steps_left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("name", "entry"), TRAINED, ids=[name for name, _ in TRAINED])
def test_training_improves_it_and_repeats_to_the_byte_even_if_it_was_cut_off(
    name: str, entry: Entry, digits: Tensor, digit_labels: Tensor, tmp_path: Path
) -> None:
    """A few epochs on 320 digits: a better validation score than untrained, and the same weights twice."""
    epochs = 5 if name.startswith("smoke") else 3  # the others are larger, and set to learn fast
    settings = entry.training.model_copy(update={"epochs": epochs, "batch_size": 16})
    train, valid = ImageSet(digits[:320], digit_labels[:320]), ImageSet(digits[320:500], digit_labels[320:500])

    def new() -> Model:
        return registry.build(entry.kind, (1, 8, 8), 17, entry.hyperparameters, seed=3)

    model, history, history_again = new(), list[Record](), list[Record]()
    if isinstance(model, base.HasInitialise):
        model.initialise(digits[:320], _generator(0))
    untrained = model.eval().validate(valid.images, valid.labels, _generator(0))["loss"].item()
    fitted = fit(new(), train, valid, settings, 3, history.append)

    an_epoch = max(1, 320 // (16 * len(model.turns)))
    file = CutOff(tmp_path / "state", 2 * an_epoch + max(1, an_epoch // 4))  # in the third epoch
    with pytest.raises(KeyboardInterrupt):
        fit(new(), train, valid, settings, 3, list[Record]().append, file=file)
    again = fit(new(), train, valid, settings, 3, history_again.append, file=file)

    model.load_state_dict(fitted.state)
    samples = [model.eval().sample(9, _generator(seed)) for seed in (0, 0, 1)]
    assert again.valid_loss == fitted.valid_loss < untrained
    assert again.step == fitted.step
    assert all(torch.equal(fitted.state[key], again.state[key]) for key in fitted.state)
    assert torch.equal(fitted.snapshots, again.snapshots)
    assert again.snapshot_steps == fitted.snapshot_steps
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])
    assert json.dumps(history) == json.dumps(history_again)
