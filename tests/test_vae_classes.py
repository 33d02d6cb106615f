"""The class-conditional VAE: each class has a density, images of a class look like it, and the bound marginalises."""

import math

import pytest
import torch
from torch import Tensor

from tests.tiny_models import tiny_vae
from workflow.data.tensors import ImageSet
from workflow.models.layers.pixels import Decoder, logistic_log_prob
from workflow.models.vae import Vae
from workflow.params import Train
from workflow.training.loop import fit

CLASSES = 3
DECODERS: tuple[Decoder, ...] = ("categorical", "logistic")


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("decoder", DECODERS)
def test_density_of_each_class_sums_to_one_and_the_marginal_is_their_mean(decoder: Decoder) -> None:
    """All 65,536 binary images of 4x4, the latent integrated on a grid; the bound is below and close."""
    model = tiny_vae(decoder, k=256, classes=CLASSES)
    x = ((torch.arange(2**16)[:, None] >> torch.arange(16)) & 1).to(torch.uint8).view(-1, 1, 4, 4)
    grid = torch.linspace(-6, 6, 61).view(-1, 1)
    weight = torch.distributions.Normal(0.0, 1.0).log_prob(grid).squeeze(1) + math.log(12 / 60)
    picked = torch.randint(0, 2**16, (40,), generator=_generator(2))
    with torch.no_grad():
        ink = torch.stack([_ink(model, grid, y) for y in range(3)]).double()  # (3, 61, 2, 16)
        flat = x.flatten(1).double()
        joint = flat @ ink[:, :, 1].mT + (1 - flat) @ ink[:, :, 0].mT
        given = (joint + weight).logsumexp(2)  # (3, 2 ** 16)
        bound = model.log_prob(x[picked], _generator()).double()
    torch.testing.assert_close(given.exp().sum(1), torch.ones(3).double(), rtol=1e-4, atol=0)
    assert (given[0] - given[1]).abs().mean() > 0.1
    marginal = given.exp().mean(0).log()[picked]
    assert (bound < marginal + 0.1).all()
    torch.testing.assert_close(bound, marginal, rtol=0, atol=0.3)


def _ink(model: Vae, grid: Tensor, y: int) -> Tensor:
    """log p of blank and of ink in each pixel, given each latent of the grid and class y, (len(grid), 2, 16)."""
    code = model.code(grid, torch.full((len(grid),), y))
    blank = torch.zeros(len(grid), 1, 4, 4, dtype=torch.uint8)
    if model.pixels.decoder == "categorical":
        logits: Tensor = model.decode_layers(code)
        return model.pixels.log_levels(logits).flatten(2)
    mean, log_scale = model.decode_layers(code).unbind(1)
    pair = [logistic_log_prob(mean, log_scale, blank + value, 2).flatten(1) for value in (0, 1)]
    return torch.stack(pair, 1)


def test_marginal_bound_is_the_log_mean_of_the_classes_bounds_from_the_same_draws() -> None:
    model = tiny_vae(latents=2, classes=CLASSES)
    x = torch.randint(0, 2, (5, 1, 4, 4), dtype=torch.uint8, generator=_generator())
    with torch.no_grad():
        mean, log_variance = model.posterior(x)
        noise = torch.randn(4, 5, 2, generator=_generator(1))
        normal, posterior = (
            torch.distributions.Normal(m, s) for m, s in ((0.0, 1.0), (mean, (log_variance / 2).exp()))
        )
        z = mean + (log_variance / 2).exp() * noise
        ratio = (normal.log_prob(z) - posterior.log_prob(z)).sum(2)
        joint = torch.stack(
            [torch.stack([model.log_likelihood(x, model.code(z[k], torch.full((5,), y))) for k in range(4)]) + ratio
             for y in range(3)]
        )  # fmt: skip
        expected = joint.double().exp().mean((0, 1)).log()
        torch.testing.assert_close(model.log_prob(x, _generator(1)).double(), expected, rtol=1e-5, atol=1e-5)


def test_reconstruction_takes_the_class_that_explains_the_image_best() -> None:
    model = tiny_vae("logistic", latents=2, levels=5, classes=CLASSES)
    x = torch.randint(0, 5, (20, 1, 4, 4), dtype=torch.uint8, generator=_generator())
    code, chosen = model.likeliest_code(x), set()
    with torch.no_grad():
        z = model.encode(x)
        for n in range(20):
            likelihoods = [
                model.log_likelihood(x[n : n + 1], model.code(z[n : n + 1], torch.tensor([y]))) for y in range(3)
            ]
            best = int(torch.cat(likelihoods).argmax())
            chosen.add(best)
            assert torch.equal(code[n], torch.cat([z[n], torch.eye(3)[best]]))
    assert len(chosen) > 1
    assert torch.equal(model.reconstruct(x), model.mean(code))


def test_images_of_a_class_asked_for_look_like_it(digits: Tensor, digit_labels: Tensor) -> None:
    """After four epochs, samples are nearest to the mean image of their own class far more often than by chance."""
    model = Vae(
        (1, 8, 8), 17, latents=4, channels=8, dropout=0.0, beta=1.0, decoder="logistic", importance_samples=1,
        classes=10,
    )  # fmt: skip
    images = ImageSet(digits[:900], digit_labels[:900])
    fit(
        model,
        images,
        ImageSet(digits[:64], digit_labels[:64]),
        Train(epochs=4, batch_size=32, lr=0.01, valid_every=4),
        0,
        lambda _: None,
    )
    means = torch.stack([digits[digit_labels == y].float().mean(0) for y in range(10)]).flatten(1)
    y = torch.arange(200) % 10
    samples = model.eval().sample_given(y, _generator())
    assert samples.dtype == torch.uint8
    nearest = torch.cdist(samples.float().flatten(1), means).argmin(1)
    assert (nearest == y).float().mean() > 0.6
    assert torch.equal(samples, model.sample_given(y, _generator()))
    drawn = torch.cdist(model.sample(200, _generator()).float().flatten(1), means).argmin(1)
    assert len(drawn.unique()) >= 8
