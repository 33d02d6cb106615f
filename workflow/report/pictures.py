"""Images as elements of the page, each a PNG of its own: they keep their pixels sharp and wrap with the text."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from workflow.images import grid, png

FIT = 44  # CSS pixels that a picture is about wide


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


def strip(images: Iterable[Tensor], levels: int, columns: int, narrow: int) -> Strip:
    """Lay out one or more sets of equally many images uint8 (N, C, H, W) so that their n-th ones share a cell."""
    sets = list(images)
    own = sets[0].shape[3]
    cells = [[_uri(image, levels) for image in images] for images in zip(*sets, strict=True)]
    return Strip(cells, FIT // own * own or FIT, own > FIT, columns, narrow)


def _uri(image: Tensor, levels: int) -> str:
    content = png(grid(image[None], levels, columns=1, scale=1))
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
