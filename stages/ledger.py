"""Write down which code each stage and each model is made of, so that a change runs what is made of it, and no more."""

from workflow import params
from workflow.errors import one_line
from workflow.index import hide_others
from workflow.ledger import write_ledger
from workflow.turn import alone


def bring_up_to_date(settings: params.Params) -> None:
    """The ledger, and the index without what the present graph does not make."""
    write_ledger(settings)
    hide_others(settings)


if __name__ == "__main__":
    with one_line(), alone():
        bring_up_to_date(params.load())
