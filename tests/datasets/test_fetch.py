"""Published files come from the first address that gives the right one, and are never half there."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.mirror import Mirror
from tests.tracking.conftest import wait_for
from workflow.data.download import fetch
from workflow.errors import BakeoffError

CONTENT = bytes(range(256)) * 40
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def path(tmp_path: Path, mirror: Mirror) -> Path:
    mirror.files |= {"first": CONTENT, "second": CONTENT}
    return tmp_path / "sets" / "file.bin"


def _fetch(path: Path, mirror: Mirror, *names: str, timeout: float = 30.0, checksum: str = MD5) -> None:
    fetch([mirror.address + name for name in names], path, checksum, timeout)


@pytest.mark.parametrize("checksum", [MD5, SHA256])
def test_the_first_address_is_enough(path: Path, mirror: Mirror, checksum: str) -> None:
    _fetch(path, mirror, "first", "second", checksum=checksum)
    assert path.read_bytes() == CONTENT
    assert mirror.asked == ["first"]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("fault", ["missing", "cut", "corrupt", "stall"])
def test_the_next_address_makes_up_for_a_bad_one(path: Path, mirror: Mirror, fault: str) -> None:
    mirror.faults["first"] = fault
    start = time.monotonic()
    _fetch(path, mirror, "first", "second", timeout=2.0)
    assert path.read_bytes() == CONTENT
    assert mirror.asked == ["first", "second"]
    assert time.monotonic() - start < 60  # the address that stalls would wait ten minutes; this is no stop-watch
    assert list(path.parent.iterdir()) == [path]


def test_a_slow_address_is_waited_for_as_long_as_it_goes_on(path: Path, mirror: Mirror) -> None:
    mirror.faults["first"] = "slow"
    _fetch(path, mirror, "first", timeout=2.0)
    assert path.read_bytes() == CONTENT


def test_what_is_there_is_used_without_the_network(path: Path, mirror: Mirror) -> None:
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    _fetch(path, mirror, "first")
    assert mirror.asked == []


def test_half_a_file_is_replaced(path: Path, mirror: Mirror) -> None:
    path.parent.mkdir()
    path.write_bytes(CONTENT[:100])
    path.with_name("file.bin.part").write_bytes(b"left by a download that was cut off")
    _fetch(path, mirror, "first")
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]


def test_when_all_fail_one_line_says_why_and_what_was_there_stays(path: Path, mirror: Mirror) -> None:
    mirror.faults |= {"first": "corrupt", "second": "missing"}
    path.parent.mkdir()
    path.write_bytes(b"mine")
    with pytest.raises(BakeoffError) as error:
        fetch([mirror.address + "first", mirror.address + "second", "http://127.0.0.1:1/third"], path, MD5)
    line = str(error.value)
    assert "\n" not in line
    for part in (
        str(path),
        "first: its checksum is md5:",
        "second: HTTP 404",
        "third: ",
        "refused",
        "put the file",
    ):
        assert part in line, line
    assert path.read_bytes() == b"mine"
    assert list(path.parent.iterdir()) == [path]


def test_a_download_that_is_killed_leaves_no_file_and_the_next_one_completes(path: Path, mirror: Mirror) -> None:
    mirror.faults["first"] = "stall"
    code = (
        "import sys, pathlib; from workflow.data.download import fetch; "
        "fetch([sys.argv[1]], pathlib.Path(sys.argv[2]), sys.argv[3])"
    )
    child = subprocess.Popen([sys.executable, "-c", code, mirror.address + "first", str(path), MD5], cwd=ROOT)
    wait_for(lambda: path.with_name("file.bin.part").exists() and mirror.asked)
    child.kill()
    child.wait()
    assert mirror.asked == ["first"]
    assert not path.exists()
    mirror.faults.clear()
    _fetch(path, mirror, "first")
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
