"""Turn the fetched data set into the three splits that every family sees."""

from pathlib import Path

from workflow import params
from workflow.command import run
from workflow.datasets import catalogue
from workflow.stored import PREPARED, write_prepared


def main() -> None:
    """Split it, and write the splits and their card."""
    settings = params.load().data
    sets, about = catalogue.prepare(settings, Path("data/raw") / settings.name)
    write_prepared(PREPARED, sets, **about)


if __name__ == "__main__":
    run(main, __doc__)
