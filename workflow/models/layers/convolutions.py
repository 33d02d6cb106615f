"""Stacks of convolutions that halve an image twice, and double it twice: in autoencoders, codes and adversaries.

All return lists of modules, in order, for a family to put into an `nn.Sequential` with what comes before and after.
`activation` makes the module after each convolution.
"""

from collections.abc import Callable

from torch import nn

Activation = Callable[[], nn.Module]


def downsample(colours: int, channels: int, activation: Activation = nn.SiLU) -> list[nn.Module]:
    """Images (N, colours, H, W) to features (N, 2 channels, H/4, W/4)."""
    wide = 2 * channels
    first = [nn.Conv2d(colours, channels, 3, padding=1), activation()]
    return [*first, *halve(channels, wide, activation), *halve(wide, wide, activation)]


def upsample(channels: int, outputs: int, activation: Activation = nn.SiLU) -> list[nn.Module]:
    """Features (N, 2 channels, H/4, W/4) to (N, outputs, H, W), with no activation after the last convolution."""
    wide = 2 * channels
    doubled = [*double(wide, wide, activation), *double(wide, channels, activation)]
    return [*doubled, nn.Conv2d(channels, outputs, 3, padding=1)]


def halve(inputs: int, outputs: int, activation: Activation = nn.SiLU) -> list[nn.Module]:
    """Features (N, inputs, H, W) to (N, outputs, H/2, W/2)."""
    return [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), activation()]


def double(inputs: int, outputs: int, activation: Activation = nn.SiLU) -> list[nn.Module]:
    """Features (N, inputs, H, W) to (N, outputs, 2H, 2W)."""
    return [nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1), activation()]
