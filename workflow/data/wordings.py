"""Captions made of the names of classes: several wordings of each, some of which are kept out of training.

Of digits, names and numerals ("a three", "the number 3") and, where the image says so, whether it is drawn thin or bold
for its class: by its ink, in the lowest or the highest third of the training images of its class. Of other classes,
their names alone.

A wording is a template with an adjective or none. Each class lacks a fifth of the wordings, another fifth than the next
class; and in one class in five no image is called thin, in another none bold. So every word and every wording is
learned, but not every combination: prompts of those that were kept out say whether a model has understood the parts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workflow.data.arrays import Array, Card

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# {a}: a or an; {x}: the adjective, with a space after it; {name}: in letters; {numeral}: as a numeral.
OF_DIGITS = (
    "{x}{name}",
    "{a} {x}{name}",
    "the {x}digit {name}",
    "a drawing of {a} {x}{name}",
    "{x}{numeral}",
    "the {x}number {numeral}",
)
OF_OTHERS = ("{name}", "the {name}", "a picture of the {name}", "an image of the {name}", "this is the {name}")
ADJECTIVES = ("", THIN := "thin", BOLD := "bold")
KEPT_OUT = 5  # one in so many wordings of a class; of each adjective, all wordings of one in so many classes
PER_IMAGE = 8  # captions of each image, some of which may be the same
SEED = 0


@dataclass(frozen=True)
class Wording:
    """A caption of a class. adjective: in it, "" for none. kept_out: of training."""

    text: str
    label: int
    adjective: str
    kept_out: bool


def wordings(card: Card) -> list[Wording]:
    """All captions of the classes of these data; none of data without classes, of points and of stacked digits."""
    if not card.classes or card.mixture or card.channelwise:
        return []
    digits = are_digits(card)
    adjectives = ADJECTIVES if digits else ("",)
    kinds = [(template, x) for template in (OF_DIGITS if digits else OF_OTHERS) for x in adjectives]
    found = []
    for label, name in enumerate(card.classes):
        for place, (template, adjective) in enumerate(kinds):
            text = _text(template, adjective, NAMES[int(name)] if digits else name, name)
            never = adjective != "" and (label + 3 * ADJECTIVES.index(adjective)) % KEPT_OUT == 0
            found.append(Wording(text, label, adjective, never or (place + label) % KEPT_OUT == 0))
    return found


def are_digits(card: Card) -> bool:
    """Whether the classes are digits, written in levels of grey."""
    return card.shape[0] == 1 and not card.rate and all(len(name) == 1 and name.isdecimal() for name in card.classes)


@dataclass(frozen=True)
class Thirds:
    """What is thin and bold. paper: the level without ink, black or white. limits: the ink below which an image is thin
    for its class, and above which it is bold, float64 (classes, 2).
    """

    paper: int
    limits: Array

    def ink(self, images: Array) -> Array:
        """The sum of what pixels differ from the paper, int64 (N,). images: uint8 (N, C, H, W)."""
        pixels = images.reshape(len(images), -1).sum(1, dtype=np.int64)
        return np.asarray(abs(pixels - self.paper * math.prod(images.shape[1:])))


def thirds(images: Array, labels: Array, card: Card) -> Thirds:
    """What is thin and bold among images to train on, uint8 (N, C, H, W), of classes int64 (N,).

    The paper is white if more than half of the pixels along the edges are light.
    """
    edges = np.concatenate([images[:, :, [0, -1]].ravel(), images[:, :, :, [0, -1]].ravel()])
    white = card.levels - 1
    found = Thirds(white if np.median(edges) > white / 2 else 0, np.tile([-np.inf, np.inf], (len(card.classes), 1)))
    amount = found.ink(images)
    for label in np.unique(labels):
        found.limits[label] = np.quantile(amount[labels == label], [1 / 3, 2 / 3])
    return found


def captions_of(images: Array, labels: Array, card: Card, known: Thirds) -> list[list[str]]:
    """`PER_IMAGE` captions of each image, none of them kept out, drawn from those that are true of it.

    Args:
        images: uint8 (N, C, H, W).
        labels: their classes, int64 (N,).
        card: of the data.
        known: what `thirds` says of the training images.
    """
    rng, amount = np.random.default_rng(SEED), known.ink(images)
    used: dict[tuple[int, str], list[str]] = {}
    for one in wordings(card):
        if not one.kept_out:
            used.setdefault((one.label, one.adjective), []).append(one.text)
    found = []
    for label, spent in zip(labels.tolist(), amount.tolist(), strict=True):
        low, high = known.limits[label]
        adjective = THIN if spent < low else BOLD if spent > high else ""
        true = used.get((label, ""), []) + (used.get((label, adjective), []) if adjective else [])
        found.append([true[i] for i in rng.integers(len(true), size=PER_IMAGE)])
    return found


def shown(all_wordings: Sequence[Wording]) -> list[Wording]:
    """Two wordings of each class, one that was learned and one that was kept out, not the same ones for all."""
    found = []
    for label in dict.fromkeys(one.label for one in all_wordings):
        mine = [one for one in all_wordings if one.label == label]
        kinds = [[one for one in mine if one.kept_out == kept_out] for kept_out in (False, True)]
        found += [some[label * 5 % len(some)] for some in kinds if some]
    return found


def _text(template: str, adjective: str, name: str, numeral: str) -> str:
    x = f"{adjective} " if adjective else ""
    article = "an" if not x and name == NAMES[8] else "a"
    return template.format(a=article, x=x, name=name, numeral=numeral)
