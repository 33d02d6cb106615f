"""Are the samples copies of training images? Nearest neighbours in pixel space."""

from collections.abc import Sequence

import torch
from torch import Tensor

QUERIES, IMAGES = 1000, 1024  # compared at once
EXACT = 2**24  # float32 has all whole numbers up to here
SEARCHED, ASKED = 100_000, 10_000  # training images at the most, and test images, for the median distances


def nearest(queries: Tensor, images: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Euclidean distance, pixels scaled to [0, 1], of each query to its nearest image, and that image's index.

    queries: uint8 (M, C, H, W), images: uint8 (N, C, H, W). float32 (M,) and int64 (M,), of equals the first. The
    distances are exact before they are rounded; a few megabytes of copies are made, however many images there are.
    """
    distances, indices = zip(*(_nearest(part, images, levels) for part in queries.split(QUERIES)), strict=True)
    return torch.cat(distances), torch.cat(indices)


def _nearest(queries: Tensor, images: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    # Levels around zero are small enough that their products, summed over so many pixels, are exact in float32, which
    # is twice as fast as float64.
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
    """Median distance to the nearest training image, of samples and of real test images, and the share of copies.

    Of each draw of samples by itself. All uint8 (N, C, H, W). Samples much nearer than test images are a sign of
    memorisation; a copy is the same image to the last pixel, of any training image. The distances are to at most
    `SEARCHED` training images, of at most `ASKED` test images, both evenly spaced: the same for samples and test
    images, so that they stay comparable.
    """
    known = train[spread(len(train), SEARCHED)]
    real = float(nearest(test[spread(len(test), ASKED)], known, levels)[0].median())
    return [
        {"samples": float(nearest(samples, known, levels)[0].median()), "test": real, "copies": copies}
        for samples, copies in zip(draws, _copies(draws, train), strict=True)
    ]


def spread(n: int, most: int) -> Tensor | slice:
    """What to index n things with for at most so many of them, evenly spaced; all, uncopied, if there are no more."""
    return slice(None) if n <= most else torch.arange(most) * n // most


def _copies(draws: Sequence[Tensor], train: Tensor) -> list[float]:
    """Share of samples that are a training image. The samples' bytes are kept, as they are the fewer."""
    drawn = [[image.tobytes() for image in samples.cpu().numpy()] for samples in draws]
    wanted = {content for draw in drawn for content in draw}
    found = {content for image in train.cpu().numpy() if (content := image.tobytes()) in wanted}
    return [sum(content in found for content in draw) / len(draw) for draw in drawn]
