"""Noise schedules of diffusion models, and the times at which their steps are taken."""

import math
from typing import Literal

import torch
from torch import Generator, Tensor

Schedule = Literal["linear", "cosine"]


def noise_schedule(schedule: Schedule, steps: int) -> Tensor:
    """Variances β_t of the noise that each of T steps adds, float64 (T,).

    Args:
        schedule: "linear": from 1e-4 to 0.02 for 1,000 steps (Ho et al. 2020, section 4), scaled up for fewer steps so
            that the end stays the same; "cosine": ᾱ_t is a squared cosine (Nichol & Dhariwal 2021, Improved Denoising
            Diffusion Probabilistic Models, eq. 17).
        steps: T.
    """
    if schedule == "linear":
        betas = torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * (1000 / steps)
        if betas[-1] >= 1:
            raise ValueError(f"{steps} steps are too few for the linear schedule, which needs more than 20")
        return betas
    time = torch.arange(steps + 1, dtype=torch.float64) / steps
    alpha_bar = ((time + 0.008) / 1.008 * math.pi / 2).cos().square()
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


def spaced_times(steps: int, count: int) -> list[int]:
    """Time 0, and `count` of the times 1..T, evenly spaced up to T."""
    return [round(i * steps / count) for i in range(count + 1)]


def spread_times(n: int, steps: int, generator: Generator, device: torch.device) -> Tensor:
    """Stratified times: one in each of n equal parts of 1..T, int64 (n,), ascending.

    Means over them are unbiased, with a lower variance than over independent times (after Kingma et al. 2021,
    Variational Diffusion Models, appendix I.1).

    Args:
        n: number of times.
        steps: T.
        generator: on `device`.
        device: of the result.
    """
    within = torch.rand(n, generator=generator, device=device, dtype=torch.float64)
    return ((torch.arange(n, device=device) + within) * (steps / n)).long().clamp(max=steps - 1) + 1
