"""Improved diffusion: learned variances against the forward process, velocity against the noise that it stands for."""

import itertools
import math

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Normal, kl_divergence

from tests.tiny_models import tiny_ddpm
from workflow.models.ddpm import Ddpm
from workflow.models.layers.common import to_unit
from workflow.models.layers.diffusion import at_velocity, backward_step, diffuse, velocity

Y = torch.empty(0, dtype=torch.long)  # classes, which a model of p(x) does not look at


def _generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def _normal(*size: int, seed: int = 3) -> Tensor:
    return torch.randn(size, dtype=torch.float64, generator=_generator(seed))


def _images(n: int) -> Tensor:
    return torch.randint(0, 17, (n, 1, 4, 4), dtype=torch.uint8, generator=_generator(7))


def _variances(model: Ddpm, t: int, s: int) -> tuple[float, float]:
    """Of the step from x_s to x_t, and of x_s given x_t and x_0, by conditioning the Gaussian (x_s, x_t) given x_0."""
    of_s = 1 - math.prod(1 - beta for beta in model.betas.tolist()[:s])
    kept = math.prod(1 - beta for beta in model.betas.tolist()[s:t])
    of_t = kept * of_s + 1 - kept
    return 1 - kept, of_s - (math.sqrt(kept) * of_s) ** 2 / of_t


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0, 1.4])
def test_learned_variance_lies_between_those_of_the_posterior_and_of_the_step(share: float) -> None:
    """On a logarithmic scale, for steps of any length: eq. 15 of Nichol & Dhariwal."""
    model = tiny_ddpm(25, "cosine", variances="learned")
    v = torch.full((1, 1, 4, 4), share, dtype=torch.float64)
    for t, s in [*itertools.pairwise(range(25, 0, -1)), (25, 20), (20, 4)]:
        most, least = _variances(model, t, s)
        found = model.reverse_deviation(torch.tensor([t]), torch.tensor([s]), 1.0, v).square()
        torch.testing.assert_close(found, torch.full_like(v, most**share * least ** (1 - share)))
        half = model.reverse_deviation(torch.tensor([t]), torch.tensor([s]), 0.5, v).square()
        torch.testing.assert_close(half, found / 4)
    first, second = _variances(model, 1, 0)[0], _variances(model, 2, 1)[1]
    torch.testing.assert_close(
        model.last_deviation(v).square(), torch.full_like(v, first**share * second ** (1 - share))
    )


def test_terms_with_learned_variances_are_divergences_of_the_gaussians_that_are_drawn() -> None:
    model, x, noise, t = tiny_ddpm(25, "cosine", variances="learned"), _images(25), _normal(25, 1, 4, 4), range(1, 26)
    times = torch.tensor(t)
    with torch.no_grad():
        simple, found = model.terms(x, times, noise, None)
        x_0 = to_unit(x, 17).double()
        x_t = diffuse(x_0, noise, model.at(times))
        predicted = model.predict(x_t, times)
    assert predicted.share is not None
    assert predicted.share.std() > 0.01  # of each pixel, by what the network sees
    torch.testing.assert_close(simple, 0.5 * (noise - predicted.noise).square().sum((1, 2, 3)))
    for i in t[1:]:
        one = slice(i - 1, i)
        a = model.at(times[one]), model.at(times[one] - 1)
        mean, deviation = backward_step(x_t[one], x_0[one], *a, 1.0)
        believed, _ = backward_step(x_t[one], predicted.clean[one], *a, 1.0)
        drawn = model.reverse_deviation(times[one], times[one] - 1, 1.0, predicted.share[one])
        expected = kl_divergence(Normal(mean, deviation), Normal(believed, drawn)).sum()
        torch.testing.assert_close(found[i - 1], expected)
    last = Normal(predicted.clean[0], model.last_deviation(predicted.share[0]))
    high = torch.where(x[0] == 16, 1.0, last.cdf(x_0[0] + 1 / 16))
    low = torch.where(x[0] == 0, 0.0, last.cdf(x_0[0] - 1 / 16))
    torch.testing.assert_close(found[0], -(high - low).log().sum())


def test_the_bound_teaches_variances_and_nothing_but_variances() -> None:
    """Half of L_hybrid: the gradient of the mean is that of L_simple, of the variances λ/2 times that of the bound."""
    model, x = tiny_ddpm(25, "cosine", variances="learned"), _images(50)
    outputs = list[Tensor]()
    model.network.register_forward_hook(lambda *found: outputs.append(found[2]))
    losses = model.loss(x, Y, "model", _generator())
    (of_loss,) = torch.autograd.grad(losses["loss"], outputs[0], retain_graph=True)
    t = torch.arange(50) // 2 + 1  # one in each half of each time
    generator = _generator()
    torch.rand(50, generator=generator, dtype=torch.float64)
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    simple, term = model.terms(x, t, noise, None)
    (of_simple,) = torch.autograd.grad(simple.mean(), outputs[1], retain_graph=True)
    (of_bound,) = torch.autograd.grad(25 * term.mean(), outputs[1])
    assert of_simple[:, :1].abs().min() > 0
    assert of_bound[:, 1:].abs().min() > 0
    assert not of_simple[:, 1:].any()
    assert not of_bound[:, :1].any()
    torch.testing.assert_close(of_loss, of_simple + 0.0005 * of_bound)
    bound = model.prior_term(x).mean() + 25 * term.mean()
    torch.testing.assert_close(losses["loss"], simple.mean() + 0.0005 * bound)
    torch.testing.assert_close(losses["bound"], bound.detach())


def test_velocity_is_the_derivative_by_the_angle_and_tells_image_and_noise() -> None:
    x, noise = 0.3 * _normal(1, 1, 4, 4).clamp(-3, 3), _normal(1, 1, 4, 4, seed=4)
    for angle in (0.1, 0.8, 1.5):
        a = torch.tensor(math.cos(angle) ** 2, dtype=torch.float64)
        x_t, v = diffuse(x, noise, a), velocity(x, noise, a)
        after = diffuse(x, noise, torch.tensor(math.cos(angle + 1e-6) ** 2, dtype=torch.float64))
        torch.testing.assert_close((after - x_t) / 1e-6, v, rtol=1e-4, atol=1e-5)
        for found, expected in zip(at_velocity(x_t, v, a), (x, noise), strict=True):
            torch.testing.assert_close(found, expected)
    assert at_velocity(x, 9 * torch.ones_like(x), a)[0].min() == -1


def test_a_network_of_velocities_is_the_model_of_the_noises_they_stand_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bound, samples and interpolations; the loss at time t is that of noises divided by ᾱ_t."""
    of_noise, of_velocity = (tiny_ddpm(25, "cosine", prediction=target) for target in ("noise", "velocity"))
    network = of_noise.network.forward

    def predict(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        noise, a = network(x, t, y), of_noise.at(t)
        return velocity((x - (1 - a).sqrt() * noise) / a.sqrt(), noise, a)

    monkeypatch.setattr(of_velocity.network, "forward", predict)
    x, t = _images(6), torch.arange(1, 25, 4)
    with torch.no_grad():
        torch.testing.assert_close(of_velocity.log_prob(x, _generator()), of_noise.log_prob(x, _generator()))
        simple, _ = of_noise.terms(x, t, noise := _normal(6, 1, 4, 4), None)
        torch.testing.assert_close(of_velocity.terms(x, t, noise, None)[0], simple / of_noise.at(t).flatten())
    assert torch.equal(of_velocity.sample(6, _generator()), of_noise.sample(6, _generator()))
    walks = [model.interpolate(x[:3], x[3:], 4) for model in (of_noise, of_velocity)]
    assert torch.equal(*walks)


def test_min_snr_weighs_velocities_as_it_weighs_the_noises_they_stand_for() -> None:
    """With weights w of the error of x_0, that of velocities is w / (SNR + 1) (Hang et al. 2023)."""
    model, x = tiny_ddpm(10, "cosine", prediction="velocity", min_snr=2.0), _images(40)
    generator = _generator()
    t = torch.arange(40) // 4 + 1
    torch.rand(40, generator=generator, dtype=torch.float64)
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        predicted = model.network(diffuse(to_unit(x, 17).double(), noise, model.at(t)), t, None)
        _, a = model.terms(x, t, noise, None), model.at(t)
        error = (velocity(to_unit(x, 17).double(), noise, a) - predicted) * (1 - a).sqrt()  # of x_0
        snr = a / (1 - a)
        expected = (0.5 * snr.clamp(max=2) * error.square()).sum((1, 2, 3)).mean()
        torch.testing.assert_close(model.loss(x, Y, "model", _generator())["loss"], expected)


def test_variants_say_what_they_are() -> None:
    learned, of_velocity = tiny_ddpm(variances="learned"), tiny_ddpm(prediction="velocity")
    assert "learned, for each pixel of each image (Nichol & Dhariwal 2021)" in learned.note
    assert (learned.title, of_velocity.title) == ("Diffusion (learned variances)", "Diffusion (velocity)")
    assert ("v_θ" in of_velocity.objective, "L_vlb" in of_velocity.objective) == (True, False)
    both = tiny_ddpm(variances="learned", prediction="velocity")
    assert both.title == "Diffusion (velocity, learned variances)"
    assert both.objective == of_velocity.objective + ";  for Σ_θ = exp(s_θ log βₜ + (1 − s_θ) log β̃ₜ):  min ½ λ L_vlb"
