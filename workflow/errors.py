"""The one kind of error that a user can act on, and how a stage script reports it."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class BakeoffError(Exception):
    """Something the user can put right; its text is one line that names the file or parameter and what to do."""


@contextmanager
def one_line() -> Iterator[None]:
    """Turn what the user can put right into one line on standard error and exit status 2, with no traceback."""
    try:
        yield
    except BakeoffError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        print(f"error: {error.filename or 'a file'}: {error.strerror}; free some space and run again", file=sys.stderr)
        sys.exit(2)
