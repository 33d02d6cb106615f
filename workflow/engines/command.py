"""The command line of a stage: what its module says of it, what it takes, and one line for what is wrong with that."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workflow import params
from workflow.engines import stage_lock
from workflow.errors import BakeoffError, one_line


def reader(about: str | None) -> argparse.ArgumentParser:
    """A reader of the arguments of the stage that was started; about: the docstring of its module, for `--help`."""
    return argparse.ArgumentParser(
        f"python -m stages.{Path(sys.argv[0]).stem}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def run(work: Callable[..., None], about: str | None, *takes: str) -> None:
    """Do the work of the stage that was started, alone; takes: names of `ARGUMENTS`, which `work` gets in this order.

    Arguments are looked at first: what is wrong with them, or a call for help, touches and locks nothing.
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
    """A model's name; raises BakeoffError if the parameters have no such model."""
    if name not in (known := params.load().models):
        raise BakeoffError(f"{name!r}: no such model in {params.PATH}; known: {', '.join(known)}")
    return name


def _seed(text: str) -> int:
    """A seed; raises BakeoffError if it is none of the parameters'."""
    if text not in (known := [str(seed) for seed in params.load().seeds]):
        raise BakeoffError(f"{text!r}: not among the seeds in {params.PATH}; known: {', '.join(known)}")
    return int(text)


ARGUMENTS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "model": ("name of a model in params.yaml", _model),
    "seed": ("one of the seeds in params.yaml", _seed),
}
