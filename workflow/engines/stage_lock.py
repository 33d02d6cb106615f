"""A lock per stage and folder: one process at a time, whichever engine started it."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workflow.paths import STAGE_LOCKS


@contextmanager
def exclusive() -> Iterator[None]:
    """Hold an exclusive lock on the stage that was started, with its arguments, in this folder; wait until it is free.

    An engine that was killed may have left a process behind, which must not overwrite newer files with its own. The
    operating system releases the lock however a process ends.
    """
    from filelock import FileLock, Timeout

    STAGE_LOCKS.mkdir(exist_ok=True)
    stage = " ".join([Path(sys.argv[0]).stem, *sys.argv[1:]])
    name = re.sub(r"[^\w.-]", "_", stage)[:200]  # file systems take 255 bytes
    lock = FileLock(STAGE_LOCKS / f"{name}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"waiting: another process is running `{stage}` in this folder", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
