"""Are the samples copies of training images? Nearest neighbours in pixel space."""

import torch
from torch import Tensor

CHUNK = 1024


def nearest(queries: Tensor, images: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Euclidean distance, pixels scaled to [0, 1], of each query to its nearest image, and that image's index.

    queries: uint8 (M, C, H, W), images: uint8 (N, C, H, W). float32 (M,) and int64 (M,).
    """
    reference = images.flatten(1).double()  # of whole numbers in float64 the distances are exact
    parts = [torch.cdist(part.flatten(1).double(), reference).min(1) for part in queries.split(CHUNK)]
    distances = torch.cat([part.values for part in parts]) / (levels - 1)
    return distances.float(), torch.cat([part.indices for part in parts])


def memorisation(samples: Tensor, test: Tensor, train: Tensor, levels: int) -> dict[str, float]:
    """Median distance to the nearest training image, of samples and of real test images, and the share of copies.

    All uint8 (N, C, H, W). Samples much nearer than test images are a sign of memorisation; a copy is the same image to
    the last pixel.
    """
    known = {image.numpy().tobytes() for image in train.cpu()}
    return {
        "samples": float(nearest(samples, train, levels)[0].median()),
        "test": float(nearest(test, train, levels)[0].median()),
        "copies": sum(image.numpy().tobytes() in known for image in samples.cpu()) / len(samples),
    }
