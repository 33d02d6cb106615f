"""One process at a time at each stage of a folder, whichever engine started it."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workflow.paths import STAGE_LOCKS


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other process is at the same stage, with the same arguments, in this folder.

    An engine that was killed may have left one behind: nobody may find its files where newer ones should be. The
    system gives the lock back however a process ends.
    """
    from filelock import FileLock, Timeout

    STAGE_LOCKS.mkdir(exist_ok=True)
    stage = " ".join([Path(sys.argv[0]).stem, *sys.argv[1:]])
    name = re.sub(r"[^\w.-]", "_", stage)[:200]  # file systems take 255 bytes
    lock = FileLock(STAGE_LOCKS / f"{name}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"waiting: another process is at `{stage}` in this folder", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
