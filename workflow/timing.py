"""Durations and facts about the machine: volatile, so never an output that counts, always in `timing.json`."""

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from workflow.files import read_json, write_json

PACKAGES = ("torch", "numpy", "scikit-learn", "scipy", "dvc", "snakemake", "mlflow")


def record(folder: Path, stage: str, facts: dict[str, Any], device: torch.device) -> None:
    """Put what `stage` measured, and where it ran, into the folder's `timing.json`, beside what other stages put."""
    path = folder / "timing.json"
    known = read_json(path) if path.exists() else {}
    write_json(path, {**known, stage: facts, "host": host(device)})


def host(device: torch.device) -> dict[str, Any]:
    """The machine, the interpreter and the packages that results depend on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(terse=True),
        "python": sys.version.split()[0],
        "packages": {name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
