"""VAE: decoders that are distributions, the closed-form KL, and a bound that is one and rises with K."""

import itertools
import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from stages.sample import decodings
from tests.tiny_models import tiny_ddpm, tiny_vae
from workflow.evaluation.batching import in_batches
from workflow.models import vae
from workflow.models.layers.common import from_unit
from workflow.models.layers.pixels import Decoder, logistic_log_prob, logistic_mode
from workflow.models.vae import Kind, Vae, kl_to_standard_normal

Y = torch.empty(0, dtype=torch.long)  # classes, which a model of p(x) does not look at

DECODERS: tuple[Decoder, ...] = ("categorical", "logistic")


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_kl_is_the_mean_log_ratio_of_its_draws() -> None:
    mean = torch.tensor([[0.5, -1.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    log_variance = torch.tensor([[0.3, -2.0, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    z = q.sample(torch.Size([400_000]))
    ratio = (q.log_prob(z) - torch.distributions.Normal(0, 1).log_prob(z)).sum(2)
    kl = kl_to_standard_normal(mean, log_variance)
    assert ((kl - ratio.mean(0)).abs() <= 4 * ratio.std(0) / math.sqrt(len(z)) + 1e-12).all()
    assert kl[1] == 0


@pytest.mark.parametrize("network", ["convolutional", "dense"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_decoder_sums_to_one_over_all_images(decoder: Decoder, network: Kind) -> None:
    x = torch.tensor(list(itertools.product(range(2), repeat=16)), dtype=torch.uint8).view(-1, 1, 4, 4)
    model = tiny_vae(decoder, network=network)
    for z in (-1.5, 0.7):
        with torch.no_grad():
            log_likelihood = model.log_likelihood(x, torch.tensor([[z]]).expand(len(x), 1)).double()
        assert abs(log_likelihood.exp().sum().item() - 1) < 1e-5


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_logistic_sums_to_one_over_the_levels_and_equals_the_differences_of_its_cdf(levels: int) -> None:
    mean = torch.tensor([-3.0, -1.0, -0.2, 0.0, 0.33, 1.0, 1.7]).view(1, -1, 1)
    log_scale = torch.tensor([-6.0, -4.0, -2.0, 0.0, 3.0]).view(1, 1, -1)
    x = torch.arange(levels).view(-1, 1, 1)
    log_prob = logistic_log_prob(mean, log_scale, x, levels)
    torch.testing.assert_close(log_prob.exp().sum(0), torch.ones(7, 5), rtol=0, atol=2e-5)

    centre, half_bin = 2 * x.double() / (levels - 1) - 1, 1 / (levels - 1)
    low = torch.where(x == 0, -math.inf, centre - half_bin)
    high = torch.where(x == levels - 1, math.inf, centre + half_bin)
    logistic = stats.logistic(mean.double().numpy(), log_scale.double().exp().numpy())
    expected = torch.from_numpy(logistic.cdf(high) - logistic.cdf(low))
    torch.testing.assert_close(log_prob.exp().double(), expected, rtol=1e-4, atol=1e-6)


def test_logistic_of_any_sharpness_keeps_a_bounded_gradient_far_from_its_mean() -> None:
    mean, log_scale = torch.full((1, 17), 0.9, requires_grad=True), torch.full((1, 17), -200.0, requires_grad=True)
    log_prob = logistic_log_prob(mean, log_scale, torch.arange(17).view(1, 17), 17).sum()
    log_prob.backward()
    assert torch.isfinite(log_prob)
    assert mean.grad is not None
    assert mean.grad.abs().max() < 2 * math.exp(7)
    assert mean.grad[0, 0] < -1


def test_logistic_mode_is_the_most_probable_level() -> None:
    generator = _generator()
    mean, log_scale = 3 * torch.rand(500, generator=generator) - 1.5, 6 * torch.rand(500, generator=generator) - 4
    every = logistic_log_prob(mean, log_scale, torch.arange(17).view(17, 1), 17)
    mode = logistic_mode(mean, log_scale, 17)
    torch.testing.assert_close(every.gather(0, mode.long().unsqueeze(0)).squeeze(0), every.max(0).values)
    assert mode.dtype == torch.uint8
    assert len(mode.unique()) == 17
    assert (mode != from_unit(mean, 17)).any()  # a heavy tail wins over the level nearest to the mean


@pytest.mark.parametrize("decoder", DECODERS)
def test_mode_is_the_most_probable_image(decoder: Decoder) -> None:
    model = tiny_vae(decoder, latents=2, levels=5)
    z = torch.tensor([[0.5, -1.0]])
    best = model.mode(z)
    with torch.no_grad():
        for place in range(16):
            others = best.expand(5, 1, 4, 4).clone()
            others.view(5, 16)[:, place] = torch.arange(5, dtype=torch.uint8)
            likelihoods = model.log_likelihood(others, z.expand(5, 2))
            assert likelihoods.max() <= model.log_likelihood(best, z) + 1e-5


@pytest.mark.parametrize("decoder", DECODERS)
def test_samples_are_draws_of_the_density_that_is_bounded(decoder: Decoder) -> None:
    """Over 500,000 samples, each pair of neighbouring pixels is as frequent as its probability, an integral over z."""
    model = tiny_vae(decoder, levels=2)
    with torch.no_grad():
        model.get_parameter("decode_layers.0.weight").mul_(8)  # the more the latent says, the more pixels agree
    z = (torch.arange(2000) + 0.5) / 1000 - 1
    grid = 2**0.5 * torch.erfinv(z).view(-1, 1)  # quantiles of the prior
    blank = torch.zeros(2000, 1, 4, 4, dtype=torch.uint8)
    samples = model.sample(500_000, _generator())
    with torch.no_grad():
        outputs = model.decode_layers(grid)
        of_white = (
            outputs[:, 0].sigmoid()
            if decoder == "categorical"
            else logistic_log_prob(outputs[:, 0], outputs[:, 1], blank + 1, 2).exp()
        ).double()
    both = (of_white[..., :-1] * of_white[..., 1:]).mean(0)
    found = (samples[..., :-1] * samples[..., 1:]).double().mean(0)
    assert ((found - both).abs() < 5 * (both * (1 - both) / 500_000).sqrt() + 1e-4).all()
    alone = of_white.mean(0)
    assert (both - alone[..., :-1] * alone[..., 1:]).abs().max() > 0.01  # else the latent would not matter


@pytest.mark.parametrize("decoder", DECODERS)
def test_modes_and_means_are_of_the_latents_of_the_samples_batch_by_batch(decoder: Decoder) -> None:
    model = tiny_vae(decoder, latents=2, levels=17)
    found = decodings(model, 10, 4, _generator())
    draws = in_batches(lambda rows, r: model.sample(len(rows), r), 10, 4, used := _generator())
    at = _generator()
    expected = [model.decodings(n, at) for n in (4, 4, 2)]
    assert torch.equal(at.get_state(), used.get_state())
    assert torch.equal(torch.cat(draws), torch.cat([decoded.draw for decoded in expected]))
    assert torch.equal(found["mode"], torch.cat([decoded.mode for decoded in expected]))
    assert torch.equal(found["mean"], torch.cat([decoded.mean for decoded in expected]))
    assert decodings(tiny_ddpm(), 10, 4, _generator()) == {}


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_decoder_that_is_certain_draws_its_mode_and_mean(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_vae(decoder, levels=17)
    level = torch.linspace(-1, 1, 17).view(1, -1, 1, 1, 1)

    def certain(code: Tensor) -> Tensor:
        z = code.view(-1, 1, 1, 1, 1).expand(-1, 1, 1, 4, 4)
        return torch.cat([z, -20 + 0 * z], 1) if decoder == "logistic" else -1e4 * (z - level).square()

    monkeypatch.setattr(model.decode_layers, "forward", certain)
    draw, mode, mean = model.decodings(200, _generator())
    for images in (mode, mean):  # but where z is between two levels
        assert (images == draw).double().mean() > 0.95
    assert len(draw.unique()) == 17


@pytest.mark.parametrize("decoder", DECODERS)
def test_bound_rises_with_k_to_the_exact_likelihood(decoder: Decoder) -> None:
    model = tiny_vae(decoder, levels=3)
    x = torch.randint(0, 3, (4, 1, 4, 4), dtype=torch.uint8, generator=_generator(1))
    grid = torch.linspace(-7, 7, 4001).view(-1, 1)
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(grid).squeeze(1)
    with torch.no_grad():
        terms = torch.stack([model.log_likelihood(image.expand(4001, 1, 4, 4), grid) for image in x])
        exact = (terms.double() + log_prior).logsumexp(1) + math.log(14 / 4000)

        def average(k: int) -> Tensor:
            model.importance_samples = k
            return model.log_prob(x.repeat(300, 1, 1, 1), _generator()).double().view(300, 4).mean(0)

        one, few, many = average(1), average(4), average(256)
    assert (one < few).all()
    assert few.mean() < many.mean()
    assert (many < exact + 0.005).all()
    torch.testing.assert_close(many, exact, rtol=0, atol=0.05)


def test_bound_with_one_draw_is_the_training_objective_on_average() -> None:
    model = tiny_vae(latents=2, k=1)
    x = torch.randint(0, 2, (1, 1, 4, 4), dtype=torch.uint8, generator=_generator(1)).expand(50_000, 1, 4, 4)
    with torch.no_grad():
        bound = model.log_prob(x, _generator(2))
        loss = model.loss(x, Y, "model", _generator(3))["loss"]
    assert abs(bound.mean() + loss) < 6 * bound.std() / math.sqrt(len(x))


def test_several_training_samples_make_it_maximise_the_importance_weighted_bound() -> None:
    x = torch.randint(0, 2, (6, 1, 4, 4), dtype=torch.uint8, generator=_generator(1))
    model = tiny_vae(latents=2, k=5, training_samples=5)
    loss = model.loss(x, Y, "model", _generator(2))["loss"]
    torch.testing.assert_close(loss, -model.log_prob(x, _generator(2)).mean())
    assert torch.equal(model.validate(x, Y, _generator(2))["loss"], loss)
    # The gradient by its own formula: each draw's, weighted by its share of the sum (Burda et al. 2016, eq. 14).
    weight = model.get_parameter("encode_layers.8.weight")
    (gradient,) = torch.autograd.grad(loss, weight)
    log_ratio, z = model._draw(x, 5, _generator(2))
    terms = torch.stack([model.log_likelihood(x, draw) for draw in z]) + log_ratio
    weighted = -(terms.softmax(0).detach() * terms).sum(0).mean()
    (expected,) = torch.autograd.grad(weighted, weight)
    torch.testing.assert_close(gradient, expected)
    assert gradient.abs().max() > 0


def test_chunks_do_not_change_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_vae(latents=3)
    x = torch.randint(0, 2, (5, 1, 4, 4), dtype=torch.uint8, generator=_generator())
    with torch.no_grad():
        whole = model.log_prob(x, _generator())
        monkeypatch.setattr(vae, "ROWS", 100)
        torch.testing.assert_close(model.log_prob(x, _generator()), whole)


@pytest.mark.parametrize("decoder", DECODERS)
def test_beta_weighs_the_kl_in_training_but_not_in_the_bounds(decoder: Decoder) -> None:
    x = torch.randint(0, 2, (8, 1, 4, 4), dtype=torch.uint8, generator=_generator())
    plain, heavy = tiny_vae(decoder, beta=1.0), tiny_vae(decoder, beta=4.0)
    terms, plain_terms = (model.loss(x, Y, "model", _generator()) for model in (heavy, plain))
    assert terms["kl"] > 0
    torch.testing.assert_close(terms["loss"] - plain_terms["loss"], 3 * terms["kl"], rtol=1e-4, atol=1e-5)
    for name, (gradient, weighed) in _gradients(plain, heavy, x).items():
        (of_kl,) = torch.autograd.grad(
            plain.loss(x, Y, "model", _generator())["kl"], plain.get_parameter(name), materialize_grads=True
        )
        torch.testing.assert_close(weighed - gradient, 3 * of_kl, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(heavy.validate(x, Y, _generator())["loss"], plain.validate(x, Y, _generator())["loss"])
        assert torch.equal(heavy.log_prob(x, _generator()), plain.log_prob(x, _generator()))


def _gradients(plain: Vae, heavy: Vae, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Of both models' losses, by the parameter's name."""
    for model in (plain, heavy):
        model.loss(x, Y, "model", _generator())["loss"].backward()
    pairs = {}
    for (name, a), b in zip(plain.named_parameters(), heavy.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        pairs[name] = (a.grad, b.grad)
    return pairs


def test_without_classes_labels_change_nothing() -> None:
    model = tiny_vae(latents=2)
    x = torch.randint(0, 2, (4, 1, 4, 4), dtype=torch.uint8, generator=_generator())
    one, other = (model.loss(x, torch.full((4,), y), "model", _generator())["loss"] for y in (0, 7))
    assert torch.equal(one, other)


@pytest.mark.parametrize("classes", [0, 3])
def test_interpolation_starts_and_ends_at_the_reconstructions(classes: int) -> None:
    model = tiny_vae(latents=2, levels=17, classes=classes)
    a, b = torch.randint(0, 17, (2, 3, 1, 4, 4), dtype=torch.uint8, generator=_generator())
    walk = model.interpolate(a, b, 5)
    assert torch.equal(walk[:, 0], model.reconstruct(a))
    assert torch.equal(walk[:, -1], model.reconstruct(b))


def test_dense_layers_take_images_of_any_size() -> None:
    model = Vae(
        (1, 3, 5), 2, latents=2, channels=6, dropout=0, beta=1, decoder="categorical", importance_samples=2,
        network="dense",
    )  # fmt: skip
    assert model.sample(4, _generator()).shape == (4, 1, 3, 5)


def test_sizes_that_cannot_be_halved_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="6x8 pixels are not multiples of 4"):
        Vae((1, 6, 8), 2, latents=1, channels=1, dropout=0, beta=1, decoder="logistic", importance_samples=1)


def _mixed(k: int = 4) -> Vae:
    """With a prior of two unequal Gaussians in two dimensions."""
    model = tiny_vae("logistic", latents=2, levels=17, k=k, components=2)
    model.weights.copy_(torch.tensor([0.7, 0.3]))
    model.means.copy_(torch.tensor([[-1.0, 0.0], [2.0, 1.0]]))
    model.factors.copy_(torch.tensor([[[1.0, 0.0], [0.5, 0.7]], [[0.4, 0.0], [0.0, 0.8]]]))
    return model


def _scipy_prior(model: Vae, z: Tensor) -> Tensor:
    covariances = model.factors @ model.factors.transpose(1, 2)
    parts = zip(model.weights.tolist(), model.means, covariances, strict=True)
    density = sum(w * stats.multivariate_normal(m.numpy(), c.numpy()).pdf(z.numpy()) for w, m, c in parts)
    return torch.from_numpy(density)


def test_with_a_mixture_as_prior_the_bound_approaches_the_integral_over_it() -> None:
    model = _mixed(k=5000)
    x = torch.randint(0, 17, (2, 1, 4, 4), dtype=torch.uint8, generator=_generator(3))
    axis = torch.linspace(-6, 6, 121)
    z = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        bound = model.log_prob(x, _generator()).double()
        likelihood = torch.stack([model.log_likelihood(one.expand(len(z), 1, 4, 4), z) for one in x]).double()
    integral = (likelihood.exp() * _scipy_prior(model, z.double())).sum(1) * 0.1**2
    torch.testing.assert_close(bound, integral.log(), rtol=0, atol=0.05)


def test_latents_are_drawn_from_the_mixture() -> None:
    model = _mixed()
    z = model._draw_code(torch.zeros(20_000).long(), _generator())
    mean = model.weights @ model.means
    torch.testing.assert_close(z.mean(0), mean, rtol=0, atol=0.05)
    assert (z[:, 0] > 1).float().mean().item() == pytest.approx(
        0.7 * stats.norm(-1, 1).sf(1) + 0.3 * stats.norm(2, 0.4).sf(1), abs=0.01
    )


def test_finishing_fits_the_prior_to_draws_from_the_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two groups of images, encoded with a known spread: two Gaussians, each the spread around its group."""
    model = tiny_vae("logistic", latents=2, levels=17, components=2)
    centres, spread = torch.tensor([[-3.0, 1.0], [3.0, 0.0]]), torch.tensor([0.5, 0.2])

    def posterior(x: Tensor) -> tuple[Tensor, Tensor]:
        return centres[x[:, 0, 0, 0].long()], 2 * spread.log().expand(len(x), 2)

    x = (torch.arange(3000) % 3 == 0).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    assert model.mixture.log_prob(torch.zeros(1, 2)).item() == pytest.approx(-math.log(2 * math.pi))  # standard normal
    monkeypatch.setattr(model, "posterior", posterior)
    model.finish(x, torch.zeros(3000).long(), _generator())
    order = model.means[:, 0].argsort()
    torch.testing.assert_close(model.weights[order], torch.tensor([2 / 3, 1 / 3]), rtol=0, atol=1e-3)
    torch.testing.assert_close(model.means[order], centres, rtol=0, atol=0.05)
    found = model.factors @ model.factors.transpose(1, 2)
    torch.testing.assert_close(found, torch.diag(spread.square()).expand(2, 2, 2), rtol=0, atol=0.02)


def test_says_that_its_prior_is_a_mixture_if_it_is() -> None:
    assert tiny_vae().note == ""
    assert tiny_vae(components=3).note.startswith("Its prior is a mixture of 3 Gaussians")


def test_a_dense_network_takes_no_blocks() -> None:
    with pytest.raises(ValueError, match="blocks are for convolutional networks"):
        Vae(
            (1, 4, 4), 2, latents=1, channels=2, dropout=0, beta=1, decoder="logistic", importance_samples=1,
            network="dense", blocks=1,
        )  # fmt: skip


def test_a_dense_decoder_begins_with_the_pixels_own_distributions() -> None:
    model = Vae(
        (1, 4, 4), 2, latents=2, channels=3, dropout=0, beta=1, decoder="categorical", importance_samples=1,
        network="dense",
    )  # fmt: skip
    x = (torch.rand(1000, 1, 4, 4, generator=_generator(0)) < 0.05).to(torch.uint8)
    model.initialise(x, _generator(0))
    with torch.no_grad():
        rates = model.levels_given(torch.zeros(1, 2)).exp()[0, 1]
    assert rates.mean() < 0.12  # 0.5 without
