"""Images as elements of the page, each a PNG file of its own, so that pixels stay sharp and rows wrap."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from workflow.data.arrays import Array
from workflow.data.pictures import PLANE_LEVELS, POINT, grid, png, scatter, visible
from workflow.data.waveforms import WIDTH, is_signal, wav

FIT = 64  # approximate width of a picture in CSS pixels
LARGE = 160  # the same where a reader has asked to see it larger
PLANE = 128  # width of a plane with points in CSS pixels
SNAPSHOT_ROWS = 4
PLAYED = 16  # signals that a player has, one after another


@dataclass(frozen=True)
class Strip:
    """Pictures in rows and columns.

    Args:
        cells: in each, pictures that belong together, one above the other, as data URIs.
        width: of a picture in CSS pixels, if possible a whole multiple of its own pixels.
        large: the same where it is enlarged.
        smooth: whether that is not possible, so that the picture has to be scaled smoothly.
        columns: cells per row; 0 for as many as there is room for.
        rows: how many are shown before a reader enlarges them; 0 for all.

    """

    cells: list[list[str]]
    width: int
    large: int
    smooth: bool
    columns: int
    rows: int


def strip(images: Iterable[Array], levels: int, columns: int = 0, rows: int = 0, fit: int = FIT) -> Strip:
    """Lay out one or more sets of images so that their n-th images share a cell; signals as drawings.

    Args:
        images: sets of the same number of images, each uint8 (N, C, H, W).
        levels: number of pixel values.
        columns: cells per row; 0 for as many as there is room for.
        rows: how many are shown before a reader enlarges them; 0 for all.
        fit: approximate width of a picture in CSS pixels.

    """
    sets = list(images)
    if is_signal(sets[0].shape[1:]):
        fit = WIDTH
        sets = [visible(one, levels)[0] for one in sets]
        levels = PLANE_LEVELS
    own = sets[0].shape[3]
    cells = [[_uri(image, levels) for image in images] for images in zip(*sets, strict=True)]
    large = max(LARGE, 2 * fit)
    return Strip(cells, _whole(own, fit), _whole(own, large), own > fit, columns, rows)


def over_training(snapshots: Array, levels: int) -> Strip:
    """Samples over training, uint8 (S, n, C, H, W): a column per time, a row per noise; points as planes."""
    times = len(snapshots)
    if snapshots.shape[2:] == POINT:
        planes = np.concatenate([scatter(points, levels, PLANE) for points in snapshots])
        return strip([planes], PLANE_LEVELS, times, fit=PLANE)
    return strip([snapshots[:, row] for row in range(SNAPSHOT_ROWS)], levels, times)


def sound(images: Array, levels: int, rate: int) -> str:
    """A WAV file, as a data URI, that plays the first signals; "" for images, whose rate is 0."""
    if not rate:
        return ""
    return f"data:audio/wav;base64,{base64.b64encode(wav(images[:PLAYED], levels, rate)).decode()}"


def _whole(own: int, fit: int) -> int:
    """The whole multiple of a picture's own width that is nearest to `fit`; `fit` for a picture that is wider."""
    return fit if own > fit else round(fit / own) * own


def _uri(image: Array, levels: int) -> str:
    content = png(grid(image[None], levels, columns=1, scale=1))
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
