"""Fetch the data set as it comes."""

from pathlib import Path

from workflow import params
from workflow.data import catalogue
from workflow.engines.command import run


def main() -> None:
    """Fetch it into a folder of its name."""
    settings = params.load().data
    catalogue.download(settings, Path("data/raw") / settings.name)


if __name__ == "__main__":
    run(main, __doc__)
