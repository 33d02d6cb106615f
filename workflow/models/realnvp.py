"""RealNVP: Dinh, Sohl-Dickstein & Bengio 2017, Density estimation using Real NVP."""

from collections.abc import Callable
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from workflow.models.layers.common import halved
from workflow.models.layers.flow import Equalise, MultiScaleFlow, Squeeze, Step, fit_histograms, logits

Size = tuple[int, int, int]  # features, height, width


class RealNvp(MultiScaleFlow):
    """Affine coupling layers at several scales, on the logits of pixels.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        scales: their number; each but the last halves the image, and half of the channels become latents.
        couplings: of each kind of mask at a scale; the paper has 3.
        channels: of the residual network in a coupling.
        blocks: of the residual network in a coupling.
        dropout: in the blocks, during training.
        alpha: keeps pixels away from 0 and 1 before the logit (section 4.1); 0 for raw pixels.
        dequantisation_samples: K draws of noise in `log_prob`: a tighter bound at K times the cost.
        equalise: whether each pixel first passes through its cumulative histogram, learned.
    """

    title = "RealNVP"
    paper = "Dinh, Sohl-Dickstein & Bengio 2017, Density estimation using Real NVP"
    objective = "max 𝔼ᵤ[ log 𝒩(h; 0, I) + log |det ∂h/∂y| ] − D log levels,  h = f(y),  y = (x + u) / levels"
    about = (
        "Invertible coupling layers scale and shift half of the pixels by functions of the other half, computed by a "
        "convolutional network. The Jacobian is therefore triangular, and densities and samples take one pass each. "
        "At each halving of the image, half of the dimensions become latents; all of them together restore the image "
        "exactly, so nothing is compressed. The density is that of pixels dequantised by noise, which gives a lower "
        "bound for the discrete image."
    )

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        scales: Annotated[int, Field(ge=1)],
        couplings: Annotated[int, Field(ge=2)],
        channels: Annotated[int, Field(ge=1)],
        blocks: Annotated[int, Field(ge=0)],
        dropout: Annotated[float, Field(ge=0, lt=1)],
        alpha: Annotated[float, Field(ge=0, lt=0.5)],
        dequantisation_samples: Annotated[int, Field(ge=1)],
        equalise: bool = False,
    ) -> None:
        super().__init__(shape, levels)
        self.dequantisation_samples = dequantisation_samples
        halved(shape, scales - 1)

        def coupled(masks: Callable[[Size, int], Tensor], size: Size) -> list[Step]:
            return [Coupling(size, masks(size, i % 2), channels, blocks, dropout) for i in range(couplings)]

        colours, height, width = shape
        self.groups = nn.ModuleList()
        first: list[Step] = [*([Equalise(shape, levels)] if equalise else []), *logits(alpha)]
        for i in range(scales):
            self.last = colours << i, height >> i, width >> i
            steps = [*([] if i else first), *coupled(checkerboard, self.last)]
            if i < scales - 1:
                squeezed = colours << i + 2, height >> i + 1, width >> i + 1
                steps += [Squeeze(), *coupled(channel_mask, squeezed)]
            self.groups.append(nn.ModuleList(steps))

    def initialise(self, x: Tensor, generator: Generator) -> None:
        """Equalise by the histograms of images x, uint8 (N, C, H, W)."""
        fit_histograms(self, x)


class Coupling(Step):
    """Scales and shifts where the mask is 0, by a network of the features where it is 1 (eq. 9).

    The log-scale is a hyperbolic tangent times a learned bound per channel (section 4.1).

    Args:
        size: of the features, (C, H, W).
        mask: 0 or 1, broadcast against them.
        channels: of the residual network.
        blocks: of the residual network.
        dropout: in the blocks, during training.
    """

    mask: Tensor

    def __init__(self, size: Size, mask: Tensor, channels: int, blocks: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mask", mask, persistent=False)
        self.network = ResidualNetwork(size, channels, blocks, dropout)
        self.bound = nn.Parameter(torch.ones(size[0], 1, 1))

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift a part of y, (N, C, H, W); returns the result and the log-determinant (N,)."""
        log_scale, shift = self._affine(y)
        return y * log_scale.exp() + shift, log_scale.flatten(1).sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        """Undo `forward`."""
        log_scale, shift = self._affine(z)
        return (z - shift) * (-log_scale).exp()

    def _affine(self, y: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = self.network(y * self.mask).chunk(2, dim=1)
        moved = 1 - self.mask
        return moved * self.bound * raw.tanh(), moved * shift


class ResidualNetwork(nn.Module):
    """Two numbers for each of the features (N, C, H, W), by residual blocks of 3x3 convolutions: (N, 2C, H, W).

    Args:
        size: of the features, (C, H, W).
        channels: of the convolutions.
        blocks: number of residual blocks.
        dropout: in the blocks, during training.
    """

    def __init__(self, size: Size, channels: int, blocks: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Conv2d(size[0], channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Conv2d(channels, channels, 3, padding=1),
            )
            for _ in range(blocks)
        )
        self.last = nn.Conv2d(channels, 2 * size[0], 3, padding=1)
        with torch.no_grad():  # nearly the identity at first; with zeros, no layer before would get a gradient
            self.last.weight.mul_(0.1)

    def forward(self, y: Tensor) -> Tensor:
        """y: (N, C, H, W). (N, 2C, H, W)."""
        h = self.first(y)
        for block in self.blocks:
            h = h + block(h)
        out: Tensor = self.last(F.relu(h))
        return out


def checkerboard(size: Size, parity: int) -> Tensor:
    """1 where row + column is odd (parity 0) or even (parity 1), else 0; float (1, H, W)."""
    _, height, width = size
    return ((torch.arange(height)[:, None] + torch.arange(width) + parity) % 2).float().unsqueeze(0)


def channel_mask(size: Size, parity: int) -> Tensor:
    """1 for the second half of the channels (parity 0) or the first (parity 1), else 0; float (C, 1, 1)."""
    return ((torch.arange(size[0]) * 2 // size[0] + parity) % 2).float().view(-1, 1, 1)


MODEL = RealNvp
