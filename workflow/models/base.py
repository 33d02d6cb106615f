"""The contract of a model: uint8 images in, uint8 images out, densities in nats of the discrete image.

A family is one file in this folder that defines `MODEL`, its class. The keyword-only arguments of the class's
`__init__` are the schema of its entry in `params.yaml`. What a model can do beyond training and sampling it says by
having the method of a protocol below; a model that lacks a capability simply has no such method.
"""

import math
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from workflow.models.taxonomy import Family, Likelihood, Taxonomy


class Model(nn.Module):
    """A generative model of images uint8 (N, C, H, W) with values 0..levels-1.

    Class facts, which the report shows:
    title: the family's name in print. paper: author, year and title of its source.
    family: by which idea it works; the report compares what is said of families with what was measured.
    taxonomy: its place in Goodfellow's tree (NIPS 2016 tutorial, section 2.3).
    likelihood: what `log_prob` gives: the exact log-probability of the discrete image, a lower bound of it, or
        nothing ("implicit": there is no such method).
    objective: the loss as a formula, in plain Unicode.
    about: two or three sentences: how it works, which questions it answers and which it cannot.
    unranked: hyper-parameters whose values the "loss" of `validate` cannot rank: it does not depend on them, or is
        another measure with each.
    classes: how many classes it is conditioned on, p(x|y); 0 if none, p(x). A hyper-parameter of families that can be.
    """

    title: ClassVar[str]
    paper: ClassVar[str]
    family: ClassVar[Family]
    taxonomy: ClassVar[Taxonomy]
    likelihood: ClassVar[Likelihood]
    objective: ClassVar[str]
    about: ClassVar[str]
    unranked: ClassVar[tuple[str, ...]] = ()
    classes: int = 0

    def __init__(self, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__()
        self.shape = shape
        self.levels = levels

    @property
    def players(self) -> dict[str, nn.Module]:
        """Who is optimised, by name; each has an optimiser of its own."""
        return {"model": self}

    @property
    def turns(self) -> tuple[str, ...]:
        """Whose turn it is within one training step, in order; each turn draws a fresh batch."""
        return tuple(self.players)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """Scalars of one turn of `player` on the batch x: uint8 (N, C, H, W), with classes y: int64 (N,).

        "loss" is minimised; everything else is logged. Likelihood models give "loss" in nats per image. A model that
        is conditioned on no class does not look at y.
        """
        raise NotImplementedError

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """n images, uint8 (n, C, H, W), on the model's device; all randomness comes from `generator`."""
        raise NotImplementedError

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Scalars on held-out images x, uint8 (N, C, H, W), with classes y; the checkpoint of least "loss" is kept."""
        return self.loss(x, y, next(iter(self.players)), generator)

    @property
    def passes_in_sequence(self) -> int:
        """How many passes of its networks must wait for one another to draw an image.

        A pass goes through all layers of a network, however many, and ends in a draw that the next one needs, or in the
        image. What is drawn at once, as pixels that do not see one another may be, takes one pass.
        """
        return 1

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device


@runtime_checkable
class HasInitialise(Protocol):
    """Needs a look at data before the first step (data-dependent initialisation)."""

    def initialise(self, x: Tensor, generator: Generator) -> None:
        """x: the first training images, uint8 (N, C, H, W)."""


@runtime_checkable
class HasProject(Protocol):
    """Keeps parameters within bounds (projected gradient descent)."""

    def project(self, player: str) -> None:
        """Called after each step of `player`: move its parameters back to where they may be."""


@runtime_checkable
class HasCalibrate(Protocol):
    """Has parts that are not trained by gradients but fitted to what the others make of the training images."""

    def calibrate(self, x: Tensor, generator: Generator) -> None:
        """x: the first 10,000 training images, uint8 (N, C, H, W). Called before each validation."""


@runtime_checkable
class HasSampleGiven(Protocol):
    """Can draw images of classes asked for, if its `classes` are not 0."""

    classes: int

    def sample_given(self, y: Tensor, generator: Generator) -> Tensor:
        """y: int64 (N,), 0..classes-1. An image of each class, uint8 (N, C, H, W)."""


@runtime_checkable
class HasLogProb(Protocol):
    """Knows the density, or a bound of it."""

    def log_prob(self, x: Tensor, generator: Generator) -> Tensor:
        """x: uint8 (N, C, H, W). Nats of each discrete image, float (N,): exact, or a lower bound.

        A model that is conditioned on classes gives that of p(x), the mean of p(x|y) over them.
        """


@runtime_checkable
class HasEncode(Protocol):
    """Has features to offer."""

    def encode(self, x: Tensor) -> Tensor:
        """x: uint8 (N, C, H, W). Features for a linear probe, float (N, d), deterministic."""


@runtime_checkable
class HasReconstruct(Protocol):
    """Can encode an image and decode it again."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """x: uint8 (N, C, H, W). The same images through the bottleneck, uint8 (N, C, H, W), deterministic."""


@runtime_checkable
class HasInterpolate(Protocol):
    """Has a latent space in which one can walk from an image to another."""

    def interpolate(self, a: Tensor, b: Tensor, steps: int) -> Tensor:
        """a, b: uint8 (N, C, H, W). Walks from a to b, uint8 (N, steps, C, H, W), deterministic."""


@runtime_checkable
class HasComplete(Protocol):
    """Can continue a picture of which only the upper rows are known."""

    def complete(self, x: Tensor, rows: int, generator: Generator) -> Tensor:
        """x: uint8 (N, C, H, W), of which the first `rows` rows are kept. uint8 (N, C, H, W)."""


def bits_per_dim(log_prob: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """-log_prob / (D ln 2), D = C·H·W: bits each pixel-channel takes. log_prob: nats, any shape."""
    return -log_prob / (math.prod(shape) * math.log(2))
