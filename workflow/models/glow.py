"""Glow: Kingma & Dhariwal 2018, Glow: Generative flow with invertible 1x1 convolutions."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from workflow.models.layers.common import halved
from workflow.models.layers.flow import MultiScaleFlow, Squeeze, Step, logits


class Glow(MultiScaleFlow):
    """Steps of actnorm, invertible 1x1 convolution and affine coupling, at several scales.

    Unlike in the paper, the steps can act on the logits of pixels, as in RealNVP, which is far better where many pixels
    are black.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        scales: their number; each halves the image, and after each but the last, half of the channels become latents.
        steps: at each scale.
        channels: of the hidden layers in a coupling.
        dropout: in these layers, during training.
        alpha: keeps pixels away from 0 and 1 before the logit; 0 for raw pixels, as in the paper.
        dequantisation_samples: K draws of noise in `log_prob`: a tighter bound at K times the cost.
    """

    title = "Glow"
    paper = "Kingma & Dhariwal 2018, Glow: Generative flow with invertible 1x1 convolutions"
    objective = "max 𝔼ᵤ[ log 𝒩(h; 0, I) + log |det ∂h/∂y| ] − D log levels,  h = f(y),  y = (x + u) / levels"
    about = (
        "A flow like RealNVP that, instead of alternating fixed masks, mixes channels between its couplings by learned "
        "invertible matrices. The dimensions that become latents at each halving of the image are Gaussian given the "
        "remaining ones. Densities and samples take one pass each; because pixels are dequantised by noise, the "
        "density gives a lower bound for the discrete image. There are as many latents as pixels, and they restore "
        "every image exactly."
    )

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        scales: Annotated[int, Field(ge=1)],
        steps: Annotated[int, Field(ge=1)],
        channels: Annotated[int, Field(ge=1)],
        dropout: Annotated[float, Field(ge=0, lt=1)],
        alpha: Annotated[float, Field(ge=0, lt=0.5)],
        dequantisation_samples: Annotated[int, Field(ge=1)],
    ) -> None:
        super().__init__(shape, levels)
        self.dequantisation_samples = dequantisation_samples
        halved(shape, scales)
        colours, height, width = shape
        self.groups = nn.ModuleList()
        for i in range(scales):
            features = colours << i + 2
            self.last = features, height >> i + 1, width >> i + 1
            group: list[Step] = [Squeeze()] if i else [*logits(alpha), Squeeze()]
            for _ in range(steps):
                group += [ActNorm(features), InvertibleConv(features), Coupling(features, channels, dropout)]
            if i < scales - 1:
                group.append(Leaving(features))
            self.groups.append(nn.ModuleList(group))

    @torch.no_grad()
    def initialise(self, x: Tensor, generator: Generator) -> None:
        """Set each actnorm in turn so that its output has mean 0 and variance 1 on images x (section 3.1)."""
        norms = [module for module in self.modules() if isinstance(module, ActNorm)]
        hooks = [norm.register_forward_pre_hook(lambda norm, inputs: norm.fit(*inputs)) for norm in norms]
        self(self.dequantised(x, generator))
        for hook in hooks:
            hook.remove()


class ActNorm(Step):
    """An affine map of each channel of features (N, C, H, W) (table 1)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(features, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(features, 1, 1))

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale y; returns the result and the log-determinant (N,)."""
        return (y + self.shift) * self.log_scale.exp(), (self.log_scale.sum() * y[0, 0].numel()).expand(len(y))

    def inverse(self, z: Tensor) -> Tensor:
        """Undo `forward`."""
        return z * (-self.log_scale).exp() - self.shift

    @torch.no_grad()
    def fit(self, y: Tensor) -> None:
        """Normalise each channel of y to mean 0 and variance 1 over images, rows and columns."""
        deviation, mean = torch.std_mean(y, (0, 2, 3), correction=0)
        self.shift.copy_(-mean.view_as(self.shift))
        self.log_scale.copy_(-deviation.log().view_as(self.log_scale))


class InvertibleConv(Step):
    """A 1x1 convolution of features (N, C, H, W) with the matrix W = P L (U + diag(s)), eq. 10; at first a rotation.

    P and the signs of s are fixed; L has ones on its diagonal, U zeros.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        rotation, _ = torch.linalg.qr(torch.randn(features, features))
        permutation, lower, upper = torch.linalg.lu(rotation)
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", upper.diagonal().sign())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_s = nn.Parameter(upper.diagonal().abs().log())

    def factors(self) -> tuple[Tensor, Tensor]:
        """L and U + diag(s), (C, C) each."""
        ones = torch.eye(len(self.sign), dtype=self.lower.dtype, device=self.lower.device)
        return self.lower.tril(-1) + ones, self.upper.triu(1) + torch.diag(self.sign * self.log_s.exp())

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the channels of y; returns the result and the log-determinant (N,), eq. 11."""
        lower, upper = self.factors()
        with torch.autocast(y.device.type, enabled=False):  # bf16 is too coarse to be inverted
            z = F.conv2d(y, (self.permutation @ lower @ upper)[..., None, None])
        return z, (self.log_s.sum() * y[0, 0].numel()).expand(len(y))

    def inverse(self, z: Tensor) -> Tensor:
        """Undo `forward`."""
        lower, upper = self.factors()
        rows = self.permutation.T @ z.flatten(2)
        rows = torch.linalg.solve_triangular(lower, rows, upper=False, unitriangular=True)
        y: Tensor = torch.linalg.solve_triangular(upper, rows, upper=True).view_as(z)
        return y


class Coupling(Step):
    """Scales and shifts one half of the channels by a network of the other half (table 1).

    The scale is a sigmoid, near 1 at first, as in the authors' code: it cannot explode.

    Args:
        features: channels of the input, even.
        channels: of the hidden layers.
        dropout: in these layers, during training.
    """

    def __init__(self, features: int, channels: int, dropout: float) -> None:
        super().__init__()
        half = features // 2
        self.network = nn.Sequential(
            nn.Conv2d(half, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
            nn.ReLU(),
            nn.Dropout(dropout),
            faint(nn.Conv2d(channels, 2 * half, 3, padding=1)),
        )

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift one half of y, (N, C, H, W); returns the result and the log-determinant (N,)."""
        moved, kept = y.chunk(2, dim=1)
        log_scale, shift = self._affine(kept)
        return torch.cat([(moved + shift) * log_scale.exp(), kept], 1), log_scale.flatten(1).sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        """Undo `forward`."""
        moved, kept = z.chunk(2, dim=1)
        log_scale, shift = self._affine(kept)
        return torch.cat([moved * (-log_scale).exp() - shift, kept], 1)

    def _affine(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = self.network(kept).chunk(2, dim=1)
        return F.logsigmoid(raw + 2), shift


class Leaving(Step):
    """Standardises the half of the channels that leaves as latents, by a Gaussian conditioned on the other half.

    So these latents are standard normal under the prior if, given the rest, they are normal with this mean and
    deviation, as in the authors' code.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.network = faint(nn.Conv2d(features // 2, features, 3, padding=1))

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Standardise the second half of y, (N, C, H, W); returns the result and the log-determinant (N,)."""
        stays, leaves = y.chunk(2, dim=1)
        mean, log_deviation = self.network(stays).chunk(2, dim=1)
        z = (leaves - mean) * (-log_deviation).exp()
        return torch.cat([stays, z], 1), -log_deviation.flatten(1).sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        """Undo `forward`."""
        stays, leaves = z.chunk(2, dim=1)
        mean, log_deviation = self.network(stays).chunk(2, dim=1)
        return torch.cat([stays, leaves * log_deviation.exp() + mean], 1)


def faint(layer: nn.Conv2d) -> nn.Conv2d:
    """Make a layer's outputs small. With zeros, as in the paper, the layers before would get no gradient at first."""
    with torch.no_grad():
        layer.weight.mul_(0.1)
    return layer


MODEL = Glow
