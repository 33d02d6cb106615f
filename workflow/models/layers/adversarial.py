"""Generators, critics and their losses, and a distance that validates models without a likelihood."""

import math
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workflow.models.layers.common import quarter
from workflow.models.layers.convolutions import downsample, upsample

LEAK = 0.2  # negative slope of a critic's leaky ReLU
VALIDATION_SAMPLES = 1000  # drawn to validate a model by the energy distance
Network = Literal["convolutional", "dense"]
STABLE = 1e-6  # δ of `adaptive_weight`


def generator_network(shape: tuple[int, int, int], inputs: int, channels: int, network: Network) -> nn.Sequential:
    """A generator: noise (N, inputs) to images scaled to [-1, 1], (N, C, H, W).

    Raises ValueError if height and width do not suit a convolutional one.

    Args:
        shape: of an image, (C, H, W).
        inputs: size of the noise vector.
        channels: of the convolutions at full resolution, twice as many at half and quarter resolution; of both hidden
            layers of a dense network.
        network: "convolutional", or "dense" for images of any size.
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
    """A critic: images scaled to [-1, 1], (N, C, H, W), to (N, outputs); mirrors `generator_network`.

    Without its last module it returns the last hidden layer, (N, features).

    Args:
        shape: of an image, (C, H, W).
        channels: as of the generator; a dense network has them in its first hidden layer.
        features: size of the last hidden layer.
        outputs: numbers per image.
        network: "convolutional", or "dense" for images of any size.
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
    """The gradient of each value with respect to its own row of x, (N, D), differentiable.

    Args:
        values: (N, 1), computed from x row by row.
        x: (N, *S), requires a gradient.
    """
    (gradient,) = torch.autograd.grad(values.sum(), x, create_graph=True)
    return gradient.flatten(1)


def hinge_loss(on_real: Tensor, on_fake: Tensor) -> Tensor:
    """The critic's loss, with a margin beyond which it gains nothing (Lim & Ye 2017, Geometric GAN, eq. 18).

    Its opponent minimises the negative mean of the outputs for fake images (eq. 19).

    Args:
        on_real: outputs for real images, (N, 1).
        on_fake: outputs for fake images, (M, 1).
    """
    return F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """λ, by which the adversarial loss has a gradient as long as that of the reconstruction, at the last layer: ().

    Esser et al. 2021, Taming Transformers for High-Resolution Image Synthesis, eq. 7. No gradient passes through it.

    Args:
        reconstruction: loss, ().
        adversarial: loss of the generator, ().
        last: weights of the decoder's last layer, on which both depend.
    """
    of_reconstruction, of_adversarial = (
        torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (reconstruction, adversarial)
    )
    weight: Tensor = of_reconstruction / (of_adversarial + STABLE)
    return weight


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased estimate of 2 E‖X - Y‖ - E‖X - X'‖ - E‖Y - Y'‖ (Székely & Rizzo 2013, Energy Statistics).

    The estimate may be negative if the distributions are close; its expectation is zero only if they are equal. As it
    needs no other network, it validates families whose losses show how the game stands, not how good samples are.

    Args:
        x: (N, *S).
        y: (M, *S). Of a single sample, the mean distance within counts as 0.
    """
    x, y = x.flatten(1), y.flatten(1)
    within = sum(torch.pdist(z).mean() for z in (x, y) if len(z) > 1)
    return 2 * torch.cdist(x, y).mean() - within
