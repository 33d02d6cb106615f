"""One instruction set for all numerical libraries, so that results are the same bytes on every x86-64 processor.

A library that finds wider registers adds the same numbers up in another order. The last bits differ, a training goes
another way, and with it every figure. The variables below are read when a library is loaded, so `limit` comes first.
"""

import os
import sys
from pathlib import Path

LIMITS = {
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "MKL_CBWR": "AVX2",  # one code path on all processors, whoever made them
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # all that NumPy has code for beyond AVX2
        "OPENBLAS_CORETYPE": "Haswell",
    },
    "native": {},  # whatever the processor has
}
DEFAULT = "avx2"


def limit(instructions: str) -> None:
    """Limit the libraries of this process, and of those that it starts, to an instruction set of `LIMITS`.

    Does nothing where one of them has been loaded already, as in a program that only looks at stages: `check` tells.
    """
    if not {"numpy", "torch"} & set(sys.modules):
        os.environ.update(LIMITS[instructions])


def check(instructions: str) -> None:
    """Raise RuntimeError if this process was not limited to this instruction set before it loaded the libraries."""
    if missing := [name for name, value in LIMITS[instructions].items() if os.environ.get(name) != value]:
        raise RuntimeError(f"not limited to {instructions}: {', '.join(missing)} not set before torch was loaded")


def requested(path: Path = Path("params.yaml")) -> str:
    """The value of `compute.instructions` in the parameters, before anything has checked them.

    The default where it is absent or wrong: what is wrong is reported when the parameters are read properly.
    """
    import yaml

    try:
        found = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)["compute"]["instructions"]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return DEFAULT
    return found if isinstance(found, str) and found in LIMITS else DEFAULT
