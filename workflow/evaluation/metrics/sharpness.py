"""Sharpness of images, as autofocus measures it."""

import torch
import torch.nn.functional as F
from torch import Tensor


def sharpness(images: Tensor, levels: int) -> float | None:
    """Variance of the Laplacian within each image, averaged over images and channels; pixels are scaled to [0, 1].

    Blur lowers it and noise raises it, so compare it with that of real images (Pech-Pacheco et al. 2000, Diatom
    Autofocusing in Brightfield Microscopy). None for images smaller than 3x3 pixels.

    Args:
        images: uint8 (N, C, H, W).
        levels: pixel values are 0..levels-1.

    A white column on black, and plain grey:

    >>> column = torch.tensor([0, 0, 1, 0], dtype=torch.uint8).repeat(3, 1).view(1, 1, 3, 4)
    >>> sharpness(column, levels=2)
    2.25
    >>> sharpness(torch.ones_like(column), levels=3)
    0.0
    """
    found = sharpness_of_each(images, levels)
    return None if found is None else float(found.mean())


def sharpness_of_each(images: Tensor, levels: int) -> Tensor | None:
    """The same for each image and channel separately, float64 (N, C)."""
    if min(images.shape[2:]) < 3:
        return None
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=torch.float64)[None, None]
    single = images.flatten(0, 1).unsqueeze(1)
    found = [
        F.conv2d(part.double() / (levels - 1), kernel).flatten(1).var(1, correction=0) for part in single.split(4096)
    ]
    return torch.cat(found).view(images.shape[:2])
