"""Random numbers for a batch, and the same ones again for some of its images.

Everything that a model draws for each image when it samples or estimates a density comes through here. So a batch that
does not fit into memory can be done in parts (`workflow/evaluation/batching.py`): each image gets the numbers that it
would have got in the whole batch.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor


class PartOfBatch(Generator):
    """Stands for a generator where a model is asked for `count` images of a batch of `total`, from the `first` on.

    before: the state of the whole batch's generator, uint8, as `Generator.get_state` gives it. Afterwards this one is
    in the state that the other would have been in.
    """

    def __new__(cls, device: torch.device, *_: object) -> "PartOfBatch":
        """A generator's device is given here."""
        return super().__new__(cls, device)  # type: ignore[call-arg]

    def __init__(self, _: torch.device, before: Tensor, first: int, count: int, total: int) -> None:
        super().__init__()
        self.first, self.count, self.total = first, count, total
        self.set_state(before)


def normal(
    size: Sequence[int], generator: Generator, device: torch.device, dtype: torch.dtype | None = None, dim: int = 0
) -> Tensor:
    """Standard normal draws; `dim` is the dimension of `size` that runs over images, or over parts of each."""

    def draw(whole: Sequence[int]) -> Tensor:
        return torch.randn(whole, generator=generator, device=device, dtype=dtype)

    return _of_batch(draw, size, generator, dim)


def uniform(
    size: Sequence[int], generator: Generator, device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """Draws from [0, 1); the first dimension runs over images."""

    def draw(whole: Sequence[int]) -> Tensor:
        return torch.rand(whole, generator=generator, device=device, dtype=dtype)

    return _of_batch(draw, size, generator)


def integers(high: int, n: int, generator: Generator, device: torch.device) -> Tensor:
    """Draws from 0..high-1, one an image, int64 (n,)."""
    return _of_batch(lambda whole: torch.randint(high, whole, generator=generator, device=device), (n,), generator)


def choices(probabilities: Tensor, generator: Generator) -> Tensor:
    """A draw from each row of probabilities (N, K), which need not be normalised; rows run over images. int64 (N,).

    By inverting the distribution function: one random number a row, where torch.multinomial takes K. What has no
    probability is never drawn. Raises RuntimeError if a probability is not finite; on a GPU, so as not to wait for it,
    with the next operation that does.
    """
    marks = uniform((len(probabilities),), generator, probabilities.device, probabilities.dtype)
    return choices_at(marks, probabilities)


def choices_at(marks: Tensor, probabilities: Tensor) -> Tensor:
    """What `choices` draws from each row of probabilities (N, K) if these are its random numbers, in [0, 1), (N,)."""
    below = probabilities.cumsum(1)
    total = below[:, -1:]
    torch._assert_async((total < torch.inf).all(), "a probability is not finite")
    # A mark is less than the total, rounded or not.
    return torch.searchsorted(below, marks[:, None] * total, right=True).squeeze(1)


def components(weights: Tensor, n: int, generator: Generator) -> Tensor:
    """n independent draws from one distribution, weights (K,), one an image, int64 (n,)."""
    return _of_batch(
        lambda whole: torch.multinomial(weights, whole[0], replacement=True, generator=generator), (n,), generator
    )


def _of_batch(
    draw: Callable[[Sequence[int]], Tensor], size: Sequence[int], generator: Generator, dim: int = 0
) -> Tensor:
    """What `draw` gives for this size, or, of a part of a batch, its share of what it gives for the whole one's."""
    if not isinstance(generator, PartOfBatch):
        return draw(tuple(size))
    rows = size[dim] // generator.count  # of each image
    whole = (*size[:dim], rows * generator.total, *size[dim + 1 :])
    return draw(whole).narrow(dim, rows * generator.first, size[dim]).clone()
