"""Record the code of each stage and model, so that a change in the code reruns exactly what depends on it."""

from workflow import params
from workflow.engines.command import run
from workflow.engines.ledger import bring_up_to_date


def main() -> None:
    """Bring the ledger up to date with the code and the parameters."""
    bring_up_to_date(params.load())


if __name__ == "__main__":
    run(main, __doc__)
