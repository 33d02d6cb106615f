"""Finite scalar quantisation: Mentzer et al. 2024, Finite Scalar Quantization: VQ-VAE Made Simple."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from workflow.models.layers.codes import perplexity

MARGIN = 1e-3  # by which the outermost levels are narrower than the others: ε in the paper's code


class ScalarCodebook(nn.Module):
    """The implicit codebook: all combinations of d numbers, each rounded to one of a few levels.

    Nothing of it is learned, so no code can die and the encoder needs no loss that ties it to the codes. It can stand
    where a `Codebook` does (`layers/codes.py`). A code's index counts in the mixed base of the levels, the first number
    being the lowest digit (section 3.1 and appendix A.1 of the paper).

    Args:
        levels: of each number, at least 3; the paper advises at least 5.
    """

    digits: Tensor
    bases: Tensor
    reach: Tensor
    offset: Tensor
    shift: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.codes = math.prod(levels)
        bases = [math.prod(levels[:i]) for i in range(len(levels))]
        reach = [(count - 1) * (1 - MARGIN) / 2 for count in levels]
        offset = [0.0 if count % 2 else 0.5 for count in levels]  # an even number of levels has none in its middle
        # The paper's code has tan, which is nearly the same; with artanh, latents of zero are bounded to zero.
        shift = [math.atanh(o / r) for o, r in zip(offset, reach, strict=True)]
        columns = {"digits": levels, "bases": bases, "reach": reach, "offset": offset, "shift": shift}
        for name, column in columns.items():
            self.register_buffer(name, torch.tensor(column).view(-1, 1, 1), persistent=False)

    @property
    def available(self) -> Tensor:
        """Which codes may be chosen and drawn, bool (codes,): all."""
        return torch.ones(self.codes, dtype=torch.bool, device=self.digits.device)

    def bound(self, z: Tensor) -> Tensor:
        """Latents (N, d, h, w) squeezed into a range in which they are rounded to -⌊L/2⌋ … ⌈L/2⌉ - 1."""
        return torch.tanh(z + self.shift) * self.reach - self.offset

    def nearest(self, z: Tensor) -> Tensor:
        """Index of the code that latents (N, d, h, w) are rounded to, int64 (N, h, w)."""
        digits = self.bound(z).round().long() + self.digits // 2
        return (digits * self.bases).sum(1)

    def lookup(self, indices: Tensor) -> Tensor:
        """The numbers of codes, int64 (N, h, w), scaled to [-1, 1]: (N, d, h, w)."""
        digits = indices.unsqueeze(1) // self.bases % self.digits
        half = self.digits // 2
        return (digits - half).to(self.reach.dtype) / half

    def quantise(self, z: Tensor, indices: Tensor) -> Tensor:
        """The numbers of codes, int64 (N, h, w), with the gradient of the bounded latents z: (N, d, h, w)."""
        bounded = self.bound(z) / (self.digits // 2)
        return bounded + (self.lookup(indices) - bounded).detach()

    def update(self, z: Tensor, indices: Tensor, generator: Generator) -> None:
        """Nothing, as there is nothing to learn."""

    def perplexity(self, indices: Tensor) -> Tensor:
        """Effective number of codes in use among indices, int64 (N, h, w)."""
        return perplexity(indices, self.codes)
