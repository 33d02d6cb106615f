"""Mirror all runs to MLflow; run by hand, it also rebuilds a lost store."""

from pathlib import Path

from workflow import params, tracking
from workflow.command import run
from workflow.files import write_json


def main() -> None:
    """Mirror them, and write down what the store has."""
    write_json(Path("data/tracked.json"), tracking.mirror(params.load()))


if __name__ == "__main__":
    run(main, __doc__)
