"""Writing files so that nobody ever sees half of one, and reading them with a clear word when they are bad."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from workflow.errors import BakeoffError

PART = ".part"  # ends the names of files that are not complete; DVC does not look at them (.dvcignore)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit flush it to disk and rename it over `path`.

    Rename is atomic within a folder, so a reader sees the old file or the new one. On an exception `path` stays as
    it was and the temporary file is removed; what a killed process left, the next one that writes `path` removes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*{PART}"):
        if not _alive(left):
            left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        temporary.touch()
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # a write that fails does not know of which file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; on a clean exit it becomes `folder`, which is missing or empty.

    So nobody takes the first of its files for all of them. On an exception nothing is left, as with `replacing`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.*{PART}"):
        if not _alive(left):
            shutil.rmtree(left, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}{PART}")
    try:
        temporary.mkdir()
        yield temporary
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def unchanged(*paths: Path) -> Iterator[None]:
    """Raise BakeoffError in the end if one of the files was changed meanwhile, as their sizes and times tell.

    DVC records what a stage has read only when the stage has ended, and would take the new file for the one that was
    read.
    """
    before = _states(paths)
    yield
    for path, state in _states(paths).items():
        if state != before[path]:
            raise BakeoffError(f"{path}: was changed while it was read; run again")


def _states(paths: Sequence[Path]) -> dict[Path, tuple[int, int] | None]:
    """Size and time of each file; None for one that is missing."""
    found = {path: path.stat() if path.exists() else None for path in paths}
    return {path: about and (about.st_size, about.st_mtime_ns) for path, about in found.items()}


def _alive(temporary: Path) -> bool:
    """Whether the process that writes this file still runs."""
    try:
        os.kill(int(temporary.name.split(".")[-2]), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` as UTF-8, atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` as indented JSON, atomically; NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON from `path`; raises BakeoffError, naming the file, if it is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BakeoffError(f"{path}: missing; run the stage that makes it (`dvc repro`)") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BakeoffError(f"{path}: not valid JSON ({error}); delete it and run `dvc repro`") from None


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(content: Any) -> str:
    """SHA-256 of `content` as JSON with sorted keys, in hex: equal for equal values, whatever the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
