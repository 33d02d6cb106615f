"""Which trials a sweep tries next: all of a grid, or what Optuna proposes by the trials that are known.

Nothing is kept between calls: Optuna's study is made anew each time of what `params.yaml` and the histories say.
"""

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workflow.errors import BakeoffError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = bool | int | float | str
Values = dict[str, Any]  # of what is varied, by its key
DIGITS = 4  # significant ones of a number that is drawn from a range: enough, and it can be read
TRIES = 100  # times that Optuna is asked for values that no trial has had


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included, on a logarithmic scale if asked for; whole ones if both ends are."""

    low: float
    high: float
    log: bool


@dataclass(frozen=True)
class Known:
    """What a trial varied, and its loss; None: not there yet, or never to be, as it failed."""

    values: Values
    loss: float | None
    failed: bool = False


Space = dict[str, list[Value] | Range]


def parse(arguments: Sequence[str]) -> Space:
    """`latents=4,8,16`, `train.lr=1e-4..1e-2:log`; raises BakeoffError for what is neither."""
    space: Space = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not (re.fullmatch(r"(train\.)?\w+", key) and equals and text) or key in space:
            why = (
                "stands twice" if key in space else "should be key=value,value,… or key=low..high or key=low..high:log"
            )
            raise BakeoffError(f"{argument!r}: {why}")
        low, dots, high = text.removesuffix(":log").partition("..")
        if dots:
            space[key] = _range(argument, _value(low), _value(high), text.endswith(":log"))
        else:
            space[key] = [_value(word) for word in text.split(",")]
    return space


def _range(argument: str, low: Value, high: Value, log: bool) -> Range:
    if isinstance(low, bool | str) or isinstance(high, bool | str) or low >= high:
        raise BakeoffError(f"{argument!r}: a range goes from a number to a greater one")
    if log and low <= 0:
        raise BakeoffError(f"{argument!r}: a logarithmic range begins above 0")
    return Range(low, high, log)


def _value(word: str) -> Value:
    if word in ("true", "false"):
        return word == "true"
    if re.fullmatch(r"[-+]?\d+", word):
        return int(word)
    if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", word):
        return float(word)
    return word


def grid(space: Space) -> list[Values]:
    """All combinations, each once; raises BakeoffError if there is a range, which has no end of values."""
    for key, values in space.items():
        if isinstance(values, Range):
            raise BakeoffError(f"{key}: a range needs --trials, the number of values to try; a grid needs a list")
    choices = [some for some in space.values() if not isinstance(some, Range)]
    found: list[Values] = []
    for combination in itertools.product(*choices):
        trial: Values = dict(zip(space, combination, strict=True))
        if trial not in found:
            found.append(trial)
    return found


def propose(space: Space, known: Sequence[Known], count: int) -> list[Values]:
    """Up to `count` new combinations of values that no known trial has had; fewer if there are hardly any left.

    By the tree-structured Parzen estimator (Bergstra et al. 2011), which takes trials under way, those that it has just
    proposed included, for bad ones, so as not to propose their like (constant liar).
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {key: _distribution(values) for key, values in space.items()}
    # Another seed each time: with the same one, the random draws of the first trials would come again.
    sampler = optuna.samplers.TPESampler(seed=len(known), constant_liar=True)
    study = optuna.create_study(direction="minimize", sampler=sampler)
    for trial in _told(known, distributions):
        study.add_trial(trial)
    taken, found = [one.values for one in known], []
    for _ in range(TRIES * count):
        values = {key: _rounded(value, space[key]) for key, value in study.ask(distributions).params.items()}
        if values not in taken:
            taken.append(values)
            found.append(values)
        if len(found) == count:
            break
    return found


def _told(known: Sequence[Known], distributions: Mapping[str, "BaseDistribution"]) -> Iterator[Any]:
    """The known trials whose values lie in the space, as Optuna's.

    One that failed is called pruned: then it counts as worse than all others, and its like is avoided. Optuna forgets
    what is called failed.
    """
    from optuna.trial import TrialState, create_trial

    for one in known:
        state = TrialState.PRUNED if one.failed else TrialState.RUNNING if one.loss is None else TrialState.COMPLETE
        with contextlib.suppress(ValueError, TypeError):  # a value outside of the space
            yield create_trial(state=state, value=one.loss, params=one.values, distributions=dict(distributions))


def _distribution(values: list[Value] | Range) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(values, Range):
        return CategoricalDistribution(values)
    if isinstance(values.low, int) and isinstance(values.high, int):
        return IntDistribution(values.low, values.high, log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _rounded(value: Any, values: list[Value] | Range) -> Any:
    """A number from a range with few digits, and still within it."""
    if isinstance(values, Range) and isinstance(value, float):
        return min(max(float(f"{value:.{DIGITS}g}"), values.low), values.high)
    return value
