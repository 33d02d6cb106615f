"""Short tones of known waveform, pitch, loudness and phase; needs no network.

The bytes are the same everywhere: random numbers and all arithmetic use only operations that IEEE 754 rounds correctly
(+, −, ×, ÷), one array at a time, so no sine of a library, whose last bits depend on the machine.
"""

from pathlib import Path

import numpy as np

from workflow.data.arrays import Array, Arrays
from workflow.data.mu_law import encode
from workflow.data.splits import write_raw

COUNT = 8_000
LENGTH = 256  # samples
LEVELS = 64
RATE = 4_000  # samples a second
WAVEFORMS = ("sine", "triangle", "square", "sawtooth")
# How tones of a waveform differ; each is drawn uniformly between two bounds.
RANGES = {
    "period": (16.0, 64.0),  # in samples, so from 62.5 to 250 Hz
    "loudness": (0.3, 0.9),  # greatest amplitude
    "phase": (0.0, 1.0),  # in periods
}
NOISE = 0.01  # the greatest amplitude of either of two uniform noises, whose sum is added to a tone
ABOUT = {
    "source": "tones made by formula, with a little noise; waveform, pitch, loudness and phase drawn uniformly",
    "licence": "none needed",
    "levels": LEVELS,
    "classes": list(WAVEFORMS),
    "rate": RATE,
}


def download_tones(folder: Path) -> None:
    """Write the 8,000 tones, uint8 (N, 1, 1, 256), into `folder`; the classes are their waveforms."""
    write_raw(folder, tones(), **ABOUT)


def tones() -> Arrays:
    """As many of each waveform, by µ-law."""
    rng = np.random.default_rng(0)
    labels = np.arange(COUNT) % len(WAVEFORMS)
    bounds = np.array(list(RANGES.values()))
    drawn = bounds[:, 0] + (bounds[:, 1] - bounds[:, 0]) * rng.random((COUNT, len(bounds)))
    period, loudness, phase = drawn.T[:, :, None]
    noise = rng.random((2, COUNT, LENGTH))
    at = np.arange(LENGTH) / period + phase
    waves = np.select([labels[:, None] == number for number in range(len(WAVEFORMS))], waveforms(at - np.floor(at)))
    amplitudes = loudness * waves + NOISE * (2 * noise[0] - 1) + NOISE * (2 * noise[1] - 1)
    return Arrays(encode(amplitudes, LEVELS).reshape(COUNT, 1, 1, LENGTH), labels)


def waveforms(at: Array) -> list[Array]:
    """Sine, triangle, square and sawtooth, -1..1, at a share of their period, float64 of any shape in [0, 1).

    All but the sawtooth begin like a sine: they rise from 0, or are 1, in the first quarter.
    """
    half = np.where(at < 0.5, 1.0, -1.0)
    within = at - np.where(at < 0.5, 0.25, 0.75)  # the distance from the middle of the half, in periods
    return [half * _cosine(within), half * (1 - 4 * abs(within)), half, 2 * at - 1]


def _cosine(turns: Array) -> Array:
    """cos 2πt for |t| ≤ 1/4, by its Taylor series up to t¹⁶: the error is below 1e-11."""
    square = (2 * np.pi * turns) * (2 * np.pi * turns)
    total = np.ones_like(turns)
    for k in range(16, 0, -2):  # Horner's scheme
        total = 1 - total * square / (k * (k - 1))
    return total
