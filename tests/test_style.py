"""The style-based generator: against StyleGAN2's equations written out image by image, truncation, mixing, noise."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from workflow.models.gan import Gan
from workflow.models.layers.style import ScaledLinear, StyleGenerator, mix, modulated
from workflow.training.optimizer import AdamW

LATENTS, LAYERS = 5, 6


def _random(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).double()


def _generator(classes: int = 0, mixing: float = 0.0, truncation: float = 1.0, strength: float = 0.0) -> StyleGenerator:
    torch.manual_seed(3)
    network = StyleGenerator(
        (2, 8, 12), LATENTS, classes, 3, mapping_layers=2, mixing=mixing, truncation=truncation
    ).double()
    for name, parameter in network.named_parameters():
        if name.endswith("strength"):
            torch.nn.init.constant_(parameter, strength)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, 1.0, 0.3)  # they begin as equal numbers, which would hide a mistake
    return network.eval()


def _noise(n: int, seed: int = 0) -> list[Tensor]:
    sizes = [(2, 3), (4, 6), (4, 6), (8, 12), (8, 12)]
    return [_random(n, 1, *size, seed=seed + k) for k, size in enumerate(sizes)]


def _own_weights(weight: Tensor, scale: Tensor, demodulate: bool) -> Tensor:
    """The convolution's weights of one image, number by number (eq. 1 and 3)."""
    own = torch.empty_like(weight)
    for j in range(weight.shape[0]):
        for i in range(weight.shape[1]):
            own[j, i] = scale[i] * weight[j, i]
        if demodulate:
            own[j] = own[j] / math.sqrt(float(own[j].square().sum()) + 1e-8)
    return own


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("size", [1, 3])
def test_modulation_gives_each_image_weights_of_its_own(size: int, demodulate: bool) -> None:
    """Image by image, and as a convolution in as many groups as there are images, the paper's way (appendix B)."""
    x, weight, scale = _random(4, 3, 5, 6), _random(7, 3, size, size, seed=1), _random(4, 3, seed=2)
    scale[0] = 1e-5  # where ε counts
    own = [_own_weights(weight, s, demodulate) for s in scale]
    one_by_one = torch.cat([F.conv2d(x[k : k + 1], own[k], padding=size // 2) for k in range(4)])
    grouped = F.conv2d(x.reshape(1, 12, 5, 6), torch.cat(own), padding=size // 2, groups=4).reshape(4, 7, 5, 6)
    found = modulated(x, weight, scale, demodulate=demodulate)
    torch.testing.assert_close(found, one_by_one)
    torch.testing.assert_close(found, grouped)


def test_demodulated_outputs_of_random_inputs_have_unit_variance() -> None:
    x, weight = _random(3, 8, 80, 80), 7 * _random(4, 8, 3, 3, seed=1)
    scale = 5 * _random(3, 8, seed=2).exp()
    inner = modulated(x, weight, scale, demodulate=True)[:, :, 1:-1, 1:-1]  # the border sees zeros
    torch.testing.assert_close(inner.std((2, 3)), torch.ones(3, 4).double(), rtol=0, atol=0.06)
    assert modulated(x, weight, scale, demodulate=False).std() > 50


def _doubled_by_hand(x: Tensor) -> Tensor:
    """Zeros between the pixels, then the filter [1, 3, 3, 1] both ways, with what keeps the mean."""
    channels, height, width = x.shape
    spread = torch.zeros(channels, 1, 2 * height, 2 * width).double()
    spread[:, 0, ::2, ::2] = x
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]).double()
    return F.conv2d(F.pad(spread, (2, 1, 2, 1)), (torch.outer(taps, taps) * 4 / 64)[None, None])[:, 0]


def _linear(layer: torch.nn.Module, x: Tensor, rate: float = 1.0) -> Tensor:
    assert isinstance(layer, ScaledLinear)
    return x @ layer.weight.T * rate / math.sqrt(len(x)) + rate * layer.bias


def _lifted(x: Tensor) -> Tensor:
    return math.sqrt(2) * torch.where(x > 0, x, 0.2 * x)


def _by_hand(network: StyleGenerator, z: Tensor, given: Tensor, noise: list[Tensor]) -> Tensor:
    """One image (C, H, W), from noise (latents,), a one-hot class and the noise of its layers, each (1, h, w)."""
    w = torch.cat([z / math.sqrt(float((z * z).mean())), given])
    for layer in network.mapping:
        w = _lifted(_linear(layer, w, 0.01))
    weights = dict(network.named_parameters())

    def convolved(name: str, x: Tensor, demodulate: bool) -> Tensor:
        weight = weights[f"{name}.convolution.weight"]
        scale = _linear(network.get_submodule(f"{name}.convolution.modulation"), w)
        own = _own_weights(weight / math.sqrt(weight[0].numel()), scale, demodulate)
        return F.conv2d(x[None], own, padding=weight.shape[-1] // 2)[0]

    x, image = weights["constant"][0], torch.zeros(())
    for k in range(5):
        if k in (1, 3):
            x, image = _doubled_by_hand(x), _doubled_by_hand(image)
        name = f"convolutions.{k}"
        x = convolved(name, x, True) + weights[f"{name}.strength"] * noise[k]
        x = _lifted(x + weights[f"{name}.bias"])
        if k in (0, 2, 4):
            colours = f"colours.{k // 2}"
            image = image + convolved(colours, x, False) + weights[f"{colours}.bias"]
    return image.tanh()


@torch.no_grad()
def test_images_are_those_of_the_equations() -> None:
    network = _generator(classes=2, strength=0.7)
    z, given, noise = _random(3, LATENTS), torch.eye(2).double()[[0, 1, 1]], _noise(3, 1)
    styles = network.style(torch.cat([z, given], 1)).unsqueeze(1).expand(-1, LAYERS, -1)
    by_hand = [_by_hand(network, z[k], given[k], [of_layer[k] for of_layer in noise]) for k in range(3)]
    torch.testing.assert_close(network.image(styles, noise), torch.stack(by_hand), rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_sample_is_the_image_of_its_noise() -> None:
    torch.manual_seed(0)
    model = Gan(
        (1, 8, 8), 17, latents=LATENTS, channels=2, features=6, objective="relativistic", critic_steps=1, r1=0.1,
        r2=0.1, classes=3, network="style", mapping_layers=2, mixing=0.9,
    ).eval()  # fmt: skip
    network, y = model.generator, torch.tensor([2, 0, 1, 2])
    assert isinstance(network, StyleGenerator)
    for layer in network.convolutions:
        torch.nn.init.constant_(layer.get_parameter("strength"), 0.5)
    drawn = torch.Generator().manual_seed(9)
    z = torch.randn(4, LATENTS, generator=drawn)
    noise = [torch.randn(4, 1, *size, generator=drawn) for size in [(2, 2), (4, 4), (4, 4), (8, 8), (8, 8)]]
    styles = network.style(torch.cat([z, torch.eye(3)[y]], 1)).unsqueeze(1).expand(-1, LAYERS, -1)
    expected = ((network.image(styles, noise) + 1) * 8).round()
    assert torch.equal(model.sample_given(y, torch.Generator().manual_seed(9)).float(), expected)
    assert len(expected.unique()) > 5
    assert model.title == "GAN (style-based, relativistic, R1, R2)"
    assert "truncated" not in model.note


@torch.no_grad()
def test_truncation_moves_styles_towards_the_mean_of_their_class() -> None:
    inputs = torch.cat([_random(6, LATENTS), torch.eye(3).double()[[0, 1, 2, 0, 1, 2]]], 1)
    whole, half = _generator(classes=3), _generator(classes=3, truncation=0.5)
    style = whole.style(inputs)
    assert torch.equal(whole.truncated(style, inputs), style)
    many = [torch.cat([_random(40_000, LATENTS, seed=4), kind.expand(40_000, -1)], 1) for kind in torch.eye(3).double()]
    means = torch.stack([whole.style(each).mean(0) for each in many])[[0, 1, 2, 0, 1, 2]]
    spread = style.std(0).max()
    error = (half.truncated(style, inputs) - (means + 0.5 * (style - means))).abs().max()
    assert error < 0.5 * 5 * spread / math.sqrt(1000)  # of a mean over 1,000 latents
    assert (half.truncated(style, inputs) - style).abs().max() > 10 * error


@pytest.mark.parametrize("classes", [0, 2])
@torch.no_grad()
def test_without_any_style_of_its_own_an_image_differs_only_by_noise(classes: int) -> None:
    y = torch.tensor([0, 1, 0, 1])
    inputs = torch.cat([_random(4, LATENTS), torch.eye(2).double()[y]], 1) if classes else _random(4, LATENTS)

    def images(network: StyleGenerator) -> Tensor:
        drawn: Tensor = network(inputs, torch.Generator().manual_seed(0))
        return drawn

    still = images(_generator(classes, truncation=0.0))
    torch.testing.assert_close(still[:2], still[2:])
    assert torch.allclose(still[0], still[1]) == (not classes)  # a class has an image of its own
    noisy = images(_generator(classes, truncation=0.0, strength=0.1))
    assert (noisy[0] - noisy[2]).abs().max() > 0.01
    styled = images(_generator(classes))
    assert (styled[0] - styled[2]).abs().max() > 0.01
    in_training = images(_generator(classes, truncation=0.0).train())
    torch.testing.assert_close(in_training, styled)


@torch.no_grad()
def test_mixing_swaps_the_layers_from_the_crossover_on() -> None:
    network, noise = _generator(), _noise(4)
    a, b = network.style(_random(4, LATENTS)), network.style(_random(4, LATENTS, seed=1))
    crossover = torch.tensor([0, 2, 5, 6])
    styles = mix(a, b, crossover, LAYERS)
    for k, first in enumerate(crossover.tolist()):
        assert torch.equal(styles[k], torch.stack([*[a[k]] * first, *[b[k]] * (LAYERS - first)]))
    of_a, of_b = (network.image(style.unsqueeze(1).expand(-1, LAYERS, -1), noise) for style in (a, b))
    mixed = network.image(styles, noise)
    torch.testing.assert_close(mixed[[0, 3]], torch.stack([of_b[0], of_a[3]]))
    assert ((mixed[1:3] - of_a[1:3]).abs().amax((1, 2, 3)) > 1e-3).all()
    assert ((mixed[1:3] - of_b[1:3]).abs().amax((1, 2, 3)) > 1e-3).all()


@torch.no_grad()
def test_mixing_is_as_frequent_as_it_should_be_and_begins_at_every_layer() -> None:
    n, network = 3000, _generator(classes=1, mixing=0.8)
    inputs = torch.cat([_random(n, LATENTS), torch.ones(n, 1).double()], 1)
    style = network.style(inputs)
    styles = network.mixed(style, inputs, torch.Generator().manual_seed(2))
    own = (styles == style[:, None]).all(2)
    assert (own[:, :-1] >= own[:, 1:]).all()
    other = torch.randn(n, LATENTS, generator=torch.Generator().manual_seed(2)).double()
    second = network.style(torch.cat([other, torch.ones(n, 1).double()], 1))[:, None].expand_as(styles)
    assert torch.equal(styles[~own], second[~own])  # of the same class, to the end
    counts = own.sum(1).bincount(minlength=LAYERS + 1)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:], n * torch.tensor([0.16] * 5 + [0.2])).pvalue > 0.001


@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_scaled_layers_begin_alike_and_learn_at_their_rate(rate: float) -> None:
    torch.manual_seed(0)
    layer = ScaledLinear(50, 400, bias=1.0, rate=rate)
    probe = torch.eye(50)

    def weights() -> tuple[Tensor, Tensor]:
        bias = layer(torch.zeros(1, 50))
        return (layer(probe) - bias).detach(), bias.detach()

    before, bias = weights()
    assert before.std().item() == pytest.approx(1 / math.sqrt(50), rel=0.03)
    torch.testing.assert_close(bias, torch.ones(1, 400))
    layer(probe).sum().backward()
    AdamW(layer.parameters()).step(0.1, (0.9, 0.999), 0.0)
    after, moved = weights()
    torch.testing.assert_close(after - before, torch.full_like(before, -0.1 * rate / math.sqrt(50)), rtol=2e-3, atol=0)
    torch.testing.assert_close(moved - bias, torch.full_like(bias, -0.1 * rate), rtol=2e-3, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "style"}, "mapping_layers: network: style needs at least one"),
        ({"mixing": 0.9}, "mapping_layers, mixing and truncation are for network: style"),
        ({"network": "dense", "mapping_layers": 2}, "are for network: style"),
        ({"truncation": 0.7}, "are for network: style"),
    ],
)
def test_options_of_another_network_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Gan(
            (1, 8, 8), 17, latents=4, channels=2, features=6, objective="non-saturating", critic_steps=1, r1=0.0,
            **options,  # type: ignore[arg-type]
        )  # fmt: skip
