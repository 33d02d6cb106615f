"""Write down which code each stage and each model is made of, so that a change runs what is made of it, and no more."""

from workflow import params
from workflow.engines.command import run
from workflow.engines.ledger import bring_up_to_date


def main() -> None:
    """Do so for the parameters as they are."""
    bring_up_to_date(params.load())


if __name__ == "__main__":
    run(main, __doc__)
