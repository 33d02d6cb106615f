"""Images as elements of the page, each a PNG of its own: they keep their pixels sharp and wrap with the text."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from workflow.images import grid, png

FIT = 44  # CSS pixels that a picture is about wide
POINT = (1, 1, 2)  # the shape of a point of a plane, stored as an image
PLANE = 96  # pixels of the plane's side
SNAPSHOT_ROWS = 4


@dataclass(frozen=True)
class Strip:
    """cells: in each, pictures that belong together, one above the other, as data URIs.

    width: of a picture in CSS pixels, a whole multiple of its own pixels where that fits; smooth: where it does not.
    columns, narrow: cells in a row on a wide and on a narrow screen.
    """

    cells: list[list[str]]
    width: int
    smooth: bool
    columns: int
    narrow: int


def strip(images: Iterable[Tensor], levels: int, columns: int, narrow: int, fit: int = FIT) -> Strip:
    """Lay out one or more sets of equally many images uint8 (N, C, H, W) so that their n-th ones share a cell.

    fit: CSS pixels that a picture is about wide.
    """
    sets = list(images)
    own = sets[0].shape[3]
    cells = [[_uri(image, levels) for image in images] for images in zip(*sets, strict=True)]
    return Strip(cells, fit // own * own or fit, own > fit, columns, narrow)


def scatter(points: Tensor, levels: int) -> Tensor:
    """Points, uint8 (N, 1, 1, 2), as one picture of 256 levels, dark where they are: uint8 (1, 1, PLANE, PLANE)."""
    x, y = points.view(-1, 2).long().unbind(1)
    place = (levels - 1 - y) * PLANE // levels * PLANE + x * PLANE // levels
    counts = place.bincount(minlength=PLANE * PLANE).view(1, 1, PLANE, PLANE).float()
    spread = F.max_pool2d(counts, 3, 1, 1)  # a point is three pixels wide
    return (255 * (1 - 0.35 * spread.sqrt()).clamp(min=0)).to(torch.uint8)


def over_training(snapshots: Tensor, levels: int) -> Strip:
    """Samples over training, uint8 (S, n, C, H, W): a column a time, a row from the same noise; points as a plane."""
    times = len(snapshots)
    if snapshots.shape[2:] == POINT:
        return strip([torch.cat([scatter(points, levels) for points in snapshots])], 256, times, 3, fit=PLANE)
    return strip([snapshots[:, row] for row in range(SNAPSHOT_ROWS)], levels, times, times)


def _uri(image: Tensor, levels: int) -> str:
    content = png(grid(image[None], levels, columns=1, scale=1))
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
