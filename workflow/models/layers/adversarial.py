"""Generators, critics, and a distance that validates models without a likelihood."""

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from workflow.models.layers.common import quarter
from workflow.models.layers.convolutions import downsample, upsample

LEAK = 0.2  # slope of a critic's leaky ReLU below zero
VALIDATION_SAMPLES = 1000  # of a model that is validated by the energy distance
Network = Literal["convolutional", "dense"]


def generator_network(shape: tuple[int, int, int], inputs: int, channels: int, network: Network) -> nn.Sequential:
    """Noise (N, inputs) to images on the scale -1..1, (N, C, H, W).

    channels: of the convolutions at full size, twice as many at half and quarter size; or of both hidden layers, if the
    network is dense, for images of any size. Raises ValueError if a convolutional one does not fit the shape.
    """
    if network == "dense":
        return nn.Sequential(
            nn.Linear(inputs, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, math.prod(shape)),
            nn.Tanh(),
            nn.Unflatten(1, shape),
        )
    (height, width), wide = quarter(shape), 2 * channels
    return nn.Sequential(
        nn.Linear(inputs, wide * height * width),
        nn.ReLU(),
        nn.Unflatten(1, (wide, height, width)),
        *upsample(channels, shape[0], nn.ReLU),
        nn.Tanh(),
    )


def critic_network(
    shape: tuple[int, int, int], channels: int, features: int, outputs: int, network: Network
) -> nn.Sequential:
    """Images on the scale -1..1, (N, C, H, W), to `outputs` numbers each, (N, outputs); mirrors `generator_network`.

    All but the last module give the last hidden layer, (N, features).
    """
    if network == "dense":
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(shape), channels),
            nn.LeakyReLU(LEAK),
            nn.Linear(channels, features),
            nn.LeakyReLU(LEAK),
            nn.Linear(features, outputs),
        )
    (height, width), wide = quarter(shape), 2 * channels
    return nn.Sequential(
        *downsample(shape[0], channels, partial(nn.LeakyReLU, LEAK)),
        nn.Flatten(),
        nn.Linear(wide * height * width, features),
        nn.LeakyReLU(LEAK),
        nn.Linear(features, outputs),
    )


def input_gradient(values: Tensor, x: Tensor) -> Tensor:
    """∇ₓ of each value at its own row of x, (N, D), differentiable.

    x: (N, *S), requires a gradient. values: (N, 1), computed from x row by row.
    """
    (gradient,) = torch.autograd.grad(values.sum(), x, create_graph=True)
    return gradient.flatten(1)


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """2 E‖X - Y‖ - E‖X - X'‖ - E‖Y - Y'‖ (Székely & Rizzo 2013, Energy statistics), estimated without bias.

    x: (N, *S), y: (M, *S); the mean distance within a single one, which has none, counts as 0. May be below zero where
    the distributions are close. Its expectation is zero only where they are the same, and it needs no other network: by
    it families choose a checkpoint whose losses say how a game stands, not how good the samples are.
    """
    x, y = x.flatten(1), y.flatten(1)
    within = sum(torch.pdist(z).mean() for z in (x, y) if len(z) > 1)
    return 2 * torch.cdist(x, y).mean() - within
