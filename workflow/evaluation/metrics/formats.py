"""What general lossless formats need for images: bits/dim that anybody can check without a model."""

import bz2
import io
import lzma
import math

import torch
from PIL import Image
from torch import Tensor

PICTURES = (1, 3)  # channels of what PNG and WebP can hold


def sizes(images: Tensor) -> dict[str, int]:
    """Bytes that images, uint8 (N, C, H, W), take together in each format.

    Of grey and colour images also as pictures: all of them side by side, so that one header serves for all.

    >>> images = torch.zeros(1000, 1, 8, 8, dtype=torch.uint8)
    >>> all(size < 200 for size in sizes(images).values())
    True
    """
    pixels = images.numpy().tobytes()
    found = {"bz2": len(bz2.compress(pixels)), "xz": len(lzma.compress(pixels))}
    if images.shape[1] in PICTURES:
        picture = _sheet(images)
        found["PNG"] = _as(picture, "PNG", optimize=True)
        found["WebP"] = _as(picture.convert("RGB"), "WEBP", lossless=True, quality=100)
    return found


def _sheet(images: Tensor) -> Image.Image:
    rows = math.ceil(len(images) ** 0.5)
    sheet = torch.zeros(rows * rows, *images.shape[1:], dtype=torch.uint8)
    sheet[: len(images)] = images
    tiled = sheet.unflatten(0, (rows, rows)).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2).squeeze(2)
    return Image.fromarray(tiled.numpy())


def _as(picture: Image.Image, form: str, **options: bool | int) -> int:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return len(file.getvalue())
