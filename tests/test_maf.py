"""MAF: exact inverses, the right volume, orders in turn, batch statistics, and a base whose draws have its density."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Generator, Tensor, nn
from torch.distributions import AffineTransform
from zuko.flows.autoregressive import MaskedAutoregressiveTransform

from workflow.models.layers.dense import raster_rank
from workflow.models.maf import Autoregressive, AutoregressiveMixture, BatchNorm, Maf

Shape = tuple[int, int, int]
SETTINGS: list[dict[str, Any]] = [
    {"layers": 1, "batch_norm": False, "alpha": 0.0},
    {"layers": 2},
    {"layers": 3, "depth": 2, "components": 3},
    {"layers": 0, "components": 4, "depth": 2},
    {"layers": 2, "depth": 0},
]
EVERY = pytest.mark.parametrize("settings", SETTINGS, ids=str)


def _model(shape: Shape = (1, 2, 3), levels: int = 17, **settings: Any) -> Maf:
    """A flow far from the identity, as after training, in float64."""
    torch.manual_seed(0)
    options = {"width": 11, "depth": 1, "dropout": 0.3, "alpha": 0.05, "dequantisation_samples": 2, **settings}
    model = Maf(shape, levels, **options)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
        for step in model.steps:
            if isinstance(step, BatchNorm):
                step.mean.normal_()
                step.variance.uniform_(0.2, 3)
    return model.double().eval()


def _generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def _pixels(model: Maf, n: int) -> Tensor:
    return torch.rand(n, math.prod(model.shape), dtype=torch.float64, generator=_generator(1))


def _first(step: nn.Module, y: Tensor) -> Tensor:
    """What a step makes of one vector, (D,)."""
    z: Tensor = step(y[None])[0][0]
    return z


@EVERY
@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 2, 1)], ids=["grey", "colour"])
@torch.no_grad()
def test_inverse_undoes_forward(settings: dict[str, Any], shape: Shape) -> None:
    model = _model(shape, **settings)
    y = _pixels(model, 20)
    h, _ = model(y)
    assert (h - y).abs().min() > 1e-6
    torch.testing.assert_close(model.inverse(h), y, rtol=0, atol=1e-9)
    between = h.lerp(h.flip(0), 0.3)
    torch.testing.assert_close(model(model.inverse(between))[0], between, rtol=0, atol=1e-9)


@EVERY
def test_log_determinant_is_that_of_autograds_jacobian(settings: dict[str, Any]) -> None:
    model = _model(**settings)
    y = _pixels(model, 3)
    for one, log_determinant in zip(y, model(y)[1], strict=True):
        jacobian = torch.autograd.functional.jacobian(partial(_first, model), one)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_determinant)


def test_layers_are_triangular_in_the_reading_order_and_its_reverse_in_turn() -> None:
    model = _model((3, 2, 1), layers=3, components=2, width=60)
    y = torch.randn(6, dtype=torch.float64, generator=_generator())
    reading = raster_rank((3, 2, 1)).argsort()
    layers = [step for step in model.steps if isinstance(step, Autoregressive)]
    assert model.base is not None
    networks = [*(partial(_first, layer) for layer in layers), lambda h: model.base.log_prob(h[None])[0]]
    for i, layer in enumerate(networks):
        order = reading.flip(0) if i % 2 else reading
        jacobian = torch.autograd.functional.jacobian(layer, y)[order][:, order]
        assert not jacobian.triu(1).any()
        assert (jacobian[torch.ones(6, 6).tril().bool()] != 0).all()


def test_means_and_scales_are_those_of_the_definition() -> None:
    """x = u exp(α) + μ, with both from the numbers before (eq. 3)."""
    layer = Autoregressive(torch.tensor([2, 3, 1]), width=8, depth=1, dropout=0.0).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    u, log_determinant = layer(x)
    mean, log_scale = layer.network(x, layer.degrees).unbind(1)
    log_scale = 7 * torch.tanh(log_scale / 7)
    torch.testing.assert_close(u * log_scale.exp() + mean, x)
    torch.testing.assert_close(log_determinant, -log_scale.sum(1))
    assert torch.equal(mean[:, 2], mean[:1, 2].expand(5))  # the first in the order depends on nothing


def _zuko(layer: Autoregressive, width: int) -> MaskedAutoregressiveTransform:
    """zuko's layer with the weights of ours; hidden units of the same degree correspond to each other."""
    d = len(layer.rank)

    def affine(mean: Tensor, raw: Tensor) -> AffineTransform:
        scale = (-7 * torch.tanh(raw / 7)).exp()
        return AffineTransform(-mean * scale, scale)

    other = MaskedAutoregressiveTransform(
        d, order=layer.rank - 1, univariate=affine, hidden_features=(width, width)
    ).double()
    ours = [*layer.network.hidden, layer.network.out]
    theirs = [part for part in other.hyper if isinstance(part, nn.Linear)]
    inputs = torch.arange(d), torch.arange(d)
    with torch.no_grad():
        for mine, its, degrees in zip(ours, theirs, [*layer.hidden, None], strict=True):
            assert isinstance(mine, nn.Linear)
            if degrees is None:
                units = torch.arange(2 * d), torch.arange(2 * d)
            else:
                units = degrees.argsort(stable=True), its.get_buffer("mask").sum(1).argsort(stable=True)
            its.weight[units[1][:, None], inputs[1]] = mine.weight[units[0][:, None], inputs[0]]
            its.bias[units[1]] = mine.bias[units[0]]
            inputs = units
    return other


@torch.no_grad()
def test_it_is_zukos_with_the_same_weights() -> None:
    torch.manual_seed(0)
    x = torch.randn(9, 5, dtype=torch.float64)
    for rank in (torch.tensor([1, 2, 3, 4, 5]), torch.tensor([3, 5, 1, 2, 4])):
        layer = Autoregressive(rank, width=12, depth=2, dropout=0.0).double()
        other = _zuko(layer, 12)()
        u, log_determinant = layer(x)
        torch.testing.assert_close(u, other(x), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(log_determinant, other.log_abs_det_jacobian(x, u), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(layer.inverse(u), other.inv(u), rtol=1e-10, atol=1e-10)


def test_without_hidden_layers_it_is_a_gaussian_with_any_covariance() -> None:
    model = _model(layers=1, depth=0, batch_norm=False, alpha=0.0)
    layer = model.steps[0]
    assert isinstance(layer, Autoregressive)
    assert layer.log_scale is not None
    scale = torch.diag((7 * torch.tanh(layer.log_scale / 7)).exp())
    weight, bias = layer.network.out.weight.tril(-1), layer.network.out.bias
    mix = torch.linalg.inv(torch.eye(6, dtype=torch.float64) - weight)  # y = Wy + b + Su, with u standard normal
    gaussian = torch.distributions.MultivariateNormal(mix @ bias, mix @ scale.square() @ mix.T)
    y = _pixels(model, 9)
    h, log_determinant = model(y)
    torch.testing.assert_close(model.latent_log_prob(h).sum(1) + log_determinant, gaussian.log_prob(y))
    assert (gaussian.covariance_matrix != 0).all()


def test_training_normalises_by_the_batch_and_evaluation_by_what_was_calibrated() -> None:
    norm = BatchNorm(4).double()
    with torch.no_grad():
        norm.shift.normal_(generator=_generator())
        norm.log_scale.normal_(generator=_generator(1))
    batch, other = torch.randn(2, 50, 4, dtype=torch.float64, generator=_generator(2)) * 3 + 1
    z, log_determinant = norm.train()(batch)
    torch.testing.assert_close(z.mean(0), norm.shift)
    torch.testing.assert_close(z.std(0, correction=0), norm.log_scale.exp(), rtol=1e-5, atol=0)
    assert norm.mean.tolist() == [0] * 4  # training leaves what evaluation uses alone

    norm.eval().fit(batch)
    torch.testing.assert_close(norm(batch)[0], z)
    torch.testing.assert_close(norm(batch)[1], log_determinant)
    torch.testing.assert_close(norm(other[:1])[0], norm(other)[0][:1])
    jacobian = torch.autograd.functional.jacobian(partial(_first, norm), other[0])
    torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, norm(other)[1][0])
    torch.testing.assert_close(norm.inverse(norm(other)[0]), other)


def test_training_on_a_single_image_is_refused() -> None:
    x = torch.zeros(1, 1, 2, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="more than one image"):
        _model(layers=1).float().train().loss(x, x, "model", _generator())
    assert _model(layers=1, batch_norm=False).float().train().loss(x, x, "model", _generator())["loss"].isfinite()


@torch.no_grad()
def test_calibration_takes_the_statistics_of_training_images_layer_by_layer() -> None:
    """In evaluation each normalisation then does to the training images what it does to a batch of them in training."""
    model = _model(layers=3, dropout=0.0).float()
    x = torch.randint(17, (300, 1, 2, 3), dtype=torch.uint8, generator=_generator())
    expected = model.train().loss(x, x, "model", _generator(5))["loss"]
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.eval().calibrate(x, _generator(5))
    changed = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    assert changed == {f"steps.{i}.{name}" for i in (2, 4, 6) for name in ("mean", "variance")}
    torch.testing.assert_close(model.loss(x, x, "model", _generator(5))["loss"], expected)
    assert "steps.2.mean" in model.state_dict()


def test_the_base_is_a_mixture_of_gaussians_for_each_number() -> None:
    base = _model(layers=0, components=3).base
    assert base is not None
    h = torch.randn(7, 6, dtype=torch.float64, generator=_generator())
    numbers = base.network(h, base.degrees).transpose(1, 2)
    weights, means, log_scales = numbers[..., :3], numbers[..., 3:6], numbers[..., 6:]
    expected = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=weights),
        torch.distributions.Normal(means, (7 * torch.tanh(log_scales / 7)).exp()),
    )
    torch.testing.assert_close(base.log_prob(h), expected.log_prob(h))


@torch.no_grad()
def test_draws_from_the_base_have_its_density() -> None:
    """The conditional distribution function of each number makes them uniform and independent."""
    torch.manual_seed(3)
    base = AutoregressiveMixture(torch.tensor([2, 3, 1]), 2, width=16, depth=1, dropout=0.0)
    for weight in base.parameters():
        weight.mul_(1.5)
    h = base.draw(4_000, _generator())
    weights, means, log_scales = base.network(h, base.degrees).chunk(3, dim=1)
    below = torch.distributions.Normal(means, (7 * torch.tanh(log_scales / 7)).exp()).cdf(h.unsqueeze(1))
    uniform = (weights.softmax(1) * below).sum(1)
    assert all(stats.kstest(column.numpy(), "uniform").pvalue > 0.01 for column in uniform.T)
    correlations = torch.tensor(stats.spearmanr(uniform.numpy()).statistic)
    assert (correlations - torch.eye(3)).abs().max() < 0.05
    assert means.std(0).max() > 1  # those depend on the numbers before


TWO_PIXELS = pytest.mark.parametrize("settings", [{"layers": 2}, {"layers": 1, "components": 2}], ids=str)


@torch.no_grad()
def _density(model: Maf, y: Tensor) -> Tensor:
    h, log_determinant = model(y)
    density: Tensor = (model.latent_log_prob(h).sum(1) + log_determinant).exp()
    return density


@TWO_PIXELS
def test_density_is_that_of_what_is_drawn_and_integrates_to_one(settings: dict[str, Any]) -> None:
    """The mean of q(y)/p(y) over draws y from p is the integral of any density q: here uniform on a box."""
    model = _model((1, 1, 2), 3, alpha=0.0, **settings).float()
    y = model.inverse(model.draw_latents(50_000, _generator()))
    low, high = y.quantile(0.35, dim=0), y.quantile(0.65, dim=0)
    ratio = 1 / _density(model, y[((y > low) & (y < high)).all(1)]) / (high - low).prod()
    error = ratio.square().sum().sqrt().item() / 50_000
    assert error < 0.02
    assert ratio.sum().item() / 50_000 == pytest.approx(1, abs=3 * error)


@TWO_PIXELS
def test_samples_are_as_frequent_as_the_mass_of_their_cells(settings: dict[str, Any]) -> None:
    """Images of two pixels with three levels; beyond the outermost levels they would be cut off."""
    model = _model((1, 1, 2), 3, alpha=0.0, **settings).float()
    middle = (torch.arange(100) + 0.5) / 300
    cells, inside = torch.cartesian_prod(torch.arange(3), torch.arange(3)), torch.cartesian_prod(middle, middle)
    mass = torch.stack([_density(model, cell / 3 + inside).mean() / 9 for cell in cells]).double()
    drawn = model.inverse(model.draw_latents(40_000, _generator()))
    drawn = (3 * drawn[((drawn >= 0) & (drawn < 1)).all(1)]).long()
    counts = [*(drawn @ torch.tensor([3, 1])).bincount(minlength=9).tolist(), 40_000 - len(drawn)]
    expected = 40_000 * torch.cat([mass, 1 - mass.sum(0, keepdim=True)])
    assert expected.min() > 5
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_numbers_far_from_the_training_images_stay_finite() -> None:
    model = _model(layers=3, components=2, alpha=1e-6).float()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5)
        assert model.log_prob(torch.tensor([[[[0, 16, 0], [16, 0, 16]]]], dtype=torch.uint8), _generator()).isfinite()


def test_a_flow_without_layers_and_components_is_refused() -> None:
    with pytest.raises(ValueError, match="without layers, give components"):
        _model(layers=0)
