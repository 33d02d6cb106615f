"""Causal transformer: its formulas by hand, what each position may see, and the same logits with and without cache."""

import itertools
import math

import pytest
import torch
from torch import Generator, Tensor

from workflow.models.layers.codes import CausalTransformer, CodeByCode, TransformerLayer
from workflow.models.layers.common import categorical_log_prob

CODES, LENGTH = 3, 5


def _generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def _model(width: int = 20, layers: int = 2) -> CausalTransformer:
    """Its weights enlarged, so that the codes make a difference."""
    torch.manual_seed(1)
    model = CausalTransformer(LENGTH, CODES, width, layers, dropout=0.3).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


def _sequences() -> Tensor:
    """All sequences of codes, int64 (CODES ** LENGTH, LENGTH)."""
    return torch.tensor(list(itertools.product(range(CODES), repeat=LENGTH)))


def test_layer_is_attention_and_network_by_hand() -> None:
    torch.manual_seed(2)
    layer = TransformerLayer(32, 2, dropout=0.3).double().eval()
    h = torch.randn(1, 4, 32, dtype=torch.float64)
    with torch.no_grad():
        out = layer(h)[0]

        def normal(x: Tensor) -> Tensor:
            return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()

        query, key, value = (normal(h[0]) @ layer.to_all.weight.T + layer.to_all.bias).chunk(3, dim=1)
        attended = torch.zeros(4, 32, dtype=torch.float64)
        for head, i in itertools.product((slice(0, 16), slice(16, 32)), range(4)):
            scores = torch.stack([query[i, head] @ key[j, head] / math.sqrt(16) for j in range(i + 1)]).exp()
            attended[i, head] = (scores[:, None] * value[: i + 1, head]).sum(0) / scores.sum()
        middle = h[0] + attended @ layer.out.weight.T + layer.out.bias
        expected = middle + layer.network(normal(middle))
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)


def test_no_code_sees_itself_or_a_later_one_and_each_sees_all_before_it() -> None:
    model = _model()
    seen: list[Tensor] = []

    def keep(_module: object, _inputs: object, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    model.embedding.register_forward_hook(keep)
    logits = model(torch.tensor([[0, 2, 1, 1, 0]]))
    (embedded,) = seen
    for i in range(LENGTH):
        steered = (logits[0, :, i] * torch.arange(CODES)).sum()
        (gradient,) = torch.autograd.grad(steered, embedded, retain_graph=True)
        assert gradient[0].any(1).tolist() == [j < i for j in range(LENGTH - 1)]


def test_density_sums_to_one() -> None:
    model, every = _model(), _sequences()
    with torch.no_grad():
        density = categorical_log_prob(model(every), every).exp()
    assert density.sum().item() == pytest.approx(1, rel=1e-12)
    assert density.max() > 5 * density.min()


@pytest.mark.parametrize("width", [16, 20], ids=["one head", "two heads"])
def test_logits_are_the_same_with_and_without_cache_at_every_position(width: int) -> None:
    model, every = _model(width), _sequences()
    steps = CodeByCode(model, len(every), torch.ones(CODES, LENGTH, dtype=torch.bool))
    with torch.no_grad():
        logits = model(every)
        for i in range(LENGTH):
            torch.testing.assert_close(steps.step(every[:, :i]), logits[:, :, i], rtol=1e-12, atol=1e-12)
    assert (logits[:, :, -1].std(0) > 0.1).all()


def test_draws_follow_the_density_among_what_is_allowed_at_each_position() -> None:
    model, every = _model(), _sequences()
    allowed = torch.ones(CODES, LENGTH, dtype=torch.bool)
    allowed[2, 1:], allowed[0, 3] = False, False
    n = 20_000
    with torch.no_grad():
        expected = categorical_log_prob(model(every).masked_fill(~allowed, -torch.inf), every).exp()
    drawn = model.sample(n, _generator(), allowed)
    place = (drawn * CODES ** torch.arange(LENGTH - 1, -1, -1)).sum(1)
    share = place.bincount(minlength=len(every)) / n
    assert expected.sum().item() == pytest.approx(1, rel=1e-12)
    assert ((share - expected).abs() <= 5 * (expected / n).sqrt()).all()
    assert not share[expected == 0].any()


def test_draws_depend_on_the_generator_alone() -> None:
    model, allowed = _model(), torch.ones(CODES, LENGTH, dtype=torch.bool)
    torch.manual_seed(1)
    first = model.sample(20, _generator(), allowed)
    torch.manual_seed(2)
    assert torch.equal(first, model.sample(20, _generator(), allowed))
    assert not torch.equal(first, model.sample(20, _generator(1), allowed))


def test_width_is_rounded_up_to_whole_heads() -> None:
    assert [_model(width).width for width in (1, 16, 17)] == [16, 16, 32]
