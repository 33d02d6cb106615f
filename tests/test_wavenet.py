"""WaveNet: torch's own convolutions as an oracle, the receptive field, and draws from queues as without them."""

import itertools
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workflow.models.layers.common import categorical_log_prob, draw_categorical
from workflow.models.wavenet import GatedLayer, WaveNet
from workflow.operations import operations

SIGNAL = (1, 1, 12)


def _generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def _model(
    shape: tuple[int, int, int], levels: int = 5, *, layers: int = 3, stacks: int = 2, classes: int = 0
) -> WaveNet:
    """In float64, its weights enlarged, so that samples matter to each other."""
    torch.manual_seed(1)
    model = WaveNet(shape, levels, channels=6, layers=layers, stacks=stacks, classes=classes).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


def _signals(model: WaveNet, n: int) -> Tensor:
    return torch.randint(model.levels, (n, *model.shape), dtype=torch.uint8, generator=_generator(5))


def _sequences(x: Tensor) -> Tensor:
    """The numbers in reading order, the colours of a pixel one after another, int64 (N, length), one by one."""
    _, colours, height, width = x.shape
    places = itertools.product(range(height), range(width), range(colours))
    order = [(c, i, j) for i, j, c in places]
    return torch.tensor([[int(image[place]) for place in order] for image in x])


def _kernel(linear: nn.Linear) -> Tensor:
    """A convolution's weight, (outputs, inputs, 2), of a layer that is given the features of two times side by side."""
    return torch.stack(linear.weight.chunk(2, 1), 2)


def _by_convolutions(model: WaveNet, sequences: Tensor, y: Tensor | None) -> Tensor:
    """Logits as figure 4 of the paper draws them, (N, levels, length)."""
    signal = (2 * sequences.double() / (model.levels - 1) - 1).unsqueeze(1)
    h = F.conv1d(F.pad(signal, (2, 0))[..., :-1], _kernel(model.first), model.first.bias)
    skipped = []
    for layer in cast(list[GatedLayer], list(model.layers)):
        padded = F.pad(h, (layer.dilation, 0))
        gates = F.conv1d(padded, _kernel(layer.gates), layer.gates.bias, dilation=layer.dilation)
        if layer.of_class is not None:
            gates = gates + layer.of_class.weight[y].unsqueeze(2)
        z = torch.tanh(gates[:, :6]) * torch.sigmoid(gates[:, 6:])
        skipped.append(F.conv1d(z, layer.to_output.weight.unsqueeze(2), layer.to_output.bias))
        if layer.to_next is not None:
            h = h + F.conv1d(z, layer.to_next.weight.unsqueeze(2), layer.to_next.bias)
    _, wide, _, last = model.head
    assert isinstance(wide, nn.Linear)
    assert isinstance(last, nn.Linear)
    out = F.conv1d(F.relu(torch.stack(skipped).sum(0)), wide.weight.unsqueeze(2), wide.bias)
    return F.conv1d(F.relu(out), last.weight.unsqueeze(2), last.bias)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("shape", [SIGNAL, (3, 2, 2)], ids=["signal", "colour"])
@torch.no_grad()
def test_density_is_that_of_torchs_convolutions(shape: tuple[int, int, int], classes: int) -> None:
    model = _model(shape, classes=classes)
    x, y = _signals(model, 6), torch.arange(6) % 3
    numbers = _sequences(x)
    logits = _by_convolutions(model, numbers, y if classes else None)
    expected = logits.log_softmax(1).gather(1, numbers.unsqueeze(1)).sum((1, 2))
    assert [layer.dilation for layer in cast(list[GatedLayer], list(model.layers))] == [1, 2, 4, 1, 2, 4]
    torch.testing.assert_close(model.log_prob_given(x, y if classes else None), expected, rtol=1e-12, atol=1e-12)
    loss = model.loss(x, y, "model", _generator())["loss"].item()
    assert loss == pytest.approx(-expected.mean().item(), rel=1e-12)


@pytest.mark.parametrize(("layers", "stacks", "reach"), [(1, 1, 3), (3, 1, 9), (2, 2, 8), (4, 1, 17)])
def test_a_sample_depends_on_those_in_the_receptive_field_and_no_others(
    layers: int, stacks: int, reach: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By gradients of each sample's log-probability with respect to the signal."""
    model = _model((1, 1, 14), layers=layers, stacks=stacks)
    numbers = _sequences(_signals(model, 1))
    signal = (numbers.double() / 2 - 1).requires_grad_()
    monkeypatch.setattr(model, "_embed", lambda _: signal)
    log_prob = model.logits(numbers, None).log_softmax(1)[0].gather(0, numbers).squeeze(0)
    for i, one in enumerate(log_prob):
        (gradient,) = torch.autograd.grad(one, signal, retain_graph=True)
        assert gradient[0].ne(0).tolist() == [i - reach <= j < i for j in range(14)]
    assert model.receptive_field == reach
    assert model.note == ("" if reach >= 13 else f"Its receptive field is {reach} of 14 samples: given these, a sample "
                          "is modelled as independent of those further back.")  # fmt: skip


@pytest.mark.parametrize("classes", [0, 2])
@torch.no_grad()
def test_density_sums_to_one(classes: int) -> None:
    model = _model((1, 1, 5), 3, classes=classes)
    every = torch.tensor(list(itertools.product(range(3), repeat=5)), dtype=torch.uint8).view(-1, 1, 1, 5)
    density = model.log_prob(every, _generator()).exp()
    assert density.sum().item() == pytest.approx(1, rel=1e-12)
    assert density.max() > 5 * density.min()
    if classes:
        by_class = model.log_prob_by_class(every, _generator()).exp()
        assert by_class.sum(0).tolist() == pytest.approx([1, 1], rel=1e-12)
        torch.testing.assert_close(by_class.mean(1), density, rtol=1e-12, atol=0)
        assert (by_class[:, 0] - by_class[:, 1]).abs().max() > 0.01


def _drawn_by_full_passes(model: WaveNet, n: int, y: Tensor | None, given: Tensor, generator: Generator) -> Tensor:
    """Sequences that begin with `given`, (N, i), by the network's whole output for each further number."""
    numbers = torch.zeros(n, model.length, dtype=torch.long)
    numbers[:, : given.shape[1]] = given
    for i in range(given.shape[1], model.length):
        numbers[:, i] = draw_categorical(_by_convolutions(model, numbers, y)[:, :, i], generator)
    return numbers


@pytest.mark.parametrize("shape", [(1, 1, 20), (3, 3, 2)], ids=["signal", "colour"])
@torch.no_grad()
def test_draws_are_the_same_with_and_without_queues(shape: tuple[int, int, int]) -> None:
    model, conditional, nothing = _model(shape), _model(shape, classes=3), torch.zeros(7, 0, dtype=torch.long)
    expected = _drawn_by_full_passes(model, 7, None, nothing, _generator())
    assert torch.equal(_sequences(model.sample(7, _generator())), expected)
    assert len(expected.unique(dim=0)) == 7
    y = torch.arange(7) % 3
    expected = _drawn_by_full_passes(conditional, 7, y, nothing, _generator())
    assert torch.equal(_sequences(conditional.sample_given(y, _generator())), expected)


@pytest.mark.parametrize("classes", [0, 3])
@torch.no_grad()
def test_what_it_completes_begins_as_given_in_a_class_that_fits(classes: int) -> None:
    model, generator, y = _model((1, 4, 3), classes=classes), _generator(2), None
    x = _signals(model, 8)
    known = _sequences(x[:, :, :2])
    if classes:
        begun = _by_convolutions(model, known.repeat(3, 1), torch.arange(3).repeat_interleave(8))
        fits = categorical_log_prob(begun, known.repeat(3, 1)).view(3, 8).T
        y = draw_categorical(fits, generator)
    expected = _drawn_by_full_passes(model, 8, y, known, generator)
    assert torch.equal(_sequences(model.complete(x, 2, _generator(2))), expected)


@torch.no_grad()
def test_logits_in_order_are_those_of_the_density() -> None:
    model = _model(SIGNAL)
    x, found = _signals(model, 4), list[Tensor]()

    def follow(logits: Tensor, at: object) -> Tensor:
        found.append(logits)
        assert callable(at)
        return cast(Tensor, at(x)).long()

    assert torch.equal(model.in_order(4, follow), x)
    expected = _by_convolutions(model, _sequences(x), None)
    torch.testing.assert_close(torch.stack(found, 2), expected, rtol=1e-12, atol=1e-12)


def test_a_step_costs_the_same_however_long_the_signal_is() -> None:
    short, long = (_model((1, 1, length)) for length in (16, 48))
    cost = operations(lambda: short.sample(2, _generator()))
    assert operations(lambda: long.sample(2, _generator())) == 3 * cost > 0


@torch.no_grad()
def test_features_of_a_model_with_classes_are_means_over_what_it_takes_the_class_for() -> None:
    model = _model(SIGNAL, classes=3)
    x = _signals(model, 5)
    share = model.log_prob_by_class(x, _generator()).softmax(1)
    hidden = [model.hidden(_sequences(x), torch.full((5,), y)) for y in range(3)]
    features = torch.stack([h.view(5, 4, 3, -1).mean(2).transpose(1, 2).flatten(1) for h in hidden])
    torch.testing.assert_close(model.encode(x), torch.einsum("nk,knd->nd", share, features), rtol=1e-12, atol=1e-12)
