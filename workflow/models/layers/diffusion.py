"""Gaussian diffusion: its noise schedules, the times of its steps, and what Bayes' rule says of each step.

x_t = √ᾱ x_0 + √(1 − ᾱ) ε with standard normal noise ε: ᾱ, written `a`, is the share of x_t's variance that an image of
variance 1 has left. It is a tensor that broadcasts against images (N, C, H, W), such as (N, 1, 1, 1) with one for each.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Generator, Tensor

from workflow.models.layers.noise import uniform

Schedule = Literal["linear", "cosine"]
Predict = Callable[[Tensor, int], Tensor]  # the noise in images at the i-th of some times, both (N, C, H, W)
REFINEMENTS = 3  # evaluations of the network for each step of `to_noise`


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


def bound_times(n: int, steps: int, terms: int, generator: Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """The times of the bound's terms that are computed for n images, and how many terms each stands for.

    The first term, -log p(x_0|x_1), is unlike the others and always among them.

    Args:
        n: number of images.
        steps: T.
        terms: K, how many are computed: the first, and others at stratified random times; 0 for all.
        generator: on `device`.
        device: of the result.

    Returns times 1..T, int64 (K, n), and float64 (K, 1).
    """
    if not 0 < terms < steps:
        every = torch.arange(1, steps + 1, device=device).unsqueeze(1)
        return every.expand(-1, n), torch.ones_like(every, dtype=torch.float64)
    parts, others = terms - 1, steps - 1
    within = torch.stack([uniform((n,), generator, device) for _ in range(parts)])
    start = torch.arange(parts, device=device).unsqueeze(1)
    drawn = ((start + within) * (others / parts)).long().clamp(max=others - 1) + 2
    weights = torch.full((terms, 1), others / parts, device=device, dtype=torch.float64)
    weights[0] = 1
    return torch.cat([torch.ones_like(drawn[:1]), drawn]), weights


def diffuse(x: Tensor, noise: Tensor, a: Tensor) -> Tensor:
    """x_t, drawn from q(x_t|x_0) (Ho et al. 2020, eq. 4), from x_0 and ε, (N, C, H, W)."""
    return a.sqrt() * x + (1 - a).sqrt() * noise


def clean(x: Tensor, noise: Tensor, a: Tensor) -> Tensor:
    """The x_0 of x_t, given the noise in it (Ho et al. 2020, eq. 15), clipped to [-1, 1]."""
    return ((x - (1 - a).sqrt() * noise) / a.sqrt()).clamp(-1, 1)


def velocity(x: Tensor, noise: Tensor, a: Tensor) -> Tensor:
    """v = √ᾱ ε − √(1 − ᾱ) x_0 from x_0 and ε (Salimans & Ho 2022, Progressive Distillation, appendix D).

    It is the derivative of x_t by the angle φ with cos φ = √ᾱ.
    """
    return a.sqrt() * noise - (1 - a).sqrt() * x


def at_velocity(x: Tensor, v: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """The x_0 of x_t, clipped to [-1, 1], and the noise in it, given its velocity: the inverse of that rotation."""
    return (a.sqrt() * x - (1 - a).sqrt() * v).clamp(-1, 1), (1 - a).sqrt() * x + a.sqrt() * v


def backward_step(x: Tensor, x_0: Tensor, a_t: Tensor, a_s: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q(x_s|x_t, x_0), s < t (Song et al. 2021, eq. 7 and 16).

    With eta = 1, this is the posterior of the forward process (Ho et al. 2020, eq. 7), which ancestral sampling uses.

    Args:
        x: x_t, (N, C, H, W).
        x_0: likewise.
        a_t: ᾱ at time t.
        a_s: ᾱ at time s, greater.
        eta: share of the posterior's standard deviation.
    """
    variance = eta**2 * (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)
    noise = (x - a_t.sqrt() * x_0) / (1 - a_t).sqrt()
    return a_s.sqrt() * x_0 + (1 - a_s - variance).clamp(min=0).sqrt() * noise, variance.sqrt()


def prior_divergence(x: Tensor, a: Tensor) -> Tensor:
    """KL( q(x_T|x_0) ‖ N(0, 1) ): the information about images x_0, (N, C, H, W), left in the end, nats (N,)."""
    return 0.5 * (a * x.square() - a - torch.log1p(-a)).flatten(1).sum(1)


def flow_step(x: Tensor, noise: Tensor, a_t: float, a_s: float) -> Tensor:
    """DDIM's step from x_t to x_s, in either direction of time: an Euler step of the probability flow.

    Song et al. 2021, eq. 13. noise: the noise in x_t.
    """
    scale = math.sqrt(a_s / a_t)
    return scale * x + (math.sqrt(1 - a_s) - scale * math.sqrt(1 - a_t)) * noise


def from_noise(predict: Predict, x: Tensor, shares: list[float]) -> Tensor:
    """Images at the first of some times from x at the last, (N, C, H, W), by deterministic DDIM sampling.

    shares: ᾱ at these times, descending from 1.
    """
    for i in range(len(shares) - 1, 0, -1):
        x = flow_step(x, predict(x, i), shares[i], shares[i - 1])
    return x


def to_noise(predict: Predict, x: Tensor, shares: list[float]) -> Tensor:
    """The noise from which `from_noise` makes images x in [-1, 1], both (N, C, H, W).

    A step from s to t must undo the step from t to s, which depends on the noise predicted at t. It is found by
    fixed-point iteration, starting from x_s.
    """
    for i, (a_s, a_t) in enumerate(pairwise(shares), 1):
        x_t = x
        for _ in range(REFINEMENTS):
            x_t = flow_step(x, predict(x_t, i), a_s, a_t)
        x = x_t
    return x
