"""Process images in batches, and in smaller ones where memory runs out."""

import sys
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Generator

from workflow.errors import BakeoffError
from workflow.models.layers.noise import PartOfBatch

T = TypeVar("T")


def in_batches(
    work: Callable[[range, Generator], T], count: int, size: int, generator: Generator | None = None
) -> list[T]:
    """Results of `work` on images 0..count-1, one per batch.

    If the GPU runs out of memory, the batch is halved until it fits. Every image keeps its random numbers, so results
    are the same up to the rounding of sums over other shapes. Raises BakeoffError if a single image does not fit.

    Args:
        work: called with the indices of a batch and the generator of its random numbers.
        count: number of images.
        size: of a batch.
        generator: of the random numbers; without one, a new one on the CPU.
    """
    generator = generator or Generator()
    results: list[T] = []
    most = size
    for start in range(0, count, size):
        total, before, part = min(size, count - start), generator.get_state(), generator
        done = 0
        while done < total:
            n = min(most, total - done)
            part = generator if n == total else PartOfBatch(generator.device, before, done, n, total)
            try:
                results.append(work(range(start + done, start + done + n), part))
                done += n
                continue
            except RuntimeError as error:  # what it holds is released at the end of this block
                if not (isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error)):  # cuBLAS's, cuDNN's
                    raise
                most = n // 2
            if not most:
                raise BakeoffError("out of GPU memory with a single image; set compute.device: cpu in params.yaml")
            print(f"warning: out of GPU memory with {n} images at once; continuing with {most}", file=sys.stderr)
            generator.set_state(before)
            torch.cuda.empty_cache()
        generator.set_state(part.get_state())
    return results
