"""The contract of a model: uint8 images in, uint8 images out, densities in nats of the discrete image.

A family is one file in this folder that defines `MODEL`, its class. The keyword-only arguments of the class's
`__init__` are the schema of its entry in `params.yaml`. A model declares what it can do beyond training and sampling by
implementing the protocols below; a model without a capability simply lacks the method.
"""

import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from workflow.models.taxonomy import Family, Likelihood, Taxonomy


class Model(nn.Module):
    """A generative model of images uint8 (N, C, H, W) with values 0..levels-1.

    Class attributes, which the report shows:
        title: the family's name in print; a variant may add what sets it apart, such as "GAN (minimax)".
        paper: author, year and title of its source.
        family: the idea behind it; the report compares claims about families with measurements.
        taxonomy: its place in Goodfellow's taxonomy (NIPS 2016 Tutorial: Generative Adversarial Networks, section 2.3).
        likelihood: what `log_prob` returns: the exact log-probability of the discrete image, a lower bound of it, an
            estimate that may be too high or too low, or nothing ("implicit": the method is missing). It may depend on
            the hyper-parameters, as `title` may.
        objective: the loss as a formula, in plain Unicode.
        about: two or three sentences: how it works, which questions it can answer and which it cannot.
        unranked: hyper-parameters that the "loss" of `validate` cannot compare, because it does not depend on them or
            measures something else for each value.
        classes: number of classes it is conditioned on, p(x|y); 0 for an unconditional model, p(x). A hyper-parameter
            of the families that support it.
        tightens: whether more draws make the bound tighter: its `log_weight`, or without one its `log_prob`, is the
            logarithm of a random weight whose expectation is p(x), or at most that.

    A model needs `loss` and `sample`; this one draws noise:

    >>> class Noise(Model):
    ...     def sample(self, n, generator):
    ...         return torch.randint(self.levels, (n, *self.shape), dtype=torch.uint8, generator=generator)
    >>> model = Noise((1, 2, 2), levels=4)
    >>> model.sample(3, torch.Generator()).shape
    torch.Size([3, 1, 2, 2])
    >>> list(model.players), model.turns, model.passes_in_sequence
    (['model'], ('model',), 1)
    >>> isinstance(model, HasLogProb)
    False
    """

    title: str
    likelihood: Likelihood
    paper: ClassVar[str]
    family: ClassVar[Family]
    taxonomy: ClassVar[Taxonomy]
    objective: str
    about: ClassVar[str]
    unranked: ClassVar[tuple[str, ...]] = ()
    classes: int = 0
    tightens: bool = False

    def __init__(self, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__()
        self.shape = shape
        self.levels = levels

    @property
    def players(self) -> dict[str, nn.Module]:
        """The networks that are optimised, by name; each has its own optimiser."""
        return {"model": self}

    @property
    def turns(self) -> tuple[str, ...]:
        """The players that take a turn within one training step, in order; each turn draws a fresh batch."""
        return tuple(self.players)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """Scalars of one turn of a player on a batch: "loss" is minimised, everything else is logged.

        Likelihood models return "loss" in nats per image.

        Args:
            x: images, uint8 (N, C, H, W).
            y: their classes, int64 (N,); ignored by unconditional models. With `vocabulary`, K captions of each
                (`HasCaptions`), int64 (N, K, caption_length).
            player: whose turn it is, a key of `players`.
            generator: source of all random numbers but those of dropout, on the model's device.
        """
        raise NotImplementedError

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw n images, uint8 (n, C, H, W), on the model's device; all randomness comes from `generator`.

        A model with a density draws from the p(x) that `log_prob` is about, so that likelihoods and measures of samples
        describe the same distribution. What else its decoder offers is in `decodings`.
        """
        raise NotImplementedError

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Scalars on held-out images x, uint8 (N, C, H, W), of classes y, int64 (N,).

        The weights with the lowest "loss" are kept.
        """
        return self.loss(x, y, next(iter(self.players)), generator)

    @property
    def passes_in_sequence(self) -> int:
        """Number of forward passes that drawing one image takes in sequence.

        A pass goes through all layers of a network and ends in a draw that the next pass depends on, or in the image.
        Whatever is drawn at once, such as pixels that do not depend on one another, takes a single pass.
        """
        return 1

    @property
    def note(self) -> str:
        """What to bear in mind about a model with these hyper-parameters, in sentences; "" if there is nothing.

        The report shows it beside the model's results.
        """
        return ""

    @property
    def device(self) -> torch.device:
        """The device that the parameters are on."""
        return next(self.parameters()).device


@runtime_checkable
class HasInitialise(Protocol):
    """Data-dependent initialisation before the first step."""

    def initialise(self, x: Tensor, generator: Generator) -> None:
        """x: the first training images, uint8 (N, C, H, W)."""


@runtime_checkable
class HasProject(Protocol):
    """Projected gradient descent: parameters are kept within bounds."""

    def project(self, player: str) -> None:
        """Move the parameters of `player` back within their bounds; called after each of its steps."""


@runtime_checkable
class HasCalibrate(Protocol):
    """Has parts that are not trained by gradient descent but fitted to the features of training images."""

    def calibrate(self, x: Tensor, generator: Generator) -> None:
        """x: the first 10,000 training images, uint8 (N, C, H, W). Called before each validation."""


@runtime_checkable
class HasFinish(Protocol):
    """Has parts that are fitted once, after training, to the weights that are kept."""

    def finish(self, x: Tensor, y: Tensor, generator: Generator) -> None:
        """x: the first 10,000 training images, uint8 (N, C, H, W). y: their classes, int64 (N,)."""


@runtime_checkable
class HasHold(Protocol):
    """Is not trained: holds images that were made elsewhere, which stand for its draws.

    Its entry in `params.yaml` has `samples` in place of `train`, and what a model costs is not known of it.
    """

    def hold(self, images: Tensor) -> None:
        """images: all that there are, uint8 (N, C, H, W), values 0..levels-1."""

    def distinct(self, n: int, generator: Generator) -> Tensor:
        """n of the images in random order, none twice: uint8 (n, C, H, W). Raises ValueError if there are fewer."""


@runtime_checkable
class HasSampleGiven(Protocol):
    """Class-conditional sampling, if `classes` is not 0."""

    classes: int

    def sample_given(self, y: Tensor, generator: Generator) -> Tensor:
        """Draw one image of each class y, int64 (N,), 0..classes-1: uint8 (N, C, H, W)."""


@runtime_checkable
class HasCaptions(Protocol):
    """Draws images of captions, if `vocabulary` is not 0.

    A caption is a row of the numbers of its words, 1..vocabulary, and zeros after them, `caption_length` in all. The
    blank one, of zeros alone, says nothing.
    """

    vocabulary: int
    caption_length: int

    def sample_captioned(self, captions: Tensor, generator: Generator, tries: int = 1) -> Tensor:
        """Draw one image of each caption, int64 (N, caption_length): uint8 (N, C, H, W).

        tries: of so many draws, the one that the model finds most probable given the caption is kept.
        """

    def log_prob_captioned(self, x: Tensor, captions: Tensor, generator: Generator) -> Tensor:
        """log p(x|caption) of images x, uint8 (N, C, H, W), each with its own: as exact as `log_prob`, nats (N,)."""


def reads_captions(model: object) -> TypeGuard[HasCaptions]:
    """Whether a model has been built to read captions."""
    return isinstance(model, HasCaptions) and model.vocabulary > 0


class Decodings(NamedTuple):
    """What a decoder p(x|z) makes of the same latents, each uint8 (N, C, H, W): a draw, the mode, the rounded mean."""

    draw: Tensor
    mode: Tensor
    mean: Tensor


@runtime_checkable
class HasDecodings(Protocol):
    """Has a decoder that is a distribution of images, p(x|z)."""

    def decodings(self, n: int, generator: Generator) -> Decodings:
        """Draw n latents and decode them in each way; `draw` is what `sample` returns from the same random numbers."""


@runtime_checkable
class HasLogProb(Protocol):
    """Has a density, or a bound or an estimate of it.

    Protocols are checked at run time, by the names of the methods:

    >>> class Constant:
    ...     def log_prob(self, x, generator):
    ...         return x.new_zeros(len(x))
    >>> isinstance(Constant(), HasLogProb), isinstance(Constant(), HasEncode)
    (True, False)
    """

    def log_prob(self, x: Tensor, generator: Generator) -> Tensor:
        """log p(x) of discrete images x, uint8 (N, C, H, W): exact, a lower bound or an estimate, in nats, float (N,).

        A class-conditional model returns log p(x), where p(x) is the mean of p(x|y) over the classes.
        """


@runtime_checkable
class HasLogProbByClass(Protocol):
    """Has a density of images given their class, or a bound of it, if `classes` is not 0."""

    classes: int

    def log_prob_by_class(self, x: Tensor, generator: Generator) -> Tensor:
        """log p(x|y) of images x, uint8 (N, C, H, W), for each class y: exact or a lower bound, nats (N, classes).

        Where random numbers are involved, they are the same for all classes of an image, so that its classes differ by
        what the model knows of them alone.
        """


# Chooses levels, int64 (M,), by their logits, (M, levels). Its second argument takes the values at the same places from
# images (N, C, H, W): (M,).
Choose = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]


@runtime_checkable
class HasOrder(Protocol):
    """An exact density that is a product over pixels in an order, each given those before it."""

    def in_order(self, n: int, choose: Choose) -> Tensor:
        """Let `choose` fix the pixels of n images in turn: uint8 (n, C, H, W).

        The logits at a place depend only on what was chosen before, to the last bit. Of p(x) without classes only.
        """


@runtime_checkable
class HasPosterior(Protocol):
    """Gaussian latents, drawn from q(z|x) to encode, and independent pixels given them."""

    @property
    def standard_prior(self) -> bool:
        """Whether p(z) is a standard normal distribution."""

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each (N, latents). x: uint8 (N, C, H, W)."""

    def levels_given(self, z: Tensor) -> Tensor:
        """log p(x|z) of each pixel's levels, nats (N, levels, C, H, W). z: (N, latents)."""


@runtime_checkable
class HasLogProbError(Protocol):
    """Has an estimate of the density with an error that all images share, such as that of a normalising constant."""

    @property
    def log_prob_error(self) -> float:
        """Standard error of `log_prob`, nats."""


@runtime_checkable
class HasLogWeight(Protocol):
    """Has a bound of the density that is not itself of random weights, and such weights beside it."""

    def log_weight(self, x: Tensor, generator: Generator) -> Tensor:
        """Logarithm of a random weight of each image x, uint8 (N, C, H, W), of expectation p(x) or less, nats (N,).

        The logarithm of a mean of such weights is a lower bound of log p(x), the tighter the more there are.
        """


@runtime_checkable
class HasEncode(Protocol):
    """Has features."""

    def encode(self, x: Tensor) -> Tensor:
        """Deterministic features of images x, uint8 (N, C, H, W), for a linear probe: float (N, d)."""


@runtime_checkable
class HasEncoder(Protocol):
    """Has a network that encodes images, apart from all else: another training may start from its weights."""

    def encoder_network(self) -> nn.Module:
        """From images as floats in [-1, 1], (N, C, H, W), to numbers, (N, ...), before any are drawn or quantised.

        All of its weights and buffers are in layers whose `reset_parameters` initialises them.
        """


@runtime_checkable
class HasDecode(Protocol):
    """Has a latent space of vectors: every image has a latent, and every latent an image."""

    def encode(self, x: Tensor) -> Tensor:
        """Latents of images x, uint8 (N, C, H, W): float (N, d), deterministic."""

    def decode(self, z: Tensor) -> Tensor:
        """Images of latents z, float (N, d): uint8 (N, C, H, W), deterministic."""


@runtime_checkable
class HasScales(Protocol):
    """Maps images to latents without changing volumes, but for a factor for each latent (Dinh et al. 2015, NICE)."""

    def scales(self) -> Tensor:
        """The standard deviation that the prior gives to each latent before it is scaled: float (D,), in any order."""

    def inputs(self, x: Tensor, generator: Generator) -> Tensor:
        """What is mapped of images x, uint8 (N, C, H, W): float (N, D), with noise between the levels of pixels."""


@runtime_checkable
class HasReconstruct(Protocol):
    """Can encode an image and decode it."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """Pass images x, uint8 (N, C, H, W), through the bottleneck: uint8 (N, C, H, W), deterministic."""


@runtime_checkable
class HasInterpolate(Protocol):
    """Has a latent space in which images can be interpolated."""

    def interpolate(self, a: Tensor, b: Tensor, steps: int) -> Tensor:
        """Interpolate from images a to images b, both uint8 (N, C, H, W): uint8 (N, steps, C, H, W), deterministic."""


@runtime_checkable
class HasComplete(Protocol):
    """Can complete an image of which only the upper rows are known."""

    def complete(self, x: Tensor, rows: int, generator: Generator) -> Tensor:
        """Keep the first `rows` rows of images x, uint8 (N, C, H, W), and draw the rest: uint8 (N, C, H, W)."""


def bits_per_dim(log_prob: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Bits per dimension: -log p(x) / (D ln 2) with D = C·H·W (Theis et al. 2016, A Note on the Evaluation of
    Generative Models).

    Args:
        log_prob: nats per image, any shape.
        shape: of an image, (C, H, W).

    A model that gives each of 256 levels of a pixel the same probability needs 8 bits:

    >>> log_prob = torch.tensor([4 * math.log(1 / 256)])
    >>> bits_per_dim(log_prob, (1, 2, 2))
    tensor([8.])
    """
    return -log_prob / (math.prod(shape) * math.log(2))
