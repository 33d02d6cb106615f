"""VQ-VAE-2: both levels matter, the top informs the bottom, gradients pass the codes, and the bound has three parts."""

import itertools
import math

import pytest
import torch
from torch import Generator, Tensor

from workflow.data.tensors import ImageSet
from workflow.models.layers.codes import TRIAL
from workflow.models.vqvae2 import VqVae2
from workflow.params import Train
from workflow.training.loop import fit

Y = torch.empty(0, dtype=torch.long)  # classes, at which it does not look
CODES, SIZE = 5, 3


def _generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def _model(shape: tuple[int, int, int] = (1, 8, 8), levels: int = 3, codes: int = CODES) -> VqVae2:
    """A tiny model, its weights enlarged and its encodings normalised, so that images differ in their codes."""
    torch.manual_seed(1)
    model = VqVae2(
        shape, levels, codes=codes, code_size=SIZE, decay=0.9, commitment=0.25, channels=4,
        prior_channels=16, prior_layers=1, dropout=0.2,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in (*model.decoder.parameters(), *model.enlarge_top.parameters(), *model.prior.parameters()):
            parameter.mul_(2)
        for layers in (model.to_top, model.to_bottom):
            normalisation = layers[-1]
            assert isinstance(normalisation, torch.nn.BatchNorm2d)
            normalisation.momentum = 1.0  # takes over this batch's mean and variance
            model.train().coded(_images(model, 64))
            normalisation.momentum = 0.1
            model.eval()
    return model.eval()


def _images(model: VqVae2, n: int = 16) -> Tensor:
    return torch.randint(0, model.levels, (n, *model.shape), dtype=torch.uint8, generator=_generator(7))


def _pairs(model: VqVae2) -> tuple[Tensor, Tensor]:
    """All pairs of grids of codes."""
    top, bottom = math.prod(model.top_grid), math.prod(model.bottom_grid)
    words = torch.tensor(list(itertools.product(range(model.codes), repeat=top + bottom)))
    return words[:, :top].reshape(-1, *model.top_grid), words[:, top:].reshape(-1, *model.bottom_grid)


@pytest.fixture(scope="module")
def trained() -> tuple[VqVae2, Tensor]:
    """A model after a few epochs on pictures of bars, and others of the kind: a place at random, and a shade."""
    torch.manual_seed(0)
    generator, x = _generator(3), torch.zeros(600, 1, 8, 8, dtype=torch.uint8)
    places, shades = (torch.randint(low, high, (600,), generator=generator) for low, high in ((0, 8), (1, 4)))
    for picture, place, shade in zip(x, places, shades, strict=True):
        picture[0, :, place] = 2 * shade
        picture[0, place] = shade
    model = VqVae2(
        (1, 8, 8), 7, codes=8, code_size=4, decay=0.9, commitment=0.25, channels=8,
        prior_channels=16, prior_layers=1, dropout=0.0,
    )  # fmt: skip
    settings = Train(epochs=6, batch_size=25, lr=0.01, valid_every=6)
    train, valid = (ImageSet(part, torch.zeros(len(part), dtype=torch.long)) for part in (x[:500], x[500:]))
    model.load_state_dict(fit(model, train, valid, settings, 0, lambda _: None).state)
    return model.eval(), x[500:]


def _mode(model: VqVae2, top: Tensor, bottom: Tensor) -> Tensor:
    """The most probable images given the codes."""
    with torch.no_grad():
        return model.decoded(top, bottom).argmax(1)


def _error(model: VqVae2, x: Tensor, top: Tensor, bottom: Tensor) -> float:
    """Mean squared error of what the codes decode to, on the scale of the levels."""
    return (_mode(model, top, bottom).double() - x.double()).square().mean().item()


def test_bottom_grid_has_twice_the_tops_height_and_width() -> None:
    model = _model((1, 8, 12))
    top, bottom = model.indices(_images(model))
    assert (top.shape, bottom.shape) == ((16, 2, 3), (16, 4, 6))


def test_decoding_needs_both_levels(trained: tuple[VqVae2, Tensor]) -> None:
    """Either level's codes taken from other images, or all the same, make the reconstruction worse."""
    model, x = trained
    top, bottom = model.indices(x)
    error = _error(model, x, top, bottom)
    other = torch.arange(len(x)).roll(1)
    for ablated in (top[other], torch.zeros_like(top)):
        assert (_mode(model, ablated, bottom) != _mode(model, top, bottom)).any()
        assert _error(model, x, ablated, bottom) > 1.2 * error
    for ablated in (bottom[other], torch.zeros_like(bottom)):
        assert _error(model, x, top, ablated) > 2 * error
    assert error < 0.5 * x.double().var()


def test_bottom_is_encoded_in_the_light_of_the_tops_codes() -> None:
    """With other vectors for the top's codes, the same image's bottom encodings are others; the top's are the same."""
    model = _model()
    with torch.no_grad():
        top, bottom = model.coded(_images(model))
        order = torch.tensor([1, 2, 3, 4, 0])
        chosen = model.top.vectors[order]
        model.top.lookup = lambda indices: chosen[indices].movedim(-1, 1)  # type: ignore[method-assign]
        other_top, other_bottom = model.coded(_images(model))
    assert torch.equal(top.z, other_top.z)
    assert (bottom.z - other_bottom.z).abs().mean() > 1e-3


def test_codes_are_the_nearest_of_each_levels_own_codebook() -> None:
    model = _model()
    with torch.no_grad():
        for level, codebook in zip(model.coded(_images(model)), (model.top, model.bottom), strict=True):
            latents = level.z.movedim(1, -1)
            distances = (latents.unsqueeze(-2) - codebook.vectors).norm(dim=-1)
            assert torch.equal(level.indices, distances.argmin(-1))
            assert len(level.indices.unique()) > 1


def test_decoders_gradient_reaches_both_encoders_as_if_nothing_were_quantised() -> None:
    model, x = _model(), _images(_model())
    model.commitment = 0.0
    seen: dict[str, Tensor] = {}
    model.to_bottom.register_forward_hook(lambda _module, _inputs, output: seen.update(bottom=output))
    model.decoder.register_forward_pre_hook(lambda _module, inputs: seen.update(decoded=inputs[0]))
    loss = model.loss(x, Y, "model", _generator())["loss"]
    for values in seen.values():
        values.retain_grad()
    loss.backward()
    into_bottom, into_decoder = seen["bottom"].grad, seen["decoded"].grad
    assert into_bottom is not None
    assert into_decoder is not None
    assert into_bottom.any()
    assert torch.equal(into_bottom, into_decoder[:, SIZE:])
    assert not torch.equal(seen["bottom"], seen["decoded"][:, SIZE:])


def test_each_term_teaches_its_own_part() -> None:
    model = _model().train()

    def taught(term: str) -> set[str]:
        model.zero_grad()
        model.loss(_images(model), Y, "model", _generator())[term].backward()
        return {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}

    encoders = {"encoder", "to_top", "to_bottom", "decode_top"}
    assert taught("reconstruction") == encoders | {"enlarge_top", "decoder"}
    assert taught("commitment") == encoders
    assert taught("prior_top") == taught("prior_bottom") == {"prior"}


def test_loss_is_the_sum_of_its_terms() -> None:
    model = _model()
    x = _images(model)
    with torch.no_grad():
        terms = model.loss(x, Y, "model", _generator())
        distances = [
            torch.cdist(level.z.movedim(1, -1).flatten(0, 2), codebook.vectors).amin(1)
            for level, codebook in zip(model.coded(x), (model.top, model.bottom), strict=True)
        ]
    torch.testing.assert_close(terms["commitment"], torch.cat(distances).square().sum() / len(x))
    parts = terms["reconstruction"] + terms["prior_top"] + terms["prior_bottom"]
    torch.testing.assert_close(terms["loss"], parts + 0.25 * terms["commitment"])


def test_codebooks_move_only_while_training() -> None:
    model = _model()
    before = [codebook.vectors.clone() for codebook in (model.top, model.bottom)]
    with torch.no_grad():
        model.loss(_images(model), Y, "model", _generator())
        model.validate(_images(model), Y, _generator())
    assert all(torch.equal(old, book.vectors) for old, book in zip(before, (model.top, model.bottom), strict=True))
    model.train().loss(_images(model), Y, "model", _generator())
    assert not any(torch.equal(old, book.vectors) for old, book in zip(before, (model.top, model.bottom), strict=True))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 8)], ids=["grey", "colour"])
def test_bound_is_the_sum_of_its_three_terms_computed_by_hand(shape: tuple[int, int, int]) -> None:
    model = _model(shape)
    x = _images(model, 4)
    with torch.no_grad():
        bound = model.log_prob(x, _generator())
        tops, bottoms = model.indices(x)
        expected = []
        for image, top, bottom in zip(x, tops, bottoms, strict=True):
            vectors = model.top.vectors[top].movedim(-1, 0)[None], model.bottom.vectors[bottom].movedim(-1, 0)[None]
            pixels = model.decoder(torch.cat([model.enlarge_top(vectors[0]), vectors[1]], 1))[0].log_softmax(0)
            words = torch.cat([top.flatten(), bottom.flatten() + CODES])
            logits = model.prior(words[None])[0]
            places, half = top.numel(), (slice(0, CODES), slice(CODES, 2 * CODES))
            logs = [logits[half[i >= places], i].log_softmax(0)[words[i] % CODES] for i in range(len(words))]
            of_pixels = pixels.gather(0, image.long()[None]).sum()
            expected.append(
                torch.stack([of_pixels, torch.stack(logs[:places]).sum(), torch.stack(logs[places:]).sum()])
            )
        parts = torch.stack(expected)
        torch.testing.assert_close(bound, parts.sum(1), rtol=1e-5, atol=1e-4)
        scores = model.validate(x, Y, _generator())
    for name, part in zip(("reconstruction", "prior_top", "prior_bottom"), parts.T, strict=True):
        torch.testing.assert_close(scores[name], -part.mean(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(scores["loss"], -bound.mean())


@pytest.mark.parametrize("on_trial", [False, True], ids=["all in use", "some on trial"])
def test_both_priors_sum_to_one_and_leave_out_codes_on_trial(on_trial: bool) -> None:
    """Images of 4x4: one code of the top, four of the bottom, three values each."""
    model = _model((1, 4, 4), codes=3)
    if on_trial:
        model.top.counts[0] = model.bottom.counts[1] = TRIAL
    top, bottom = _pairs(model)
    with torch.no_grad():
        of_top, of_bottom = (part.double().exp() for part in model.prior_log_prob(top, bottom))
    for code in range(3):
        mine = top.flatten() == code
        given = on_trial and code == 0
        assert of_top[mine].unique().numel() == 1
        assert (of_top[mine][0] == 0).item() == given
        assert of_bottom[mine].sum().item() == pytest.approx(1, rel=1e-5)
    assert of_top[:: 3**4].sum().item() == pytest.approx(1, rel=1e-5)
    assert (of_bottom[(bottom == 1).flatten(1).any(1)] == 0).all() == on_trial
    assert (of_bottom[: 3**4] - of_bottom[3**4 : 2 * 3**4]).abs().max() > 1e-3  # the top makes a difference


def test_grids_are_drawn_as_often_as_the_priors_say_and_none_is_on_trial() -> None:
    model = _model((1, 4, 4), codes=3)
    model.bottom.counts[1] = TRIAL
    top, bottom = _pairs(model)
    n = 20_000
    with torch.no_grad():
        expected = torch.stack(model.prior_log_prob(top, bottom)).sum(0).exp()
    drawn = model.draw_indices(n, _generator())
    words = torch.cat([grid.flatten(1) for grid in drawn], 1)
    share = (words * 3 ** torch.arange(4, -1, -1)).sum(1).bincount(minlength=3**5) / n
    assert ((share - expected).abs() <= 5 * (expected / n).sqrt() + 5 / n).all()
    assert drawn[1].unique().tolist() == [0, 2]
    assert all(torch.equal(a, b) for a, b in zip(drawn, model.draw_indices(n, _generator()), strict=True))


def test_bound_is_below_the_density_of_the_draws_which_sums_to_one() -> None:
    """All 65,536 binary images of 4x4 under all 243 pairs of grids."""
    model = _model((1, 4, 4), levels=2, codes=3)
    x = ((torch.arange(2**16)[:, None] >> torch.arange(16)) & 1).to(torch.uint8).view(-1, 1, 4, 4)
    with torch.no_grad():
        bound = torch.cat([model.log_prob(part, _generator()) for part in x.split(8192)]).double()
        top, bottom = _pairs(model)
        pixels = model.pixels(model.top.lookup(top), model.bottom.lookup(bottom))
        ink = pixels.double().log_softmax(1).flatten(2)  # (pairs, 2, 16)
        flat = x.flatten(1).double()
        prior = torch.stack(model.prior_log_prob(top, bottom)).sum(0).double()
        density = (flat @ ink[:, 1].T + (1 - flat) @ ink[:, 0].T + prior).logsumexp(1)
    assert density.exp().sum().item() == pytest.approx(1, rel=1e-5)
    assert (bound <= density + 1e-5).all()
    assert 1e-4 < bound.exp().sum().item() < 0.99


def test_interpolations_begin_and_end_at_the_reconstructions() -> None:
    model = _model()
    a, b = _images(model).chunk(2)
    walks = model.interpolate(a, b, 4)
    assert torch.equal(walks[:, 0], model.reconstruct(a))
    assert torch.equal(walks[:, -1], model.reconstruct(b))


def test_features_are_the_codes_vectors() -> None:
    model = _model()
    x = _images(model, 3)
    top, bottom = model.indices(x)
    of_top, of_bottom = model.encode(x).split([SIZE * 4, SIZE * 16], 1)
    vectors = torch.cat([of_top.view(3, SIZE, 4), of_bottom.view(3, SIZE, 16)], 2)
    indices = torch.cat([top.flatten(1), bottom.flatten(1)], 1)
    for n, place in itertools.product(range(3), range(20)):
        codebook = model.top if place < 4 else model.bottom
        assert torch.equal(vectors[n, :, place], codebook.vectors[indices[n, place]])


def test_sizes_that_cannot_be_halved_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="6x8 pixels are not multiples of 4"):
        _model((1, 6, 8))
