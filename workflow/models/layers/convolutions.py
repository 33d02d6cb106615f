"""Stacks of convolutions that halve an image twice, and double it twice: in autoencoders, codes and adversaries.

All return lists of modules, in order, for a family to put into an `nn.Sequential` with what comes before and after.
`activation` makes the module after each convolution.
"""

from collections.abc import Callable

from torch import Tensor, nn

Activation = Callable[[], nn.Module]


def downsample(colours: int, channels: int, activation: Activation = nn.SiLU, *, blocks: int = 0) -> list[nn.Module]:
    """Images (N, colours, H, W) to features (N, 2 channels, H/4, W/4), with so many residual blocks at the end."""
    wide = 2 * channels
    first = [nn.Conv2d(colours, channels, 3, padding=1), activation()]
    residual = [ResidualBlock(wide, activation) for _ in range(blocks)]
    return [*first, *halve(channels, wide, activation), *halve(wide, wide, activation), *residual]


def upsample(channels: int, outputs: int, activation: Activation = nn.SiLU, *, blocks: int = 0) -> list[nn.Module]:
    """Features (N, 2 channels, H/4, W/4) to (N, outputs, H, W), with so many residual blocks at the start.

    There is no activation after the last convolution.
    """
    wide = 2 * channels
    residual = [ResidualBlock(wide, activation) for _ in range(blocks)]
    doubled = [*double(wide, wide, activation), *double(wide, channels, activation)]
    return [*residual, *doubled, nn.Conv2d(channels, outputs, 3, padding=1)]


def halve(inputs: int, outputs: int, activation: Activation = nn.SiLU) -> list[nn.Module]:
    """Features (N, inputs, H, W) to (N, outputs, H/2, W/2)."""
    return [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), activation()]


def double(inputs: int, outputs: int, activation: Activation = nn.SiLU) -> list[nn.Module]:
    """Features (N, inputs, H, W) to (N, outputs, 2H, 2W)."""
    return [nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1), activation()]


class ResidualBlock(nn.Module):
    """A 3x3 and a 1x1 convolution, added to their input (van den Oord et al. 2017, VQ-VAE, section 4.1).

    Args:
        channels: of input and output.
        activation: before each convolution.
    """

    def __init__(self, channels: int, activation: Activation) -> None:
        super().__init__()
        self.change = nn.Sequential(
            activation(), nn.Conv2d(channels, channels, 3, padding=1), activation(), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, channels, H, W) to the same shape."""
        out: Tensor = x + self.change(x)
        return out
