"""Memorisation: are samples copies of training images? Nearest neighbours in pixel space."""

from collections.abc import Sequence

import torch
from torch import Tensor

QUERIES, IMAGES = 1000, 1024  # compared at once
EXACT = 2**24  # float32 represents all integers up to here
SEARCHED, ASKED = 100_000, 10_000  # training images and test images, at most, for the median distances


def nearest(queries: Tensor, images: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Euclidean distance of each query to its nearest image, float32 (M,), and that image's index, int64 (M,).

    Pixels are scaled to [0, 1]. Distances are exact before rounding; of equally near images the first counts. Memory
    use is bounded by a few megabytes, however many images there are.

    Args:
        queries: uint8 (M, C, H, W).
        images: uint8 (N, C, H, W).
        levels: pixel values are 0..levels-1.

    >>> images = torch.tensor([0, 8, 16], dtype=torch.uint8).view(3, 1, 1, 1)
    >>> nearest(torch.tensor([[[[12]]]], dtype=torch.uint8), images, levels=17)
    (tensor([0.2500]), tensor([1]))
    """
    distances, indices = zip(*(_nearest(part, images, levels) for part in queries.split(QUERIES)), strict=True)
    return torch.cat(distances), torch.cat(indices)


def _nearest(queries: Tensor, images: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    # Centred levels are so small that sums of their products over this many pixels are exact in float32, which is twice
    # as fast as float64.
    middle = levels // 2
    pixels = EXACT // middle**2
    q = queries.flatten(1).float() - middle
    least, index = torch.full((len(q),), torch.inf, dtype=torch.float64), torch.zeros(len(q), dtype=torch.long)
    for start in range(0, len(images), IMAGES):
        x = images[start : start + IMAGES].flatten(1).float() - middle
        squares = x.double().square().sum(1)  # |x|² - 2 q·x: the squared distance but for |q|²
        for a, b in zip(q.split(pixels, 1), x.split(pixels, 1), strict=True):
            squares = torch.sub(squares, a @ b.T, alpha=2)
        found, place = squares.min(1)
        nearer = found < least
        least, index = torch.where(nearer, found, least), torch.where(nearer, place + start, index)
    distance = (least + q.double().square().sum(1)).sqrt() / (levels - 1)
    return distance.float(), index


def memorisation(draws: Sequence[Tensor], test: Tensor, train: Tensor, levels: int) -> list[dict[str, float]]:
    """Median distances of samples and of test images to the nearest training image, and the share of copies.

    Samples that are much nearer than test images indicate memorisation. A copy equals some training image in every
    pixel. Distances are to at most `SEARCHED` training images, from at most `ASKED` test images, both evenly spaced;
    the training images are the same for both, so that the distances can be compared.

    Args:
        draws: of samples, uint8 (N, C, H, W) each; each is measured by itself.
        test: uint8 (N, C, H, W).
        train: likewise.
        levels: pixel values are 0..levels-1.

    >>> train = torch.tensor([0, 8], dtype=torch.uint8).view(2, 1, 1, 1)
    >>> memorisation([train[[0, 0, 1]]], test=train + 2, train=train, levels=17)
    [{'samples': 0.0, 'test': 0.125, 'copies': 1.0}]
    """
    known = train[spread(len(train), SEARCHED)]
    real = float(nearest(test[spread(len(test), ASKED)], known, levels)[0].median())
    return [
        {"samples": float(nearest(samples, known, levels)[0].median()), "test": real, "copies": copies}
        for samples, copies in zip(draws, _copies(draws, train), strict=True)
    ]


def spread(n: int, most: int) -> Tensor | slice:
    """Index of at most `most` of n items, evenly spaced; a slice that copies nothing if there are no more.

    >>> spread(6, 3), spread(3, 6)
    (tensor([0, 2, 4]), slice(None, None, None))
    """
    return slice(None) if n <= most else torch.arange(most) * n // most


def _copies(draws: Sequence[Tensor], train: Tensor) -> list[float]:
    """Share of samples that are a training image. The samples' bytes are kept, as they are the fewer."""
    drawn = [[image.tobytes() for image in samples.cpu().numpy()] for samples in draws]
    wanted = {content for draw in drawn for content in draw}
    found = {content for image in train.cpu().numpy() if (content := image.tobytes()) in wanted}
    return [sum(content in found for content in draw) / len(draw) for draw in drawn]
