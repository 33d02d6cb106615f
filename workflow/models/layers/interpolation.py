"""Ways between two points of a latent space."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def great_circle(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Spherical interpolation from a to b, both (N, d), with both ends: (N, steps, d).

    Shoemake 1985, Animating Rotation with Quaternion Curves.
    """
    angle = F.cosine_similarity(a, b).clamp(-1, 1).acos().view(-1, 1, 1) / math.pi
    share = torch.linspace(0, 1, steps, device=a.device, dtype=a.dtype).view(1, -1, 1)
    weight = share * (share * angle).sinc() / angle.sinc()  # sin(share · angle) / sin(angle), also for angle 0
    return weight.flip(1) * a.unsqueeze(1) + weight * b.unsqueeze(1)
