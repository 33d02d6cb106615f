"""Fetch the data set as it comes."""

from pathlib import Path

from workflow import params
from workflow.command import run
from workflow.datasets import catalogue


def main() -> None:
    """Fetch it into a folder of its name."""
    settings = params.load().data
    catalogue.download(settings, Path("data/raw") / settings.name)


if __name__ == "__main__":
    run(main, __doc__)
