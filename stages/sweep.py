"""Add the trials of a sweep to `params.yaml`: `python -m stages.sweep vae latents=4,8 train.lr=0.001,0.003`.

No stage of the graph: to both engines a trial is a model like any other. What follows `--` is an engine, which is run
until all trials are there; those whose training fails are set aside. With `--trials` it is Optuna that proposes them,
`--parallel` at a time, and ranges like `train.lr=1e-4..1e-2:log` are allowed. The same command again goes on.
"""

import argparse
import io
import itertools
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from filelock import FileLock, Timeout
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from workflow import params
from workflow.engines import dvc_locks
from workflow.errors import BakeoffError, one_line
from workflow.files import write_text
from workflow.models.registry import check_entries, check_hyperparameters
from workflow.params import Entry, Params
from workflow.paths import STAGE_LOCKS
from workflow.sweeps.search import Known, Space, Values, grid, parse, propose
from workflow.sweeps.trials import best_of, members, read_losses, varied
from workflow.training.checkpoint import failure_path

LOCK = STAGE_LOCKS / "sweep.lock"
NEXT = "snakemake --cores all --keep-going"


def main(arguments: list[str]) -> None:
    """Do what the command line says."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    reader = argparse.ArgumentParser(
        "python -m stages.sweep",
        usage="%(prog)s MODEL KEY=VALUES... [--trials N] [--parallel K] [-- ENGINE...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    reader.add_argument("model")
    reader.add_argument("space", nargs="+", metavar="KEY=VALUES")
    reader.add_argument("--trials", type=int, default=0)
    reader.add_argument("--parallel", type=int, default=1)
    given = reader.parse_args(arguments[:cut])
    if given.trials < 0 or given.parallel < 1:
        raise BakeoffError("--trials, --parallel: should be 1 or more")
    with _alone():
        sweep(given.model, parse(given.space), given.trials, given.parallel, arguments[cut + 1 :])


def sweep(base: str, space: Space, trials: int, parallel: int, command: list[str]) -> None:
    """Add trials to the sweep and, if there is a command, run it; again and again, until there is nothing to add.

    trials: how many Optuna is to bring the sweep to, `parallel` at a time; 0: the whole grid.
    """
    settings = _settings(base)
    behind = untrained(base, settings)
    settled = False  # whether the engine has ended well since the last change
    while True:
        new = wanted(base, space, trials, parallel, settings, behind)
        waiting = [name for name in behind if name != base] + add(base, space, new, settings)
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
            raise BakeoffError(f"the engine ended with exit status {status}; mend what it says above, and run again")
        if left := not failed and [name for name in behind if name in waiting]:
            raise BakeoffError(f"the engine has not trained {', '.join(left)}; give one that trains all models")
        set_aside(base, failed, settings)
        settings, behind = _settings(base), [name for name in behind if name not in failed]
        settled = status == 0
    losses = {name: read_losses(name, settings) for name in members(base, settings)}
    if top := best_of(losses):
        print(f"best of {len(losses)} by validation loss: {top} ({_in_words(varied(top, base, settings))})")


def untrained(base: str, settings: Params) -> list[str]:
    """The models of a sweep that are not trained as the parameters, data and code are now, which DVC knows."""
    from workflow.engines.snakemake import Graph

    changed = {stage.name for stage in Graph().stages if stage.changed}
    models = members(base, settings) if base in settings.sweeps else [base]
    return [name for name in models if any(f"train@{name}-{seed}" in changed for seed in settings.seeds)]


def wanted(
    base: str, space: Space, trials: int, parallel: int, settings: Params, without_loss: list[str]
) -> list[Values]:
    """The next values to try, of which none has been tried: the rest of the grid, or what Optuna proposes."""
    first, old = with_defaults(settings.models[base]), settings.sweeps.get(base)
    names, failed = (old.trials, old.failed) if old else ([], {})
    tried = {name: with_defaults(settings.models[name]) for name in [base, *names]}
    tried |= {name: {**first, **values} for name, values in failed.items()}
    losses = {name: read_losses(name, settings) for name in [base, *names] if name not in without_loss}
    # Those that differ in what is not varied now say nothing of what is.
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
        return []  # Optuna proposes by results, so let these come first
    return propose(space, known, min(parallel, trials - len(names) - len(failed)))


def with_defaults(entry: Entry) -> Values:
    """All that an entry says or leaves to its family, by the keys of sweeps."""
    return {**entry.flat, **check_hyperparameters(entry.kind, entry.hyperparameters, "")}


def add(base: str, space: Space, trials: list[Values], settings: Params) -> list[str]:
    """Write trials into `params.yaml`; returns their names. Raises BakeoffError, and writes nothing, if one is bad."""
    if not trials:
        return []
    content = _read()
    old = content.setdefault("sweeps", {}).setdefault(base, {"varied": [], "trials": []})
    taken = {*settings.models, *old.get("failed", {})}
    free = (name for i in itertools.count(1) if (name := f"{base}_{i}") not in taken)
    named = dict(zip(free, trials, strict=False))
    for name, values in named.items():
        entry = settings.models[base].model_dump(mode="json", exclude_unset=True)
        for key, value in values.items():
            section, _, last = key.rpartition(".")
            (entry[section] if section else entry)[last] = value
        content["models"][name] = entry
    old["varied"] = _in_a_line([*old["varied"], *(key for key in space if key not in old["varied"])])
    old["trials"] = _in_a_line([*old["trials"], *named])
    _write(content)
    for name, values in named.items():
        print(f"added to {params.PATH}: {name} ({_in_words(values)})", flush=True)
    return list(named)


def run(command: list[str]) -> int:
    """Run an engine, to its own end also after Ctrl-C, which it has got as well; returns its exit status."""
    dvc_locks.repair()
    try:
        child = subprocess.Popen(command)
    except OSError as error:
        raise BakeoffError(f"{command[0]}: {error.strerror}") from None
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.wait()
        raise


def set_aside(base: str, failed: list[str], settings: Params) -> None:
    """Make trials whose training failed no models any more, and remember what they were."""
    if not failed:
        return
    content = _read()
    sweep = content["sweeps"][base]
    for name in failed:
        values = varied(name, base, settings)
        del content["models"][name]
        sweep["trials"].remove(name)
        sweep.setdefault("failed", {})[name] = values
        print(f"set aside: {name} ({_in_words(values)}): its training failed, see above", flush=True)
    _write(content)


def _settings(base: str) -> Params:
    settings = params.load()
    if base not in settings.models:
        raise BakeoffError(f"{base!r}: no such model in {params.PATH}; known: {', '.join(settings.models)}")
    return settings


def _has_failed(name: str, settings: Params) -> bool:
    return any(failure_path(name, seed).exists() for seed in settings.seeds)


def _yaml() -> YAML:
    yaml = YAML()  # keeps comments
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 120
    return yaml


def _read() -> Any:
    return _yaml().load(params.PATH.read_text(encoding="utf-8"))


def _write(content: Any) -> None:
    text = io.StringIO()
    _yaml().dump(content, text)
    check_entries(params.parse(text.getvalue()))
    write_text(params.PATH, text.getvalue())


def _in_a_line(words: list[str]) -> CommentedSeq:
    found = CommentedSeq(words)
    found.fa.set_flow_style()
    return found


def _in_words(values: Values) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


@contextmanager
def _alone() -> Iterator[None]:
    """Refuse to be the second at work on a folder's `params.yaml`, whatever the arguments."""
    LOCK.parent.mkdir(exist_ok=True)
    try:
        with FileLock(LOCK, timeout=0):
            yield
    except Timeout:
        raise BakeoffError("another `python -m stages.sweep` is at work in this folder; wait for it") from None


if __name__ == "__main__":
    with one_line():
        main(sys.argv[1:])
