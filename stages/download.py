"""Fetch the data set as it comes."""

from pathlib import Path

from workflow import params
from workflow.datasets import catalogue
from workflow.errors import one_line
from workflow.turn import alone

if __name__ == "__main__":
    with one_line(), alone():
        settings = params.load().data
        catalogue.download(settings, Path("data/raw") / settings.name)
