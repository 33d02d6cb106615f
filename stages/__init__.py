"""One small script a stage: reads files, calls one function, writes files."""

import atexit
import gc
import sys
from types import TracebackType

from workflow import instructions

_report = sys.excepthook


def _one_line_if_stopped(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while a stage still loads what it needs, before `workflow.errors` could tell of it."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped; run the same command again", file=sys.stderr)
    else:
        _report(kind, error, trace)


sys.excepthook = _one_line_if_stopped

instructions.limit(instructions.requested())  # before anything that computes is loaded

# What is loaded lives as long as the process. To look through it for garbage, again and again while it is loaded and
# once more at the end, takes a quarter of a small stage's time.
gc.set_threshold(100_000)


@atexit.register
def _end_as_it_is() -> None:
    if "triton" not in sys.modules:  # which would complain of what it finds left
        gc.freeze()
