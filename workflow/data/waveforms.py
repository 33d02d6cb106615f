"""Signals by µ-law as something to look at and to listen to: waveforms, spectrograms, WAV files."""

import io
import wave

import numpy as np

from workflow.data.arrays import Array
from workflow.data.mu_law import decode

WIDTH = 128  # of a drawing, in pixels
WAVEFORM, SPECTROGRAM = 48, 32  # heights of its two parts
PAPER, ZERO, INK = 255, 215, 30  # grey levels
WINDOW, FRAMES = 64, 64  # samples in a spectrum, and spectra in a spectrogram
FLOOR = -60.0  # decibels below a full-scale sine that are drawn as white
PAUSE = 0.06  # seconds of silence after each signal in a WAV file
LOUDEST = 2**15 - 1  # of 16 bits


def is_signal(shape: tuple[int, ...]) -> bool:
    """Whether (C, H, W) is the shape of a signal; two numbers are a point of a plane."""
    return shape[:2] == (1, 1) and shape[2] > 2


def draw(signals: Array, levels: int) -> Array:
    """Waveforms, each above its spectrogram, as pictures of 256 grey levels: uint8 (N, 1, 81, 128).

    Time runs to the right. The waveform is that of the amplitudes, -1 at the bottom and 1 at the top; the spectrogram
    has frequencies from 0 at the bottom to half of the sampling rate, darker the louder.

    Args:
        signals: uint8 (N, 1, 1, T), values 0..levels-1 by µ-law.
        levels: their number.
    """
    amplitudes = decode(signals[:, 0, 0], levels)
    rule = np.full((len(signals), 1, WIDTH), PAPER, np.uint8)
    pictures: Array = np.concatenate([_waveforms(amplitudes), rule, _spectrograms(amplitudes)], 1)[:, None]
    return pictures


def _waveforms(amplitudes: Array) -> Array:
    """Connected lines of amplitudes (N, T), a column for a part of the time: uint8 (N, WAVEFORM, WIDTH)."""
    length = amplitudes.shape[1]
    first = np.arange(WIDTH) * length // WIDTH
    within = np.minimum(first[:, None] + np.arange(-(-length // WIDTH) + 1), length - 1)  # with one of the next column
    rows = ((1 - amplitudes) / 2 * (WAVEFORM - 1)).round().astype(np.int64)[:, within]
    highest, lowest = rows.min(2)[:, None], rows.max(2)[:, None]
    row = np.arange(WAVEFORM)[:, None]
    zero = np.where(row == WAVEFORM // 2, ZERO, PAPER)
    picture: Array = np.where((highest <= row) & (row <= lowest), INK, zero).astype(np.uint8)
    return picture


def _spectrograms(amplitudes: Array) -> Array:
    """Hann-windowed spectra of amplitudes (N, T) in decibels: uint8 (N, SPECTROGRAM, WIDTH)."""
    length = amplitudes.shape[1]
    size = min(WINDOW, length)
    starts = np.arange(FRAMES) * (length - size) // (FRAMES - 1)
    window = np.hanning(size + 2)[1:-1]  # without its zeros
    frames = amplitudes[:, starts[:, None] + np.arange(size)] * window
    loudness = abs(np.fft.rfft(frames)) / (window.sum() / 2)  # 1 for a full-scale sine
    decibels = 20 * np.log10(np.maximum(loudness, 10 ** (FLOOR / 20)))
    grey = (PAPER + (INK - PAPER) * (1 - decibels / FLOOR)).clip(0, 255).round().astype(np.uint8)
    bins = np.arange(SPECTROGRAM)[::-1] * (grey.shape[2] - 1) // (SPECTROGRAM - 1)
    columns = np.arange(WIDTH) * FRAMES // WIDTH
    picture: Array = grey[:, columns][:, :, bins].transpose(0, 2, 1)
    return picture


def wav(signals: Array, levels: int, rate: int) -> bytes:
    """A WAV file of 16 bits that plays signals one after another, with pauses.

    Args:
        signals: uint8 (N, 1, 1, T), values 0..levels-1 by µ-law.
        levels: their number.
        rate: samples a second.
    """
    amplitudes = decode(signals[:, 0, 0], levels)
    paused = np.pad(amplitudes, ((0, 0), (0, round(PAUSE * rate)))).ravel()
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((paused * LOUDEST).round().astype("<i2").tobytes())
    return buffer.getvalue()
