import errno
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from workflow import files
from workflow.data import arrays, pictures, tensors
from workflow.data.tensors import ImageSet
from workflow.device import prepare_torch
from workflow.errors import BakeoffError, one_line
from workflow.params import Compute


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    files.write_json(target, {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        files.write_json(target, {"a": float("nan")})
    with pytest.raises(RuntimeError, match="half"), files.replacing(target) as temporary:
        temporary.write_text('{"a":')
        raise RuntimeError("half way")
    assert files.read_json(target) == {"a": 1}
    assert list(tmp_path.iterdir()) == [target]


SETS = ImageSet(torch.zeros(600, 1, 8, 8, dtype=torch.uint8), torch.arange(600))
WRITERS: dict[str, Callable[[Path], None]] = {
    "bytes": lambda path: files.write_bytes(path, b"x" * 9000),
    "json": lambda path: files.write_json(path, ["x" * 9000]),
    "tensors": lambda path: tensors.write_tensors(path, {"x": torch.zeros(9000)}),
    "images": lambda path: arrays.write_images(path, SETS),
}


def _write_on_a_full_disk(write: Callable[[Path], None], path: Path) -> None:
    """The kernel refuses it in the middle of the file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    with one_line():
        write(path)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_every_kind_of_write_to_a_full_disk_leaves_the_old_file_and_is_named(
    write: Callable[[Path], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")
    child = multiprocessing.get_context("fork").Process(target=_write_on_a_full_disk, args=(write, target))
    child.start()
    child.join()
    assert child.exitcode == 2
    assert capfd.readouterr().err == f"error: {target}: {os.strerror(errno.EFBIG)}; free some space and run again\n"
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
    write(target)
    assert target.stat().st_size >= 9000


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")
    script = (
        "import os, signal, sys; from pathlib import Path; from workflow.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as t: t.write_bytes(b'new'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, target], check=False)
    assert done.returncode == -signal.SIGKILL
    assert target.read_bytes() == b"old"
    of_another = tmp_path / f".out.{os.getppid()}.part"  # a process that still runs
    of_another.touch()
    assert len(list(tmp_path.iterdir())) == 3
    files.write_bytes(target, b"newer")
    assert set(tmp_path.iterdir()) == {target, of_another}
    assert target.read_bytes() == b"newer"


def test_what_is_written_is_an_ordinary_readable_file(tmp_path: Path) -> None:
    files.write_text(tmp_path / "deep/er/out.txt", "é")
    assert (tmp_path / "deep/er/out.txt").read_text(encoding="utf-8") == "é"
    (tmp_path / "plain").touch()
    assert (tmp_path / "deep/er/out.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe"])
def test_bad_json_is_named(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(BakeoffError, match=r"x\.json: "):
        files.read_json(tmp_path / "x.json")


@pytest.mark.parametrize("pixels", [("images",), ("images", "brightness")])
def test_images_in_pieces_give_the_bytes_of_the_whole(pixels: tuple[str, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole: dict[str, arrays.Array] = {
        "labels": np.arange(7),
        **{name: rng.integers(256, size=(7, 1, 3, 5), dtype=np.uint8) for name in pixels},
    }

    class Parts:
        def __len__(self) -> int:
            return 7

        def pieces(self) -> Iterator[arrays.Arrays]:
            for part in (slice(0, 4), slice(4, 7)):
                yield arrays.Arrays(**{name: array[part] for name, array in whole.items()})

    arrays.write_images(tmp_path / "parts", Parts())
    arrays.write_arrays(tmp_path / "whole", whole)
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    assert np.array_equal(arrays.read_images(tmp_path / "parts").images, whole["images"])


def test_tensors_keep_their_bytes(tmp_path: Path) -> None:
    written = {"b": torch.arange(6).view(2, 3).T, "a": torch.randn(3)}
    for name in ("one", "two"):
        tensors.write_tensors(tmp_path / name, written, json.dumps({"x": 1, "y": 2}))
    back, metadata = tensors.read_tensors(tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert all(torch.equal(back[name], written[name]) for name in written)
    assert json.loads(metadata) == {"x": 1, "y": 2}


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "last byte": lambda b: b[:-1],
    "last bit": lambda b: b[:-1] + bytes([b[-1] ^ 1]),
    "type": lambda b: b.replace(b"F32", b"I32"),
    "half": lambda b: b[: len(b) // 2],
    "length": lambda b: b"\0" * 8 + b[8:],
    "all": lambda _: b"",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_tensors_are_named(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    tensors.write_tensors(tmp_path / "x.safetensors", {"a": torch.randn(50)})
    (tmp_path / "x.safetensors").write_bytes(damage((tmp_path / "x.safetensors").read_bytes()))
    with pytest.raises(BakeoffError, match=r"x\.safetensors: damaged"):
        tensors.read_tensors(tmp_path / "x.safetensors")


def _prepared(folder: Path) -> None:
    image_set = ImageSet(torch.randint(0, 17, (5, 1, 4, 4), dtype=torch.uint8), torch.arange(5))
    about = {
        "name": "x",
        "source": "s",
        "licence": "l",
        "shape": [1, 4, 4],
        "levels": 17,
        "classes": ["a"],
        "split": "-",
    }
    arrays.write_prepared(folder, dict.fromkeys(arrays.SPLITS, image_set), **about)


def test_prepared_data_is_checked_against_its_hash(tmp_path: Path) -> None:
    _prepared(tmp_path)
    assert len(tensors.read_split("valid", tmp_path)) == 5
    assert arrays.read_card(tmp_path).shape == (1, 4, 4)
    content = bytearray((tmp_path / "valid.safetensors").read_bytes())
    content[-1] ^= 1  # one bit of one label: the structure is sound
    (tmp_path / "valid.safetensors").write_bytes(content)
    with pytest.raises(BakeoffError, match=r"valid\.safetensors: SHA-256"):
        tensors.read_split("valid", tmp_path)
    (tmp_path / "valid.safetensors").unlink()
    with pytest.raises(BakeoffError, match=r"valid\.safetensors: missing"):
        tensors.read_split("valid", tmp_path)


def test_a_card_that_lacks_a_field_is_named(tmp_path: Path) -> None:
    _prepared(tmp_path)
    card = files.read_json(tmp_path / "card.json")
    bad: list[object] = [{k: v for k, v in card.items() if k != "levels"}, {**card, "more": 1}, []]
    for broken in bad:
        files.write_json(tmp_path / "card.json", broken)
        with pytest.raises(BakeoffError, match=r"card\.json: "):
            arrays.read_card(tmp_path)


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_puts_every_pixel_in_its_place(channels: int) -> None:
    x = torch.randint(0, 5, (7, channels, 4, 6), dtype=torch.uint8)
    picture = pictures.grid(x.numpy(), levels=5, columns=3, scale=2, gap=1)
    assert picture.size == (3 * 12 + 2, 3 * 8 + 2)
    assert picture.mode == ("L" if channels == 1 else "RGB")
    for i in range(7):
        for y, column in ((0, 0), (3, 5), (2, 1)):
            seen = picture.getpixel(((i % 3) * 13 + 2 * column + 1, (i // 3) * 9 + 2 * y + 1))
            expected = (x[i, :, y, column].float() * 255 / 4).round().int().tolist()
            assert seen == (expected[0] if channels == 1 else tuple(expected))
    assert picture.getpixel((2 * 13, 2 * 9)) == (255 if channels == 1 else (255, 255, 255))


def test_png_is_the_picture(tmp_path: Path) -> None:
    picture = pictures.grid(torch.randint(0, 5, (2, 1, 4, 4), dtype=torch.uint8).numpy(), 5, 2)
    (tmp_path / "x.png").write_bytes(pictures.png(picture))
    assert Image.open(tmp_path / "x.png").tobytes() == picture.tobytes()


def test_an_error_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, one_line():
        raise BakeoffError("params.yaml: x: no")
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: params.yaml: x: no\n"


def test_a_missing_gpu_is_named() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(BakeoffError, match=r"compute\.device: 'cuda': no GPU"):
        prepare_torch(Compute(device="cuda", threads=1))
    assert prepare_torch(Compute(device="auto", threads=1)) == torch.device("cpu")


def test_points_are_dark_where_they_are_in_their_plane() -> None:
    points = np.array([[200, 30], [200, 30], [60, 220]], np.uint8).reshape(-1, 1, 1, 2)
    plane = pictures.scatter(points, levels=256, side=128)
    assert (plane.shape, plane.dtype) == ((1, 1, 128, 128), np.uint8)
    inner = plane[0, 0, 1:-1, 1:-1]
    rows, columns = (inner < 255).nonzero()
    assert {(int(r) + 1, int(c) + 1) for r, c in zip(rows, columns, strict=True)} == {
        (row + i, column + j) for row, column in ((112, 100), (17, 30)) for i in (-1, 0, 1) for j in (-1, 0, 1)
    }  # from the top, and from the left
    assert plane[0, 0, 112, 100] < plane[0, 0, 17, 30] < 255  # twice is darker
    assert pictures.overview(points, 256).size == (384, 384)
    assert pictures.overview(np.zeros((200, 1, 8, 8), np.uint8), 17).size == (10 * 49 - 1, 10 * 49 - 1)
