"""Fetch the data set as it comes."""

from pathlib import Path

from workflow import datasets, params
from workflow.errors import one_line

if __name__ == "__main__":
    with one_line():
        name = params.load().data.name
        datasets.download(name, Path("data/raw") / name)
