"""Models that differ in nothing but how long they train: which they are, and what the training budget changes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from workflow.evaluation.comparison import SIGNIFICANT, Measurement, p_value
from workflow.evaluation.statistics import holm
from workflow.params import Params
from workflow.sweeps.trials import in_print

LENGTHS = ("train.gflops", "train.epochs")
SAME = 1.2  # budgets less than this factor apart are one: training takes whole epochs, so none is met exactly
Curves = dict[str, list[str]]  # models by their training GFLOPs, the fewest first, by the label of the curve


@dataclass(frozen=True)
class Square:
    """Two curves at two budgets.

    Args:
        small: the model of each curve at the smallest budget that both have.
        large: at the largest.

    """

    small: tuple[str, str]
    large: tuple[str, str]


def find_curves(settings: Params, models: Mapping[str, Any]) -> Curves:
    """Models of which all parameters but the length of training are equal; at least two lengths make a curve.

    Args:
        settings: the parameters.
        models: the models of the summary.

    """
    found: dict[str, dict[float, str]] = {}
    for name, model in models.items():
        alike = json.dumps(_fixed(name, settings), sort_keys=True)
        found.setdefault(alike, {}).setdefault(model["mean"]["training_gflops"], name)
    curves = [[name for _, name in sorted(lengths.items())] for lengths in found.values() if len(lengths) > 1]
    return {_label(names, curves, settings, models): names for names in curves}


def _fixed(name: str, settings: Params) -> dict[str, Any]:
    return {key: value for key, value in settings.models[name].flat.items() if key not in LENGTHS}


def _label(names: Sequence[str], curves: Sequence[Sequence[str]], settings: Params, models: Mapping[str, Any]) -> str:
    """The title of the models and, if other curves share it, what they differ in: "VAE (latents 8)"."""
    title = models[names[0]]["title"]
    namesakes = [_fixed(other[0], settings) for other in curves if models[other[0]]["title"] == title]
    own = _fixed(names[0], settings)
    keys = sorted({key for other in namesakes for key in {**own, **other} if own.get(key) != other.get(key)})
    return f"{title} ({', '.join(f'{key} {in_print(own.get(key))}' for key in keys)})" if keys else title


def curves_of(summary: Mapping[str, Any]) -> Curves:
    """The curves of a summary, which names them only if it has any."""
    found: Curves = summary.get("budgets", {})
    return found


def series(summary: Mapping[str, Any]) -> dict[str, int]:
    """The number of each model's colour and marker, the same for all models of a curve."""
    first = {name: names[0] for names in curves_of(summary).values() for name in names}
    places: dict[str, int] = {}
    return {name: places.setdefault(first.get(name, name), len(places)) for name in summary["models"]}


def squares(summary: Mapping[str, Any]) -> dict[tuple[str, str], Square]:
    """Each pair of curves that have two budgets in common, by their labels."""
    gflops = {name: model["mean"]["training_gflops"] for name, model in summary["models"].items()}
    found = {}
    for (one, ones), (other, others) in combinations(curves_of(summary).items(), 2):
        common = [(a, b) for a, b in product(ones, others) if 1 / SAME < gflops[a] / gflops[b] < SAME]
        if common and not set(common[0]) & set(common[-1]):
            found[one, other] = Square(common[0], common[-1])
    return found


def weigh(found: Sequence[Square], measured: Mapping[str, Measurement]) -> list[int]:
    """Of each square 1 if a number differs more between the budgets than between the curves, -1 if less, 0 if unknown.

    Summed over both curves, the differences between the budgets exceed those between the curves at both budgets exactly
    if the two lowest of the four numbers are of one budget; they fall short of them if these are of one curve. That
    counts if each of the two lowest can be told apart from each of the two highest: if the greatest of these four
    p-values (an intersection-union test, Berger 1982), adjusted for the number of squares (Holm), is significant.
    """
    signs, p_values = [], {}
    for place, square in enumerate(found):
        ranked = sorted((*square.small, *square.large), key=lambda name: measured[name].mean)
        low, high = ranked[:2], ranked[2:]
        of_one_curve = set(low) in ({square.small[0], square.large[0]}, {square.small[1], square.large[1]})
        signs.append(1 if set(low) in (set(square.small), set(square.large)) else -1 if of_one_curve else 0)
        p_values[str(place)] = max(p_value(measured[a], measured[b]) for a, b in product(low, high))
    unsure = holm(p_values)
    return [sign if unsure[str(place)] < SIGNIFICANT else 0 for place, sign in enumerate(signs)]
