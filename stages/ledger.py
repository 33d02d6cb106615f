"""Write down which code each stage and each model is made of, so that a change runs what is made of it, and no more."""

from workflow import params
from workflow.command import run
from workflow.index import hide_others
from workflow.ledger import write_ledger


def bring_up_to_date(settings: params.Params) -> None:
    """The ledger, and the index without what the present graph does not make."""
    write_ledger(settings)
    hide_others(settings)


def main() -> None:
    """Do so for the parameters as they are."""
    bring_up_to_date(params.load())


if __name__ == "__main__":
    run(main, __doc__)
