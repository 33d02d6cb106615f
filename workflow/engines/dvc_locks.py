"""What a kill has made of the files that DVC rewrites in place: `python -m workflow.engines.dvc_locks` puts them right.

A kill at such a moment leaves half a list of locks (`.dvc/tmp/rwlock`), or half of `dvc.lock`, with which no command of
DVC works any more. And DVC tells a process by its number, which after a restart may be another program's.
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
    """Drop the locks of processes that are gone, and what a kill has left half written if no engine is at work here.

    Half of `dvc.lock` is set aside in the folder, with a warning: DVC then takes what it had recorded from its cache.
    folder: DVC's folder of temporary files. Raises BakeoffError, naming the process, if a file cannot be read and an
    engine runs in this project.
    """
    project = folder.resolve().parents[1]
    _repair_list(folder / "rwlock", project)
    recorded = project / "dvc.lock"
    if recorded.exists() and _is_cut_off(recorded.read_text(encoding="utf-8")):
        _refuse_if_at_work(recorded, project)
        aside = folder / "dvc.lock.damaged"
        recorded.replace(aside)
        told = f"cut off by a kill, so set aside as {aside}; what it recorded comes from DVC's cache, or is made again"
        print(f"warning: dvc.lock: {told}", file=sys.stderr)


def _is_cut_off(text: str) -> bool:
    """Whether DVC was killed while it wrote this as `dvc.lock`: it writes the end of the last line last."""
    if text.endswith("\n"):
        return False
    from dvc.exceptions import DvcException
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import parse_yaml
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(parse_yaml(text, "dvc.lock") or {"": ""})
    except (DvcException, Invalid):
        return True
    return False


def _refuse_if_at_work(damaged: Path, project: Path) -> None:
    """Raise BakeoffError if an engine runs in this project: it may be the one that writes the file."""
    if engine := next(_engines(project), None):
        number, command = engine
        raise BakeoffError(
            f"{damaged}: damaged, and process {number} ({command}) is at work in this folder; wait for it, or end it, "
            "and run again"
        )


def _repair_list(locks: Path, project: Path) -> None:
    try:
        text = locks.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    try:
        kinds = _known(json.loads(text))
    except (ValueError, AttributeError, TypeError, KeyError):
        _refuse_if_at_work(locks, project)
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
    return any(Path(word).name in ("dvc", "snakemake") for word in command[:5])  # behind Python and its options


if __name__ == "__main__":
    with one_line():
        if sys.argv[1:]:
            raise BakeoffError("python -m workflow.engines.dvc_locks: takes no arguments")
        repair()
