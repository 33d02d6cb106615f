"""Ranks of models that cannot always be told apart, and how they change with the extractor."""

from collections.abc import Mapping
from itertools import combinations

from workflow.evaluation.comparison import Better, Measurement, orders

Order = dict[tuple[str, str], int]  # of each pair of models 1 if the first is better, -1 if the second is, 0 if open


def order(models: Mapping[str, Measurement], better: Better) -> Order:
    """Which of each pair of models is better: by their paired difference, adjusted for the number of pairs (Holm)."""
    pairs = list(combinations(models, 2))
    sign = -1 if better == "lower" else 1
    found = orders([(models[one], models[other]) for one, other in pairs])
    return {pair: sign * way for pair, way in zip(pairs, found, strict=True)}


def ranks(models: Mapping[str, Measurement], found: Order) -> dict[str, tuple[int, int]]:
    """From the best to the worst rank that each model may have: 1 + those that are better, N - those that are worse.

    As all pairs are judged together, all true ranks are within these at once, with a confidence of 95 % (Mogstad et al.
    2024, Inference for Ranks with Applications to Mobility across Neighbourhoods and Academic Achievement).

    Args:
        models: by name, N of them.
        found: by `order`, of all their pairs.

    >>> ranks(dict.fromkeys("abc"), {("a", "b"): 1, ("a", "c"): 1, ("b", "c"): 0})
    {'a': (1, 1), 'b': (2, 3), 'c': (2, 3)}
    """
    ahead = [pair if way > 0 else pair[::-1] for pair, way in found.items() if way]
    better = {name: sum(worse == name for _, worse in ahead) for name in models}
    worse = {name: sum(winner == name for winner, _ in ahead) for name in models}
    return {name: (1 + better[name], len(models) - worse[name]) for name in models}


def reversed_pairs(one: Order, other: Order) -> list[tuple[str, str]]:
    """The pairs that both decide, each the other way round; first the model that `one` puts ahead."""
    return [pair if way > 0 else pair[::-1] for pair, way in one.items() if way * other[pair] < 0]
