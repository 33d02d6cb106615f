"""What in a user's folder would stop DVC is found before, all at once; and what has changed in a folder is told."""

import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from workflow.data.listing import check_root, differences, list_files, shown
from workflow.errors import BakeoffError


def _refused(root: Path) -> str:
    with pytest.raises(BakeoffError) as error:
        check_root(root)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pictures/sub").mkdir(parents=True)
    (tmp_path / "pictures/a.png").touch()
    return tmp_path / "pictures"


def test_every_name_that_is_text_is_taken(root: Path) -> None:
    """A macOS screenshot, other spaces and joiners, Finder's icon, and what controls a terminal."""
    for name in (
        "10\u202fPM",
        "a\u00a0b",
        "a\u200cb",
        "👩\u200d🔬",
        "a\u3000b",
        "Icon\r",
        "a\nb",
        "\x1b[31m",
        "\u2028",
    ):
        (root / f"{name}.png").touch()
    (root / "linked.png").symlink_to(root / "a.png")
    (root / "linked").symlink_to(root / "sub")
    check_root(root)


def test_all_that_dvc_cannot_record_is_named_in_one_line(root: Path) -> None:
    for number in range(5):
        (root / f"sub/{number}.png").symlink_to("/nowhere")
    (root / "loop.png").symlink_to("loop.png")
    Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.png")).touch()
    Path(os.fsdecode(os.fsencode(root) + b"/.caf\xe9")).mkdir()
    os.mkfifo(root / "pipe.png")
    (root / "zero.png").symlink_to("/dev/zero")
    assert _refused(root) == (
        f"data.root: {root}: DVC cannot record this folder: "
        "6 broken links (loop.png, sub/0.png, sub/1.png and 3 more), remove them; "
        "2 names that are not UTF-8 (.caf\\xe9, caf\\xe9.png), rename them; "
        "2 pipes, sockets or devices (pipe.png, zero.png), remove them"
    )


def test_a_socket_and_a_file_for_dvc_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root.parent / "project").mkdir()
    monkeypatch.chdir(root.parent / "project")
    (root / "sub/.dvcignore").touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("../pictures/s.png")  # the path of a socket must be short
        assert _refused(root).endswith(
            "1 pipe, socket or device (s.png), remove it; 1 file for DVC itself (sub/.dvcignore), remove it"
        )


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert _refused(tmp_path / "a\nb") == (
        f"params.yaml: data.root: '{tmp_path}/a\\nb': no such folder; create it or set another one"
    )


def test_a_file_in_place_of_a_folder_is_called_so(root: Path) -> None:
    assert _refused(root / "a.png") == (
        f"params.yaml: data.root: '{root}/a.png': is a file; unpack it if it is an archive, and set data.root to the "
        "folder, or set data.name to arrays for an .npz or .npy"
    )


def test_a_home_folder_is_to_be_written_out(root: Path) -> None:
    assert _refused(Path("~/pictures")).endswith("no such folder; write it out in full, as ~ is not replaced")


@pytest.mark.parametrize(
    ("place", "how"),
    [
        (".", "contains data/raw"),
        ("..", "contains data/raw"),
        ("data", "contains data/raw"),
        ("runs/vae", "lies in runs"),
    ],
)
def test_a_folder_that_runs_write_into_is_refused(
    place: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project/runs/vae").mkdir(parents=True)
    (tmp_path / "project/data/own").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    assert _refused(Path(place)).startswith(
        f"params.yaml: data.root: '{place}': {how}, which runs write; put your files"
    )
    check_root(Path("data/own"))


def test_a_file_of_arrays_is_no_folder(root: Path) -> None:
    check_root(root / "a.png", arrays=True)
    for path, what in ((root, "is no file"), (root / "none.npz", "no such file")):
        with pytest.raises(BakeoffError) as error:
            check_root(path, arrays=True)
        line = f"params.yaml: data.root: '{path}': {what}; for `name: arrays` it is an .npz or .npy"
        assert str(error.value) == line


def test_what_cannot_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pictures would otherwise be missing without a word. The tests' user may read anything."""
    scan = os.scandir

    def refuse(folder: Path) -> Any:
        if folder.name == "sub":
            raise PermissionError(errno.EACCES, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    for look in (list_files, check_root):
        with pytest.raises(BakeoffError, match=r"pictures/sub: cannot be read \(Permission denied\); make it readable"):
            look(root)


def test_a_later_listing_tells_what_has_changed(root: Path) -> None:
    (root / "b.png").touch()
    before = list_files(root)
    assert differences(before, list_files(root)) == ""
    (root / "a.png").write_bytes(b"more")
    (root / "b.png").unlink()
    (root / "sub/c.png").touch()
    (root / ".DS_Store").touch()
    assert differences(before, list_files(root)) == "1 added (sub/c.png), 1 removed (b.png), 1 changed (a.png)"


def test_a_file_of_the_same_size_has_changed_if_its_time_has(root: Path) -> None:
    before = list_files(root)
    os.utime(root / "a.png", ns=(0, before[0].changed + 1))
    assert differences(before, list_files(root)) == "1 changed (a.png)"


def test_what_controls_a_terminal_is_escaped_and_text_is_not() -> None:
    assert shown("a\nb\x1b\x7f\u2028\udce9") == r"a\nb\x1b\x7f\u2028\xe9"
    assert shown("10\u202fPM 👩\u200d🔬 é") == "10\u202fPM 👩\u200d🔬 é"
