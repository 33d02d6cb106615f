"""Printed digits of 28x28 pixels, rendered from the fonts that come with matplotlib; needs no network.

The bytes are the same everywhere. Outlines are read as the integers that the font files hold, so there is no hinting
and no FreeType. Random numbers and geometry use only operations that IEEE 754 rounds correctly (+, −, ×, ÷, √), one
array at a time: no sine, matrix product or floating-point sum, whose last bits depend on the processor. Points are then
rounded to 1/256 of a pixel, and from there on all arithmetic is on integers.
"""

import hashlib
import io
import itertools
import logging
import math
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
from fontTools.pens.basePen import BasePen
from fontTools.ttLib import TTFont

from workflow.data.arrays import Array, Arrays
from workflow.data.splits import write_raw
from workflow.errors import BakeoffError

COUNT = 12_000
SIDE = 28  # of an image, in pixels
MARGIN = 2  # pixels at each edge that stay empty
UNIT = 256  # into how much a pixel is divided, for coordinates
LINES = 16  # scan lines in a row of pixels
CHORDS = 4  # straight lines that stand for one curve
DIGITS = "0123456789"
# How images of a glyph differ; each is drawn uniformly between two bounds.
RANGES = {
    "stroke": (0.085, 0.19),  # width, of the height of the glyph
    "aspect": (0.8, 1.15),  # width over height, of that in the font
    "slant": (-0.2, 0.25),  # to the right, of the height; added to that of the font
    "turn": (-0.1, 0.1),  # clockwise; tangent of half the angle, so up to 11 degrees
    "height": (16.0, 21.0),  # of the finished digit, in pixels
    "x": (-1.5, 1.5),  # from the middle, in pixels
    "y": (-1.5, 1.5),
}
STROKE_CHANGES = (0.9, 1.8)  # least and most, of that in the font: hairlines stay visible and counters open
FONTS = {  # SHA-256, by name of the file; all with lining digits, as old-style ones differ in size
    "DejaVuSans.ttf": "3fdf69cabf06049ea70a00b5919340e2ce1e6d02b0cc3c4b44fb6801bd1e0d22",
    "DejaVuSans-Bold.ttf": "b184b89e3c1075f22f6b71575b6fc20d4972b3cfd3b23322ca6fd596dcaef167",
    "DejaVuSans-BoldOblique.ttf": "6edf0283160186af451cbee71e7b845f2e4cabf264bb992ce668c83c25465e6f",
    "DejaVuSans-Oblique.ttf": "ccdf74b350f11fd3dd5774de50e5e6346a1a5da1f5b7d5fb83590665e97a5213",
    "DejaVuSansMono.ttf": "602ec86b8948cfcd956482fe64f94c36c867770149ef2f791d4613f443bcecb3",
    "DejaVuSansMono-Bold.ttf": "baada9a5172fe20886251aff0433fc38461912d5daf07287e7bee56620a8da96",
    "DejaVuSansMono-BoldOblique.ttf": "a69081c15c76c827e0a27a5a7f5c74b6135c843499955495ffa8c20d3a98288b",
    "DejaVuSansMono-Oblique.ttf": "28052813f7a709fc89f52d192dc995ef4f0fdc5c3d7b73a49d6849b1916d0cd0",
    "DejaVuSerif.ttf": "107244956e9962b9e96faccdc551825e0ae0898ae13737133e1b921a2fd35ffa",
    "DejaVuSerif-Bold.ttf": "c3753f2ed6bc673f15846dc45addbeb3b9c872f32fb18fd53a21f1bef1ed7676",
    "DejaVuSerif-BoldItalic.ttf": "d93efec7a9d2e826768d1a2ee95b95870e15e29599a84f3484af1de1cec2e181",
    "DejaVuSerif-Italic.ttf": "3e7994fbc54fa10ce3352a42d548fadd7d9cadb69cb1109bc9d960f6dac57f04",
    "STIXGeneral.ttf": "167378031e2dddc6216d67819c9260e9a06ffc4c478e4e23cb98a6fd44b183c2",
    "STIXGeneralBol.ttf": "e8533dc7083fa346bda1933d60ea4a83b67d0945bceaf1b3541f82b4a0e2c6a0",
    "STIXGeneralBolIta.ttf": "98788fd4ba48dfbb2bd026c0e20a247a8b06c7372879628b7a6bb0d5bb09736c",
    "STIXGeneralItalic.ttf": "6cfcb333d22b7c3c623bdfd40174f14c85c3d6731ca6166c1edc80140eae8527",
    "cmr10.ttf": "4dd9761b058c009db9b2145f55ee6617d093c273dd3d6c5b3e43ff6110fa9bf6",
    "cmb10.ttf": "074497b50c43ea57597181591f9893d38fc12a87e95104f5657fc2481f61a23a",
    "cmss10.ttf": "7df91a83d05b2e471ec638cb0b435a360a3c792b09fc42a7da67e91f2e79115a",
    "cmti10.ttf": "f9f1f9f654308ae82f7be4441ae89b080896b34cc220bbea173c5e9adcfe3ef7",
    "cmtt10.ttf": "6211f09ae93599991afda970c24669dad1a77e253d915624fbf212f702f071d7",
}
CHECKSUM = "0a666c87a311f4489b166ea4ab942ba3ed646a78eaec86d69d69dc62bd70adec"  # SHA-256 of the images, then the labels
REMEDY = (
    "install the locked packages again: `uv pip install --reinstall-package {} --require-hashes -r requirements.lock`"
)
ABOUT = {
    "source": (
        f"digits of {len(FONTS)} fonts that come with matplotlib, rendered with random strokes, slants, turns, sizes "
        "and places; validation and test images are of the same fonts as training images"
    ),
    "licence": "of the fonts: Bitstream Vera (DejaVu), SIL OFL 1.1 (STIX), BaKoMa (Computer Modern)",
    "levels": 256,
    "classes": list(DIGITS),
}
Point = tuple[float, float]


@dataclass(frozen=True)
class Glyph:
    """The outline of a digit: polygons in the units of its font, y downwards.

    points: float64 (V, 2). following: int64 (V,), the index of the next point of the same polygon.
    outwards: float64 (V, 2), how a point moves if all edges move out by 1. stroke: mean width of the strokes.
    """

    points: Array
    following: Array
    outwards: Array
    stroke: float


def download_glyphs(folder: Path) -> None:
    """Render the 12,000 digits, uint8 (N, 1, 28, 28), and write them into `folder`.

    Raises BakeoffError if a font is not the expected one, or if the images are not the published ones.
    """
    glyphs = render()
    digest = hashlib.sha256(glyphs.images.tobytes() + glyphs.labels.tobytes()).hexdigest()
    if digest != CHECKSUM:
        raise BakeoffError(
            f"data.name: glyphs: other images than the published ones were rendered (SHA-256 {digest} instead of "
            f"{CHECKSUM}); {REMEDY.format('numpy')}"
        )
    write_raw(folder, glyphs, **ABOUT)


def render() -> Arrays:
    """As many images of each digit, and of each font to within one. Raises BakeoffError as `read_glyphs` does."""
    drawn = np.random.default_rng(0).random((COUNT, len(RANGES)))
    labels, fonts = np.arange(COUNT) % len(DIGITS), np.arange(COUNT) // len(DIGITS) % len(FONTS)
    images = np.empty((COUNT, 1, SIDE, SIDE), np.uint8)
    for font, name in enumerate(FONTS):
        for label, glyph in enumerate(read_glyphs(name)):
            chosen = np.flatnonzero((fonts == font) & (labels == label))
            images[chosen, 0] = fill(place(glyph, drawn[chosen]), glyph.following)
    return Arrays(images, labels)


def read_glyphs(name: str) -> list[Glyph]:
    """The ten digits of a font in `FONTS`; raises BakeoffError if its file is missing or a different one."""
    logging.getLogger("fontTools").setLevel(logging.ERROR)  # it would warn of the dates in Computer Modern
    font = TTFont(io.BytesIO(_read_font(name)))
    names, outlines = font.getBestCmap(), font.getGlyphSet()
    glyphs = []
    for digit in DIGITS:
        pen = _PolygonPen(outlines)
        outlines[names[ord(digit)]].draw(pen)
        glyphs.append(_glyph(pen.polygons))
    return glyphs


def _read_font(name: str) -> bytes:
    file = Path(str(distribution("matplotlib").locate_file(f"matplotlib/mpl-data/fonts/ttf/{name}")))
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise BakeoffError(f"{file}: missing; {REMEDY.format('matplotlib')}") from None
    if (digest := hashlib.sha256(content).hexdigest()) != FONTS[name]:
        raise BakeoffError(
            f"{file}: not the font that the glyphs are made of (SHA-256 {digest} instead of {FONTS[name]}); "
            f"{REMEDY.format('matplotlib')}"
        )
    return content


class _PolygonPen(BasePen):  # type: ignore[misc]  # fontTools has no types
    """Records an outline as polygons without points that repeat the one before."""

    def __init__(self, outlines: Any) -> None:
        super().__init__(outlines)
        self.polygons: list[list[Point]] = []

    def _moveTo(self, pt: Point) -> None:  # noqa: N802 -- the library's names, here and below
        self.polygons.append([pt])

    def _lineTo(self, pt: Point) -> None:  # noqa: N802
        if pt != self.polygons[-1][-1]:
            self.polygons[-1].append(pt)

    def _qCurveToOne(self, pt1: Point, pt2: Point) -> None:  # noqa: N802
        """A quadratic Bézier curve, as chords; exact, as all shares are powers of two."""
        start = self.polygons[-1][-1]
        for t in (k / CHORDS for k in range(1, CHORDS + 1)):
            a, b, c = (1 - t) * (1 - t), 2 * t * (1 - t), t * t
            self._lineTo((a * start[0] + b * pt1[0] + c * pt2[0], a * start[1] + b * pt1[1] + c * pt2[1]))

    def _closePath(self) -> None:  # noqa: N802
        if self.polygons[-1][0] == self.polygons[-1][-1]:
            self.polygons[-1].pop()


def _glyph(polygons: list[list[Point]]) -> Glyph:
    """Of polygons with y upwards, of which holes go round the other way."""
    x, y = np.array([point for polygon in polygons for point in polygon]).T * [[1], [-1]]
    starts = np.cumsum([0, *map(len, polygons)])
    following = np.concatenate([np.roll(np.arange(a, b), -1) for a, b in itertools.pairwise(starts)])
    dx, dy = x[following] - x, y[following] - y
    lengths = np.sqrt(dx * dx + dy * dy)
    area = math.fsum(x * y[following] - y * x[following]) / 2  # that of holes has the other sign
    side = math.copysign(1, area)  # on which outside is
    nx, ny = side * dy / lengths, -side * dx / lengths  # outwards, from the edge that begins at a point
    before = np.argsort(following)
    # A corner moves to where its edges meet once both have moved, a sharp one not as far.
    shrunk = np.maximum(1 + nx * nx[before] + ny * ny[before], 0.5)
    outwards = np.stack([(nx + nx[before]) / shrunk, (ny + ny[before]) / shrunk], 1)
    return Glyph(np.stack([x, y], 1), following, outwards, 2 * abs(area) / math.fsum(lengths))


def place(glyph: Glyph, drawn: Array) -> Array:
    """The points of a glyph in N images, int64 (N, V, 2), in units of 1/256 pixel.

    Args:
        glyph: the outline.
        drawn: float64 (N, 7) in [0, 1), what becomes of each of `RANGES`.
    """
    bounds = np.array(list(RANGES.values())).T
    values = bounds[0] + (bounds[1] - bounds[0]) * drawn
    stroke, aspect, slant, turn, height, right, down = values.T[:, :, None]
    least, most = STROKE_CHANGES
    wanted = np.clip(stroke * np.ptp(glyph.points[:, 1]), least * glyph.stroke, most * glyph.stroke)
    moved = glyph.points.T[:, None] + (wanted - glyph.stroke) / 2 * glyph.outwards.T[:, None]
    x, y = aspect * moved[0] - slant * moved[1], moved[1]
    cosine, sine = (1 - turn * turn) / (1 + turn * turn), 2 * turn / (1 + turn * turn)
    x, y = cosine * x - sine * y, sine * x + cosine * y
    widest = SIDE - 2 * MARGIN
    scale = np.minimum(height / np.ptp(y, axis=1, keepdims=True), widest / np.ptp(x, axis=1, keepdims=True))
    placed = [_centre(x * scale, right), _centre(y * scale, down)]
    points: Array = np.rint(np.stack(placed, 2) * UNIT).astype(np.int64)
    return points


def _centre(coordinates: Array, offset: Array) -> Array:
    """Shift coordinates (N, V), in pixels, to the middle of the image, then by the offset (N, 1) within the margins."""
    first, size = coordinates.min(axis=1, keepdims=True), np.ptp(coordinates, axis=1, keepdims=True)
    room = (SIDE - size) / 2 - MARGIN
    shifted: Array = coordinates - first + (MARGIN + room + np.clip(offset, -room, room))
    return shifted


def fill(points: Array, following: Array) -> Array:
    """Images whose pixels are as bright as the share of them that lies inside the polygons, uint8 (N, 28, 28).

    Each scan line is exact; a row of pixels is the mean of 16.

    Args:
        points: int64 (N, V, 2), in units of 1/256 pixel, inside the image.
        following: int64 (V,), index of the next point of the same polygon.
    """
    step, full = UNIT // LINES, UNIT * LINES
    (x0, y0), (x1, y1) = np.moveaxis(points, 2, 0), np.moveaxis(points[:, following], 2, 0)
    # Scan lines that an edge crosses: those with y0 <= y < y1, or the other way round. A horizontal one crosses none.
    first, last = (-((step // 2 - y) // step) for y in (np.minimum(y0, y1), np.maximum(y0, y1)))
    crossed = (last - first).ravel()
    edge = np.repeat(np.arange(crossed.size), crossed)
    line = first.ravel()[edge] + np.arange(len(edge)) - np.repeat(crossed.cumsum() - crossed, crossed)
    x0, y0, x1, y1 = (values.ravel()[edge] for values in (x0, y0, x1, y1))
    column, rest = np.divmod(x0 + (line * step + step // 2 - y0) * (x1 - x0) // (y1 - y0), UNIT)
    # The winding number changes by one where an edge is crossed: added up along a line, it is not zero inside.
    change = np.zeros((len(points), SIDE, SIDE + 1), np.int64)
    image, row, turn = edge // points.shape[1], line // LINES, np.sign(y1 - y0)
    np.add.at(change, (image, row, column), turn * (UNIT - rest))
    np.add.at(change, (image, row, column + 1), turn * rest)
    covered: Array = np.minimum(abs(change.cumsum(2)[:, :, :SIDE]), full)
    pixels: Array = ((covered * 255 + full // 2) // full).astype(np.uint8)
    return pixels
