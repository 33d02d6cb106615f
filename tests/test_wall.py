"""The wall of samples: a labelled row for each model, images unchanged but enlarged."""

import numpy as np

from workflow.report.wall import GAP, PAPER, picture


def test_each_row_shows_its_first_images_enlarged_by_a_whole_number() -> None:
    dark, bright = np.zeros((5, 1, 4, 4), np.uint8), np.full((5, 1, 4, 4), 16, np.uint8)
    shown = np.asarray(picture([("dark", dark), ("bright", bright)], levels=17, columns=3, side=10))
    left = shown.shape[1] - GAP - (3 * 12 + 2 * 3)  # pixels are enlarged three times, so that 4 fill at least 10
    assert shown.shape[0] == GAP + 2 * (12 + GAP)
    assert (shown[GAP : GAP + 12, left : left + 12] == 0).all()
    assert (shown[12 + 2 * GAP : 24 + 2 * GAP, left : left + 12] == 255).all()
    assert (shown[GAP : GAP + 12, left + 12 : left + 15] == 255).all()  # the gap between images


def test_labels_are_written_before_their_rows() -> None:
    image = np.zeros((1, 1, 8, 8), np.uint8)
    shown = np.asarray(picture([("a long label", image), ("b", image)], levels=17, columns=1, side=24))
    before = shown[:, : shown.shape[1] - 24 - GAP]
    assert (before.min(axis=2) < min(PAPER)).any(axis=1)[: GAP + 24].any()


def test_points_are_drawn_as_one_plane_and_colours_stay() -> None:
    points = np.random.default_rng(0).integers(0, 64, (50, 1, 1, 2), dtype=np.uint8)
    assert picture([("ring", points)], levels=64, columns=4).height == 2 * GAP + 96
    red = np.zeros((1, 3, 8, 8), np.uint8)
    red[:, 0] = 255
    assert tuple(np.asarray(picture([("red", red)], 256, 1, side=8))[GAP + 4, -GAP - 4]) == (255, 0, 0)
