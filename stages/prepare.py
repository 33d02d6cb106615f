"""Turn the fetched data set into the three splits that every family sees."""

from pathlib import Path

from workflow import params
from workflow.datasets import catalogue
from workflow.errors import one_line
from workflow.stored import PREPARED, write_prepared
from workflow.turn import alone

if __name__ == "__main__":
    with one_line(), alone():
        settings = params.load().data
        sets, about = catalogue.prepare(settings, Path("data/raw") / settings.name)
        write_prepared(PREPARED, sets, **about)
