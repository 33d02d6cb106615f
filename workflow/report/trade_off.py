"""Quality against what it costs to draw an image, as a chart."""

from typing import Any

from markupsafe import Markup

from workflow.evaluation.columns import GENERATION, Column, named
from workflow.report.charts import Point, quality_against_cost
from workflow.report.tables import labels

CROWD = 10  # models beside each other, at the most, before charts need the whole width


def quality_against(column: Column, summary: dict[str, Any]) -> Markup | None:
    """FID of each model over a column, with the floor that real images reach; None if no model has a number there."""
    models, names = summary["models"], labels(summary["models"])
    crowded, points = len(models) > CROWD, []
    for series, (name, model) in enumerate(models.items()):
        means, ends = model["mean"], model["interval"]
        if cost := means[column.key]:
            quality, label = means["fid"], name if crowded else names[name]
            across, up = ends[column.key] or (cost, cost), ends["fid"] or (quality, quality)
            points.append(Point(label, series, cost, quality, across, up))
    if not points:
        return None
    (fid,) = named(GENERATION[:1], summary)
    titles = (
        f"{column.title} ({'fewer is cheaper' if column.better == 'lower' else 'more is faster'})",
        f"{fid.title} (lower is better)",
    )
    what = f"{fid.title} of each model against its {column.title}, with the real-against-real floor"
    return quality_against_cost(what, points, summary["reference"]["real"]["fid"], titles, crowded)
