"""Images for other programs: a folder of PNG files, a grid, or an array as those who evaluate samples read it."""

import math
from pathlib import Path

import numpy as np
from PIL import Image

from workflow.data.arrays import Array
from workflow.data.pictures import PLANE_LEVELS, POINT, grid, in_bytes, png, scatter
from workflow.errors import BakeoffError
from workflow.files import filling, replacing, write_bytes

KINDS = "a folder, a .png (one grid) or an .npz"


def check_target(out: Path) -> None:
    """Raise BakeoffError if something is there already, or if the name does not say what to write."""
    if out.suffix not in ("", ".png", ".npz"):
        raise BakeoffError(f"--out: {out}: should be {KINDS}; folders are named without a dot")
    if out.is_dir() and not out.suffix and not any(out.iterdir()):
        return
    if out.exists():
        raise BakeoffError(f"--out: {out}: exists already, and nothing is overwritten; name another, or remove it")


def write(out: Path, images: Array, levels: int, labels: Array | None = None) -> None:
    """Write images to a folder, as one PNG file each; to a .png, as a grid; or to an .npz. All pixels become 0..255.

    The .npz has the layout of guided-diffusion's evaluator (Dhariwal & Nichol 2021), which others read, too: `arr_0`,
    uint8 (N, H, W, C), and `arr_1`, int64 (N,), the classes if the images were drawn of such.

    Args:
        out: what `check_target` accepts.
        images: uint8 (N, C, H, W), values 0..levels-1.
        levels: their number.
        labels: their classes, int64 (N,).
    """
    if out.suffix == ".png":
        write_bytes(out, png(_overview(images, levels)))
        return
    pixels = in_bytes(images, levels).transpose(0, 2, 3, 1)
    if out.suffix == ".npz":
        with replacing(out) as temporary, temporary.open("wb") as file:
            np.savez(file, pixels, *([] if labels is None else [labels]))
        return
    digits = len(str(len(pixels) - 1))
    with filling(out) as folder:
        for number, image in enumerate(pixels):
            picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
            (folder / f"{number:0{digits}}.png").write_bytes(png(picture))


def _overview(images: Array, levels: int) -> Image.Image:
    """All images in about a square; points all in one plane."""
    if images.shape[1:] == POINT:
        return grid(scatter(images, levels, 3 * levels // 2), PLANE_LEVELS, columns=1, scale=1)
    return grid(images, levels, columns=math.ceil(math.sqrt(len(images))))
