"""Charts: labels that do not lie on points."""

import re

import pytest

from workflow.report.trade_off import Point, quality_against_cost


@pytest.mark.parametrize(("cost", "end"), [(0.1, "right"), (50.0, "left")])
def test_the_floors_label_keeps_off_a_point_on_the_line(cost: float, end: str) -> None:
    near, far = (Point(name, 0, x, y, (x, x), (y, y)) for name, x, y in (("near", cost, 1.0), ("far", 5.0, 20.0)))
    chart = quality_against_cost("a chart", [near, far], 1.0, ("cost", "distance"), crowded=False)
    label = re.search(r"<text [^>]*\bx=\"([\d.]+)\"[^>]*>real images<", chart)
    width = re.search(r"viewBox=\"0 0 ([\d.]+) ", chart)
    assert label
    assert width
    assert ("left" if float(label[1]) < float(width[1]) / 2 else "right") == end
