"""Random numbers for a batch that stay the same if the batch is processed in parts.

Everything that a model draws per image when it samples or estimates a density comes from here. A batch that does not
fit into memory can therefore be split (`workflow/evaluation/batching.py`): each image gets the same numbers as in the
whole batch.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor


class PartOfBatch(Generator):
    """A generator for some of the images of a batch: images first..first+count-1 of `total`.

    Afterwards it is in the state in which the whole batch would have left its generator. The first argument is the
    device.

    Args:
        before: state of the whole batch's generator before the batch, uint8, from `Generator.get_state`.
        first: index of the first image.
        count: number of images.
        total: number of images in the batch.
    """

    def __new__(cls, device: torch.device, *_: object) -> "PartOfBatch":
        """Torch takes a generator's device here."""
        return super().__new__(cls, device)  # type: ignore[call-arg]

    def __init__(self, _: torch.device, before: Tensor, first: int, count: int, total: int) -> None:
        super().__init__()
        self.first, self.count, self.total = first, count, total
        self.set_state(before)


def normal(
    size: Sequence[int], generator: Generator, device: torch.device, dtype: torch.dtype | None = None, dim: int = 0
) -> Tensor:
    """Standard normal draws.

    Args:
        size: of the result.
        generator: on `device`.
        device: of the result.
        dtype: of the result; torch's default if None.
        dim: dimension of `size` that runs over images, or over equal numbers of rows per image.
    """

    def draw(whole: Sequence[int]) -> Tensor:
        return torch.randn(whole, generator=generator, device=device, dtype=dtype)

    return _of_batch(draw, size, generator, dim)


def uniform(
    size: Sequence[int], generator: Generator, device: torch.device, dtype: torch.dtype | None = None, dim: int = 0
) -> Tensor:
    """Uniform draws from [0, 1); arguments as of `normal`."""

    def draw(whole: Sequence[int]) -> Tensor:
        return torch.rand(whole, generator=generator, device=device, dtype=dtype)

    return _of_batch(draw, size, generator, dim)


def integers(high: int, n: int, generator: Generator, device: torch.device) -> Tensor:
    """Uniform draws from 0..high-1, one per image, int64 (n,)."""
    return _of_batch(lambda whole: torch.randint(high, whole, generator=generator, device=device), (n,), generator)


def choices(probabilities: Tensor, generator: Generator) -> Tensor:
    """Draw from categorical distributions, one per row of probabilities (N, K), not necessarily normalised: int64 (N,).

    This inverts the distribution function: one random number per row, where torch.multinomial takes K. Events of
    probability zero are never drawn. Rows run over images. Raises RuntimeError if a probability is not finite; on a GPU
    the error appears with the next operation that synchronises.
    """
    marks = uniform((len(probabilities),), generator, probabilities.device, probabilities.dtype)
    return choices_at(marks, probabilities)


def choices_at(marks: Tensor, probabilities: Tensor) -> Tensor:
    """What `choices` draws from probabilities (N, K) with these random numbers in [0, 1), (N,)."""
    below = probabilities.cumsum(1)
    total = below[:, -1:]
    torch._assert_async((total < torch.inf).all(), "a probability is not finite")
    # A mark is below the total, even after rounding.
    return torch.searchsorted(below, marks[:, None] * total, right=True).squeeze(1)


def components(weights: Tensor, n: int, generator: Generator) -> Tensor:
    """n independent draws from one categorical distribution with weights (K,), one per image, int64 (n,)."""
    return _of_batch(
        lambda whole: torch.multinomial(weights, whole[0], replacement=True, generator=generator), (n,), generator
    )


def _of_batch(
    draw: Callable[[Sequence[int]], Tensor], size: Sequence[int], generator: Generator, dim: int = 0
) -> Tensor:
    """Draw numbers of this size; for a part of a batch, draw those of the whole batch and return its share."""
    if not isinstance(generator, PartOfBatch):
        return draw(tuple(size))
    rows = size[dim] // generator.count  # of each image
    whole = (*size[:dim], rows * generator.total, *size[dim + 1 :])
    return draw(whole).narrow(dim, rows * generator.first, size[dim]).clone()
