"""Download the data set."""

from workflow import params
from workflow.data import catalogue
from workflow.engines.command import run
from workflow.paths import RAW


def main() -> None:
    """Download it into a folder of its name."""
    settings = params.load().data
    catalogue.download(settings, RAW / settings.name)


if __name__ == "__main__":
    run(main, __doc__)
