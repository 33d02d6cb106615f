"""The one kind of error that a user can act on, and how a stage script reports it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class BakeoffError(Exception):
    """Something the user can put right; its text is one line that names the file or parameter and what to do."""


@contextmanager
def one_line() -> Iterator[None]:
    """Turn a BakeoffError into one line on standard error and exit status 2, with no traceback."""
    try:
        yield
    except BakeoffError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
