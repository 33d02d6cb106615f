"""How sharp images are, as autofocus measures it."""

import torch
import torch.nn.functional as F
from torch import Tensor


def sharpness(images: Tensor, levels: int) -> float | None:
    """Variance of the Laplacian within an image, pixels scaled to [0, 1], its mean over images and channels.

    images: uint8 (N, C, H, W). None for images of fewer than 3x3 pixels. Blur lowers it, noise raises it, so it is to
    be compared with that of real images (Pech-Pacheco et al. 2000, Diatom autofocusing in brightfield microscopy).
    """
    found = sharpness_of_each(images, levels)
    return None if found is None else float(found.mean())


def sharpness_of_each(images: Tensor, levels: int) -> Tensor | None:
    """The same of each image and channel, float64 (N, C)."""
    if min(images.shape[2:]) < 3:
        return None
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=torch.float64)[None, None]
    single = images.flatten(0, 1).unsqueeze(1)
    found = [
        F.conv2d(part.double() / (levels - 1), kernel).flatten(1).var(1, correction=0) for part in single.split(4096)
    ]
    return torch.cat(found).view(images.shape[:2])
