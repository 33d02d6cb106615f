"""Whether the ranking of the models is the same under every seed."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from workflow.evaluation.columns import Column

Values = dict[str, list[float]]  # of each model, one per seed


def comparable(models: Mapping[str, Any], column: Column) -> dict[str | None, list[str]]:
    """The names of the models that have a value in a column, grouped by the kind that comparable values share."""
    groups: dict[str | None, list[str]] = {}
    for name, model in models.items():
        if column.ranks(model):
            groups.setdefault(model.get(column.within), []).append(name)
    return groups


def rankings(models: Mapping[str, Any], columns: Iterable[Column], seeds: Sequence[int]) -> dict[str, Any]:
    """The ranking of each group of comparable models, by the key of each column that ranks models; {} with one seed.

    A group has these entries:
        kind: of its values.
        order: the models by mean, best first.
        best: the best models by mean; several if they are equal.
        best_by_seed: the best models under each seed.
        agree: number of seeds under which the best by mean is also the best.
        pairs: number of pairs of models.
        swaps: the pairs in which each of the two is ahead under some seed; the one ahead by mean comes first.
    """
    if len(seeds) < 2:
        return {}
    found = {}
    for column in columns:
        groups = []
        for kind, names in comparable(models, column).items():
            values = {name: models[name]["values"][column.key] for name in names}
            if column.better and len(set(map(tuple, values.values()))) > 1:
                groups.append({"kind": kind, **_order(values, models, column, seeds)})
        if groups:
            found[column.key] = groups
    return found


def _order(values: Values, models: Mapping[str, Any], column: Column, seeds: Sequence[int]) -> dict[str, Any]:
    means = {name: models[name]["mean"][column.key] for name in values}
    order = sorted(means, key=lambda name: means[name], reverse=column.better == "higher")
    top = _top(means, column)
    by_seed = {
        str(seed): _top({name: numbers[i] for name, numbers in values.items()}, column) for i, seed in enumerate(seeds)
    }
    return {
        "order": order,
        "best": top,
        "best_by_seed": by_seed,
        "agree": sum(set(top) <= set(under) for under in by_seed.values()),
        "pairs": len(order) * (len(order) - 1) // 2,
        "swaps": [[a, b] for a, b in combinations(order, 2) if _swap(values[a], values[b])],
    }


def _top(values: Mapping[str, float], column: Column) -> list[str]:
    top = min(values.values()) if column.better == "lower" else max(values.values())
    return [name for name, value in values.items() if value == top]


def _swap(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether each of two models is ahead under some seed; if their values are equal, neither is ahead."""
    return len({x < y for x, y in zip(a, b, strict=True) if x != y}) == 2
