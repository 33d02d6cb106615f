"""Images as pictures to look at."""

import io
import math

import numpy as np
from PIL import Image

from workflow.data.arrays import Array
from workflow.data.waveforms import draw, is_signal

POINT = (1, 1, 2)  # the shape of a point of a plane, stored as an image of two pixels
PLANE_LEVELS = 256


def in_bytes(images: Array, levels: int) -> Array:
    """Pixels of 0..levels-1 as the nearest of 0..255, uint8 of the same shape."""
    return _scaled(np.float32(255 / (levels - 1)))[images]


def in_levels(images: Array, levels: int) -> Array:
    """Pixels of 0..255 as the nearest of 0..levels-1; what `in_bytes` made comes back as it was."""
    return _scaled(np.float32((levels - 1) / 255))[images]


def _scaled(factor: np.float32) -> Array:
    """What becomes of each of 256 values."""
    table: Array = (np.arange(256, dtype=np.uint8) * factor).round().clip(0, 255).astype(np.uint8)
    return table


def visible(images: Array, levels: int) -> tuple[Array, int]:
    """Images and their number of levels as they are; of signals, drawings of them (`draw`)."""
    return (draw(images, levels), PLANE_LEVELS) if is_signal(images.shape[1:]) else (images, levels)


def grid(images: Array, levels: int, columns: int, scale: int | None = None, gap: int = 1) -> Image.Image:
    """Arrange images in a grid on a white background; signals as drawings.

    Args:
        images: uint8 (N, C, H, W), values 0..levels-1, C 1 or 3.
        levels: their number.
        columns: images in a row.
        scale: width of a drawn pixel; by default, an image is about 48 pixels wide.
        gap: pixels between images.
    """
    images, levels = visible(images, levels)
    n, channels, height, width = images.shape
    scale = scale or max(1, round(48 / width))
    rows = math.ceil(n / columns)
    bright = in_bytes(images, levels).repeat(scale, 2).repeat(scale, 3)
    step_y, step_x = height * scale + gap, width * scale + gap
    canvas = np.full((rows * step_y - gap, columns * step_x - gap, channels), 255, np.uint8)
    for i, image in enumerate(bright):
        top, left = (i // columns) * step_y, (i % columns) * step_x
        canvas[top : top + height * scale, left : left + width * scale] = image.transpose(1, 2, 0)
    return Image.fromarray(canvas.squeeze(2) if channels == 1 else canvas)


def scatter(points: Array, levels: int, side: int) -> Array:
    """Draw points of a plane as one picture with a thin frame, dark where points are; x to the right, y upwards.

    Args:
        points: uint8 (N, 1, 1, 2).
        levels: their coordinates are 0..levels-1.
        side: of the picture, in pixels.

    Returns:
        The picture, uint8 (1, 1, side, side), of PLANE_LEVELS.
    """
    x, y = points.reshape(-1, 2).astype(np.int64).T
    place = (levels - 1 - y) * side // levels * side + x * side // levels
    counts = np.pad(np.bincount(place, minlength=side * side).reshape(side, side), 1)
    spread = np.lib.stride_tricks.sliding_window_view(counts, (3, 3)).max((2, 3))  # a point is three pixels wide
    plane = (PLANE_LEVELS - 1) * (1 - np.float32(0.35) * np.sqrt(spread, dtype=np.float32)).clip(min=0)
    plane[[0, -1]] = plane[:, [0, -1]] = 0.8 * PLANE_LEVELS
    picture: Array = plane.astype(np.uint8)[None, None]
    return picture


def overview(images: Array, levels: int) -> Image.Image:
    """The first hundred images as one picture; if they are points, all of them in one plane."""
    if images.shape[1:] == POINT:
        return grid(scatter(images, levels, 3 * levels // 2), PLANE_LEVELS, columns=1, scale=1)
    return grid(images[:100], levels, columns=10)


def png(image: Image.Image) -> bytes:
    """The picture as PNG bytes, without any metadata."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
