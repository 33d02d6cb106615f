"""Mirror all runs to MLflow; run by hand, it also rebuilds a lost store."""

from workflow import params
from workflow.engines.command import run
from workflow.files import write_json
from workflow.paths import TRACKED
from workflow.tracking.mirror import mirror


def main() -> None:
    """Mirror them, and write down what the store has."""
    write_json(TRACKED, mirror(params.load()))


if __name__ == "__main__":
    run(main, __doc__)
