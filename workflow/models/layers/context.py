"""Which pixels the features of an autoregressive network depend on, from the masks of its layers alone.

A context is bool (H, W, P), P = H·W: whether the features at a position depend on a pixel, in raster order, in any of
its colours.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def of_input(height: int, width: int) -> Tensor:
    """The context of the pixels themselves: each depends on itself."""
    return torch.eye(height * width, dtype=torch.bool).view(height, width, -1)


def gathered(context: Tensor, offsets: Iterable[tuple[int, int]]) -> Tensor:
    """The context after a convolution that sees the positions at these offsets, in rows and columns."""
    found = torch.zeros_like(context)
    height, width = context.shape[:2]
    for down, right in offsets:
        if abs(down) < height and abs(right) < width:
            to = (slice(max(0, -down), height - max(0, down)), slice(max(0, -right), width - max(0, right)))
            source = (slice(max(0, down), height - max(0, -down)), slice(max(0, right), width - max(0, -right)))
            found[to] |= context[source]
    return found


def kernel_offsets(mask: Tensor, up: int, left: int) -> list[tuple[int, int]]:
    """What a masked kernel sees.

    Args:
        mask: (outputs, inputs, rows, columns), 0 where a weight is masked.
        up: rows above the position.
        left: columns on its left.
    """
    rows, columns = mask.any(0).any(0).nonzero(as_tuple=True)
    return [(row - up, column - left) for row, column in zip(rows.tolist(), columns.tolist(), strict=True)]


def share_of_pairs(context: Tensor) -> float:
    """The share of all pairs of a pixel and an earlier one in which the later depends on the earlier."""
    pixels = context.shape[2]
    pairs = pixels * (pixels - 1) // 2
    return float(context.flatten(0, 1).tril(-1).sum()) / pairs if pairs else 1.0


def note_on(context: Tensor) -> str:
    """What the report says about a context; "" if every pixel depends on all pixels before it."""
    share = share_of_pairs(context)
    if share == 1:
        return ""
    return (
        f"Its receptive field covers {100 * share:.0f} % of all pairs of a pixel and an earlier one; given the pixels "
        "that it covers, a pixel is modelled as independent of the other earlier ones."
    )
