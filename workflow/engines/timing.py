"""Durations and facts about the machine: they vary, so they are not outputs, and are stored by the model's hash.

A model that comes back from DVC's cache or from another machine thus has the timings that were measured of exactly
these weights in this folder, or none.
"""

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow.files import read_json, sha256, write_json
from workflow.paths import TIMINGS, project

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "numpy", "scikit-learn", "scipy", "dvc", "snakemake", "mlflow")
STAGES = ("train", "sample", "evaluate")


def record(model: Path, stage: str, facts: dict[str, Any], device: "torch.device") -> None:
    """Store what a stage measured of a model, and on which machine.

    Each stage has its own file, so that none has to read what another is writing.

    Args:
        model: file of the weights.
        stage: one of `STAGES`.
        facts: measurements by name.
        device: that the stage ran on.
    """
    weights = sha256(model)
    write_json(_file(weights, stage), {**facts, "host": host(device)})


def read(weights: str) -> dict[str, Any]:
    """Measurements by stage of the model whose file has this SHA-256; {} if there are none here."""
    files = {stage: _file(weights, stage) for stage in STAGES}
    return {stage: read_json(file) for stage, file in files.items() if file.exists()}


def _file(weights: str, stage: str) -> Path:
    return project() / TIMINGS / weights / f"{stage}.json"


def host(device: "torch.device") -> dict[str, Any]:
    """The machine, the Python version and the packages that results depend on."""
    return {
        "device": _gpu(device) if device.type == "cuda" else "cpu",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(terse=True),
        "python": sys.version.split()[0],
        "packages": {name: version(name) for name in PACKAGES},
    }


def _gpu(device: "torch.device") -> str:
    import torch  # not needed for reading

    return torch.cuda.get_device_name(device)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
