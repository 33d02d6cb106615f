"""Autoencoder: what it minimises, and the mixture of Gaussians that is fitted to its latents and drawn from."""

import math

import pytest
import torch
from torch import Tensor, nn

from workflow.models import autoencoder
from workflow.models.autoencoder import Autoencoder

Y = torch.empty(0, dtype=torch.long)  # classes, at which it does not look


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _model(latents: int = 2, components: int = 3) -> Autoencoder:
    torch.manual_seed(1)
    return Autoencoder((1, 8, 8), 17, latents=latents, channels=2, dropout=0.2, components=components).eval()


def _images(n: int) -> Tensor:
    return torch.randint(0, 17, (n, 1, 8, 8), dtype=torch.uint8, generator=_generator(7))


class _Mixed(nn.Module):
    """An encoder whose latents, (N, 2), are those of a known mixture, chosen by the image's first two pixels."""

    def forward(self, x: Tensor) -> Tensor:
        levels = ((x.flatten(1) + 1) * 8).round()
        centre = torch.where(levels[:, :1] < 4, torch.tensor([[5.0, 0.0]]), torch.tensor([[-3.0, 2.0]]))
        spread = (levels[:, 1:3] - 8) @ torch.tensor([[0.1, 0.05], [0.0, 0.1]])
        return centre + spread


def test_loss_is_the_squared_error_summed_over_the_pixels() -> None:
    model, x = _model(), _images(5)
    with torch.no_grad():
        z = model.encode(x)
        back = model.decoder(z)
        expected = sum(
            (float(back[n, 0, i, j]) - (int(x[n, 0, i, j]) / 8 - 1)) ** 2
            for n in range(5)
            for i in range(8)
            for j in range(8)
        )
        loss = model.loss(x, Y, "model", _generator())["loss"]
    assert loss.item() == pytest.approx(expected / 5, rel=1e-5)


def test_before_it_is_calibrated_its_latents_are_standard_normal() -> None:
    z = _model().draw_latents(20_000, _generator())
    torch.testing.assert_close(z.mean(0), torch.zeros(2), rtol=0, atol=0.04)
    torch.testing.assert_close(z.T.cov(), torch.eye(2), rtol=0, atol=0.05)


def test_one_gaussian_has_the_latents_own_mean_and_covariance() -> None:
    model, x = _model(components=1), _images(400)
    model.calibrate(x, _generator())
    z = model.encode(x)
    torch.testing.assert_close(model.means[0], z.mean(0), rtol=1e-4, atol=1e-6)
    covariance = z.double().T.cov(correction=0).float()
    torch.testing.assert_close(model.factors[0] @ model.factors[0].T, covariance, rtol=1e-3, atol=1e-6)
    assert model.weights.tolist() == [1.0]


def test_mixture_finds_the_groups_among_the_latents() -> None:
    model, x = _model(components=2), _images(3000)
    model.encoder = _Mixed()  # type: ignore[assignment]
    model.calibrate(x, _generator())
    z, first = model.encode(x), x[:, 0, 0, 0] < 4
    order = model.means[:, 0].argsort(descending=True)
    for k, group in zip(order, (z[first], z[~first]), strict=True):
        assert model.weights[k].item() == pytest.approx(len(group) / 3000, abs=1e-3)
        torch.testing.assert_close(model.means[k], group.mean(0), rtol=0, atol=1e-2)
        torch.testing.assert_close(model.factors[k] @ model.factors[k].T, group.T.cov(), rtol=0, atol=1e-2)
        assert (model.factors[k].triu(1) == 0).all()


def test_draws_follow_the_mixture() -> None:
    model = _model()
    model.weights.copy_(torch.tensor([0.7, 0.3, 0.0]))
    model.means.copy_(torch.tensor([[-10.0, 0.0], [10.0, 5.0], [100.0, 100.0]]))
    model.factors[0] = torch.tensor([[1.0, 0.0], [2.0, 0.5]])
    z = model.draw_latents(20_000, _generator())
    left = z[:, 0] < 0
    assert abs(left.double().mean() - 0.7) < 5 * math.sqrt(0.21 / 20_000)
    assert z.max() < 50
    torch.testing.assert_close(z[left].mean(0), model.means[0], rtol=0, atol=0.1)
    torch.testing.assert_close(z[left].T.cov(), torch.tensor([[1, 2], [2, 4.25]]), rtol=0.06, atol=0.06)
    torch.testing.assert_close(z[~left].T.cov(), torch.eye(2), rtol=0, atol=0.1)


def test_calibration_looks_at_no_more_images_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoencoder, "FITTED", 100)
    model, x = _model(), _images(200)
    model.calibrate(x[:100], _generator())
    few = model.means.clone()
    model.calibrate(x, _generator())
    assert torch.equal(model.means, few)


def test_calibration_repeats_and_depends_on_the_generator_alone() -> None:
    model, x = _model(components=5), _images(60)
    fits = []
    for noise, seed in ((1, 0), (2, 0), (1, 1)):
        torch.manual_seed(noise)
        model.calibrate(x, _generator(seed))
        fits.append(model.means.clone())
    assert torch.equal(fits[0], fits[1])
    assert not torch.equal(fits[0], fits[2])


def test_fewer_images_than_components_leave_the_rest_unused() -> None:
    model = _model(components=5)
    model.calibrate(_images(3), _generator())
    assert model.weights[3:].tolist() == [0, 0]
    assert model.weights.sum().item() == pytest.approx(1)
    z = model.draw_latents(100, _generator())
    assert torch.cdist(z, model.encode(_images(3))).amin(1).max() < 0.1 * z.std()


def test_calibration_changes_the_samples_but_not_the_reconstructions() -> None:
    model, x = _model(), _images(50)
    before, back = model.sample(20, _generator()), model.reconstruct(x)
    model.calibrate(x, _generator())
    assert not torch.equal(before, model.sample(20, _generator()))
    assert torch.equal(back, model.reconstruct(x))


def test_interpolation_starts_and_ends_at_the_reconstructions() -> None:
    model = _model()
    a, b = _images(6).chunk(2)
    walks = model.interpolate(a, b, 4)
    assert torch.equal(walks[:, 0], model.reconstruct(a))
    assert torch.equal(walks[:, -1], model.reconstruct(b))


def test_sizes_that_cannot_be_halved_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="6x8 pixels are not multiples of 4"):
        Autoencoder((1, 6, 8), 2, latents=1, channels=1, dropout=0, components=1)
