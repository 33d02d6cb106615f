"""The wall of samples as one picture: a labelled row of images for each model, real images on top."""

from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from workflow.data.arrays import Array, read_arrays, read_images
from workflow.data.pictures import PLANE_LEVELS, POINT, grid, scatter
from workflow.paths import PREPARED
from workflow.report.results import Results
from workflow.report.tables import DECODED, labels

Rows = Sequence[tuple[str, Array]]  # what is written before each row, and its images, uint8 (N, C, H, W)
PAPER, INK = (255, 255, 255), (26, 26, 26)
FONT, GAP = 15, 8  # pixels
MEAN = "mean"


def rows(summary: dict[str, Any], results: Results) -> Iterator[tuple[str, Array]]:
    """Real images, then the samples of each model; of a decoder with a distribution its mean images as well."""
    yield "Real images", read_images(PREPARED / "test.safetensors").images
    names = labels(summary["models"])
    for name, runs in results.models.items():
        drawn = read_arrays(runs[0].folder / "samples.safetensors")
        yield names[name], drawn["images"]
        if MEAN in drawn:
            yield f"{names[name]}: {DECODED[MEAN]}", drawn[MEAN]


def picture(rows: Rows, levels: int, columns: int, side: int = 48) -> Image.Image:
    """One picture with the first images of each row, not chosen; points of a plane are one image.

    Args:
        rows: labels and images of one shape.
        levels: number of pixel values.
        columns: images in a row.
        side: of an image in pixels, at least; images are enlarged by a whole number.

    """
    strips = [(label, _strip(images, levels, columns, side)) for label, images in rows]
    font = ImageFont.load_default(FONT)
    left = GAP + max(round(font.getlength(label)) for label, _ in strips) + GAP
    width = left + max(strip.width for _, strip in strips) + GAP
    whole = Image.new("RGB", (width, GAP + sum(strip.height + GAP for _, strip in strips)), PAPER)
    pen, top = ImageDraw.Draw(whole), GAP
    for label, strip in strips:
        pen.text((left - GAP, top + strip.height / 2), label, INK, font, anchor="rm")
        whole.paste(strip, (left, top))
        top += strip.height + GAP
    return whole


def _strip(images: Array, levels: int, columns: int, side: int) -> Image.Image:
    if images.shape[1:] == POINT:
        return grid(scatter(images, levels, 2 * side), PLANE_LEVELS, columns=1, scale=1)
    return grid(images[:columns], levels, columns, scale=-(-side // images.shape[3]), gap=3)
