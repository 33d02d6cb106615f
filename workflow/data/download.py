"""Fetching a published file: from the first address that gives the right one, or not at all if it is here already."""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from workflow.errors import NO_SPACE, BakeoffError
from workflow.paths import FETCHED

TIMEOUT = 30.0  # seconds of silence after which the next address is tried


def fetch(addresses: Sequence[str], path: Path, checksum: str, timeout: float = TIMEOUT) -> None:
    """Have the file at `path` whose `checksum` is "md5:..." or "sha256:..."; what is there and right is used as it is.

    Addresses are tried in turn. What comes is written beside `path` and renamed when its checksum is right, so `path`
    is never half a file; what an interrupted download left is thrown away. Raises BakeoffError, one line that says what
    went wrong at each address and where to put the file by hand.
    """
    import pooch  # half a second

    if path.exists() and _checksum(path, checksum) == checksum:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    failures = []
    for address in addresses:
        try:
            pooch.HTTPDownloader(progressbar=True, timeout=timeout)(address, part, None)
        except (OSError, ValueError) as error:  # requests' errors are OSErrors, but for a malformed address
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
        f"{path}{present}: could not be fetched; {'; '.join(failures)}; try again, or put the file there"
    )


def obtain(name: str, addresses: Sequence[str], checksum: str, own: Path) -> Path:
    """The file `name`, a relative path: the user's in the folder `own`, else that in `FETCHED`, fetched if need be.

    Raises BakeoffError as `fetch` does, and if the user's file has another checksum.
    """
    if (own / name).exists():
        if (found := _checksum(own / name, checksum)) != checksum:
            raise BakeoffError(f"{own / name}: its checksum is {found}, not {checksum}; remove it, and it is fetched")
        return own / name
    fetch(addresses, FETCHED / name, checksum)
    return FETCHED / name


def _checksum(path: Path, like: str) -> str:
    """The file's checksum by the method that `like` begins with."""
    method = like.partition(":")[0]
    with path.open("rb") as file:
        return f"{method}:{hashlib.file_digest(file, method).hexdigest()}"


def _reason(error: Exception) -> str:
    """An error of the network in a few words: the last of its nested messages."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code} {response.reason}"
    return re.sub(r"\s+", " ", str(error)).rsplit(": ", 1)[-1].strip("')\"") or type(error).__name__
