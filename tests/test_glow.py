"""Glow, piece by piece: actnorm and its initialisation, the 1x1 convolution, the coupling, and what leaves."""

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from workflow.models.glow import ActNorm, Coupling, Glow, InvertibleConv, Leaving
from workflow.models.layers.flow import Step

SIZE = (4, 2, 3)


def _features(n: int) -> Tensor:
    return torch.randn(n, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _moved(layer: nn.Module) -> None:
    """Its parameters elsewhere than at the beginning."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    layer.double().eval()


def _layers() -> list[Step]:
    torch.manual_seed(0)
    return [ActNorm(4), InvertibleConv(4), Coupling(4, 5, 0.5), Leaving(4)]


@pytest.mark.parametrize("layer", _layers(), ids=lambda layer: type(layer).__name__)
def test_inverse_and_volume_of_each_layer(layer: Step) -> None:
    _moved(layer)
    y = _features(5)
    z, log_determinant = layer(y)
    assert (z != y).any()
    assert log_determinant.shape == (5,)
    torch.testing.assert_close(layer.inverse(z), y, rtol=0, atol=1e-10)
    for i in range(5):
        jacobian = torch.autograd.functional.jacobian(lambda v: layer(v.view(1, *SIZE))[0].flatten(), y[i].flatten())
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_determinant[i])


def test_actnorm_is_fitted_to_mean_0_and_variance_1() -> None:
    y = 3 * _features(50) + torch.arange(4).view(4, 1, 1)
    norm = ActNorm(4).double()
    norm.fit(y)
    z, _ = norm(y)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(4).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(z.square().mean((0, 2, 3)), torch.ones(4).double())


def test_initialisation_fits_every_actnorm_to_what_comes_out_of_the_one_before(digits: Tensor) -> None:
    torch.manual_seed(0)
    model = Glow((1, 8, 8), 17, scales=2, steps=3, channels=8, dropout=0, alpha=0.05, dequantisation_samples=1)
    model.initialise(digits[:300], torch.Generator().manual_seed(3))
    outputs: list[Tensor] = []
    norms = [module for module in model.modules() if isinstance(module, ActNorm)]
    for norm in norms:
        norm.register_forward_hook(lambda *call: outputs.append(call[-1][0]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model(model.dequantised(digits[:300], torch.Generator().manual_seed(3)))
        for output in outputs:
            channels = output.shape[1]
            torch.testing.assert_close(output.mean((0, 2, 3)), torch.zeros(channels), rtol=0, atol=1e-4)
            torch.testing.assert_close(output.square().mean((0, 2, 3)), torch.ones(channels), rtol=0, atol=1e-3)
        model(model.dequantised(digits[300:], torch.Generator().manual_seed(4)))
    assert len(outputs) == 2 * len(norms) == 12
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("features", [2, 4, 12])
def test_convolution_begins_as_a_rotation(features: int) -> None:
    torch.manual_seed(features)
    conv = InvertibleConv(features)
    z, log_determinant = conv(torch.eye(features)[..., None, None])
    matrix = z[..., 0, 0].T
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(features), rtol=0, atol=1e-5)
    assert (matrix - torch.eye(features)).abs().max() > 0.1
    torch.testing.assert_close(log_determinant, torch.zeros(features), rtol=0, atol=1e-5)


def test_convolutions_matrix_is_the_product_of_its_factors() -> None:
    conv = InvertibleConv(4)
    _moved(conv)
    with torch.no_grad():
        matrix = conv(torch.eye(4).double()[..., None, None])[0][..., 0, 0].T
        lower = torch.eye(4).double()
        upper = torch.diag(conv.sign * conv.log_s.exp())
        for i in range(4):
            for j in range(i):
                lower[i, j] = conv.lower[i, j]
                upper[j, i] = conv.upper[j, i]
        torch.testing.assert_close(matrix, conv.permutation @ lower @ upper)
        log_determinant = conv(_features(1))[1]
        torch.testing.assert_close(log_determinant[0], 6 * torch.linalg.slogdet(matrix).logabsdet)
    assert conv.permutation.sum(0).tolist() == conv.permutation.sum(1).tolist() == [1] * 4
    assert {name for name, _ in conv.named_parameters()} == {"lower", "upper", "log_s"}


def test_coupling_moves_one_half_and_never_by_a_scale_above_1() -> None:
    coupling = Coupling(4, 5, 0.5)
    _moved(coupling)
    y = 100 * _features(20)
    z, log_determinant = coupling(y)
    assert torch.equal(z[:, 2:], y[:, 2:])
    assert (z[:, :2] != y[:, :2]).all()
    raw, shift = coupling.network(y[:, 2:]).chunk(2, dim=1)
    scale = 1 / (1 + (-raw - 2).exp())
    torch.testing.assert_close(z[:, :2], scale * (y[:, :2] + shift))
    torch.testing.assert_close(log_determinant, scale.log().sum((1, 2, 3)))
    assert (log_determinant < 0).all()


def test_what_leaves_is_gaussian_given_what_stays() -> None:
    leaving = Leaving(4)
    _moved(leaving)
    y = _features(6)
    z, log_determinant = leaving(y)
    assert torch.equal(z[:, :2], y[:, :2])
    mean, log_deviation = leaving.network(y[:, :2]).chunk(2, dim=1)
    given = Normal(mean, log_deviation.exp()).log_prob(y[:, 2:]).sum((1, 2, 3))
    standard = Normal(0.0, 1.0).log_prob(z[:, 2:]).sum((1, 2, 3))
    torch.testing.assert_close(standard + log_determinant, given)
