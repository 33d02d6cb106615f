"""What the report shows of a latent space: images on a plane through it, and the lengths of its axes."""

from typing import NamedTuple

import torch
from torch import Tensor

FITTED = 2000  # training images, at most, that axes are fitted to
STEPS, REACH = 7, 2.0  # images along each axis of the map, from -REACH to REACH standard deviations


class Axes(NamedTuple):
    """The two axes along which latents vary most.

    mean: of the latents, float64 (d,). steps: along each axis, one standard deviation long, float64 (2, d). shares: of
    the variance, float64 (2,), descending.
    """

    mean: Tensor
    steps: Tensor
    shares: Tensor


def principal_axes(latents: Tensor) -> Axes:
    """The first two principal axes of latents (N, d), with the sign that makes an axis's greatest component positive.

    A latent space of one dimension has a second axis of length zero.

    >>> axes = principal_axes(torch.tensor([[1.0, 0], [-1, 0], [0, 3], [0, -3]]))
    >>> axes.shares.tolist()
    [0.9, 0.1]
    """
    latents = latents.double().cpu()
    mean = latents.mean(0)
    _, lengths, axes = torch.linalg.svd(latents - mean, full_matrices=False)
    lengths, axes = (torch.cat([found, torch.zeros_like(found[:1])])[:2] for found in (lengths, axes))
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    steps = axes * signs * (lengths / max(1, len(latents) - 1) ** 0.5).unsqueeze(1)
    total = (latents - mean).square().sum()
    return Axes(mean, steps, lengths.square() / total if total else torch.zeros(2, dtype=torch.float64))


def plane(axes: Axes) -> Tensor:
    """Latents on a grid over the plane of the axes: float64 (STEPS · STEPS, d), the first axis to the right, the second
    upwards, row by row from the top left.
    """
    ticks = torch.linspace(-REACH, REACH, STEPS, dtype=torch.float64)
    up, right = torch.meshgrid(ticks.flip(0), ticks, indexing="ij")
    return axes.mean + torch.stack([right.flatten(), up.flatten()], 1) @ axes.steps


def principal_lengths(inputs: Tensor) -> Tensor:
    """Standard deviations of inputs (N, d) along their principal axes: float64, descending."""
    inputs = inputs.double().cpu()
    lengths: Tensor = torch.linalg.svdvals(inputs - inputs.mean(0)) / max(1, len(inputs) - 1) ** 0.5
    return lengths
