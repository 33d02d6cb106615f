"""VQ-VAE: the codebook against its formulas, gradients that go where they should, and the two-part bound."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Generator, Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from workflow.models.layers.codes import DEAD, TRIAL, Codebook, straight_through
from workflow.models.layers.common import to_unit
from workflow.models.layers.convolutions import ResidualBlock
from workflow.models.layers.pixels import Decoder
from workflow.models.layers.priors import PixelCnnPrior, Prior
from workflow.models.vqvae import VqVae

Y = torch.empty(0, dtype=torch.long)  # classes, which a model of p(x) does not look at

CODES, SIZE = 6, 3
PRIORS: tuple[Prior, ...] = ("pixelcnn", "transformer")  # with an exact density


def _generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def _codebook(decay: float = 0.9) -> Codebook:
    return Codebook(CODES, SIZE, decay).double()


def _latents(n: int, *, seed: int = 0) -> Tensor:
    return torch.randn(n, SIZE, 2, 4, generator=_generator(seed), dtype=torch.float64)


def _model(
    shape: tuple[int, int, int] = (1, 8, 8),
    levels: int = 3,
    codes: int = CODES,
    prior: Prior = "pixelcnn",
    *,
    decoder: Decoder = "categorical",
    blocks: int = 0,
) -> VqVae:
    """A tiny model, its weights enlarged and its encodings normalised, so that images differ in their codes."""
    torch.manual_seed(1)
    model = VqVae(
        shape, levels, codes=codes, code_size=SIZE, decay=0.9, commitment=0.25, channels=4,
        prior_channels=6, prior_layers=2, dropout=0.2, prior=prior, decoder=decoder, blocks=blocks,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in (*model.decoder.parameters(), *model.prior.parameters()):
            parameter.mul_(2)
        normalisation = model.encoder[-1]
        assert isinstance(normalisation, torch.nn.BatchNorm2d)
        normalisation.momentum = 1.0  # takes over this batch's mean and variance
        model.train().encoder(to_unit(_images(model, 64), levels))
        normalisation.momentum = 0.1
    return model.eval()


def _codebook_of(model: VqVae) -> Codebook:
    assert isinstance(model.codebook, Codebook)
    return model.codebook


def _images(model: VqVae, n: int = 16) -> Tensor:
    return torch.randint(0, model.levels, (n, *model.shape), dtype=torch.uint8, generator=_generator(7))


def _grids(model: VqVae) -> Tensor:
    """All grids of codes, int64 (codes ** (h w), h, w)."""
    height, width = model.grid
    grids = itertools.product(range(len(_codebook_of(model).counts)), repeat=height * width)
    return torch.tensor(list(grids)).view(-1, height, width)


def test_lookup_is_brute_force_among_the_available_codes() -> None:
    codebook, z = _codebook(), _latents(5)
    codebook.counts[1] = TRIAL
    for training in (True, False):
        choice = [k for k in range(CODES) if training or k != 1]
        indices = codebook.train(training).nearest(z)
        for n, i, j in itertools.product(range(5), range(2), range(4)):
            distances = {k: math.dist(z[n, :, i, j].tolist(), codebook.vectors[k].tolist()) for k in choice}
            assert indices[n, i, j] == min(distances, key=lambda k: distances[k])
            assert torch.equal(codebook.lookup(indices)[n, :, i, j], codebook.vectors[indices[n, i, j]])
        assert (1 in indices) == training


def test_straight_through_hands_the_gradient_on_exactly() -> None:
    z = _latents(2).requires_grad_()
    quantised = _latents(2, seed=1)
    out = straight_through(z, quantised)
    torch.testing.assert_close(out, quantised, rtol=1e-15, atol=1e-15)
    weights = _latents(2, seed=2)
    (out * weights).sum().backward()
    assert z.grad is not None
    assert torch.equal(z.grad, weights)


def test_decoders_gradient_reaches_the_encoder_as_if_nothing_were_quantised() -> None:
    """The gradient of the reconstruction at the encoder's output is the one at the decoder's input."""
    model = _model()
    model.commitment = 0.0
    seen: list[Tensor] = []
    model.encoder.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    model.decoder.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    loss = model.loss(_images(model), Y, "model", _generator())["loss"]
    encoded, decoded = seen
    assert not torch.equal(encoded, decoded)
    encoded.retain_grad()
    decoded.retain_grad()
    loss.backward()
    assert encoded.grad is not None
    assert encoded.grad.any()
    assert decoded.grad is not None
    assert torch.equal(encoded.grad, decoded.grad)


def test_each_term_teaches_its_own_part() -> None:
    model = _model().train()

    def taught(term: str) -> set[str]:
        model.zero_grad()
        model.loss(_images(model), Y, "model", _generator())[term].backward()
        return {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}

    assert taught("reconstruction") == {"encoder", "decoder"}
    assert taught("commitment") == {"encoder"}
    assert taught("prior") == {"prior"}


def test_loss_is_the_sum_of_its_terms() -> None:
    model = _model()
    x = _images(model)
    with torch.no_grad():
        terms = model.loss(x, Y, "model", _generator())
        z = model.encoder(x.float() - 1)  # three levels, on the scale -1..1
    distances = torch.cdist(z.movedim(1, -1).flatten(0, 2), _codebook_of(model).vectors).amin(1)
    torch.testing.assert_close(terms["commitment"], distances.square().sum() / len(x))
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + 0.25 * terms["commitment"] + terms["prior"])


def test_codes_are_moving_averages_of_the_latents_that_choose_them() -> None:
    codebook = _codebook(decay=0.75)
    counts, sums = [1.0] * CODES, [codebook.vectors[k].clone() for k in range(CODES)]
    for step in range(3):
        z = _latents(8, seed=step)
        indices = codebook.nearest(z)
        codebook.update(z, indices, _generator())
        for k in range(CODES):
            mine = z.movedim(1, -1)[indices == k]
            counts[k] = 0.75 * counts[k] + 0.25 * len(mine)
            sums[k] = 0.75 * sums[k] + 0.25 * mine.sum(0)
            assert counts[k] > DEAD  # none restarts
            torch.testing.assert_close(codebook.vectors[k], sums[k] / counts[k], rtol=1e-12, atol=1e-12)


def test_dead_codes_start_again_at_latents_of_the_batch_and_must_prove_themselves() -> None:
    codebook, z = _codebook(), _latents(8)
    codebook.vectors[2:4] = 100.0  # nothing is near
    codebook.sums[2:4], codebook.counts[2:4] = 100.0 * DEAD, DEAD
    before = codebook.vectors.clone()
    indices = codebook.nearest(z)
    codebook.update(z, indices, _generator())

    assert codebook.eval().available.tolist() == [True, True, False, False, True, True]
    assert codebook.train().available.all()
    latents = z.movedim(1, -1).flatten(0, 2)
    for k in range(CODES):
        nearest_latent = (latents - codebook.vectors[k]).norm(dim=1).min()
        assert (nearest_latent < 1e-12) == (k in (2, 3))
    assert not torch.equal(codebook.vectors, before)

    first_choice = torch.full_like(indices, 0)
    first_choice[0, 0, 0] = 2
    codebook.update(z, first_choice, _generator())
    assert codebook.eval().available[[2, 3]].tolist() == [True, False]


def test_restarts_depend_on_the_generator_alone() -> None:
    def vectors(seed: int) -> Tensor:
        torch.manual_seed(0)
        codebook = _codebook()
        codebook.counts[:] = 0.0
        torch.manual_seed(seed)
        codebook.update(_latents(8), torch.zeros(8, 2, 4, dtype=torch.long), _generator(3))
        return codebook.vectors

    assert torch.equal(vectors(1), vectors(2))


def test_codebook_moves_only_while_training() -> None:
    model = _model()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        model.loss(_images(model), Y, "model", _generator())
        model.validate(_images(model), Y, _generator())
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    model.train().loss(_images(model), Y, "model", _generator())
    assert not torch.equal(before["codebook.vectors"], _codebook_of(model).vectors)


def test_averaged_weights_come_with_the_newest_codebook() -> None:
    """As `train.ema` makes them."""
    model = _model()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(3):
        model.train().loss(_images(model), Y, "model", _generator())
        average.update_parameters(model)
    copy = average.module
    assert isinstance(copy, VqVae)
    for name, buffer in model.codebook.named_buffers():
        assert torch.equal(_codebook_of(copy).get_buffer(name), buffer)
        assert _codebook_of(copy).get_buffer(name) is not buffer


def test_perplexity_counts_the_codes_as_if_equally_used() -> None:
    model = _model()
    assert model.codebook.perplexity(torch.full((3, 2, 2), 4)).item() == pytest.approx(1)
    assert model.codebook.perplexity(torch.arange(CODES).view(1, 2, 3)).item() == pytest.approx(CODES)
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert model.codebook.perplexity(torch.tensor([[[0, 0], [0, 1]]])).item() == pytest.approx(expected)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("on_trial", [[], [1]], ids=["all in use", "one on trial"])
def test_priors_density_sums_to_one_and_leaves_out_codes_on_trial(prior: Prior, on_trial: list[int]) -> None:
    model = _model(codes=4, prior=prior)
    _codebook_of(model).counts[on_trial] = TRIAL
    grids = _grids(model)
    with torch.no_grad():
        probabilities = model.prior_log_prob(grids, _generator()).double().exp()
    assert probabilities.sum().item() == pytest.approx(1, rel=1e-5)
    assert probabilities.std() > 1e-3  # not all grids are alike
    assert not probabilities[torch.isin(grids, torch.tensor(on_trial)).any((1, 2))].any()


@pytest.mark.parametrize("prior", PRIORS)
def test_neither_prior_nor_encoder_uses_a_code_on_trial(prior: Prior) -> None:
    model = _model(codes=4, prior=prior)
    _codebook_of(model).counts[1] = TRIAL
    assert model.draw_indices(3000, _generator()).unique().tolist() == [0, 2, 3]
    assert 1 not in model.indices(_images(model, 200))


@pytest.mark.parametrize("prior", PRIORS)
def test_grids_are_drawn_as_often_as_the_prior_says_and_repeatably(prior: Prior) -> None:
    model = _model(codes=3, prior=prior)
    grids = _grids(model)
    with torch.no_grad():
        expected = model.prior_log_prob(grids, _generator()).exp()
    drawn = model.draw_indices(20_000, _generator())
    place = (drawn.flatten(1) * torch.tensor([27, 9, 3, 1])).sum(1)
    share = place.bincount(minlength=81) / len(drawn)
    assert ((share - expected).abs() < 5 * (expected / len(drawn)).sqrt() + 1e-4).all()
    assert expected.max() > 3 / 81
    assert torch.equal(drawn, model.draw_indices(20_000, _generator()))


def test_transformer_prior_reads_the_grid_in_rows() -> None:
    """The logits of a code change with those above it and to its left, and with no others."""
    model = _model((1, 8, 12), prior="transformer")
    grid = torch.zeros(1, 2, 3, dtype=torch.long)
    with torch.no_grad():
        before = model.prior(grid.flatten(1))
        for i, j in itertools.product(range(2), range(3)):
            other = grid.clone()
            other[0, i, j] = 1
            changed = (model.prior(other.flatten(1)) != before).any(1)[0]
            assert changed.tolist() == [place > 3 * i + j for place in range(6)]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 8)], ids=["grey", "colour"])
def test_bound_is_the_two_parts_computed_by_hand(shape: tuple[int, int, int]) -> None:
    model = _model(shape)
    x = _images(model, 5)
    with torch.no_grad():
        bound = model.log_prob(x, _generator())
        z = model.encoder(x.float() - 1)
        for n in range(5):
            latents = z[n].movedim(0, -1)
            grid = (latents.unsqueeze(-2) - _codebook_of(model).vectors).norm(dim=-1).argmin(-1)
            pixels = model.decoder(_codebook_of(model).vectors[grid].movedim(-1, 0).unsqueeze(0))[0].log_softmax(0)
            assert isinstance(model.prior, PixelCnnPrior)
            codes = model.prior(grid[None, None])[0].log_softmax(0)
            expected = sum(pixels[v, c, i, j] for (c, i, j), v in _entries(x[n]))
            expected += sum(codes[k, 0, i, j] for (i, j), k in _entries(grid))
            torch.testing.assert_close(bound[n], expected)
        scores = model.validate(x, Y, _generator())
        torch.testing.assert_close(scores["loss"], -bound.mean())
        torch.testing.assert_close(scores["loss"], scores["reconstruction"] + scores["prior"])


def test_a_logistic_decoder_gives_the_first_part_of_the_bound() -> None:
    """By SciPy: the mass of a logistic distribution between the edges of a level, tails included."""
    model = _model(levels=17, decoder="logistic")
    x = _images(model, 5)
    with torch.no_grad():
        indices = model.indices(x)
        mean, log_scale = model.decoder(model.codebook.lookup(indices)).double().unbind(1)
        bound = model.log_prob(x, _generator()).double()
        prior = model.prior_log_prob(indices, _generator()).double()
    low = torch.where(x == 0, -math.inf, (2 * x.double() - 1) / 16 - 1)
    high = torch.where(x == 16, math.inf, (2 * x.double() + 1) / 16 - 1)
    logistic = stats.logistic(mean.numpy(), log_scale.exp().numpy())
    mass = torch.from_numpy(logistic.cdf(high.numpy()) - logistic.cdf(low.numpy()))
    torch.testing.assert_close(bound, mass.log().flatten(1).sum(1) + prior, rtol=1e-4, atol=1e-4)
    draw, mode, mean_image = model.decodings(3, _generator())
    assert draw.shape == mode.shape == mean_image.shape == (3, 1, 8, 8)


def test_blocks_add_a_3x3_and_a_1x1_convolution_to_their_input() -> None:
    model = _model(blocks=2)
    found = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    assert len(found) == 4  # two in the encoder, two in the decoder
    x = torch.randn(2, 8, 3, 3, generator=_generator())
    wide, narrow = (module for module in found[0].modules() if isinstance(module, torch.nn.Conv2d))
    change = F.conv2d(F.silu(F.conv2d(F.silu(x), wide.weight, wide.bias, padding=1)), narrow.weight, narrow.bias)
    torch.testing.assert_close(found[0](x), x + change)


def _entries(values: Tensor) -> list[tuple[tuple[int, ...], int]]:
    return [(place, int(values[place])) for place in itertools.product(*map(range, values.shape))]


def test_bound_is_below_the_density_of_the_draws_which_sums_to_one() -> None:
    """All 65,536 binary images of 4x4, whose grid is a single code."""
    model = _model((1, 4, 4), levels=2, codes=4)
    x = ((torch.arange(2**16)[:, None] >> torch.arange(16)) & 1).to(torch.uint8).view(-1, 1, 4, 4)
    with torch.no_grad():
        bound = torch.cat([model.log_prob(part, _generator()) for part in x.split(8192)]).double()
        grids = _grids(model)
        ink = model.distribution.log_levels(model.decoder(model.codebook.lookup(grids)).double()).double().flatten(2)
        flat = x.flatten(1).double()
        joint = flat @ ink[:, 1].T + (1 - flat) @ ink[:, 0].T + model.prior_log_prob(grids, _generator()).double()
    density = joint.logsumexp(1)
    assert density.exp().sum().item() == pytest.approx(1, rel=1e-5)
    assert (bound <= density + 1e-5).all()
    assert 0.1 < bound.exp().sum().item() < 0.99
    assert len(model.indices(x).unique()) > 1


@pytest.mark.parametrize("on_trial", [[], [2]])
def test_weights_are_the_share_of_the_density_that_neighbouring_grids_have(on_trial: list[int]) -> None:
    """Two grids of 1x2 codes are neighbours if they have a code in common."""
    model, draws = _model((1, 4, 8), levels=2, codes=4), 4000
    _codebook_of(model).counts[on_trial] = TRIAL / 2
    x, grids = _images(model, 3), _grids(model)
    with torch.no_grad():
        joint = torch.stack([model._joint(x, grid.expand(3, -1, -1), _generator()) for grid in grids], 1)
        chosen = model.indices(x).flatten(1).unsqueeze(1)
        near = (grids.flatten(1) == chosen).any(2)
        weights = model.log_weight(x.repeat(draws, 1, 1, 1), _generator()).view(draws, 3).double()
    expected = joint.double().masked_fill(~near, -torch.inf).logsumexp(1)
    relative = (weights - expected).exp()
    assert (relative.mean(0) - 1).abs().tolist() == pytest.approx([0, 0, 0], abs=4 * relative.std(0).max().item() / 63)
    assert (expected > model.log_prob(x, _generator()) + 0.01).any()
    assert (weights >= model.log_prob(x, _generator()) - 1e-4).all()


def test_a_single_code_leaves_nothing_to_a_neighbour() -> None:
    model = _model(codes=2)
    _codebook_of(model).counts[1] = TRIAL / 2
    x = _images(model)
    assert torch.equal(model.log_weight(x, _generator()), model.log_prob(x, _generator()))


def test_interpolations_begin_and_end_at_the_reconstructions() -> None:
    model = _model()
    a, b = _images(model).chunk(2)
    walks = model.interpolate(a, b, 4)
    assert torch.equal(walks[:, 0], model.reconstruct(a))
    assert torch.equal(walks[:, -1], model.reconstruct(b))


def test_a_decoder_that_is_certain_draws_its_mode_and_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()
    decoder = copy.deepcopy(model.decoder)
    monkeypatch.setattr(model.decoder, "forward", lambda codes: 1e6 * decoder(codes))
    draw, mode, mean = model.decodings(50, _generator())
    for images in (mode, mean):
        assert (images == draw).double().mean() > 0.999
    assert (draw != draw.roll(1, 0)).double().mean() > 0.1


def test_reconstruction_is_the_mean_image_given_the_codes() -> None:
    model = _model()
    x = _images(model)
    with torch.no_grad():
        logits = model.decoder(model.codebook.lookup(model.indices(x)))
    level = torch.arange(model.levels).view(1, -1, 1, 1, 1)
    assert torch.equal(model.reconstruct(x), (logits.softmax(1) * level).sum(1).round().to(torch.uint8))
    assert torch.equal(model.encode(x), model.codebook.lookup(model.indices(x)).flatten(1))


def test_sizes_that_cannot_be_halved_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="6x8 pixels are not multiples of 4"):
        _model((1, 6, 8))
