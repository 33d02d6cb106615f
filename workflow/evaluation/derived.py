"""Measures that follow from others in a `metrics.json`: added whenever one is read, so that every table has them."""

import math
from typing import Any

from workflow.data.arrays import Card
from workflow.evaluation.columns import look_up


def complete(metrics: dict[str, Any], card: Card) -> dict[str, Any]:
    """The content of a `metrics.json` with the measures that follow from it. card: that of the data."""
    return with_nats(with_ratio(metrics), card)


def with_ratio(metrics: dict[str, Any]) -> dict[str, Any]:
    """`metrics` with `nearest_neighbour.ratio` added: the distance of the samples relative to that of test images."""
    samples, test = (look_up(metrics, f"nearest_neighbour.{whose}") for whose in ("samples", "test"))
    ratio = samples / test if samples is not None and test else None
    return {**metrics, "nearest_neighbour": {**metrics.get("nearest_neighbour", {}), "ratio": ratio}}


def with_nats(metrics: dict[str, Any], card: Card) -> dict[str, Any]:
    """`metrics` with `nats` per image added, -log p(x), for black and white images, where papers report it."""
    bits = metrics.get("bits_per_dim")
    nats = bits * math.prod(card.shape) * math.log(2) if card.levels == 2 and bits is not None else None
    return {**metrics, "nats": nats}
