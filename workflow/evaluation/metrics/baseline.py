"""The baseline that every model should beat: independent pixels, each with the histogram of the training images."""

import torch
from torch import Generator, Tensor

PIXELS = 2**22  # processed at once


class PixelHistogram:
    """An independent categorical distribution per pixel and channel, with add-one smoothing and an exact likelihood.

    Args:
        train: images, uint8 (N, C, H, W).
        levels: pixel values are 0..levels-1.

    >>> train = torch.tensor([0, 0, 1], dtype=torch.uint8).view(3, 1, 1, 1)
    >>> histogram = PixelHistogram(train, levels=2)
    >>> [round(p, 6) for p in histogram.log_prob(train).exp().tolist()]
    [0.6, 0.6, 0.4]
    >>> histogram.sample(5, torch.Generator()).shape
    torch.Size([5, 1, 1, 1])
    """

    def __init__(self, train: Tensor, levels: int) -> None:
        shape = train.shape[1:]
        places = torch.arange(shape.numel())
        counts = torch.zeros(levels * shape.numel(), dtype=torch.long)
        for part in train.split(_images(shape)):
            cells = part.flatten(1).long().mul_(len(places)).add_(places)
            counts += cells.flatten().bincount(minlength=len(counts))
        smoothed = counts.view(levels, *shape).double() + 1
        self._log_prob = (smoothed / smoothed.sum(0)).log()  # (levels, C, H, W)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of images x, uint8 (N, C, H, W): nats, float64 (N,)."""
        table = self._log_prob.unsqueeze(0)
        parts = (part.long().unsqueeze(1) for part in x.split(_images(x.shape[1:])))
        return torch.cat([table.expand(len(at), *table.shape[1:]).gather(1, at).flatten(1).sum(1) for at in parts])

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw n images, uint8 (n, C, H, W)."""
        shape = self._log_prob.shape[1:]
        flat = self._log_prob.flatten(1).T.exp().float()  # (C·H·W, levels)
        draws = torch.multinomial(flat, n, replacement=True, generator=generator)
        return draws.T.reshape(n, *shape).to(torch.uint8)


def _images(shape: torch.Size) -> int:
    """Number of images of this shape to process at once."""
    return max(1, PIXELS // shape.numel())
