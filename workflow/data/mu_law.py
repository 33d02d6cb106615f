"""µ-law: amplitudes -1..1 as a few levels, finer where it is quiet (ITU-T G.711; van den Oord et al. 2016, WaveNet).

With 256 levels µ is 255, as there; with fewer it is their number less one, as in torchaudio.
"""

import math

import numpy as np

from workflow.data.arrays import Array

GRID = 2**26  # limits between levels are whole multiples of 1/GRID: the same on machines that differ in a last bit


def encode(amplitudes: Array, levels: int) -> Array:
    """The nearest level of each amplitude on the µ-law scale, uint8 of the same shape; those beyond ±1 are clipped.

    Args:
        amplitudes: floats, any shape.
        levels: their number, even, so that silence lies between two.

    >>> encode(np.array([-1.0, -0.01, 0.01, 2.0]), 256)
    array([  0,  98, 157, 255], dtype=uint8)
    """
    above = np.rint(_expanded(2 * np.arange(levels // 2) / (levels - 1), levels) * GRID) / GRID
    limits = np.concatenate([-above[:0:-1], above])
    return np.searchsorted(limits, amplitudes, side="right").astype(np.uint8)


def decode(codes: Array, levels: int) -> Array:
    """The amplitude that a level stands for, float64 of the same shape."""
    scaled = 2 * codes.astype(np.float64) / (levels - 1) - 1
    amplitudes: Array = np.sign(scaled) * _expanded(abs(scaled), levels)
    return amplitudes


def _expanded(y: Array, levels: int) -> Array:
    """Magnitudes 0..1 on the µ-law scale as amplitudes."""
    amplitudes: Array = np.expm1(y * math.log(levels)) / (levels - 1)
    return amplitudes
