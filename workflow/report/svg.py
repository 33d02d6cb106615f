"""How charts are drawn: as SVG elements of the page, in the colours and the font of the page's style sheet.

matplotlib draws with placeholder colours, which become CSS variables, so one chart suits light and dark mode.
"""

import io
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from workflow.evaluation.columns import significant
from workflow.report.marks import COLOURS, PAPER, colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Size = tuple[float, float]  # width and height in points; a chart is scaled to the page
INK, MUTED, RULE = "#010101", "#020202", "#030303"
SMALL: Size = (300.0, 206.0)
STYLE: Any = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "svg.hashsalt": "bakeoff",
    "text.parse_math": False,
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.edgecolor": RULE,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "legend.facecolor": PAPER,
    "legend.edgecolor": "none",
    "legend.framealpha": 1,
    "legend.fancybox": False,
    "legend.borderpad": 0.3,
    "legend.fontsize": 10,
    "legend.handlelength": 1.8,
    "legend.borderaxespad": 0,
    "legend.columnspacing": 1.2,
    "legend.handletextpad": 0.5,
    "legend.labelspacing": 0.25,
}


def log_ticks(axis: "Axis", fine: bool) -> None:
    """Plain numbers on a logarithmic axis: at 1, 2 and 5 of each decade if `fine`, else at powers of ten only."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if fine else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: significant(value))


def legend_above(axes: "Axes") -> None:
    """A legend in one line above the axes, where it covers nothing."""
    handles, _ = axes.get_legend_handles_labels()
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=max(1, len(handles)), frameon=False, borderpad=0)


class Chart(Markup):
    """A chart as an SVG element of the page, with what it shows in words, and matplotlib's figure."""

    label: str
    figure: "Figure"


def chart(label: str, size: Size, paint: Callable[["Axes"], None], left: float = 56, top: float = 24) -> Chart:
    """A chart as an SVG element.

    Args:
        label: what it shows, for readers who cannot see it.
        size: width and height in points.
        paint: draws into the chart's axes.
        left: space for the title and the tick labels of the vertical axis, in points.
        top: space for a legend or a title.

    """
    from matplotlib.figure import Figure

    width, height = size
    with _style():
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        right, bottom = 8, 38
        box = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
        paint(figure.add_axes(box))
        file = io.StringIO()
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    drawn = Chart(_for_the_page(file.getvalue(), label))
    drawn.label, drawn.figure = label, figure
    return drawn


def pdf(drawn: Chart) -> bytes:
    """A chart of the page as a PDF file, in the light colours of the page's style sheet."""
    from matplotlib.colors import to_hex

    light = {to_hex(colour(series)): _light(f"series-{series}") for series in range(COLOURS)}
    for placeholder, variable in ((INK, "ink"), (MUTED, "muted"), (RULE, "rule"), (PAPER, "paper")):
        light[to_hex(placeholder)] = _light(variable)
    for artist in drawn.figure.findobj():
        _repaint(artist, light)
    file = io.BytesIO()
    with _style(), _glyphs_alone():
        drawn.figure.savefig(file, format="pdf", transparent=True, metadata={"CreationDate": None, "Producer": None})
    return file.getvalue()


def _repaint(artist: Any, colours: Mapping[str, str]) -> None:
    """Replace the colours of a part of a figure, "#rrggbb" by "#rrggbb", and leave its opacity."""
    from matplotlib.colors import to_hex, to_rgba, to_rgba_array

    for what in ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor"):
        read, write = getattr(artist, f"get_{what}", None), getattr(artist, f"set_{what}", None)
        if read and write and any(to_hex(one) in colours for one in to_rgba_array(read())):
            found = [to_rgba(colours.get(to_hex(one), to_hex(one)), alpha=one[3]) for one in to_rgba_array(read())]
            write(found[0] if len(found) == 1 else found)


def standalone(drawn: Markup) -> str:
    """A chart of the page as an SVG file, in the light colours of the page's style sheet, on its paper."""
    colours = _light_colours()
    view = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)
    assert view  # matplotlib always begins there
    text = "svg { color: var(--ink); background: var(--paper); font-family: var(--sans); }"
    size = f'xmlns="http://www.w3.org/2000/svg" width="{view[1]}" height="{view[2]}"'
    return str(drawn).replace("<svg ", f"<svg {size} ", 1).replace(">", f"><style>{colours} {text}</style>", 1) + "\n"


@contextmanager
def _style() -> Iterator[None]:
    """matplotlib in the style of the page, regardless of the user's own matplotlibrc."""
    import matplotlib

    _own_fonts()
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        warnings.filterwarnings("ignore", "Glyph .* missing")  # matplotlib only measures: the browser has the glyph
        yield


@cache
def _own_fonts() -> None:
    """Take the files that matplotlib brings along, and none of the machine's, which may have other versions of them."""
    from matplotlib import font_manager, get_data_path

    font_manager.fontManager.ttflist.clear()
    for path in sorted(Path(get_data_path(), "fonts/ttf").glob("DejaVuSans*.ttf")):
        font_manager.fontManager.addfont(path)


@contextmanager
def _glyphs_alone() -> Iterator[None]:
    """Embed fonts without their tables of ligatures and positions, which no PDF uses: finding the parts that belong to
    the glyphs took most of the time of a figure.
    """
    from fontTools.subset import Options

    before = Options._drop_tables_default
    Options._drop_tables_default = [*before, "GSUB", "GPOS", "GDEF"]
    try:
        yield
    finally:
        Options._drop_tables_default = before


@cache
def _light_colours() -> str:
    """The first rule of the page's style sheet."""
    style = (Path(__file__).parent / "templates/style.css").read_text(encoding="utf-8")
    return style[: style.index("}") + 1]


def _light(variable: str) -> str:
    found = re.search(rf"--{variable}: ([^;]+);", _light_colours())
    assert found, variable
    return found[1]


def _for_the_page(svg: str, label: str) -> Markup:
    """matplotlib's file as an element of the page: no prologue, unique ids, the page's font and colours."""
    svg = svg[svg.index("<svg") :]
    view = re.search(r'viewBox="([\d. ]+)"', svg)
    assert view  # matplotlib always writes one
    body = svg[svg.index(">") + 1 :]
    body = re.sub(r"<(metadata|style)[ >].*?</\1>", "", body, flags=re.DOTALL)
    prefix = f"c{zlib.crc32((label + svg).encode()):08x}-"  # matplotlib's ids are unique per file, not per page
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r'\bid="', f'id="{prefix}', body)
    body = re.sub(r'xlink:href="#', f'href="#{prefix}', body).replace("url(#", f"url(#{prefix}")
    body = re.sub(r"font-family: [^;]*; ", "", body)
    for placeholder, variable in (
        (INK, "currentColor"),
        (MUTED, "var(--muted)"),
        (RULE, "var(--rule)"),
        (PAPER, "var(--paper)"),
    ):
        body = body.replace(placeholder, variable)
    body = re.sub("#0400([0-9a-f]{2})", lambda found: f"var(--series-{int(found[1], 16)})", body)
    return Markup(f'<svg class="chart" viewBox="{view[1]}" role="img" aria-label="{escape(label)}">{body}')
