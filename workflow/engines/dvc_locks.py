"""Repair the files that DVC rewrites in place, after a kill: `python -m workflow.engines.dvc_locks`.

A kill at the wrong moment leaves half a list of locks (`.dvc/tmp/rwlock`) or half of `dvc.lock`, after which no DVC
command works. DVC also identifies a process only by its number, which after a reboot may belong to another program.
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
    """Drop the locks of dead processes and, if no engine is running here, files that a kill left half written.

    Half a `dvc.lock` is moved to `folder`, DVC's folder of temporary files, with a warning; DVC then takes what it had
    recorded from its cache. Raises BakeoffError, naming the process, if a file is damaged while an engine is running in
    this project.
    """
    project = folder.resolve().parents[1]
    _repair_list(folder / "rwlock", project)
    recorded = project / "dvc.lock"
    if recorded.exists() and _is_cut_off(recorded.read_text(encoding="utf-8")):
        _refuse_if_at_work(recorded, project)
        aside = folder / "dvc.lock.damaged"
        recorded.replace(aside)
        told = f"cut off by a kill, so moved to {aside}; its results come from DVC's cache or are computed again"
        print(f"warning: dvc.lock: {told}", file=sys.stderr)


def _is_cut_off(text: str) -> bool:
    """Whether DVC was killed while writing this text to `dvc.lock`: a complete one ends with a line break."""
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
    """Raise BakeoffError if an engine is running in this project, because it may be writing the file."""
    if engine := next(_engines(project), None):
        number, command = engine
        raise BakeoffError(
            f"{damaged}: damaged, and process {number} ({command}) is running in this folder; wait for it or end it, "
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
    """The list with both kinds of locks; raises some error if it is not as DVC writes it."""
    found = {kind: dict(kinds.get(kind, {})) for kind in ("write", "read")}
    for holder in (*found["write"].values(), *(one for holders in found["read"].values() for one in holders)):
        int(holder["pid"])
    return found


def _alive(holder: dict[str, Any]) -> bool:
    """Whether the process with this number is still an engine."""
    import psutil  # type: ignore[import-untyped]

    try:
        return _is_engine(psutil.Process(holder["pid"]).cmdline())
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's
        return True


def _engines(project: Path) -> Iterator[tuple[int, str]]:
    """Number and command of every other DVC or Snakemake process running in this folder."""
    import psutil

    own = {process.pid for process in (psutil.Process(), *psutil.Process().parents())}
    for process in psutil.process_iter():
        try:
            if process.pid not in own and _is_engine(process.cmdline()) and Path(process.cwd()) == project:
                yield process.pid, " ".join(process.cmdline())
        except (psutil.Error, OSError):
            continue


def _is_engine(command: list[str]) -> bool:
    return any(Path(word).name in ("dvc", "snakemake") for word in command[:5])  # after Python and its options


if __name__ == "__main__":
    with one_line():
        if sys.argv[1:]:
            raise BakeoffError("python -m workflow.engines.dvc_locks: takes no arguments")
        repair()
