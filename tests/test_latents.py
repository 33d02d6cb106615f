"""Planes through latent spaces and the lengths of axes, held against NumPy and against latents whose axes are known."""

import numpy as np
import pytest
import torch

from tests.evaluated import Everything, measure, spoilt
from workflow.evaluation.evaluator import Evaluator
from workflow.evaluation.latents import STEPS, plane, principal_axes, principal_lengths


def _latents(n: int = 300) -> torch.Tensor:
    random = torch.Generator().manual_seed(3)
    mixing = torch.tensor([[3.0, 0.5, 0.1, 0.0], [0.0, 2.0, 0.3, 0.1], [0.0, 0.0, 0.5, 0.0], [0.1, 0.0, 0.0, 0.2]])
    return torch.randn(n, 4, generator=random) @ mixing + torch.tensor([5.0, -1, 0, 2])


def test_the_axes_are_those_of_the_covariance_matrix() -> None:
    z = _latents()
    axes = principal_axes(z)
    values, vectors = np.linalg.eigh(np.cov(z.double().numpy().T))
    for k in range(2):
        step = vectors[:, -1 - k] * np.sqrt(values[-1 - k])
        step *= np.sign(step[np.abs(step).argmax()])
        np.testing.assert_allclose(axes.steps[k].numpy(), step, rtol=1e-6, atol=1e-9)
        assert axes.shares[k].item() == pytest.approx(values[-1 - k] / values.sum())
    np.testing.assert_allclose(principal_lengths(z).numpy(), np.sqrt(values[::-1]), rtol=1e-6)


def test_the_plane_runs_right_and_upwards_through_the_mean() -> None:
    axes = principal_axes(_latents())
    grid = plane(axes).view(STEPS, STEPS, 4)
    torch.testing.assert_close(grid[STEPS // 2, STEPS // 2], axes.mean)
    torch.testing.assert_close(grid[STEPS // 2, -1], axes.mean + 2 * axes.steps[0])
    torch.testing.assert_close(grid[0, STEPS // 2], axes.mean + 2 * axes.steps[1])


@pytest.mark.parametrize("latents", [torch.ones(5, 1), torch.arange(4.0).view(4, 1), torch.ones(1, 3)])
def test_too_few_dimensions_or_images_still_have_a_plane(latents: torch.Tensor) -> None:
    axes = principal_axes(latents)
    assert axes.steps.shape == (2, latents.shape[1])
    assert plane(axes).isfinite().all()
    assert axes.shares.isfinite().all()


def test_a_map_shows_what_the_model_decodes_and_a_spectrum_what_it_says(
    evaluator: Evaluator, digits: torch.Tensor
) -> None:
    model = Everything()
    _, pictures = measure(model, spoilt(digits), evaluator, 0)
    z = evaluator.train.images.flatten(1)[:, 20:40].float()
    centre = model.decode(z.mean(0, keepdim=True))[0]
    assert torch.equal(pictures["latent_map"][STEPS // 2, STEPS // 2], centre)
    assert pictures["latent_map"].shape == (STEPS, STEPS, 1, 8, 8)
    assert 0 < float(pictures["latent_shares"][1]) <= float(pictures["latent_shares"][0]) < 1
    assert torch.equal(pictures["spectrum of scales"], torch.linspace(1, 2, 64).flip(0))
    assert 0.1 < pictures["spectrum of PCA"][-1].item() < 12**-0.5  # the noise of constant pixels, from few images
