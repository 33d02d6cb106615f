"""The files below a user's folder, by their names alone, and what in it would stop DVC, which records the folder.

DVC hashes the folder before it runs any stage that reads it. A broken link or a name that is no text stops it with a
traceback, and it waits forever for a named pipe. So `check_root` looks before DVC does. This module imports neither
NumPy nor Pillow, because the engines call it each time they start.
"""

import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from workflow.errors import BakeoffError
from workflow.files import sha256, sha256_of_json
from workflow.paths import AUDIT, EXTRACTOR, INDEX, LEDGER, PREPARED, RAW, REFERENCE, SUMMARY

# What systems and file browsers leave in any folder. It is no part of a data set, and counting it would change the
# card, and so train every model again, each time somebody opens the folder in a file browser.
SYSTEM = frozenset(("__macosx", "__pycache__", "thumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin"))
OUTPUTS = (RAW, PREPARED, EXTRACTOR.parent, REFERENCE.parent, AUDIT.parent, INDEX, LEDGER, SUMMARY.parent, Path("runs"))
NAMED = 3  # files that a message names; it counts the others


@dataclass(frozen=True)
class Entry:
    """A file, or a link to anything, below the folder.

    parts: its path relative to the folder. size: bytes. changed: time of the last change, in ns. mode: of `lstat`.
    """

    parts: tuple[str, ...]
    size: int
    changed: int
    mode: int

    @property
    def name(self) -> str:
        """Its path relative to the folder, with slashes."""
        return "/".join(self.parts)


def list_files(root: Path) -> list[Entry]:
    """Everything below `root` that is no folder, in the order of the names; without hidden and system files.

    Links are listed and not followed. Raises BakeoffError if a folder cannot be read.
    """
    return sorted(_list(root, ()), key=lambda entry: entry.parts)


def digest(path: Path) -> str:
    """SHA-256, in hex, of a file or of all files below a folder with their names; raises BakeoffError if it is missing.

    Hidden and system files of a folder do not count.
    """
    if not path.exists():
        raise BakeoffError(f"{shown(path)}: no such file or folder")
    if not path.is_dir():
        return sha256(path)
    return sha256_of_json({entry.name: sha256(path.joinpath(*entry.parts)) for entry in list_files(path)})


def _list(folder: Path, parts: tuple[str, ...]) -> Iterator[Entry]:
    for found in _scan(folder):
        if found.name.startswith(".") or found.name.lower() in SYSTEM:
            continue
        below = (*parts, found.name)
        if found.is_dir(follow_symlinks=False):
            yield from _list(folder / found.name, below)
        else:
            with _readable(folder / found.name):
                about = found.stat(follow_symlinks=False)
            yield Entry(below, about.st_size, about.st_mtime_ns, about.st_mode)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    with _readable(folder), os.scandir(folder) as found:
        return list(found)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Name the path if it cannot be read, or has just been removed."""
    try:
        yield
    except OSError as error:
        raise BakeoffError(
            f"data.root: {shown(path)}: cannot be read ({error.strerror}); make it readable or remove it, and run again"
        ) from None


def check_root(root: Path, arrays: bool = False) -> None:
    """Raise BakeoffError for a folder that DVC could not record, with everything that is wrong in one line.

    Hidden files count here, because DVC records them, too.

    Args:
        root: of the user's data.
        arrays: whether it is a single file, of arrays.
    """
    if arrays:
        if not root.is_file():
            what = "is no file" if root.exists() else "no such file"
            raise BakeoffError(
                f"params.yaml: data.root: '{shown(root)}': {what}; for `name: arrays` it is an .npz or .npy"
            )
        _check_place(root)
        return
    if not root.is_dir():
        raise BakeoffError(f"params.yaml: data.root: '{shown(root)}': {_no_folder(root)}")
    _check_place(root)
    links, texts, kinds, ignores = list[str](), list[str](), list[str](), list[str]()
    for name, found in _everything(root, ""):
        if not _is_text(found.name):
            texts.append(name)
        if found.name == ".dvcignore":
            ignores.append(name)
        try:
            mode = found.stat().st_mode
        except OSError:
            links.append(name)
            continue
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            kinds.append(name)
    wrong = [
        *_complaint(links, "broken link", "broken links", "remove"),
        *_complaint(texts, "name that is not UTF-8", "names that are not UTF-8", "rename"),
        *_complaint(kinds, "pipe, socket or device", "pipes, sockets or devices", "remove"),
        *_complaint(ignores, "file for DVC itself", "files for DVC itself", "remove"),
    ]
    if wrong:
        raise BakeoffError(f"data.root: {shown(root)}: DVC cannot record this folder: {'; '.join(wrong)}")


def _no_folder(root: Path) -> str:
    """Why it is no folder, and what to do."""
    if root.is_file():
        return (
            "is a file; unpack it if it is an archive, and set data.root to the folder, or set data.name to arrays for "
            "an .npz or .npy"
        )
    home = root.parts[:1] == ("~",)
    return f"no such folder; {'write it out in full, as ~ is not replaced' if home else 'create it or set another one'}"


def _everything(folder: Path, above: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All that is below a folder, hidden or not, with its relative name."""
    for found in sorted(_scan(folder), key=lambda entry: entry.name):
        name = f"{above}{found.name}"
        yield name, found
        if found.is_dir(follow_symlinks=False):
            yield from _everything(folder / found.name, f"{name}/")


def _check_place(root: Path) -> None:
    """Raise BakeoffError if a run would write into the folder that it reads."""
    mine, project = root.resolve(), Path().resolve()
    for output in OUTPUTS:
        place = project / output
        if place.is_relative_to(mine) or mine.is_relative_to(place):
            how = "contains" if place.is_relative_to(mine) else "lies in"
            raise BakeoffError(
                f"params.yaml: data.root: '{shown(root)}': {how} {output}, which runs write; put your files into "
                "data/own or into another folder that holds nothing else, and set data.root to that"
            )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _complaint(names: list[str], one: str, many: str, remedy: str) -> list[str]:
    if not names:
        return []
    what, them = (one, "it") if len(names) == 1 else (many, "them")
    return [f"{len(names)} {what} ({some(names)}), {remedy} {them}"]


def differences(before: list[Entry], after: list[Entry]) -> str:
    """What has changed from one listing to a later one, in words; "" if nothing has."""
    old, new = ({entry.parts: entry for entry in entries} for entries in (before, after))
    changes = (
        ("added", [new[parts].name for parts in new if parts not in old]),
        ("removed", [old[parts].name for parts in old if parts not in new]),
        ("changed", [old[parts].name for parts in old if parts in new and old[parts] != new[parts]]),
    )
    return ", ".join(f"{len(names)} {what} ({some(names)})" for what, names in changes if names)


def some(names: Iterable[object]) -> str:
    """The first few of the names, as `shown`, and the number of the others: "a, b, c and 2 more"."""
    every = [shown(name) for name in names]
    more = len(every) - NAMED
    return ", ".join(every[:NAMED]) + (f" and {more} more" if more > 0 else "")


def shown(name: object) -> str:
    r"""A name or path on one line: what controls a terminal, and bytes that are no text, are escaped (`\n`, `\xe9`)."""
    return "".join(_escaped(character) for character in str(name))


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that is no text, as Python keeps it
        return f"\\x{ord(character) - 0xDC00:02x}"
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return character.encode("unicode_escape").decode()
    return character
