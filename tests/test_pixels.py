"""Draws, modes and means of a decoder's pixels: of the very distributions whose log-probabilities are reported."""

import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

from workflow.models.layers import pixels
from workflow.models.layers.common import categorical_log_prob
from workflow.models.layers.noise import PartOfBatch
from workflow.models.layers.pixels import (
    PixelDistribution,
    categorical_draw,
    categorical_mean,
    categorical_mode,
    logistic_draw,
    logistic_log_prob,
    logistic_mean,
)

LEVELS = 7
MEANS, LOG_SCALES = torch.tensor([-1.4, -0.9, 0.0, 0.21, 0.8, 1.2]), torch.tensor([-6.0, -2.5, -1.0, 0.5])


def _generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def _logistics() -> tuple[Tensor, Tensor, Tensor]:
    """Means and log-scales of 24 pixels, (1, 1, 4, 6), and the probabilities of their levels, (LEVELS, 1, 4, 6)."""
    mean, log_scale = MEANS.expand(1, 1, 4, 6), LOG_SCALES.view(1, 1, 4, 1).expand(1, 1, 4, 6)
    level = torch.arange(LEVELS).view(-1, 1, 1, 1).expand(LEVELS, 1, 4, 6)
    return mean, log_scale, logistic_log_prob(mean, log_scale, level, LEVELS).exp()


def _logits(n: int = 1) -> Tensor:
    return 2 * torch.randn(n, LEVELS, 2, 3, 4, generator=_generator(1))


def _probabilities(logits: Tensor) -> Tensor:
    """Of the levels of one image's pixels, by the function that the likelihood is computed with: (LEVELS, C, H, W)."""
    rows = logits[0].flatten(1).T[:, :, None]  # a pixel a row
    found = [categorical_log_prob(rows, torch.full((len(rows), 1), level)).exp() for level in range(LEVELS)]
    return torch.stack(found).view(logits.shape[1:])


def _assert_draws(drawn: Tensor, probabilities: Tensor) -> None:
    """drawn: uint8 (N, C, H, W); probabilities: (levels, C, H, W)."""
    assert drawn.dtype == torch.uint8
    for values, expected in zip(drawn.flatten(1).T, probabilities.flatten(1).double().T, strict=True):
        counts, expected = values.bincount(minlength=LEVELS), expected / expected.sum()
        often = expected > 1e-3
        assert counts[~often].sum() <= 40
        if often.sum() > 1:
            scaled = counts[often].sum() * expected[often] / expected[often].sum()
            assert stats.chisquare(counts[often], scaled).pvalue > 1e-4


def test_logistic_draws_have_the_probabilities_of_the_likelihood() -> None:
    mean, log_scale, probabilities = _logistics()
    size = (20_000, 1, 4, 6)
    _assert_draws(logistic_draw(mean.expand(size), log_scale.expand(size), LEVELS, _generator()), probabilities)


def test_categorical_draws_have_the_probabilities_of_the_likelihood() -> None:
    logits = _logits()
    _assert_draws(categorical_draw(logits.expand(20_000, *logits.shape[1:]), _generator()), _probabilities(logits))


def test_draws_of_two_levels_are_those_of_three_of_which_one_is_impossible() -> None:
    two = torch.cat(
        [5 * _logits(500)[:, :2], torch.tensor([0.0, -torch.inf]).view(1, 2, 1, 1, 1).expand(1, 2, 2, 3, 4)]
    )
    three = torch.cat([two, torch.full_like(two[:, :1], -torch.inf)], 1)
    drawn = categorical_draw(two, _generator())
    assert torch.equal(drawn, categorical_draw(three, _generator()))
    assert 0.1 < drawn.double().mean() < 0.9
    assert not drawn[-1].any()
    with pytest.raises(RuntimeError, match="not finite"):
        categorical_draw(torch.full((1, 2, 1, 1, 1), torch.nan), _generator())


def test_means_are_those_of_the_probabilities_and_modes_their_greatest() -> None:
    level = torch.arange(LEVELS).double()
    mean, log_scale, probabilities = _logistics()
    expected = torch.einsum("l,lchw->chw", level, probabilities.double())
    assert torch.equal(logistic_mean(mean, log_scale, LEVELS), expected.round().to(torch.uint8).unsqueeze(0))
    # A wide distribution around white is cut off at white: its mean is darker than its centre.
    assert logistic_mean(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), LEVELS).item() < LEVELS - 1
    logits = _logits()
    expected = torch.einsum("l,lchw->chw", level, _probabilities(logits).double())
    assert torch.equal(categorical_mean(logits), expected.round().to(torch.uint8).unsqueeze(0))
    assert torch.equal(categorical_mode(logits)[0].long(), _probabilities(logits).argmax(0))


def test_chunks_and_parts_of_batches_change_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = _logits(9)
    whole, mean = categorical_draw(logits, _generator()), categorical_mean(logits)
    monkeypatch.setattr(pixels, "NUMBERS", 2 * logits[0].numel())
    assert torch.equal(categorical_draw(logits, _generator()), whole)
    assert torch.equal(categorical_mean(logits), mean)
    part = PartOfBatch(torch.device("cpu"), _generator().get_state(), 4, 3, 9)
    assert torch.equal(categorical_draw(logits[4:7], part), whole[4:7])
    part = PartOfBatch(torch.device("cpu"), _generator().get_state(), 4, 3, 9)
    flat = logits[:, :2, 0]  # any means and scales
    drawn = logistic_draw(flat[:, :1], flat[:, 1:], LEVELS, _generator())
    assert torch.equal(logistic_draw(flat[4:7, :1], flat[4:7, 1:], LEVELS, part), drawn[4:7])


def test_a_pixel_of_two_levels_has_one_logit() -> None:
    one, two = PixelDistribution("categorical", 2), _logits(3)[:, :2].double()
    numbers = two[:, 1:] - two[:, :1]
    x = torch.randint(2, (3, 2, 3, 4), generator=_generator(3)).to(torch.uint8)
    assert one.outputs == 1
    assert torch.allclose(one.log_prob(numbers, x), categorical_log_prob(two, x), rtol=1e-12)
    assert torch.allclose(one.log_levels(numbers), two.float().log_softmax(1), atol=1e-6)
    assert torch.equal(one.mode(numbers), categorical_mode(two))
    assert torch.equal(one.mean(numbers), categorical_mean(two))
    assert torch.equal(one.draw(numbers, _generator()), categorical_draw(two, _generator()))


@pytest.mark.parametrize("levels", [2, 4])
def test_independent_categorical_pixels_are_fitted(levels: int) -> None:
    pixels = PixelDistribution("categorical", levels)
    x = torch.randint(levels, (200, 1, 2, 3), generator=_generator()).to(torch.uint8)
    numbers = pixels.fitted(x)
    assert numbers.shape == (pixels.outputs, 1, 2, 3)
    counts = torch.stack([(x == level).sum(0) for level in range(levels)])
    torch.testing.assert_close(pixels.log_levels(numbers.unsqueeze(0))[0].exp(), (counts + 1) / (200 + levels))


def test_independent_logistic_pixels_are_fitted() -> None:
    mean, log_scale = torch.tensor([-0.2, 0.0, 0.3]).view(1, 1, 3), torch.tensor([-3.0, -2.5, -2.0]).view(1, 1, 3)
    x = logistic_draw(mean.expand(50_000, 1, 1, 3), log_scale.expand(50_000, 1, 1, 3), 256, _generator())
    found = PixelDistribution("logistic", 256).fitted(x)
    torch.testing.assert_close(found[0], mean, atol=0.004, rtol=0)
    torch.testing.assert_close(found[1], log_scale, atol=0.03, rtol=0)
