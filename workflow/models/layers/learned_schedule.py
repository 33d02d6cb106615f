"""A learned noise schedule in continuous time: Kingma et al. 2021, Variational Diffusion Models, section 3.2."""

import math

import torch
from torch import Tensor, nn

WIDTH = 16  # units of the monotone network
STEEPNESS = 8.0  # of these units at first: they overlap, so that together they rise evenly


class LearnedSchedule(nn.Module):
    """γ(t) = −log SNR(t) for times t in [0, 1], which rises from one learned end to the other.

    γ(t) = γ(0) + (γ(1) − γ(0)) r(t), where the rise r goes from 0 to 1: t + Σₖ wₖ sigmoid(uₖ t + bₖ) with positive w
    and u, shifted and scaled to these ends (appendix H).

    Args:
        start: γ(0) at first.
        end: γ(1) at first.
    """

    def __init__(self, start: float, end: float) -> None:
        super().__init__()
        self.ends = nn.Parameter(torch.tensor([start, end]))
        self.log_heights = nn.Parameter(torch.full((WIDTH,), -math.log(WIDTH)))
        self.log_slopes = nn.Parameter(torch.full((WIDTH,), math.log(STEEPNESS)))
        self.offsets = nn.Parameter(-STEEPNESS * (torch.arange(WIDTH) + 0.5) / WIDTH)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """γ(t) and its derivative γ'(t), both (N,), at times t, (N,)."""
        return self.between_ends(*self.rise(t))

    def between_ends(self, rise: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """γ and its derivative from r and its derivative."""
        start, end = self.ends
        return start + (end - start) * rise, (end - start) * slope

    def rise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """r(t) and its derivative r'(t), both (N,), at times t, (N,)."""
        first, last = self._sum(t.new_tensor([0.0, 1.0]))[0]
        value, slope = self._sum(t)
        return (value - first) / (last - first), slope / (last - first)

    def _sum(self, t: Tensor) -> tuple[Tensor, Tensor]:
        heights, slopes = self.log_heights.exp(), self.log_slopes.exp()
        units = torch.sigmoid(t[:, None] * slopes + self.offsets)
        # Sums rather than products of matrices, which mixed precision would round.
        return t + (units * heights).sum(1), 1 + (units * (1 - units) * heights * slopes).sum(1)
