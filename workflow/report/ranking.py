"""Which model is best, and whether the order of the models is the same under every seed."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from workflow.evaluation.columns import Column

Values = dict[str, list[float]]  # of each model, one a seed


def best(models: Mapping[str, Any], column: Column) -> set[str]:
    """The names of the models that are best in a column, by mean, each among those it may be compared with.

    Empty where there is nothing to compare: no direction, fewer than two values, or all of them equal.
    """
    found: set[str] = set()
    for names in comparable(models, column).values():
        means = {name: models[name]["mean"][column.key] for name in names}
        if column.better and len(set(means.values())) > 1:
            found |= set(_top(means, column))
    return found


def comparable(models: Mapping[str, Any], column: Column) -> dict[str | None, list[str]]:
    """The names of the models that have a number in a column, by the kind that it must share to be compared."""
    groups: dict[str | None, list[str]] = {}
    for name, model in models.items():
        if column.ranks(model):
            groups.setdefault(model.get(column.within), []).append(name)
    return groups


def rankings(models: Mapping[str, Any], columns: Iterable[Column], seeds: Sequence[int]) -> dict[str, Any]:
    """For each column that ranks models, by its key, the order of each group of comparable ones; {} with one seed.

    Of a group: its `kind`; the `order` by mean, best first; the `best` by mean and `best_by_seed`, several if they
    share the place; under how many seeds the best by mean `agree` with it; the number of `pairs` of models; and the
    `swaps`, those pairs of which either is ahead under some seed, the one that is ahead by mean first.
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
    """Whether each is less than the other under some seed; where they are equal neither is ahead."""
    return len({x < y for x, y in zip(a, b, strict=True) if x != y}) == 2


def doubt(summary: Mapping[str, Any], key: str, name: str) -> str:
    """Under how many seeds a model that is best by mean is the best: "best under 2 of 3 seeds"; "" if under all."""
    for group in summary["ranking"].get(key, []):
        if name in group["best"] and group["agree"] < len(summary["seeds"]):
            return f"best under {group['agree']} of {len(summary['seeds'])} seeds"
    return ""
