"""Differential equations dx/dt = v(x, t) from noise (t = 0) to data (t = 1): steps of solvers, and the divergence of v.

A velocity v maps x, (N, C, H, W), and a time to a tensor of that shape, image by image.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]
Solver = Literal["euler", "midpoint"]
EVALUATIONS: dict[Solver, int] = {"euler": 1, "midpoint": 2}  # of v in a step


def ascending_times(steps: int) -> list[float]:
    """Times 0 to 1 of so many steps, which become shorter towards the data, where paths bend most: 1 - (1 - k/n)²."""
    return [1 - (1 - k / steps) ** 2 for k in range(steps + 1)]


def quadrature(nodes: int) -> list[tuple[float, float]]:
    """Times in descending order and weights that integrate a function over [0, 1] as a weighted sum of its values.

    Gauss and Legendre's rule for the square root of 1 - t, so that times are denser towards the data, as the steps are.
    """
    places, weights = leggauss(nodes)
    roots = [(float(place) + 1) / 2 for place in places]
    return [(1 - root**2, root * float(weight)) for root, weight in zip(roots, weights, strict=True)]


def solver_step(velocity: Velocity, x: Tensor, t: float, s: float, solver: Solver) -> Tensor:
    """x at time s from x at time t, both (N, C, H, W), by a step of Euler's or of the midpoint method."""
    slope = velocity(x, t)
    if solver == "midpoint":
        slope = velocity(x + (s - t) / 2 * slope, (t + s) / 2)
    return x + (s - t) * slope


def runge_kutta_step(velocity: Velocity, x: Tensor, t: float, s: float) -> Tensor:
    """x at time s from x at time t, both (N, C, H, W), by a step of the classical method of fourth order."""
    half, middle = (s - t) / 2, (t + s) / 2
    first = velocity(x, t)
    second = velocity(x + half * first, middle)
    third = velocity(x + half * second, middle)
    fourth = velocity(x + 2 * half * third, s)
    return x + half / 3 * (first + 2 * second + 2 * third + fourth)


def travel(velocity: Velocity, x: Tensor, times: list[float]) -> Tensor:
    """x at the last of these times from x at the first, both (N, C, H, W), of fourth order, in either direction."""
    for t, s in pairwise(times):
        x = runge_kutta_step(velocity, x, t, s)
    return x


def to_noise(velocity: Velocity, x: Tensor, nodes: int, probe: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x at time 0 from x at time 1, and the integral of the divergence of v on the way, (N,).

    The instantaneous change of variables: log p_1(x_1) = log p_0(x_0) - ∫ ∇·v(x_t, t) dt (Chen et al. 2018, Neural
    Ordinary Differential Equations, theorem 1). As the divergence costs much more than v, it is evaluated at the nodes
    of a quadrature only, between which x takes one step of fourth order each.

    Args:
        velocity: v.
        x: (N, C, H, W).
        nodes: number of times at which the divergence is evaluated.
        probe: as of `divergence`.
    """
    t, integral = 1.0, x.new_zeros(len(x))
    for s, weight in quadrature(nodes):
        x = runge_kutta_step(velocity, x, t, s)
        integral = integral + weight * divergence(velocity, x, s, probe)
        t = s
    return runge_kutta_step(velocity, x, t, 0.0), integral


def divergence(velocity: Velocity, x: Tensor, t: float, probe: Tensor | None = None) -> Tensor:
    """∇·v at x, (N, C, H, W): the trace of the Jacobian of each image's v, (N,).

    Args:
        velocity: v.
        x: (N, C, H, W).
        t: time.
        probe: e with independent components of mean 0 and variance 1, (N, C, H, W), for the unbiased estimate eᵀJe
            (Hutchinson 1990; Grathwohl et al. 2019, FFJORD, section 3.1); None for the exact trace, which costs C·H·W
            times as much.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        v = velocity(x, t)
    if probe is not None:
        (product,) = torch.autograd.grad(v, x, probe)
        return (product * probe).flatten(1).sum(1)
    trace = x.new_zeros(len(x))
    for i in range(x[0].numel()):
        unit = x.new_zeros(len(x), x[0].numel())
        unit[:, i] = 1
        (product,) = torch.autograd.grad(v, x, unit.view(x.shape), retain_graph=True)
        trace = trace + product.flatten(1)[:, i]
    return trace.detach()
