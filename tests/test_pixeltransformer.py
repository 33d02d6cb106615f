"""Pixel transformer: torch's own transformer as an oracle, the order of the pixels, and draws from the same density."""

import itertools
from typing import cast

import pytest
import torch
from torch import Generator, Tensor, nn

from workflow.models.layers.codes import CodeByCode, TransformerLayer
from workflow.models.layers.common import draw_categorical
from workflow.models.pixeltransformer import PixelTransformer

TINY = [((1, 2, 2), 3), ((3, 1, 2), 2)]  # few enough images to list them all
Y = torch.empty(0, dtype=torch.long)  # classes, which a model of p(x) does not look at


def _generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def _model(shape: tuple[int, int, int], levels: int) -> PixelTransformer:
    """In float64, its weights enlarged, so that pixels matter to each other."""
    torch.manual_seed(1)
    model = PixelTransformer(shape, levels, width=20, layers=3, dropout=0.3).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


def _images(model: PixelTransformer, n: int) -> Tensor:
    return torch.randint(model.levels, (n, *model.shape), dtype=torch.uint8, generator=_generator(5))


def _places(shape: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """Channel, row and column of each number, in the stated order: the colours of a pixel are next to each other."""
    colours, height, width = shape
    return [(c, i, j) for i, j, c in itertools.product(range(height), range(width), range(colours))]


def _sequences(x: Tensor) -> Tensor:
    """The numbers of images in that order, int64 (N, length), one by one."""
    _, colours, height, width = x.shape
    return torch.tensor([[int(image[place]) for place in _places((colours, height, width))] for image in x])


def _encoder(model: PixelTransformer, depth: int) -> nn.TransformerEncoder:
    """The first layers of the model in torch's own transformer."""
    width = model.network.width
    theirs = nn.TransformerEncoderLayer(
        width, width // 16, 4 * width, 0.3, nn.GELU(), batch_first=True, norm_first=True, dtype=torch.float64
    )
    encoder = nn.TransformerEncoder(theirs, depth, enable_nested_tensor=False).eval()
    names = {
        "to_all.": "self_attn.in_proj_", "out.": "self_attn.out_proj.", "network.0.": "linear1.",
        "network.2.": "linear2.", "before_attention.": "norm1.", "before_network.": "norm2.",
    }  # fmt: skip
    for to, of in zip(encoder.layers, model.network.layers, strict=False):
        to.load_state_dict({theirs + kind: of.get_parameter(ours + kind) for ours, theirs in names.items()
                            for kind in ("weight", "bias")})  # fmt: skip
    return encoder


def _by_torch(model: PixelTransformer, sequences: Tensor, depth: int) -> Tensor:
    """Features of the first `depth` layers, (N, length, width)."""
    network, length = model.network, sequences.shape[1]
    rows = [torch.stack([network.start, *(network.embedding.weight[code] for code in row[:-1])]) for row in sequences]
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    features: Tensor = _encoder(model, depth)(torch.stack(rows) + network.positions, mask=later)
    return features


@pytest.mark.parametrize("shape", [(1, 3, 4), (3, 2, 2)], ids=["grey", "colour"])
@torch.no_grad()
def test_density_is_that_of_torchs_transformer(shape: tuple[int, int, int]) -> None:
    model = _model(shape, 5)
    x = _images(model, 6)
    sequences = _sequences(x)
    logits = model.network.head(_by_torch(model, sequences, 3)).log_softmax(2)
    expected = logits.gather(2, sequences.unsqueeze(2)).sum((1, 2))
    torch.testing.assert_close(model.log_prob(x, _generator()), expected, rtol=1e-12, atol=1e-12)
    assert model.loss(x, Y, "model", _generator())["loss"].item() == pytest.approx(-expected.mean().item(), rel=1e-12)


@pytest.mark.parametrize("shape", [(1, 2, 6), (3, 4, 2)], ids=["grey", "colour"])
@torch.no_grad()
def test_features_are_means_over_quarters_of_the_middle_layers_input(shape: tuple[int, int, int]) -> None:
    model = _model(shape, 5)
    x = _images(model, 6)
    middle = cast(TransformerLayer, model.network.layers[1]).before_attention(_by_torch(model, _sequences(x), 1))
    quarters: dict[tuple[bool, bool], list[Tensor]] = {
        (low, right): [] for low in (False, True) for right in (False, True)
    }
    for k, (_, i, j) in enumerate(_places(shape)):
        quarters[i >= shape[1] // 2, j >= shape[2] // 2].append(middle[:, k])
    expected = torch.stack([torch.stack(one).mean(0) for one in quarters.values()], 2).flatten(1)
    torch.testing.assert_close(model.encode(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("shape", "levels"), TINY)
@torch.no_grad()
def test_density_sums_to_one(shape: tuple[int, int, int], levels: int) -> None:
    model = _model(shape, levels)
    every = torch.tensor(list(itertools.product(range(levels), repeat=model.network.length)), dtype=torch.uint8)
    density = model.log_prob(every.view(-1, *shape), _generator()).exp()
    assert density.sum().item() == pytest.approx(1, rel=1e-12)
    assert density.max() > 5 * density.min()


@pytest.mark.parametrize("shape", [(1, 3, 4), (3, 2, 2)], ids=["grey", "colour"])
def test_no_number_depends_on_a_later_one_and_each_on_all_before_it(shape: tuple[int, int, int]) -> None:
    """By gradients of each number's log-probability with respect to the embedded image."""
    model = _model(shape, 5)
    seen: list[Tensor] = []

    def keep(_module: object, _inputs: object, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    model.network.embedding.register_forward_hook(keep)
    sequences = _sequences(_images(model, 1))
    log_prob = model.network(sequences).log_softmax(1)[0].gather(0, sequences).squeeze(0)
    (embedded,) = seen
    for i, one in enumerate(log_prob):
        (gradient,) = torch.autograd.grad(one, embedded, retain_graph=True)
        assert gradient[0].any(1).tolist() == [j < i for j in range(len(log_prob) - 1)]


@pytest.mark.parametrize("shape", [(1, 3, 4), (3, 2, 2)], ids=["grey", "colour"])
@torch.no_grad()
def test_logits_are_the_same_with_and_without_cache_while_it_draws(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _model(shape, 5)
    found: list[Tensor] = []
    step = CodeByCode.step

    def watched(steps: CodeByCode, drawn: Tensor) -> Tensor:
        found.append(step(steps, drawn).clone())
        return found[-1]

    monkeypatch.setattr(CodeByCode, "step", watched)
    x = model.sample(7, _generator())
    torch.testing.assert_close(torch.stack(found, 2), model.network(_sequences(x)), rtol=1e-12, atol=1e-12)
    assert (torch.stack(found, 2)[..., -1].std(0) > 0.1).all()


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("colours", [1, 3])
@torch.no_grad()
def test_what_it_completes_is_drawn_as_by_a_full_pass_for_each_number(rows: int, colours: int) -> None:
    model = _model((colours, 3, 2), 5)
    given, generator = _images(model, 4), _generator(2)
    expected = given.clone()
    for k, place in enumerate(_places(model.shape)):
        if place[1] >= rows:
            logits = model.network(_sequences(expected))[:, :, k]
            expected[(slice(None), *place)] = draw_categorical(logits, generator).to(torch.uint8)
    assert torch.equal(model.complete(given, rows, _generator(2)), expected)
    assert (rows == 3) == torch.equal(expected, given)
