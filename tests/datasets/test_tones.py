"""Tones: the same bytes everywhere, the waveforms that they are called by, and µ-law by its formula."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import signal

from tests.conftest import ROOT
from workflow.data import catalogue, tones
from workflow.data.arrays import Array, Arrays, as_card
from workflow.data.mu_law import decode, encode
from workflow.params import Embedded

PUBLISHED = "1b2cd87bba6a0634acf5c05a055a2f27d5f99e8dfee25a5d03a65a3aa5e68bdf"
HASH = """
import hashlib
from workflow.data.tones import tones
made = tones()
print(hashlib.sha256(made.images.tobytes() + made.labels.tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def made() -> Arrays:
    return tones.tones()


def _by_formula(amplitudes: Array, levels: int) -> Array:
    """As in torchaudio's `mu_law_encoding`."""
    mu = levels - 1
    scaled = np.sign(amplitudes) * np.log1p(mu * abs(amplitudes)) / np.log1p(mu)
    codes: Array = ((scaled + 1) / 2 * mu + 0.5).astype(np.int64)
    return codes


def test_the_bytes_are_the_published_ones(made: Arrays) -> None:
    assert (made.images.dtype, made.images.shape) == (np.uint8, (8000, 1, 1, 256))
    assert np.bincount(made.labels).tolist() == [2000] * 4
    assert hashlib.sha256(made.images.tobytes() + made.labels.tobytes()).hexdigest() == PUBLISHED


def test_another_process_without_this_processors_instructions_makes_the_same() -> None:
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    others = {"PYTHONHASHSEED": "1", "NPY_DISABLE_CPU_FEATURES": " ".join(found)}
    done = subprocess.run(
        [sys.executable, "-c", HASH], cwd=ROOT, env={**os.environ, **others}, capture_output=True, check=True, text=True
    )
    assert done.stdout.strip() == PUBLISHED


def test_waveforms_are_those_of_scipy() -> None:
    at = np.random.default_rng(0).random(10_000)
    turns = 2 * np.pi * at
    expected = [
        np.sin(turns), signal.sawtooth(turns + np.pi / 2, 0.5), signal.square(turns), signal.sawtooth(turns),
    ]  # fmt: skip
    assert len(tones.WAVEFORMS) == len(expected)
    for ours, theirs in zip(tones.waveforms(at), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-11)


def test_each_tone_has_the_loudness_and_the_period_that_were_drawn(made: Arrays) -> None:
    low, high = np.array(list(tones.RANGES.values())).T
    period, loudness, _ = (low + (high - low) * np.random.default_rng(0).random((tones.COUNT, 3))).T
    heard = decode(made.images[:, 0, 0], tones.LEVELS)
    squares = made.labels == 2
    step = np.log(tones.LEVELS) / (tones.LEVELS - 1)  # half a level of µ-law, at most, as a share of the amplitude
    np.testing.assert_allclose(abs(heard[squares]).mean(1), loudness[squares], rtol=1.2 * step)
    rises = ((heard[squares, 1:] > 0) & (heard[squares, :-1] < 0)).sum(1)
    assert (abs(rises - tones.LENGTH / period[squares]) <= 1).all()


@pytest.mark.parametrize("levels", [2, 64, 256])
def test_mu_law_is_its_formula(levels: int) -> None:
    amplitudes = np.random.default_rng(1).uniform(-1, 1, 50_000)
    assert (encode(amplitudes, levels) == _by_formula(amplitudes, levels)).all()
    codes = np.arange(levels, dtype=np.uint8)
    assert (encode(decode(codes, levels), levels) == codes).all()
    assert encode(np.array([-7.0, 7.0]), levels).tolist() == [0, levels - 1]
    assert decode(codes[[0, -1]], levels) == pytest.approx([-1, 1], rel=1e-12)


def test_the_card_says_that_they_are_signals(tmp_path: Path) -> None:
    settings = Embedded(name="tones", root=Path(), valid=0.05, test=0.2, seed=0)
    catalogue.download(settings, tmp_path)
    sets, about = catalogue.prepare(settings, tmp_path)
    card = as_card({**about, "counts": {split: len(one) for split, one in sets.items()}, "sha256": {}})
    assert (card.shape, card.levels, card.rate, card.leaks) == ((1, 1, 256), 64, 4000, 0)
    assert card.classes == ("sine", "triangle", "square", "sawtooth")
