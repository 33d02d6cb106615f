"""The class-conditional diffusion model: classes are told apart, drawn as asked for, and bound p(x)."""

import math

import pytest
import torch
from torch import Generator, Tensor

from tests.tiny_models import tiny_ddpm
from workflow.models.layers.common import draw_classes, to_unit


def _generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def test_network_tells_times_and_classes_apart() -> None:
    model = tiny_ddpm(100, classes=3)
    with torch.no_grad():
        embeddings = model.network.embed(torch.arange(1, 101).repeat(3), torch.arange(3).repeat_interleave(100))
        x = torch.randn(1, *model.shape, dtype=torch.float64, generator=_generator(3)).expand(3, *model.shape)
        noise = model.network(x, torch.tensor([1, 1, 60]), torch.tensor([0, 2, 2]))
    assert torch.pdist(embeddings).min() > 1e-3
    assert torch.pdist(noise.flatten(1)).min() > 1e-3


def test_density_of_a_model_with_classes_is_bounded_by_its_likeliest_class_on_new_noises() -> None:
    """log p(x) = log Σ p(x|y) / classes, of which each term alone is a lower bound."""
    model = tiny_ddpm(22, classes=3)
    x = torch.randint(17, (5, 1, 4, 4), dtype=torch.uint8, generator=_generator(3))
    generator = _generator(1)
    with torch.no_grad():
        y = model.likeliest_class(x, generator)
        expected = model.log_prob_given(x, y, generator) - math.log(3)
        torch.testing.assert_close(model.log_prob(x, _generator(1)), expected)
        again = model.likeliest_class(x, _generator(1))
    assert torch.equal(y, again)


def test_the_likeliest_class_is_the_one_whose_images_the_network_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that knows of each class its only image tells the noise of that image exactly."""
    model = tiny_ddpm(22, classes=3)
    images = torch.tensor([0, 8, 16]).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    units = to_unit(images, 17).double()

    def predict(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        a = model.alpha_bar[t].view(-1, 1, 1, 1)
        noise: Tensor = (x - a.sqrt() * units[y]) / (1 - a).sqrt()
        return noise

    monkeypatch.setattr(model.network, "forward", predict)
    asked = torch.tensor([2, 0, 1, 1, 0])
    assert torch.equal(model.likeliest_class(images[asked].to(torch.uint8), _generator()), asked)


def test_draws_of_p_x_are_of_classes_drawn_first() -> None:
    model = tiny_ddpm(24, sampling_steps=4, classes=3)
    first, generator = model.sample(20, _generator()), _generator()
    y = draw_classes(20, 3, generator, torch.device("cpu"))
    assert torch.equal(model.sample_given(y, generator), first)
    assert not torch.equal(model.sample_given((y + 1) % 3, _generator()), model.sample_given(y, _generator()))


def test_a_trained_model_draws_the_class_it_is_asked_for() -> None:
    """Three patterns with some noise; the nearest pattern tells what was drawn."""
    model = tiny_ddpm(24, "cosine", sampling_steps=8, classes=3).float().train()
    patterns = torch.randint(0, 2, (3, 1, 4, 4), generator=_generator(2)) * 10 + 3
    optimiser, generator = torch.optim.Adam(model.parameters(), lr=1e-2), _generator()
    for _ in range(70):
        y = torch.randint(0, 3, (32,), generator=generator)
        x = (patterns[y] + torch.randint(-2, 3, (32, 1, 4, 4), generator=generator)).to(torch.uint8)
        optimiser.zero_grad()
        model.loss(x, y, "model", generator)["loss"].backward()
        optimiser.step()
    asked = torch.arange(60) % 3
    samples = model.eval().sample_given(asked, _generator()).float()
    nearest = torch.cdist(samples.flatten(1), patterns.float().flatten(1)).argmin(1)
    assert (nearest == asked).double().mean() > 0.9
