"""DVC's list of locks, `.dvc/tmp/rwlock`, after a kill: `python -m workflow.locks` puts it right.

DVC rewrites the list in place, so a kill at that moment leaves half of one, which no command of DVC reads any more; and
it tells a process by its number, which after a restart may be another program's.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workflow.errors import BakeoffError, one_line
from workflow.files import write_text

FOLDER = Path(".dvc/tmp")


def repair(folder: Path = FOLDER) -> None:
    """Drop the locks of processes that are gone, and a list that cannot be read if no engine is at work here.

    folder: DVC's folder of temporary files. Raises BakeoffError, naming the process, if the list cannot be read and an
    engine runs in this project.
    """
    locks = folder / "rwlock"
    try:
        text = locks.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    try:
        kinds = _known(json.loads(text))
    except (ValueError, AttributeError, TypeError, KeyError):
        if engine := next(_engines(folder.resolve().parents[1]), None):
            number, command = engine
            raise BakeoffError(
                f"{locks}: damaged, and process {number} ({command}) is at work in this folder; wait for it, or end "
                "it, and run again"
            ) from None
        locks.unlink(missing_ok=True)
        return
    left = {
        "write": {path: holder for path, holder in kinds["write"].items() if _alive(holder)},
        "read": {path: alive for path, holders in kinds["read"].items() if (alive := [*filter(_alive, holders)])},
    }
    if left != kinds:
        write_text(locks, json.dumps(left))


def _known(kinds: dict[str, Any]) -> dict[str, Any]:
    """The list with both of its kinds; raises what comes of it if it is not as DVC writes it."""
    found = {kind: dict(kinds.get(kind, {})) for kind in ("write", "read")}
    for holder in (*found["write"].values(), *(one for holders in found["read"].values() for one in holders)):
        int(holder["pid"])
    return found


def _alive(holder: dict[str, Any]) -> bool:
    """Whether the process with this number is an engine still."""
    import psutil  # type: ignore[import-untyped]

    try:
        return _is_engine(psutil.Process(holder["pid"]).cmdline())
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's
        return True


def _engines(project: Path) -> Iterator[tuple[int, str]]:
    """Number and command of each other process of DVC or Snakemake that works in this folder."""
    import psutil

    own = {process.pid for process in (psutil.Process(), *psutil.Process().parents())}
    for process in psutil.process_iter():
        try:
            if process.pid not in own and _is_engine(process.cmdline()) and Path(process.cwd()) == project:
                yield process.pid, " ".join(process.cmdline())
        except (psutil.Error, OSError):
            continue


def _is_engine(command: list[str]) -> bool:
    words = " ".join(command)
    return "dvc" in words or "snakemake" in words


if __name__ == "__main__":
    with one_line():
        if sys.argv[1:]:
            raise BakeoffError("python -m workflow.locks: takes no arguments")
        repair()
