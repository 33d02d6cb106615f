"""What the audit found: which measures can be trusted, what each notices, and how far copies would show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from workflow.evaluation.columns import DASH, GENERATION, UNDERSTANDING, Column, named
from workflow.evaluation.statistics import Table as Values
from workflow.evaluation.statistics import estimate
from workflow.evaluation.trust import COPIES
from workflow.report.charts import DASHES
from workflow.report.marks import COLOURS, colour
from workflow.report.svg import INK, SMALL, chart
from workflow.report.tables import Cell, Row, Table, model_groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COPYING = ("c_t", "authentic", "fld_gap", "nearest_neighbour_ratio", "copies", "bits_gap")


@dataclass(frozen=True)
class Seen:
    """What a measure makes of a damage, in words; kind: "notices", "blind" or "praises"."""

    text: str
    kind: str
    small: str


@dataclass(frozen=True)
class Trust:
    """The section on how far measures can be trusted.

    Args:
        counts: of images in each part, of training images, of splits.
        refused: titles of the measures that rank nobody, and why.
        blind: none of the measures on features ranks anybody, so that the network has learned nothing.
        damages: their names.
        rows: each measure with what it makes of each damage.
        unnoticed: damages that no measure that ranks models notices, and the other measures that do.
        charts: titles of the measures, and their values over the strength of each damage.
        copying: measures of copying, of planted copies and of the models.

    """

    counts: dict[str, int]
    refused: list[tuple[str, str]]
    blind: bool
    damages: list[str]
    rows: list[tuple[Column, list[Seen]]]
    unnoticed: list[tuple[str, list[str]]]
    charts: list[tuple[str, Markup]]
    copying: Table


def trust(summary: dict[str, Any], audit: Mapping[str, Any]) -> Trust:
    """The section; of data with too few test images for an audit without its results."""
    columns = [column for column in named(GENERATION, summary) if column.key in audit["clean"]]
    notices, refused, damages = summary["audit"]["notices"], summary["audit"]["unfit"], audit["damages"]
    rows = [(c, [_seen(notices[c.key].get(name), damage) for name, damage in damages.items()]) for c in columns]
    trusted = [column.key for column in columns if column.better and column.key not in refused]
    return Trust(
        counts=audit["counts"],
        refused=[(column.title, refused[column.key]) for column in columns if column.key in refused],
        blind=bool(columns) and not any(column.on_features and column.key in trusted for column in columns),
        damages=list(damages),
        rows=rows,
        unnoticed=[
            (name, [c.title for c in columns if _worse(notices[c.key].get(name))])
            for name in damages
            if not any(_worse(notices[key].get(name)) for key in trusted)
        ],
        charts=[(column.title, _chart(column, audit)) for column in columns],
        copying=_copying(summary, audit),
    )


def _worse(notice: Mapping[str, Any] | None) -> bool:
    return bool(notice and notice["way"] and not notice["praises"])


def _seen(notice: Mapping[str, Any] | None, damage: Mapping[str, Any]) -> Seen:
    if notice is None:
        return Seen(DASH, "blind", "")
    rho = "" if notice["correlation"] is None else f"ρ {notice['correlation']:+.2f}".replace("-", "−")
    if not notice["way"]:
        return Seen("blind", "blind", rho)
    since = f"from {_strength(notice['strength'], damage)}"
    return Seen(f"praises {since}", "praises", rho) if notice["praises"] else Seen(since, "notices", rho)


def _strength(value: float, damage: Mapping[str, Any]) -> str:
    """As it is printed: pixels or a share."""
    unit = f"{value:g} px" if damage["in_pixels"] else f"{100 * value:g} %"
    return unit.replace(" ", "\N{NO-BREAK SPACE}")


def _chart(column: Column, audit: Mapping[str, Any]) -> Markup:
    """Mean value over the strength of each damage, with a band where values of undamaged images lie."""
    clean = [fmean(row) for row in audit["clean"][column.key]]

    def paint(axes: "Axes") -> None:
        axes.axhspan(min(clean), max(clean), color=INK, alpha=0.12, linewidth=0)
        for number, damage in enumerate(audit["damages"].values()):
            tables = [values[column.key] for values in damage["values"] if column.key in values]
            means = [fmean(clean), *(_mean(table) for table in tables)]
            axes.plot(range(len(means)), means, color=colour(number), linestyle=DASHES[number // COLOURS])
        steps = max(len(damage["strengths"]) for damage in audit["damages"].values())
        axes.set_xticks([0, steps], ["no damage", "strongest"])
        axes.set_xlim(-0.25, steps + 0.35)

    return chart(f"{column.title} over the strength of each damage", SMALL, paint)


def _mean(table: Values) -> float:
    return fmean(value for row in table for value in row)


def _copying(summary: dict[str, Any], audit: Mapping[str, Any]) -> Table:
    """Planted copies, from none to all, and the models."""
    columns = tuple(column for column in (*GENERATION, *UNDERSTANDING) if column.key in COPYING)
    planted: dict[float, Mapping[str, Values]] = {0.0: audit["clean"]} if audit["clean"] else {}
    copies = audit["damages"].get(COPIES, {"strengths": [], "values": []})
    planted |= dict(zip(copies["strengths"], copies["values"], strict=True))
    rows = [
        Row(f"{100 * share:g}\N{NO-BREAK SPACE}% copies", None, tuple(_cell(c, values.get(c.key)) for c in columns))
        for share, values in planted.items()
    ]
    groups = [("Real unseen images, some of them replaced by training images with slight noise", tuple(rows))]
    return Table(columns, (*groups[: len(rows)], *model_groups(summary, columns, marked=False)))


def _cell(column: Column, table: Values | None) -> Cell:
    if table is None:
        return Cell(DASH)
    found = estimate(table)
    ends: Sequence[float] = column.within_limits(found.interval) if found and found.error else ()
    return Cell(column.text(_mean(table)), ends=(column.bare(ends[0]), column.bare(ends[1])) if ends else None)
