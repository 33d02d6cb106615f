"""The model that any other must beat: independent pixels, each with the histogram of the training images."""

import torch
from torch import Generator, Tensor


class PixelHistogram:
    """A categorical for every pixel and channel by itself, with add-one smoothing; its likelihood is exact."""

    def __init__(self, train: Tensor, levels: int) -> None:
        counts = torch.stack([(train == level).sum(0) for level in range(levels)]).double() + 1
        self._log_prob = (counts / counts.sum(0)).log()  # (levels, C, H, W)

    def log_prob(self, x: Tensor) -> Tensor:
        """x: uint8 (N, C, H, W). Nats, float64 (N,)."""
        table = self._log_prob.expand(len(x), *self._log_prob.shape)
        return table.gather(1, x.long().unsqueeze(1)).flatten(1).sum(1)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Images, uint8 (n, C, H, W)."""
        shape = self._log_prob.shape[1:]
        flat = self._log_prob.flatten(1).T.exp().float()  # (C·H·W, levels)
        draws = torch.multinomial(flat, n, replacement=True, generator=generator)
        return draws.T.reshape(n, *shape).to(torch.uint8)
