"""Add the trials of a sweep to `params.yaml`: `python -m stages.sweep vae latents=4,8 train.lr=0.001,0.003`.

Not a stage of the graph: to both engines a trial is a model like any other. An engine may follow `--`; it is run until
all trials are trained, and trials whose training fails are set aside. With `--trials`, Optuna proposes the values,
`--parallel` at a time, and ranges such as `train.lr=1e-4..1e-2:log` are allowed. The same command again continues.
`python -m stages.sweep --markdown` prints the trials of all sweeps and their validation losses as Markdown tables.
"""

import argparse
import sys

from workflow import params
from workflow.errors import BakeoffError, one_line
from workflow.sweeps.markdown import tables
from workflow.sweeps.run import sweep
from workflow.sweeps.search import parse


def main(arguments: list[str]) -> None:
    """Run the sweep that the command line describes, or print the tables."""
    if arguments == ["--markdown"]:
        print(tables(params.load()), end="")
        return
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    reader = argparse.ArgumentParser(
        "python -m stages.sweep",
        usage="%(prog)s MODEL KEY=VALUES... [--trials N] [--parallel K] [-- ENGINE...]\n       %(prog)s --markdown",
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
    sweep(given.model, parse(given.space), given.trials, given.parallel, arguments[cut + 1 :])


if __name__ == "__main__":
    with one_line():
        main(sys.argv[1:])
