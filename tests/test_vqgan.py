"""VQ-GAN: the adaptive weight by hand, what each player learns, and a bound that is that of the samples."""

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workflow.models.layers.adversarial import adaptive_weight, hinge_loss
from workflow.models.layers.pixels import Decoder, PixelDistribution
from workflow.models.vqvae import VqVae

Y = torch.empty(0, dtype=torch.long)  # classes, which a model of p(x) does not look at


def _generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def _model(*, adversarial: float = 0.5, perceptual: float = 0.2, **others: object) -> VqVae:
    torch.manual_seed(1)
    options: dict[str, object] = {
        "codes": 6,
        "code_size": 3,
        "decay": 0.9,
        "commitment": 0.25,
        "prior": "transformer",
        **others,
    }
    model = VqVae(
        (1, 8, 8), 5, channels=4, prior_channels=6, prior_layers=2, dropout=0.2,
        adversarial=adversarial, perceptual=perceptual, **options,  # type: ignore[arg-type]
    )  # fmt: skip
    return model.eval()


def _images(n: int = 16) -> Tensor:
    return torch.randint(0, 5, (n, 1, 8, 8), dtype=torch.uint8, generator=_generator(7))


def test_adaptive_weight_is_the_ratio_of_gradients_by_hand() -> None:
    """Of a last layer w: for |w a - t|² the gradient is 2 (w a - t) aᵀ, for c · w a it is c aᵀ."""
    w, a, t, c = (torch.randn(size, generator=_generator(i), dtype=torch.float64) for i, size in enumerate(
        ((3, 4), (4,), (3,), (3,))
    ))  # fmt: skip
    w.requires_grad_()
    error = w @ a - t
    weight = adaptive_weight(error.square().sum(), (c * (w @ a)).sum(), w)
    expected = 2 * error.norm() * a.norm() / (c.norm() * a.norm() + 1e-6)
    torch.testing.assert_close(weight, expected.detach(), rtol=1e-12, atol=0)
    assert not weight.requires_grad


@pytest.mark.parametrize("decoder", ["categorical", "logistic"])
def test_gradient_at_the_last_layer_is_put_together_by_the_weights(decoder: Decoder) -> None:
    """The losses written out, each with its own backward pass to the decoder's last convolution."""
    model, x = _model(decoder=decoder), _images()
    last, critic = model.decoder[-2], model.critic
    assert isinstance(last, nn.Conv2d)
    assert critic is not None
    terms = model.loss(x, Y, "coder", _generator())
    (found,) = torch.autograd.grad(terms["loss"], last.weight)

    def gradient(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, last.weight, retain_graph=True)[0]

    pixels = model.pixels(model.indices(x))
    shown = model.distribution.smooth_mean(pixels)
    of_real, of_fake = critic[:-1](x.float() / 2 - 1), critic[:-1](shown)
    length = -model.distribution.log_prob(pixels, x).mean()
    distance = ((of_real - of_fake) ** 2).sum() / len(x)
    fooling = gradient(-critic(shown).sum() / len(x))
    rest = gradient(length) + 0.2 * gradient(distance)
    weight = rest.norm() / (fooling.norm() + 1e-6)
    torch.testing.assert_close(terms["adaptive_weight"], weight, rtol=1e-4, atol=0)
    assert (found - rest - 0.5 * weight * fooling).norm() < 1e-4 * rest.norm()


@pytest.mark.parametrize("decoder", ["categorical", "logistic"])
def test_smooth_mean_is_the_mean_over_levels(decoder: Decoder) -> None:
    distribution = PixelDistribution(decoder, 5)
    numbers = torch.randn(3, distribution.outputs, 1, 4, 4, generator=_generator())
    level = torch.linspace(-1, 1, 5).view(1, 5, 1, 1, 1)
    expected = (distribution.log_levels(numbers).exp() * level).sum(1)
    torch.testing.assert_close(distribution.smooth_mean(numbers), expected, rtol=1e-4, atol=1e-5)


def test_the_critic_tells_images_from_their_reconstructions() -> None:
    model, x = _model(), _images()
    assert model.critic is not None
    terms = model.loss(x, Y, "critic", _generator())
    fake = model.distribution.smooth_mean(model.pixels(model.indices(x)))
    on_real, on_fake = model.critic(x.float() / 2 - 1), model.critic(fake)
    torch.testing.assert_close(terms["loss"], F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean())
    right = (on_real > 0).float().mean(), (on_fake < 0).float().mean()
    assert (terms["accuracy_real"], terms["accuracy_fake"]) == right


def test_hinge_loss_by_hand() -> None:
    loss = hinge_loss(torch.tensor([[2.0], [0.5], [-1.0]]), torch.tensor([[-3.0], [0.0]]))
    assert loss.item() == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 1) / 2)


@pytest.mark.parametrize("player", ["critic", "coder"])
def test_each_player_learns_alone(player: str) -> None:
    model = _model().train()
    assert model.turns == ("critic", "coder")
    mine = {id(parameter) for parameter in model.players[player].parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in mine)
    model.loss(_images(), Y, player, _generator())["loss"].backward()
    assert all((p.grad is not None and bool(p.grad.any())) == (id(p) in mine) for p in model.parameters())


def test_the_prior_and_the_distance_of_features_teach_only_their_own_parts() -> None:
    model = _model().train()

    def taught(term: str) -> set[str]:
        model.zero_grad()
        model.loss(_images(), Y, "coder", _generator())[term].backward()
        return {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}

    assert taught("prior") == {"prior"}
    assert {"encoder", "decoder"} <= taught("perceptual") <= {"encoder", "decoder", "critic"}


def test_validation_is_by_the_bound_of_what_is_drawn() -> None:
    model, x = _model(), _images()
    with torch.no_grad():
        expected = -model.log_prob(x, _generator()).mean()
        torch.testing.assert_close(model.validate(x, Y, _generator())["loss"], expected)
    assert "draws" in model.note
    assert model.title == "VQ-GAN"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"adversarial": 0.0}, "perceptual needs a critic"),
        ({"fsq": [5, 4]}, "either fsq or codes, code_size, decay and commitment"),
        ({"codes": None}, "either fsq or codes, code_size, decay and commitment"),
        ({"prior_passes": 2}, "are of a masked prior"),
        ({"prior": "masked", "prior_passes": 5}, "prior_passes 5 exceeds the codes of an image \\(4\\)"),
        ({"prior": "masked", "prior_temperature": 1.0}, "temperature is for the order"),
    ],
)
def test_options_that_do_not_agree_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        _model(**options)  # type: ignore[arg-type]
