"""How models are told apart on the pages: by a colour and a shape each, the same in charts and beside names.

There are six colours (`--series-0` to `--series-5` in `style.css`) and six shapes, full or hollow. No two of the first
twelve models have the same shape, so that nobody has to tell colours apart; models next to each other differ in both.
"""

import math
from typing import Any

from markupsafe import Markup

COLOURS = 6
PAPER = "#050505"  # the placeholder of the page's background in charts
_STAR = tuple((math.sin(i * math.pi / 12), math.cos(i * math.pi / 12)) for i in range(24))
# Corners in a box from -1 to 1, upwards, and a size that makes all look equally large.
SHAPES: tuple[tuple[tuple[tuple[float, float], ...], float], ...] = (
    (_STAR, 1.0),
    (((-1, -1), (1, -1), (1, 1), (-1, 1)), 0.86),
    (((-1, -0.8), (1, -0.8), (0, 1)), 1.12),
    (((0, -1), (1, 0), (0, 1), (-1, 0)), 1.2),
    (((-1, 0.8), (1, 0.8), (0, -1)), 1.12),
    (
        (
            *((-0.36, -1), (0.36, -1), (0.36, -0.36), (1, -0.36), (1, 0.36), (0.36, 0.36)),
            *((0.36, 1), (-0.36, 1), (-0.36, 0.36), (-1, 0.36), (-1, -0.36), (-0.36, -0.36)),
        ),
        1.16,
    ),
)


def colour(series: int) -> str:
    """The placeholder of a model's colour in charts."""
    return f"#0400{series % COLOURS:02x}"


def shape(series: int) -> tuple[int, bool]:
    """The number of a model's shape, and whether it is hollow.

    >>> shape(0), shape(5), shape(6), shape(12)
    ((0, False), (5, False), (3, True), (1, False))
    >>> len({shape(series) for series in range(12)})
    12
    """
    turn, place = divmod(series, len(SHAPES))
    hollow = turn % 2 == 1
    return (place + turn // 2 + (3 if hollow else 0)) % len(SHAPES), hollow


def point(series: int, size: float) -> dict[str, Any]:
    """How matplotlib draws a model's point; size: of a circle, in points."""
    number, hollow = shape(series)
    corners, factor = SHAPES[number]
    style: dict[str, Any] = {"marker": (*corners, corners[0]), "markersize": factor * size, "color": colour(series)}
    style["linestyle"] = "none"
    return {**style, "markerfacecolor": PAPER if hollow else colour(series), "markeredgewidth": 1.6 if hollow else 0.8}


def swatch(series: int) -> Markup:
    """The same shape before a model's name, as an SVG element."""
    number, hollow = shape(series)
    corners, factor = SHAPES[number]
    points = " ".join(f"{4 * factor * x:.3g},{-4 * factor * y:.3g}" for x, y in corners)
    style = f"--colour: var(--series-{series % COLOURS})"
    kind = "swatch hollow" if hollow else "swatch"
    polygon = f'<polygon points="{points}"/>'
    return Markup(f'<svg class="{kind}" viewBox="-6 -6 12 12" aria-hidden="true" style="{style}">{polygon}</svg>')
