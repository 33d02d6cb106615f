"""Work on many images, a batch at a time, in smaller ones where memory does not suffice."""

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
    """What `work` makes of the images 0..count-1, `size` at a time: it gets their numbers and the generator.

    If the GPU runs out of memory, the batch is halved until it fits. Every image gets the random numbers that it
    would have had, so the result is the same, up to the rounding of sums over other shapes. Raises BakeoffError if a
    single image does not fit.
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
            except RuntimeError as error:  # what it holds is let go of at the end of this block
                if not (isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error)):  # cuBLAS's, cuDNN's
                    raise
                most = n // 2
            if not most:
                raise BakeoffError("out of GPU memory with a single image; set compute.device: cpu in params.yaml")
            print(f"warning: out of GPU memory with {n} images at once; going on with {most}", file=sys.stderr)
            generator.set_state(before)
            torch.cuda.empty_cache()
        generator.set_state(part.get_state())
    return results
