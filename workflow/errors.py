"""The one kind of error that a user can act on, and how a stage script reports it."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class BakeoffError(Exception):
    """Something the user can put right; its text is one line that names the file or parameter and what to do."""


class Stopped(Exception):  # noqa: N818 -- no error
    """Somebody asked for an end, and what was done so far is kept; its text is one line that says how to go on."""


@contextmanager
def one_line() -> Iterator[None]:
    """Turn what the user can put right into one line on standard error and exit status 2, with no traceback.

    So it does with an end that was asked for, with the exit status that shells give it, 130.
    """
    try:
        yield
    except (Stopped, KeyboardInterrupt) as stopped:
        print(str(stopped) or "stopped; run the same command again", file=sys.stderr)
        sys.exit(130)
    except BakeoffError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        print(f"error: {error.filename or 'a file'}: {error.strerror}; free some space and run again", file=sys.stderr)
        sys.exit(2)
