"""Which values a sweep tries next: a whole grid, or what Optuna proposes given the results so far.

Nothing is stored between calls: Optuna's study is rebuilt each time from `params.yaml` and the histories.
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
Values = dict[str, Any]  # of the varied hyper-parameters, by key
DIGITS = 4  # significant digits of a number drawn from a range: precise enough, and readable
TRIES = 100  # attempts to get values from Optuna that no trial has had


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, inclusive, on a logarithmic scale if `log`; integers if both ends are."""

    low: float
    high: float
    log: bool


@dataclass(frozen=True)
class Known:
    """The values of a trial and its loss, which is None if the trial has not been trained or has failed."""

    values: Values
    loss: float | None
    failed: bool = False


Space = dict[str, list[Value] | Range]


def parse(arguments: Sequence[str]) -> Space:
    """Parse `latents=4,8,16` or `train.lr=1e-4..1e-2:log`; raises BakeoffError for anything else."""
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
        raise BakeoffError(f"{argument!r}: a range goes from a smaller to a larger number")
    if log and low <= 0:
        raise BakeoffError(f"{argument!r}: a logarithmic range must start above 0")
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
    """All combinations, each once; raises BakeoffError if there is a range, which has infinitely many values."""
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
    """Up to `count` new combinations of values that no known trial has had; fewer if hardly any are left.

    The tree-structured Parzen estimator (Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization) treats
    running trials, including those it has just proposed, as bad ones, so as not to propose similar values (constant
    liar).

    Args:
        space: the values of each hyper-parameter to vary.
        known: the trials so far.
        count: number of new trials.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {key: _distribution(values) for key, values in space.items()}
    # A different seed each time: the same one would repeat the random draws of the first trials.
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

    Failed trials are passed as pruned, so that they count as worse than all others and similar values are avoided;
    Optuna ignores trials marked as failed.
    """
    from optuna.trial import TrialState, create_trial

    for one in known:
        state = TrialState.PRUNED if one.failed else TrialState.RUNNING if one.loss is None else TrialState.COMPLETE
        with contextlib.suppress(ValueError, TypeError):  # a value outside the space
            yield create_trial(state=state, value=one.loss, params=one.values, distributions=dict(distributions))


def _distribution(values: list[Value] | Range) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(values, Range):
        return CategoricalDistribution(values)
    if isinstance(values.low, int) and isinstance(values.high, int):
        return IntDistribution(values.low, values.high, log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _rounded(value: Any, values: list[Value] | Range) -> Any:
    """A number from a range, rounded to few digits and still within it."""
    if isinstance(values, Range) and isinstance(value, float):
        return min(max(float(f"{value:.{DIGITS}g}"), values.low), values.high)
    return value
