"""Download a published file from the first address that has the right one, unless it is here already."""

import hashlib
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from workflow.errors import NO_SPACE, BakeoffError
from workflow.paths import FETCHED

TIMEOUT = 30.0  # seconds without data, after which the next address is tried


def fetch(
    addresses: Sequence[str], path: Path, checksum: str, timeout: float = TIMEOUT, own: Path | None = None
) -> None:
    """Make sure that the right file is at `path`, downloading it if necessary.

    The file is written beside `path` and renamed once its checksum is right, so that `path` is never half a file. What
    an interrupted download left is discarded. Raises BakeoffError, which says in one line what went wrong at each
    address and where to put the file by hand.

    Args:
        addresses: tried in turn.
        path: of the file.
        checksum: "md5:..." or "sha256:...".
        timeout: seconds without data, after which the next address is tried.
        own: where a copy of the user's own would be taken from; by default `path`.
    """
    import pooch  # takes half a second

    if path.exists() and _checksum(path, checksum) == checksum:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    failures = []
    for address in addresses:
        try:
            pooch.HTTPDownloader(progressbar=True, timeout=timeout)(address, part, None)
        except (OSError, ValueError) as error:  # errors of requests are OSErrors, except for malformed addresses
            if getattr(error, "errno", None) in NO_SPACE:
                raise
            failures.append(f"{address}: {_reason(error)}")
            continue
        if (found := _checksum(part, checksum)) == checksum:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
            return
        failures.append(f"{address}: its checksum is {found}, not {checksum}")
    part.unlink(missing_ok=True)
    present = " (the file there has another checksum)" if path.exists() else ""
    raise BakeoffError(
        f"{path}{present}: could not be downloaded; {'; '.join(failures)}; try again, or put the file "
        f"{f'at {own}' if own else 'there'}"
    )


def obtain(name: str, addresses: Sequence[str], checksum: str, own: Path, remedy: str = "") -> Path:
    """Path of a published file: the user's own copy, or else one in `FETCHED`, downloaded if necessary.

    Raises BakeoffError as `fetch` does, and if the user's copy has another checksum or lies in another folder.

    Args:
        name: relative path of the file.
        addresses: tried in turn.
        checksum: "md5:..." or "sha256:...".
        own: folder with the user's own copies.
        remedy: what else may be done about a copy with another checksum, for the error.
    """
    if (own / name).exists():
        if (found := _checksum(own / name, checksum)) != checksum:
            raise BakeoffError(
                f"{own / name}: its checksum is {found}, not {checksum}; remove it to download it{remedy}"
            )
        return own / name
    refuse_misplaced(name, own)
    fetch(addresses, FETCHED / name, checksum, own=own / name)
    return FETCHED / name


def refuse_misplaced(name: str, own: Path) -> None:
    """Raise BakeoffError if a file is not where it is looked for, but in a folder above or below.

    Otherwise it would be downloaded although it is here.

    Args:
        name: relative path of the file.
        own: folder with the user's own copies.
    """
    *folders, file = Path(name).parts
    kept = (found for count in range(len(folders)) for found in itertools.combinations(folders, count))
    for place in (*(own.joinpath(*some, file) for some in kept), *sorted(own.glob(f"*/{name}"))):
        if place.is_file():
            raise BakeoffError(
                f"data.root: {place}: is looked for in {(own / name).parent}; move it there with the files beside it"
            )


def _checksum(path: Path, like: str) -> str:
    """The file's checksum, by the method that `like` begins with."""
    method = like.partition(":")[0]
    with path.open("rb") as file:
        return f"{method}:{hashlib.file_digest(file, method).hexdigest()}"


def _reason(error: Exception) -> str:
    """A network error in a few words: the last of its nested messages."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code} {response.reason}"
    return re.sub(r"\s+", " ", str(error)).rsplit(": ", 1)[-1].strip("')\"") or type(error).__name__
