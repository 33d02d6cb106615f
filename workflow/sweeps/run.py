"""Running a sweep: add trials to `params.yaml`, run an engine, set failed trials aside, until nothing is left to add.

To both engines a trial is a model like any other.
"""

import itertools
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from workflow import params
from workflow.errors import BakeoffError
from workflow.models.registry import check_hyperparameters
from workflow.params import Entry, Params
from workflow.paths import STAGE_LOCKS
from workflow.sweeps.edit import add, in_words, set_aside
from workflow.sweeps.search import Known, Space, Values, grid, propose
from workflow.sweeps.trials import best_of, members, read_losses, varied
from workflow.training.checkpoint import failure_path

LOCK = STAGE_LOCKS / "sweep.lock"
NEXT = "snakemake --cores all --keep-going"


def sweep(base: str, space: Space, trials: int, parallel: int, command: list[str]) -> None:
    """Add trials to a sweep and, if there is a command, run it, until there is nothing left to add.

    Raises BakeoffError for parameters that cannot be swept, if another sweep is running in this folder, and if the
    engine ends without having trained the trials.

    Args:
        base: model that the sweep begins with.
        space: the values of each hyper-parameter to vary.
        trials: number that Optuna brings the sweep to; 0 for the whole grid.
        parallel: trials that Optuna proposes at a time.
        command: an engine and its arguments; without one, trials are added once.
    """
    with exclusive():
        _sweep(base, space, trials, parallel, command)


@contextmanager
def exclusive() -> Iterator[None]:
    """Hold an exclusive lock on the folder's `params.yaml`, whatever the sweep's arguments; never wait for it."""
    LOCK.parent.mkdir(exist_ok=True)
    try:
        with FileLock(LOCK, timeout=0):
            yield
    except Timeout:
        raise BakeoffError("another `python -m stages.sweep` is running in this folder; wait for it") from None


def _sweep(base: str, space: Space, trials: int, parallel: int, command: list[str]) -> None:
    settings = _settings(base)
    behind = untrained(base, settings)
    settled = False  # whether the engine has succeeded since the last change
    while True:
        new = wanted(base, space, trials, parallel, settings, behind)
        waiting = [name for name in behind if name != base] + add(base, list(space), new, settings)
        if not command:
            print(f"now run an engine: {NEXT}" if waiting else "nothing to add")
            return
        if settled and not waiting:
            break
        for name, seed in itertools.product(waiting, settings.seeds):
            failure_path(name, seed).unlink(missing_ok=True)
        status = run(command)
        settings = _settings(base)
        behind = untrained(base, settings)
        failed = [name for name in behind if name != base and _has_failed(name, settings)]
        if status and not failed:
            raise BakeoffError(f"the engine ended with exit status {status}; fix what it reports above, and run again")
        if left := not failed and [name for name in behind if name in waiting]:
            raise BakeoffError(f"the engine has not trained {', '.join(left)}; run one that trains all models")
        set_aside(base, failed, settings)
        settings, behind = _settings(base), [name for name in behind if name not in failed]
        settled = status == 0
    losses = {name: read_losses(name, settings) for name in members(base, settings)}
    if top := best_of(losses):
        print(f"best of {len(losses)} by validation loss: {top} ({in_words(varied(top, base, settings))})")


def untrained(base: str, settings: Params) -> list[str]:
    """The models of a sweep whose training is out of date with parameters, data or code, as DVC sees it.

    DVC's locks are repaired on the way, so that the engine that runs next finds them in order.
    """
    from workflow.engines.snakemake import Graph

    changed = {stage.name for stage in Graph(settings).stages if stage.changed}
    models = members(base, settings) if base in settings.sweeps else [base]
    return [name for name in models if any(f"train@{name}-{seed}" in changed for seed in settings.seeds)]


def wanted(
    base: str, space: Space, trials: int, parallel: int, settings: Params, without_loss: list[str]
) -> list[Values]:
    """The next values to try: the rest of the grid, or what Optuna proposes; none of them has been tried.

    Args:
        base: model that the sweep begins with.
        space: the values of each hyper-parameter to vary.
        trials: number that Optuna brings the sweep to; 0 for the whole grid.
        parallel: trials that Optuna proposes at a time.
        settings: the present parameters.
        without_loss: models of the sweep whose training is out of date.
    """
    first, old = with_defaults(settings.models[base]), settings.sweeps.get(base)
    names, failed = (old.trials, old.failed) if old else ([], {})
    tried = {name: with_defaults(settings.models[name]) for name in [base, *names]}
    tried |= {name: {**first, **values} for name, values in failed.items()}
    losses = {name: read_losses(name, settings) for name in [base, *names] if name not in without_loss}
    # Trials that differ in other hyper-parameters tell nothing about those that are varied now.
    others = {*(old.varied if old else ())} - {*space}
    known = [
        Known(
            {key: flat.get(key) for key in space},
            statistics.fmean(losses[name]) if losses.get(name) else None,
            failed=name in failed,
        )
        for name, flat in tried.items()
        if all(flat.get(key) == first.get(key) for key in others)
    ]
    if not trials:
        return [values for values in grid(space) if values not in [one.values for one in known]]
    if any(not losses.get(name) for name in names):
        return []  # Optuna proposes by results, which must come first
    return propose(space, known, min(parallel, trials - len(names) - len(failed)))


def with_defaults(entry: Entry) -> Values:
    """All parameters of an entry, with its family's defaults, by the keys that sweeps use."""
    return {**entry.flat, **check_hyperparameters(entry.kind, entry.hyperparameters, "")}


def run(command: list[str]) -> int:
    """Run an engine to its end, even after Ctrl-C, which it receives as well; returns its exit status."""
    try:
        child = subprocess.Popen(command)
    except OSError as error:
        raise BakeoffError(f"{command[0]}: {error.strerror}") from None
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.wait()
        raise


def _settings(base: str) -> Params:
    settings = params.load()
    if base not in settings.models:
        raise BakeoffError(f"{base!r}: no such model in {params.PATH}; known: {', '.join(settings.models)}")
    return settings


def _has_failed(name: str, settings: Params) -> bool:
    return any(failure_path(name, seed).exists() for seed in settings.seeds)
