"""Out-of-distribution inputs and their detection, sharpness, and points of known mixtures, against other libraries."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from workflow.evaluation.metrics.modes import nearest_mode
from workflow.evaluation.metrics.out_of_distribution import auroc, out_of_distribution_inputs
from workflow.evaluation.metrics.sharpness import sharpness


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_auroc_is_scikit_learns_with_ties() -> None:
    from sklearn.metrics import roc_auc_score

    for n, m, values in ((50, 30, 1000), (50, 30, 4), (1, 7, 3), (9, 1, 2)):
        inside = torch.randint(0, values, (n,), generator=_generator(n + values)).float()
        outside = torch.randint(0, values, (m,), generator=_generator(m)).float() - 0.2 * values
        is_inside = [1] * n + [0] * m
        for low in (outside, outside.round()):
            expected = roc_auc_score(is_inside, torch.cat([inside, low]))
            assert auroc(inside, low) == pytest.approx(expected, abs=1e-12)


def test_auroc_of_impossible_images_is_one() -> None:
    assert auroc(torch.tensor([-3.0, -2.0]), torch.full((4,), -math.inf)) == 1
    assert auroc(torch.tensor([-3.0, -3.0]), torch.tensor([-3.0])) == 0.5


@pytest.mark.parametrize(("shape", "levels"), [((1, 8, 8), 17), ((3, 8, 8), 256), ((3, 64, 64), 256)])
def test_inputs_have_the_shape_and_levels_of_the_data(shape: tuple[int, int, int], levels: int) -> None:
    train, test = torch.randint(0, levels, (2, 30, *shape), dtype=torch.uint8, generator=_generator())
    inputs = out_of_distribution_inputs(test, train, levels, 20, _generator())
    again = out_of_distribution_inputs(test, train, levels, 20, _generator())
    assert len(inputs) == 6
    for name, images in inputs.items():
        assert (images.shape, images.dtype) == ((20, *shape), torch.uint8), name
        assert int(images.max()) < levels
        assert torch.equal(images, again[name])


def test_inputs_are_what_they_are_called(digits: Tensor) -> None:
    test = digits[:50]
    inputs = out_of_distribution_inputs(test, digits[50:], 17, 50, _generator())
    rows = {image.numpy().tobytes() for image in test}
    assert {image.numpy().tobytes() for image in inputs["upside down"].flip(2)} == rows
    assert {image.numpy().tobytes() for image in 16 - inputs["negatives"]} == rows
    assert (inputs["plain grey"].flatten(1) == inputs["plain grey"].flatten(1)[:, :1]).all()
    assert len(inputs["plain grey"].unique()) > 8
    assert inputs["noise"].double().mean() == pytest.approx(8, abs=0.3)
    photographs = inputs["photographs"].double()
    beside = (photographs[..., 1:] - photographs[..., :-1]).abs().mean()
    assert beside < 0.5 * (photographs - photographs.roll(1, 0)).abs().mean()  # neighbours are alike, pictures not
    torch.testing.assert_close(
        inputs["independent pixels"].double().mean(0), digits[50:].double().mean(0), atol=4 * 6 / 50**0.5, rtol=0
    )


def test_points_are_compared_with_noise_alone() -> None:
    points = torch.randint(0, 256, (40, 1, 1, 2), dtype=torch.uint8)
    assert out_of_distribution_inputs(points, points, 256, 10, _generator()).keys() == {"noise", "independent pixels"}


def test_sharpness_is_the_variance_of_scipys_laplacian(digits: Tensor) -> None:
    images = digits[:5].double().numpy()[:, 0] / 16
    inner = [ndimage.laplace(image)[1:-1, 1:-1].var() for image in images]
    assert sharpness(digits[:5], 17) == pytest.approx(np.mean(inner), rel=1e-12)
    assert sharpness(digits[:5].expand(5, 3, 8, 8), 17) == pytest.approx(np.mean(inner), rel=1e-12)


def test_sharpness_falls_with_blur_and_rises_with_noise(digits: Tensor) -> None:
    some = digits[:200]
    real = sharpness(some, 17)
    blurred = torch.nn.functional.avg_pool2d(some.float(), 3, 1, 1).round().to(torch.uint8)
    noise = torch.randint(-5, 6, some.shape, generator=_generator())
    noisy = (some.int() + noise).clamp(0, 16).to(torch.uint8)
    low, high = sharpness(blurred, 17), sharpness(noisy, 17)
    assert real is not None
    assert low is not None
    assert high is not None
    assert low < 0.5 * real < real < 0.95 * high
    assert sharpness(torch.zeros(3, 1, 1, 2, dtype=torch.uint8), 256) is None


def test_a_point_belongs_to_its_nearest_mode_within_three_deviations() -> None:
    points = torch.tensor([[10, 10], [13, 14], [10, 17], [60, 52], [35, 33]], dtype=torch.uint8).view(-1, 1, 1, 2)
    mode, near = nearest_mode(points, torch.tensor([[10.0, 10.0], [60.0, 60.0]]), 2.0)
    assert mode.tolist() == [0, 0, 0, 1, 0]
    assert near.tolist() == [True, True, False, False, False]
