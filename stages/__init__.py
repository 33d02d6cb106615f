"""One small script per stage: it reads files, calls one function and writes files.

This file runs before any of them, so what it does here comes before everything heavy is imported.
"""

import sys
from types import TracebackType

from workflow import instructions, startup

_report = sys.excepthook


def _one_line_if_stopped(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report Ctrl-C in one line also while a stage is still importing, before `workflow.errors.one_line` takes over."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped; run the same command again", file=sys.stderr)
    else:
        _report(kind, error, trace)


sys.excepthook = _one_line_if_stopped
startup.collect_garbage_rarely()
startup.skip_final_collection()
instructions.limit(instructions.requested())  # before anything that computes is loaded
