"""Images as elements of the page, each a PNG file of its own, so that pixels stay sharp and rows wrap."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from workflow.data.arrays import Array
from workflow.data.pictures import PLANE_LEVELS, POINT, grid, png, scatter

FIT = 44  # approximate width of a picture in CSS pixels
PLANE = 96  # width of a plane with points in CSS pixels
SNAPSHOT_ROWS = 4


@dataclass(frozen=True)
class Strip:
    """Pictures in rows and columns.

    Args:
        cells: in each, pictures that belong together, one above the other, as data URIs.
        width: of a picture in CSS pixels, if possible a whole multiple of its own pixels.
        smooth: whether that is not possible, so that the picture has to be scaled smoothly.
        columns: cells per row on a wide screen.
        narrow: cells per row on a narrow screen.

    """

    cells: list[list[str]]
    width: int
    smooth: bool
    columns: int
    narrow: int


def strip(images: Iterable[Array], levels: int, columns: int, narrow: int, fit: int = FIT) -> Strip:
    """Lay out one or more sets of images so that their n-th images share a cell.

    Args:
        images: sets of the same number of images, each uint8 (N, C, H, W).
        levels: number of pixel values.
        columns: cells per row on a wide screen.
        narrow: cells per row on a narrow screen.
        fit: approximate width of a picture in CSS pixels.

    """
    sets = list(images)
    own = sets[0].shape[3]
    cells = [[_uri(image, levels) for image in images] for images in zip(*sets, strict=True)]
    return Strip(cells, fit // own * own or fit, own > fit, columns, narrow)


def over_training(snapshots: Array, levels: int) -> Strip:
    """Samples over training, uint8 (S, n, C, H, W): a column per time, a row per noise; points as planes."""
    times = len(snapshots)
    if snapshots.shape[2:] == POINT:
        planes = np.concatenate([scatter(points, levels, PLANE) for points in snapshots])
        return strip([planes], PLANE_LEVELS, times, 3, fit=PLANE)
    return strip([snapshots[:, row] for row in range(SNAPSHOT_ROWS)], levels, times, times)


def _uri(image: Array, levels: int) -> str:
    content = png(grid(image[None], levels, columns=1, scale=1))
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
