"""A user's own recordings: what is heard of a WAV file, what is left out, and how their folder is understood."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import wavfile

from workflow.data import catalogue
from workflow.data.arrays import Array, Card, read_card, read_images, write_prepared
from workflow.data.mu_law import decode, encode
from workflow.data.recordings import read_signal
from workflow.errors import BakeoffError
from workflow.params import Signals

RATE, LENGTH = 8000, 64


def _settings(root: Path, **others: Any) -> Signals:
    values = {"name": "signals", "root": root, "length": LENGTH, "valid": 0.2, "test": 0.2, **others}
    return Signals.model_validate(values)


def _noise(seed: int, count: int = 200) -> Array:
    return np.random.default_rng(seed).uniform(-0.9, 0.9, count).astype(np.float32)


def _read(root: Path, **others: Any) -> tuple[Array, Array, Card]:
    """All signals and labels, in the order of the splits, and the card."""
    settings, place = _settings(root, **others), root.parent
    catalogue.download(settings, place / "raw")
    sets, about = catalogue.prepare(settings, place / "raw")
    write_prepared(place / "prepared", sets, **about)
    found = [read_images(place / f"prepared/{split}.safetensors") for split in ("train", "valid", "test")]
    return (
        np.concatenate([one.images for one in found]),
        np.concatenate([one.labels for one in found]),
        read_card(place / "prepared"),
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten recordings, five a class."""
    for seed in range(10):
        folder = tmp_path / "sounds" / ("drum" if seed % 2 else "bell")
        folder.mkdir(parents=True, exist_ok=True)
        wavfile.write(folder / f"{seed}.wav", RATE, _noise(seed))
    return tmp_path / "sounds"


def test_the_middle_of_each_file_by_mu_law_with_classes_from_folders(root: Path) -> None:
    images, labels, card = _read(root)
    assert (card.shape, card.levels, card.rate, card.classes) == ((1, 1, LENGTH), 256, RATE, ("bell", "drum"))
    assert card.files == {"recordings used": 10}
    assert card.understood == "no splits; classes from folders: 2"
    expected = {encode(_noise(seed)[68:132].astype(float), 256).tobytes(): seed % 2 for seed in range(10)}
    assert {image.tobytes(): label for image, label in zip(images, labels, strict=True)} == expected
    assert catalogue.shape_of(_settings(root)) == (1, 1, LENGTH)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 64, 128, 255] * 16, np.uint8), [-1, -0.5, 0, 127 / 128]),
        (np.array([-(2**15), 0, 2**14, 2**15 - 1] * 16, np.int16), [-1, 0, 0.5, 1 - 2**-15]),
        (np.array([-(2**31), 0, 2**30, 2**31 - 1] * 16, np.int32), [-1, 0, 0.5, 1 - 2**-31]),
        (np.array([-1.5, 0, 0.5, 1] * 16, np.float32), [-1.5, 0, 0.5, 1]),
        (np.array([[0.5, -0.5], [1, 0.5], [0, 0], [0.25, 0.75]] * 16, np.float32), [0, 0.75, 0, 0.5]),
    ],
    ids=["8 bits", "16 bits", "32 bits", "floats", "stereo"],
)
def test_any_kind_of_samples(values: Array, expected: list[float], tmp_path: Path) -> None:
    wavfile.write(tmp_path / "one.wav", RATE, values)
    found, notes = read_signal(tmp_path / "one.wav", _settings(tmp_path))
    assert found == pytest.approx(np.array(expected * 16), abs=1e-12)
    assert notes == (["channels averaged"] if values.ndim == 2 else [])


@pytest.mark.parametrize("rate", [4000, 11_025, 44_100])
def test_another_rate_keeps_the_pitch(rate: int, tmp_path: Path) -> None:
    """A tone of 500 Hz in the middle of one second, up to its phase."""
    wavfile.write(tmp_path / "one.wav", rate, 0.5 * np.sin(2 * np.pi * 500 * np.arange(rate) / rate))
    found, notes = read_signal(tmp_path / "one.wav", _settings(tmp_path, length=512))
    assert notes == ["resampled to 8,000 Hz"]
    time = np.arange(512) / RATE
    basis = np.stack([np.sin(2 * np.pi * 500 * time), np.cos(2 * np.pi * 500 * time)], 1)
    fitted, *_ = np.linalg.lstsq(basis, found, rcond=None)
    assert np.hypot(*fitted) == pytest.approx(0.5, rel=0.01)
    assert abs(found - basis @ fitted).max() < 0.01


def test_what_cannot_be_used_is_counted(root: Path) -> None:
    wavfile.write(root / "bell/short.wav", RATE, _noise(20, LENGTH - 1))
    wavfile.write(root / "bell/no_number.wav", RATE, np.full(200, np.nan, np.float32))
    wavfile.write(root / "bell/twin.wav", RATE, _noise(0))
    (root / "bell/damaged.wav").write_bytes((root / "bell/0.wav").read_bytes()[:30])
    (root / "bell/song.mp3").write_bytes(b"ID3")
    (root / "bell/cover.png").write_bytes(b"PNG")
    images, _, card = _read(root, levels=16)
    assert len(images) == 10
    assert images.max() < 16
    assert abs(decode(images, 16)).max() <= 1
    assert card.files == {
        ".mp3 files left out, a format that is not read": 1, "duplicates left out": 1, "other files left out": 1,
        "recordings used": 10, "shorter than 64 samples at 8,000 Hz, left out": 1,
        "unreadable, or compressed, left out": 1, "values that are no numbers, left out": 1,
    }  # fmt: skip


def test_a_folder_without_any_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "sounds").mkdir()
    wavfile.write(tmp_path / "sounds/short.wav", RATE, _noise(0, 10))
    with pytest.raises(BakeoffError) as error:
        _read(tmp_path / "sounds")
    assert str(error.value) == (
        f"data.root: {tmp_path / 'sounds'}: no usable recording (1 shorter than 64 samples at 8,000 Hz, left out); add "
        "WAV files without compression or lower data.length"
    )


def test_splits_without_train_are_refused_in_words_for_recordings(tmp_path: Path) -> None:
    (tmp_path / "sounds/test").mkdir(parents=True)
    (tmp_path / "sounds/other").mkdir()
    for folder in ("test", "other"):
        wavfile.write(tmp_path / f"sounds/{folder}/one.wav", RATE, _noise(0))
    with pytest.raises(BakeoffError, match="put the recordings to train on into a folder train"):
        _read(tmp_path / "sounds")
