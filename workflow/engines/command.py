"""The command line of a stage: its help, its arguments, and one line for each error."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workflow import params
from workflow.engines import stage_lock
from workflow.errors import BakeoffError, one_line


def reader(about: str | None) -> argparse.ArgumentParser:
    """A parser of the arguments of the stage that was started; about: its module's docstring, for `--help`."""
    return argparse.ArgumentParser(
        f"python -m stages.{Path(sys.argv[0]).stem}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def run(work: Callable[..., None], about: str | None, *takes: str) -> None:
    """Run the stage that was started, under its exclusive lock.

    Arguments are parsed first: an invalid one, or `--help`, touches and locks nothing.

    Args:
        work: of the stage.
        about: its module's docstring, for `--help`.
        takes: names from `ARGUMENTS`, which `work` takes in this order.
    """
    arguments = reader(about)
    for name in takes:
        what, read = ARGUMENTS[name]
        arguments.add_argument(name, metavar=name.upper(), help=what, type=read)
    with one_line():
        given = vars(arguments.parse_args())
        with stage_lock.exclusive():
            work(*(given[name] for name in takes))


def _model(name: str) -> str:
    """The name of a model; raises BakeoffError if it is not in the parameters."""
    if name not in (known := params.load().models):
        raise BakeoffError(f"{name!r}: no such model in {params.PATH}; known: {', '.join(known)}")
    return name


def _seed(text: str) -> int:
    """A seed; raises BakeoffError if it is not in the parameters."""
    if text not in (known := [str(seed) for seed in params.load().seeds]):
        raise BakeoffError(f"{text!r}: not among the seeds in {params.PATH}; known: {', '.join(known)}")
    return int(text)


ARGUMENTS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "model": ("name of a model in params.yaml", _model),
    "seed": ("one of the seeds in params.yaml", _seed),
}
