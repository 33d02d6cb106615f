"""A user's own recordings: a folder of WAV files, each cut to the middle, in levels by µ-law; what is left out counts.

The folder is understood as one with pictures is (`layout.py`).
"""

import math
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.io import wavfile
from scipy.signal import resample_poly

from workflow.data.arrays import Array
from workflow.data.decoding import LeftOutError
from workflow.data.layout import RECORDINGS, File, Layout, understand
from workflow.data.listing import list_files
from workflow.data.mu_law import encode
from workflow.data.own import ORDER, Own, write_own
from workflow.params import Signals

REACH = 10  # of the filter of SciPy's resample_poly, in samples of the lower rate
FASTEST = 10**6  # samples a second; a file that claims more is damaged


def read_recordings(settings: Signals, raw: Path) -> None:
    """Write the recordings under `settings.root` as signals, uint8 (N, 1, 1, length), into the folder `raw`.

    Raises BakeoffError if no recording of a split can be used, or if the folder changes meanwhile.
    """
    root, before = settings.root, list_files(settings.root)
    layout = understand(root, before, RECORDINGS)
    signals, files, counts = _read_all(settings, layout)
    own = Own(RECORDINGS, root, before, layout, signals, files, counts)
    write_own(raw, own, _remedy, levels=settings.levels, rate=settings.rate)


def _read_all(settings: Signals, layout: Layout) -> tuple[Array, dict[int, File], Counter[str]]:
    """All signals, uint8 (N, 1, 1, length); the files by their places among them; and counts for the card."""
    signals, files, counts = list[Array](), dict[int, File](), Counter(layout.left_out)
    for file in sorted(layout.files, key=lambda file: (ORDER.index(file.split or "train"), file.parts)):
        try:
            amplitudes, notes = read_signal(settings.root.joinpath(*file.parts), settings)
        except LeftOutError as reason:
            counts[str(reason)] += 1
            continue
        counts.update(notes)
        files[len(signals)] = file
        signals.append(encode(amplitudes, settings.levels))
    return np.array(signals, np.uint8).reshape(-1, 1, 1, settings.length), files, counts


def read_signal(path: Path, settings: Signals) -> tuple[Array, list[str]]:
    """The middle of a recording, amplitudes (length,), nominally -1..1, and what was converted, as the card words it.

    Channels are averaged. Raises LeftOutError with the reason if the file cannot be used.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about chunks that hold no sound
        try:
            rate, values = wavfile.read(path)
        except Exception:  # it may raise anything on damaged files
            raise LeftOutError("unreadable, or compressed, left out") from None
    if not 0 < rate <= FASTEST:
        raise LeftOutError("unreadable, or compressed, left out")
    notes = [f"resampled to {settings.rate:,} Hz"] if rate != settings.rate else []
    common = math.gcd(rate, settings.rate)
    up, down = settings.rate // common, rate // common
    if len(values) * up // down < settings.length:
        raise LeftOutError(f"shorter than {settings.length} samples at {settings.rate:,} Hz, left out")
    margin = REACH * max(up, down) // up + 1 if up != down else 0
    middle = _middle(values, min(len(values), -(-settings.length * down // up) + 2 * margin))
    if middle.ndim == 2:
        notes += ["channels averaged"] if middle.shape[1] > 1 else []
        middle = middle.mean(1)
    if not np.isfinite(middle).all():
        raise LeftOutError("values that are no numbers, left out")
    return _middle(resample_poly(middle, up, down) if up != down else middle, settings.length), notes


def _middle(values: Array, count: int) -> Array:
    """The middle `count` of values, (N, …), as amplitudes: floats as they are, integers as shares of the greatest."""
    start = (len(values) - count) // 2
    part = values[start : start + count]
    if part.dtype == np.uint8:
        return part / 128.0 - 1
    if part.dtype.kind == "i":  # of 24 bits, the lower 8 of 32 are empty
        return part / -float(np.iinfo(part.dtype).min)
    return part.astype(np.float64)


def _remedy(counts: Counter[str]) -> str:
    """What to do if no recording is left, by what was counted."""
    shorter = " or lower data.length" if any("shorter than" in what for what in counts) else ""
    return f"add WAV files without compression{shorter}"
