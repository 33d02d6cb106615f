"""How models are told apart: by colour and shape, alike in charts and beside names."""

import re

from workflow.report.marks import COLOURS, SHAPES, colour, point, shape, swatch


def test_no_two_of_twelve_models_have_the_same_shape() -> None:
    assert len({shape(series) for series in range(12)}) == 12
    assert len({(shape(series), colour(series)) for series in range(36)}) == 36
    for series in range(11):
        (one, _), (other, _) = shape(series), shape(series + 1)
        assert one != other
        assert colour(series) != colour(series + 1)


def test_a_swatch_has_the_shape_and_the_colour_of_the_points_in_charts() -> None:
    for series in range(12):
        number, hollow = shape(series)
        drawn = point(series, 6.0)
        assert drawn["marker"] == (*SHAPES[number][0], SHAPES[number][0][0])  # closed
        assert (drawn["markerfacecolor"] != drawn["color"]) == hollow
        mark = swatch(series)
        assert f"var(--series-{series % COLOURS})" in mark
        assert ("hollow" in mark) == hollow
        corners = re.findall(r"([-\d.e]+),([-\d.e]+)", mark)
        assert len(corners) == len(drawn["marker"]) - 1
