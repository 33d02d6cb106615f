"""Finite scalar quantisation: the paper's formulas number by number, all codes enumerated, and the gradient."""

import itertools
import math

import pytest
import torch
from torch import Generator, Tensor

from workflow.models.layers.fsq import ScalarCodebook

LEVELS = [5, 4, 3]


def _codebook() -> ScalarCodebook:
    return ScalarCodebook(LEVELS).double()


def _latents(n: int = 200) -> Tensor:
    return 2 * torch.randn(n, 3, 2, 4, generator=Generator().manual_seed(0), dtype=torch.float64)


def _bounded(z: float, levels: int) -> float:
    """`bound` in appendix A.1 of the paper, with artanh as in vector-quantize-pytorch."""
    half = (levels - 1) * (1 - 1e-3) / 2
    offset = 0.5 if levels % 2 == 0 else 0.0
    return math.tanh(z + math.atanh(offset / half)) * half - offset


def test_latents_are_rounded_number_by_number() -> None:
    z = _latents(10)
    indices = _codebook().nearest(z)
    numbers = _codebook().lookup(indices)
    for n, i, j in itertools.product(range(10), range(2), range(4)):
        rounded = [round(_bounded(z[n, k, i, j].item(), levels)) for k, levels in enumerate(LEVELS)]
        digits = [r + levels // 2 for r, levels in zip(rounded, LEVELS, strict=True)]
        assert indices[n, i, j] == digits[0] + 5 * digits[1] + 5 * 4 * digits[2]
        expected = [r / (levels // 2) for r, levels in zip(rounded, LEVELS, strict=True)]
        assert numbers[n, :, i, j].tolist() == pytest.approx(expected)


def test_every_combination_is_a_code_of_its_own_and_can_be_reached() -> None:
    codebook, every = _codebook(), torch.arange(60)
    numbers = codebook.lookup(every.view(60, 1, 1)).flatten(1)
    values = ((-1, -0.5, 0, 0.5, 1), (-1, -0.5, 0, 0.5), (-1, 0, 1))
    assert {tuple(row) for row in numbers.tolist()} == set(itertools.product(*values))
    line = torch.linspace(-5, 5, 51, dtype=torch.float64)
    reached = codebook.nearest(torch.cartesian_prod(line, line, line).view(-1, 3, 1, 1))
    assert torch.equal(reached.unique(), every)
    assert codebook.available.tolist() == [True] * 60


def test_latents_of_zero_are_in_the_middle_also_of_an_even_number_of_levels() -> None:
    zero = torch.zeros(1, 3, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(_codebook().bound(zero), zero, rtol=0, atol=1e-6)


def test_the_gradient_is_that_of_the_bounded_latents() -> None:
    codebook, z = _codebook(), _latents().requires_grad_()
    indices = codebook.nearest(z)
    out, weights = codebook.quantise(z, indices), _latents().flip(0)
    torch.testing.assert_close(out, codebook.lookup(indices), rtol=1e-12, atol=1e-12)
    (out * weights).sum().backward()
    for k, levels in enumerate(LEVELS):
        half, offset = (levels - 1) * (1 - 1e-3) / 2, 0.5 if levels % 2 == 0 else 0.0
        slope = half / (levels // 2) / torch.cosh(z.detach()[:, k] + math.atanh(offset / half)).square()
        assert z.grad is not None
        torch.testing.assert_close(z.grad[:, k], weights[:, k] * slope, rtol=1e-6, atol=1e-9)
