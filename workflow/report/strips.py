"""Images as elements of the page, each a PNG of its own: they keep their pixels sharp and wrap with the text."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from workflow.data.arrays import Array
from workflow.data.pictures import PLANE_LEVELS, POINT, grid, png, scatter

FIT = 44  # CSS pixels that a picture is about wide
PLANE = 96  # CSS pixels of a plane with points
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


def strip(images: Iterable[Array], levels: int, columns: int, narrow: int, fit: int = FIT) -> Strip:
    """Lay out one or more sets of equally many images uint8 (N, C, H, W) so that their n-th ones share a cell.

    fit: CSS pixels that a picture is about wide.
    """
    sets = list(images)
    own = sets[0].shape[3]
    cells = [[_uri(image, levels) for image in images] for images in zip(*sets, strict=True)]
    return Strip(cells, fit // own * own or fit, own > fit, columns, narrow)


def over_training(snapshots: Array, levels: int) -> Strip:
    """Samples over training, uint8 (S, n, C, H, W): a column a time, a row from the same noise; points as a plane."""
    times = len(snapshots)
    if snapshots.shape[2:] == POINT:
        planes = np.concatenate([scatter(points, levels, PLANE) for points in snapshots])
        return strip([planes], PLANE_LEVELS, times, 3, fit=PLANE)
    return strip([snapshots[:, row] for row in range(SNAPSHOT_ROWS)], levels, times, times)


def _uri(image: Array, levels: int) -> str:
    content = png(grid(image[None], levels, columns=1, scale=1))
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
