"""Signals to look at and to listen to: what is drawn is where the sound is, and the page plays what was drawn."""

import base64
import io
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from stages import report
from tests.invented_project import make_project
from workflow.data.arrays import Array, read_arrays
from workflow.data.mu_law import decode, encode
from workflow.data.pictures import grid
from workflow.data.tensors import ImageSet
from workflow.data.waveforms import INK, PAPER, SPECTROGRAM, WAVEFORM, WIDTH, draw, wav


def _signals(amplitudes: Array, levels: int = 256) -> Array:
    return encode(amplitudes, levels)[:, None, None]


@pytest.mark.parametrize("length", [3, 100, 256, 1000])
def test_a_waveform_is_one_connected_line_from_left_to_right(length: int) -> None:
    time = np.linspace(0, 1, length)
    drawn = draw(_signals(np.stack([2 * time - 1, 1 - 2 * time])), 256)
    assert drawn.shape == (2, 1, WAVEFORM + 1 + SPECTROGRAM, WIDTH)
    for picture, step in zip(drawn[:, 0, :WAVEFORM], (1, -1), strict=True):  # one rises, one falls
        rows = [np.flatnonzero(column == INK) for column in picture.T]
        assert all((np.diff(found) == 1).all() for found in rows)  # no holes in a column
        assert all(len(np.intersect1d(a, b)) for a, b in itertools.pairwise(rows))  # or between two
        assert rows[::step][-1][0] == 0
        assert rows[::step][0][-1] == WAVEFORM - 1


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_spectrogram_is_darkest_at_the_frequency_and_the_time_of_a_tone(share: float) -> None:
    time = np.arange(512)
    tone = np.sin(np.pi * share * time) * (time >= 256)  # at a share of the highest frequency, in the second half
    picture = draw(_signals(tone[None]), 256)[0, 0, WAVEFORM + 1 :]
    later = picture[:, -WIDTH // 4 :].mean(1)
    assert SPECTROGRAM - 1 - later.argmin() == pytest.approx(share * (SPECTROGRAM - 1), abs=1)
    assert later.min() < INK + 5
    assert picture[:, : WIDTH // 4].min() == PAPER


def test_a_wav_file_plays_the_signals_with_pauses() -> None:
    codes = np.random.default_rng(0).integers(0, 64, (3, 1, 1, 50), dtype=np.uint8)
    rate, found = wavfile.read(io.BytesIO(wav(codes, 64, 1000)))
    assert (rate, found.dtype, found.shape) == (1000, np.int16, (3 * (50 + 60),))
    played = found.reshape(3, 110) / (2**15 - 1)
    assert abs(played[:, :50] - decode(codes[:, 0, 0], 64)).max() < 2**-16
    assert not played[:, 50:].any()


def test_the_page_draws_and_plays_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    sizes = {"train": 60, "valid": 20, "test": 40}
    sets = {
        split: ImageSet(torch.randint(0, 5, (n, 1, 1, 40), generator=random, dtype=torch.uint8), torch.arange(n) % 3)
        for split, n in sizes.items()
    }
    make_project(tmp_path, sets, 5, ["a", "b", "c"], [0])
    monkeypatch.chdir(tmp_path)
    card = Path("data/prepared/card.json")
    card.write_text(json.dumps(json.loads(card.read_text(encoding="utf-8")) | {"rate": 4000}), encoding="utf-8")
    report.build()
    page = Path("report/index.html").read_text(encoding="utf-8")
    assert "60 signals of 40 samples and judged" in page
    assert "from 0 to 2,000 Hz" in page
    assert "40 samples at 4,000 Hz, by µ-law, 5 levels" in page
    assert "media-src data:" in page
    players = re.findall(
        r'<audio controls preload="none" src="data:audio/wav;base64,([^"]+)" aria-label="Play ([^"]+)"', page
    )
    assert players[0][1] == "real test signals"
    assert len(players) == 1 + len(list(Path("runs").iterdir()))
    rate, heard = wavfile.read(io.BytesIO(base64.b64decode(players[0][0])))
    expected = decode(sets["test"].images[:16, 0, 0].numpy(), 5)
    assert rate == 4000
    assert abs(heard.reshape(16, -1)[:, :40] / (2**15 - 1) - expected).max() < 2**-16
    name = next(iter(Path("runs").iterdir())).name
    samples = read_arrays(Path("runs") / name / "0/samples.safetensors")["images"]
    assert grid(samples[:4], 5, columns=2).size == (2 * WIDTH + 1, 2 * (WAVEFORM + 1 + SPECTROGRAM) + 1)
