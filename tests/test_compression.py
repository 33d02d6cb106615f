"""Images in a file of as many bits as the model says, and back."""

import math

import pytest
import torch
from torch import Generator, Tensor

from tests.evaluated import OnlySamples
from tests.tiny_models import tiny_vae
from workflow.errors import BakeoffError
from workflow.evaluation import compression
from workflow.evaluation.compression import HEADER, compress, expand
from workflow.models.base import HasLogProb, HasOrder, Model, bits_per_dim
from workflow.models.layers.pixels import Decoder
from workflow.models.registry import build

WEIGHTS, OTHER = "ab" * 32, "cd" * 32
SHAPE, LEVELS = (2, 5, 4), 7
SIZES = {"channels": 4, "layers": 3, "dropout": 0.0}


class Titled(OnlySamples):
    title = "Noise"


def _model(kind: str, **changes: object) -> Model:
    return build(kind, SHAPE, LEVELS, {**SIZES, **changes}, 0).eval()


@pytest.fixture
def images() -> Tensor:
    drawn = torch.randint(LEVELS, (120, *SHAPE), generator=Generator().manual_seed(0))
    return drawn.clamp(max=4).to(torch.uint8)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("pixelcnn", {}),
        ("pixelcnn", {"stack": "masked"}),
        ("pixelcnn", {"dilations": [1, 2]}),
        ("pixelrnn", {"cell": "diagonal"}),
    ],
)
def test_the_file_has_as_many_bits_as_the_model_says(
    kind: str, changes: dict[str, object], images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _model(kind, **changes)
    assert isinstance(model, HasLogProb)
    with torch.no_grad():
        bits = bits_per_dim(model.log_prob(images, Generator()).double(), SHAPE).mean() * images.numel()
    monkeypatch.setattr(compression, "BATCH", 50)
    content = compress(model, images, WEIGHTS)
    assert HEADER.size < 64
    assert float(bits) / 8 <= len(content) - HEADER.size <= 1.01 * float(bits) / 8 + 8
    assert torch.equal(expand(model, content, WEIGHTS), images)


def test_a_file_that_is_not_what_it_was_is_refused(images: Tensor) -> None:
    model = _model("pixelcnn")
    content = compress(model, images, WEIGHTS)
    for changed, weights, why in (
        (content, OTHER, "other weights"),
        (b"x" + content[1:], WEIGHTS, "not a file of compressed images"),
        (content[:20], WEIGHTS, "not a file of compressed images"),
        (content[:200] + bytes([content[200] ^ 1]) + content[201:], WEIGHTS, "^damaged"),
    ):
        with pytest.raises(BakeoffError, match=why):
            expand(model, changed, weights)


def test_other_probabilities_are_noticed(images: Tensor) -> None:
    """As on another kind of machine, but by far more than a last bit."""
    with pytest.raises(BakeoffError, match="another kind of machine"):
        expand(_model("pixelcnn", channels=6), compress(_model("pixelcnn"), images, WEIGHTS), WEIGHTS)


@pytest.mark.parametrize("decoder", ["categorical", "logistic"])
def test_latents_cost_what_the_bound_of_one_draw_says(decoder: Decoder) -> None:
    """By bits back: the file grows by the negative bound of the images, up to chance and the first bits."""
    model = tiny_vae(decoder, latents=3, levels=5, k=1)
    with torch.no_grad():
        for parameter in model.encode_layers.parameters():
            parameter.zero_()  # q(z|x) is the prior: only latents spread like the prior leave bits that are random
        for parameter in model.decode_layers.parameters():
            parameter.div_(3)
    images = model.sample(400, Generator().manual_seed(1))
    content = compress(model, images, WEIGHTS)
    with torch.no_grad():
        bounds = torch.stack([model.log_prob(images, Generator().manual_seed(seed)) for seed in range(5)])
    nats = -bounds.double().mean(0).sum().item()
    assert 8 * (len(content) - HEADER.size) == pytest.approx(nats / math.log(2), rel=0.02, abs=32 * 6)
    assert torch.equal(expand(model, content, WEIGHTS), images)


@pytest.mark.parametrize("decoder", ["categorical", "logistic"])
def test_the_levels_of_a_pixel_are_those_that_its_probability_is_of(decoder: Decoder) -> None:
    model = tiny_vae(decoder, latents=2, levels=5)
    z, x = torch.randn(6, 2, generator=Generator().manual_seed(0)), model.sample(6, Generator().manual_seed(1))
    with torch.no_grad():
        levels = model.levels_given(z)
        torch.testing.assert_close(levels.exp().sum(1), torch.ones(6, *model.shape))
        log_prob = levels.gather(1, x.long().unsqueeze(1)).flatten(1).sum(1)
        torch.testing.assert_close(log_prob, model.log_likelihood(x, z))


def test_only_a_density_that_can_be_coded_compresses(images: Tensor) -> None:
    with pytest.raises(BakeoffError, match=r"^Noise: no p\(x\)"):
        compress(Titled(), images, WEIGHTS)
    with pytest.raises(BakeoffError, match="without classes"):
        compress(_model("pixelcnn", classes=3), images, WEIGHTS)


def test_pixels_are_visited_once_each_in_an_order_that_the_logits_keep_to(images: Tensor) -> None:
    """The logits at each place are those of the whole network, which sees no later pixel."""
    model = _model("pixelcnn")
    assert isinstance(model, HasOrder)
    places = torch.arange(images[0].numel()).view(1, *SHAPE).expand(len(images), *SHAPE)
    seen: list[int] = []
    with torch.no_grad():
        logits = model.network(images, None)  # type: ignore[operator]

    def choose(found: Tensor, at: object) -> Tensor:
        take = at
        assert callable(take)
        (place,) = set(take(places).tolist())
        seen.append(place)
        torch.testing.assert_close(found, logits.flatten(2)[:, :, place], rtol=1e-4, atol=1e-5)
        levels: Tensor = take(images).long()
        return levels

    assert torch.equal(model.in_order(len(images), choose), images)
    assert sorted(seen) == list(range(images[0].numel()))
