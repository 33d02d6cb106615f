"""The steps of our training loop, against the loops that others write, on one thread of the CPU in float32.

Ours are all the steps of `workflow.training.loop.fit` without its validation and samples. What is done once before them
is left out on both sides: ours counts the operations of a step and initialises some models from images, which takes as
long as a few steps and would be a fifth of so short a training. The alternatives:

- *plain loop*: the same model and loss in the usual loop, with a DataLoader and `torch.optim.AdamW`.
- *pythae*: its trainer, without validation, and its VAE or VQ-VAE built from the same layers as ours, with our pixel
  likelihood instead of its squared error. Its VQ-VAE has no prior over the codes: one row omits ours, one keeps it.
- *zuko, normflows*: as many of their additive couplings, of the same widths, with a Gaussian prior, in the plain loop.
  They have no dropout between hidden layers, so ours has none in these rows. They have no diagonal scaling, which ours
  has (one number per pixel); normflows' rows add its own.

Both sides take the same number of steps on batches of the same size; `parameters` and `of_theirs` count their
parameters. The images are random, because no cost depends on their content, and held as one uint8 tensor, which our
loop indexes to get its batches, without a worker process. `images_per_second` is ours. `gflops_per_second` are the
counted operations of our steps over our time, and `share_of_peak` is that over what a product of two 1024x1024 matrices
reaches on the same core in the same minute. bf16 is not measured, because this CPU does not support it.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import normflows
import torch
import zuko
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VQVAE, VAEConfig, VQVAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.compare import Row, compare, seconds
from workflow import params
from workflow.data.tensors import ImageSet
from workflow.models import registry
from workflow.models.base import Model
from workflow.models.layers.common import categorical_log_prob
from workflow.models.layers.pixels import logistic_log_prob
from workflow.models.vqvae import VqVae
from workflow.params import Entry, Train
from workflow.training.distributed import ProcessGroup
from workflow.training.steps import Steps

SIZES = {"8x8, 17 levels": ((1, 8, 8), 17), "28x28, 256 levels": ((1, 28, 28), 256)}
LARGE = ("vae", "vqvae", "nice")  # also at the larger size
STEPS = {"8x8, 17 levels": 16, "28x28, 256 levels": 4}
PAIRS = 6


@dataclass(frozen=True)
class Case:
    """A model of ours, what it is trained on, and how."""

    what: str
    model: Model
    images: ImageSet
    settings: Train

    @cached_property
    def steps(self) -> Steps:
        """What our loop takes."""
        return Steps(self.model, self.images, self.settings, 0, ProcessGroup())

    def train(self) -> None:
        """Our loop."""
        for step in range(1, self.steps.total + 1):
            for _ in self.steps.take(step):
                pass


def measure() -> Iterator[Row]:
    entries = params.load().models
    for size in SIZES:
        for name, entry in entries.items():
            if size == "8x8, 17 levels" or name in LARGE:
                case = _case(f"{name}, {size}", entry, size)
                yield _row(case, "plain loop", partial(_plain, case), _count(case.model))
        for name, theirs in (("vae", _pythae_vae), ("vqvae", _pythae_vqvae)):
            yield _against_pythae(_case(f"{name}, {size}", entries[name], size), theirs)
        bare = _case(f"vqvae without its prior, {size}", entries["vqvae"], size)
        _without_prior(bare.model)
        yield _against_pythae(bare, _pythae_vqvae)
        for library, flow in (("zuko", _zuko_nice), ("normflows", _normflows_nice)):
            sizes = {key: entries["nice"].hyperparameters[key] for key in ("couplings", "width", "depth")}
            case = _case(f"nice, {size}", entries["nice"], size, dropout=0.0, prior="gaussian", alpha=0.0)
            yield _against_flow(case, library, flow(case, **sizes))


def _case(what: str, entry: Entry, size: str, **changes: Any) -> Case:
    shape, levels = SIZES[size]
    count = entry.training.batch_size * STEPS[size]
    model = registry.build(entry.kind, shape, levels, {**entry.hyperparameters, **changes})
    turns = len(model.turns)
    images = torch.randint(levels, (count * turns, *shape), dtype=torch.uint8, generator=Generator().manual_seed(0))
    settings = entry.training.model_copy(update={"epochs": 1, "lr": 1e-4})  # as there is nothing to learn, no more
    return Case(what, model, ImageSet(images, torch.zeros(len(images), dtype=torch.long)), settings)


def _row(case: Case, alternative: str, theirs: Callable[[], None], parameters: int) -> Row:
    row = compare(case.what, alternative, case.train, theirs, PAIRS)
    steps = case.steps
    counted = steps.gflops * steps.total / float(row["ours"])
    return {
        **row,
        "images_per_second": len(case.images) / float(row["ours"]),
        "gflops_per_second": counted,
        "share_of_peak": counted / _peak(),
        "parameters": _count(case.model),
        "of_theirs": parameters,
    }


def _peak() -> float:
    """GFLOPs per second of a product of two large matrices on one thread."""
    a, b = torch.rand(2, 1024, 1024)
    return 2 * 1024**3 / 1e9 / min(seconds(lambda: a @ b) for _ in range(5))


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _loader(images: Tensor, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    return iter(DataLoader(TensorDataset(images, labels), size, shuffle=True, drop_last=True))


def _plain(case: Case) -> None:
    """The loop that everybody writes."""
    model, settings, generator = case.model, case.settings, Generator().manual_seed(0)
    optimisers = {
        name: torch.optim.AdamW(player.parameters(), settings.lr, settings.betas, settings.eps, settings.weight_decay)
        for name, player in model.players.items()
    }
    batches = _loader(case.images.images, case.images.labels, settings.batch_size)
    model.train().requires_grad_(True)  # ours leaves those off whose turn it was not
    for _ in range(len(case.images) // (settings.batch_size * len(model.turns))):
        for player in model.turns:
            x, y = next(batches)
            optimisers[player].zero_grad()
            model.loss(x, y, player, generator)["loss"].backward()
            optimisers[player].step()


class Encoder(BaseEncoder):  # type: ignore[misc]
    """Our layers as pythae takes them; halved: their outputs are means and log-variances."""

    def __init__(self, layers: nn.Module, halved: bool) -> None:
        super().__init__()
        self.layers, self.halved = layers, halved

    def forward(self, x: Tensor) -> Any:
        """x: float (N, C, H, W)."""
        out = self.layers(x)
        if not self.halved:
            return ModelOutput(embedding=out)
        mean, log_variance = out.chunk(2, dim=1)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class Decoder(BaseDecoder):  # type: ignore[misc]
    """Our layers as pythae takes them; what they give are the numbers of each pixel's distribution."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, z: Tensor) -> Any:
        """z: latents, or a grid of codes."""
        return ModelOutput(reconstruction=self.layers(z))


def _pythae_vae(ours: Any) -> Any:
    config = VAEConfig(input_dim=ours.shape, latent_dim=ours.latents)
    theirs = VAE(config, Encoder(ours.encode_layers, halved=True), Decoder(ours.decode_layers))

    def loss(pixels: Tensor, x: Tensor, mean: Tensor, log_variance: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        integers = (x * (ours.levels - 1)).round()
        off = -logistic_log_prob(pixels[:, 0], pixels[:, 1], integers, ours.levels).flatten(1).sum(1).mean()
        kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp(), dim=-1).mean()  # as theirs
        return off + kl, off, kl

    theirs.loss_function = loss
    return theirs


def _pythae_vqvae(ours: Any) -> Any:
    codes, size = ours.codebook.vectors.shape
    config = VQVAEConfig(
        input_dim=ours.shape,
        latent_dim=size,
        commitment_loss_factor=ours.commitment,
        num_embeddings=codes,
        use_ema=True,
        decay=ours.codebook.decay,
    )
    theirs = VQVAE(config, Encoder(ours.encoder, halved=False), Decoder(ours.decoder))

    def loss(pixels: Tensor, x: Tensor, quantised: Any) -> tuple[Tensor, ...]:
        off = -categorical_log_prob(pixels, (x * (ours.levels - 1)).round()).mean()
        return off + quantised.loss, off, quantised.loss

    theirs.loss_function = loss
    return theirs


class _NoPrior(nn.Module):
    """Gives each grid of codes a log-probability of zero, at no cost."""

    def mean_bound(self, *_: object) -> Tensor:
        return torch.zeros(())

    def log_prob(self, grids: Tensor, *_: object) -> Tensor:
        return torch.zeros(len(grids))


def _without_prior(model: Model) -> None:
    """Take the model of codes out of a VQ-VAE: then its loss is what pythae's is."""
    assert isinstance(model, VqVae)
    model.prior = _NoPrior()  # type: ignore[assignment]


def _against_pythae(case: Case, make: Callable[[Model], Any]) -> Row:
    """Their trainer, which copies the model where the loss fell, and saves it at the end, as it does for everybody."""
    logging.disable(logging.WARNING)  # it tells of each epoch
    model, settings = make(case.model), case.settings
    data = BaseDataset(case.images.images.float() / (case.model.levels - 1), case.images.labels)

    def train() -> None:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            config = BaseTrainerConfig(
                output_dir=folder,
                per_device_train_batch_size=settings.batch_size,
                num_epochs=1,
                optimizer_cls="AdamW",
                learning_rate=settings.lr,
                no_cuda=True,
            )
            BaseTrainer(model, data, training_config=config).train()

    return _row(case, "pythae", train, _count(model))


def _zuko_nice(case: Case, couplings: int, width: int, depth: int) -> nn.Module:
    flow = zuko.flows.NICE(
        case.images.images[0].numel(),
        transforms=couplings,
        hidden_features=[width] * depth,
        univariate=zuko.transforms.AdditiveTransform,
        shapes=[()],
    )
    return _Conditioned(flow)


class _Conditioned(nn.Module):
    """zuko's flows are called for a distribution."""

    def __init__(self, flow: Any) -> None:
        super().__init__()
        self.flow = flow

    def log_prob(self, x: Tensor) -> Tensor:
        """x: (N, D). Nats (N,)."""
        log_prob: Tensor = self.flow().log_prob(x)
        return log_prob


def _normflows_nice(case: Case, couplings: int, width: int, depth: int) -> nn.Module:
    d = case.images.images[0].numel()
    flows: list[Any] = [normflows.flows.AffineConstFlow((d,), shift=False)]
    for _ in range(couplings):
        network = normflows.nets.MLP([d // 2, *[width] * depth, d // 2])
        flows += [normflows.flows.AffineCouplingBlock(network, scale=False), normflows.flows.Permute(d, mode="swap")]
    flow: nn.Module = normflows.NormalizingFlow(normflows.distributions.DiagGaussian(d, trainable=False), flows)
    return flow


def _against_flow(case: Case, library: str, flow: Any) -> Row:
    settings, levels = case.settings, case.model.levels

    def train() -> None:
        optimiser = torch.optim.AdamW(flow.parameters(), settings.lr)
        for x, _ in _loader(case.images.images, case.images.labels, settings.batch_size):
            optimiser.zero_grad()
            pixels = (x + torch.rand(x.shape)).flatten(1) / levels
            (-flow.log_prob(pixels).mean()).backward()
            optimiser.step()

    return _row(case, library, train, _count(flow))
