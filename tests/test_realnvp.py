"""RealNVP, piece by piece: the masks, the coupling, the logit and the squeeze."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import special
from torch import Tensor

from workflow.models.layers.flow import Logit, Squeeze, Step
from workflow.models.realnvp import Coupling, RealNvp, Size, channel_mask, checkerboard

MASKS = pytest.mark.parametrize("masks", [checkerboard, channel_mask])
SIZE = (4, 2, 3)


def _coupling(mask: Tensor) -> Coupling:
    """One that is far from the identity."""
    torch.manual_seed(0)
    coupling = Coupling(SIZE, mask, channels=5, blocks=2, dropout=0.5)
    with torch.no_grad():
        for weight in coupling.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    return coupling.double().eval()


def _features(n: int, size: Size = SIZE) -> Tensor:
    return torch.randn(n, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _logabsdet(layer: Step, y: Tensor) -> Tensor:
    """Of the full Jacobian of one (C, H, W), by autograd."""
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v.view(1, *y.shape))[0].flatten(), y.flatten())
    logabsdet: Tensor = torch.linalg.slogdet(jacobian).logabsdet
    return logabsdet


def test_masks_are_those_of_figure_3() -> None:
    assert checkerboard((5, 2, 3), 0).tolist() == [[[0, 1, 0], [1, 0, 1]]]
    assert checkerboard((5, 2, 3), 1).tolist() == [[[1, 0, 1], [0, 1, 0]]]
    assert channel_mask((4, 2, 3), 0).flatten().tolist() == [0, 0, 1, 1]
    assert channel_mask((4, 2, 3), 1).flatten().tolist() == [1, 1, 0, 0]


@MASKS
@pytest.mark.parametrize("parity", [0, 1])
def test_coupling_moves_what_is_masked_out_by_what_is_not(masks: Callable[[Size, int], Tensor], parity: int) -> None:
    mask = masks(SIZE, parity)
    coupling, kept = _coupling(mask), mask.expand(SIZE).bool()
    y = _features(6)
    with torch.no_grad():
        z, log_determinant = coupling(y)
        raw, shift = coupling.network(torch.where(kept, y, 0)).chunk(2, dim=1)
        log_scale = raw.tanh() * coupling.bound
        assert torch.equal(z[:, kept], y[:, kept])
        assert (z[:, ~kept] != y[:, ~kept]).all()
        torch.testing.assert_close(z[:, ~kept], (y * log_scale.exp() + shift)[:, ~kept])
        torch.testing.assert_close(log_determinant, log_scale[:, ~kept].sum(1))
        torch.testing.assert_close(coupling.inverse(z), y, rtol=0, atol=1e-12)
    for i in range(2):
        torch.testing.assert_close(_logabsdet(coupling, y[i]), log_determinant[i])


@MASKS
def test_log_scale_has_a_learned_bound(masks: Callable[[Size, int], Tensor]) -> None:
    coupling = _coupling(masks(SIZE, 0))
    _, log_determinant = coupling(1e6 * _features(20))
    moved = (1 - coupling.mask).expand(SIZE)
    limit = (moved * coupling.bound.abs()).sum()
    assert (log_determinant.abs() <= limit + 1e-9).all()
    assert log_determinant.abs().max() > 0.2 * limit


def test_each_number_is_moved_at_every_scale_by_both_kinds_of_mask() -> None:
    settings: dict[str, Any] = {"channels": 2, "blocks": 0, "dropout": 0, "alpha": 0.1, "dequantisation_samples": 1}
    model = RealNvp((1, 4, 4), 17, scales=2, couplings=3, **settings)
    kinds = [[type(step).__name__ for step in group] for group in model.groups]  # type: ignore[attr-defined]
    assert kinds == [["Logit", *["Coupling"] * 3, "Squeeze", *["Coupling"] * 3], ["Coupling"] * 3]
    couplings = [module for module in model.modules() if isinstance(module, Coupling)]
    for i in (0, 3, 6):
        first, second, third = (coupling.mask for coupling in couplings[i : i + 3])
        assert (first + second == 1).all()
        assert torch.equal(third, first)
    assert [coupling.mask.shape for coupling in couplings[::3]] == [(1, 4, 4), (4, 1, 1), (1, 2, 2)]


@pytest.mark.parametrize("alpha", [1e-3, 0.05])
def test_logit_and_its_volume(alpha: float) -> None:
    logit, y = Logit(alpha), torch.rand(5, 1, 2, 2, dtype=torch.float64)
    z, log_determinant = logit(y)
    torch.testing.assert_close(z, torch.from_numpy(special.logit(alpha + (1 - 2 * alpha) * y.numpy())))
    torch.testing.assert_close(logit.inverse(z), y, rtol=0, atol=1e-12)
    for i in range(5):
        torch.testing.assert_close(_logabsdet(logit, y[i]), log_determinant[i])
    ends, at_ends = logit(torch.tensor([[0.0], [1.0]]))
    assert torch.isfinite(at_ends).all()
    torch.testing.assert_close(ends[0], -ends[1], rtol=1e-3, atol=0)


def test_squeeze_puts_the_four_pixels_of_a_block_into_channels() -> None:
    y = torch.tensor([[[[1, 2, 5, 6], [3, 4, 7, 8]], [[10, 20, 50, 60], [30, 40, 70, 80]]]]).double()
    z, log_determinant = Squeeze()(y)
    assert z.shape == (1, 8, 1, 2)
    assert z[0, :, 0].T.tolist() == [[1, 10, 2, 20, 3, 30, 4, 40], [5, 50, 6, 60, 7, 70, 8, 80]]
    assert log_determinant.tolist() == [0]
    y = _features(3, (3, 4, 6))
    assert torch.equal(Squeeze().inverse(Squeeze()(y)[0]), y)
    torch.testing.assert_close(_logabsdet(Squeeze(), _features(1, (1, 2, 4))[0]), torch.zeros(()).double())
