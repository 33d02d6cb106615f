"""What makes short processes start and end faster; imports nothing, so that it can run first.

While torch, DVC and Snakemake load, Python keeps searching their million objects for garbage, and searches them all
once more at exit. It finds none, because what has been loaded lives as long as the process. In a small stage these
searches take a quarter of the CPU time (benchmarks/NOTES.md has the figures).
"""

import atexit
import gc
import sys

THRESHOLD = 100_000  # new objects between two searches; Python's default is in the hundreds or low thousands


def collect_garbage_rarely() -> None:
    """Search for garbage less often, from now on."""
    gc.set_threshold(THRESHOLD)


def skip_final_collection() -> None:
    """Exempt all objects from the search at exit, unless triton is loaded, which then prints complaints."""
    atexit.register(_freeze)


def _freeze() -> None:
    if "triton" not in sys.modules:
        gc.freeze()
