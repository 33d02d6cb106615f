"""Durations and facts about the machine: volatile, so never an output, and kept by the content of the model.

A model that comes back from DVC's cache, or from another machine, so has what was measured of these very weights in
this folder, or nothing.
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
    """Keep what `stage` measured of the model in this file, and where it ran.

    Each stage has a file of its own, so none has to read what another is writing.
    """
    weights = sha256(model)
    write_json(_file(weights, stage), {**facts, "host": host(device)})


def read(weights: str) -> dict[str, Any]:
    """By stage, what was measured of a model whose file has this SHA-256; {} if nobody measured these weights here."""
    files = {stage: _file(weights, stage) for stage in STAGES}
    return {stage: read_json(file) for stage, file in files.items() if file.exists()}


def _file(weights: str, stage: str) -> Path:
    return project() / TIMINGS / weights / f"{stage}.json"


def host(device: "torch.device") -> dict[str, Any]:
    """The machine, the interpreter and the packages that results depend on."""
    return {
        "device": _gpu(device) if device.type == "cuda" else "cpu",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(terse=True),
        "python": sys.version.split()[0],
        "packages": {name: version(name) for name in PACKAGES},
    }


def _gpu(device: "torch.device") -> str:
    import torch  # which those who only read have no use for

    return torch.cuda.get_device_name(device)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
