"""What is known of data that tests make up."""

from typing import Any

from workflow.data.arrays import Card


def card(shape: tuple[int, int, int], levels: int, classes: int, **further: Any) -> Card:
    """A card whose classes are called by their numbers."""
    names = tuple(str(number) for number in range(classes))
    return Card("made up", "a source", "CC0", shape, levels, names, {}, {}, "at random", **further)
