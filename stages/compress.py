"""Compress the test images with a model: `python -m stages.compress <name>`.

Writes `runs/<name>/<seed>/test.code` with the weights of the first seed, decodes it in another process, and prints its
size beside what the model says it should be and what other formats need.
"""

import math
import subprocess
import sys
from pathlib import Path

import torch

from workflow import params
from workflow.data.tensors import read_split
from workflow.device import prepare_torch
from workflow.engines import stage_lock
from workflow.engines.command import ARGUMENTS, reader
from workflow.errors import BakeoffError, one_line
from workflow.evaluation.compression import HEADER, compress, expand
from workflow.evaluation.metrics import formats
from workflow.files import read_json, sha256, write_bytes
from workflow.models import registry
from workflow.models.base import Model
from workflow.paths import RunFiles


def write(name: str) -> None:
    """Compress the test images into the run's folder."""
    files, model, weights = _loaded(name)
    write_bytes(_place(files), compress(model, read_split("test").images, weights))


def check(name: str) -> None:
    """Decode the file; raises BakeoffError if it does not hold the test images."""
    files, model, weights = _loaded(name)
    try:
        content = _place(files).read_bytes()
    except FileNotFoundError:
        raise BakeoffError(f"{_place(files)}: missing; run `python -m stages.compress {name}`") from None
    if not torch.equal(expand(model, content, weights), read_split("test").images):
        raise BakeoffError(f"{_place(files)}: does not hold the present test images; make it again")


def sizes(name: str) -> list[tuple[str, int]]:
    """What the file is made of, what the model says it should be, and what other formats need, in bytes."""
    files, images = RunFiles(name, params.load().seeds[0]), read_split("test").images
    bits = float(read_json(files.metrics)["bits_per_dim"]) * images.numel()
    return [
        (f"file, {8 * _place(files).stat().st_size / images.numel():.3f} bits/dim", _place(files).stat().st_size),
        ("of which header", HEADER.size),
        (f"what the model’s {bits / images.numel():.3f} bits/dim come to", math.ceil(bits / 8)),
        ("pixels as bytes", images.numel()),
        *formats.sizes(images).items(),
    ]


def _loaded(name: str) -> tuple[RunFiles, Model, str]:
    settings = params.load()
    device = prepare_torch(settings.compute)
    files = RunFiles(name, settings.seeds[0])
    return files, registry.load(files.model).model.to(device), sha256(files.model)


def _place(files: RunFiles) -> Path:
    return files.folder / "test.code"


if __name__ == "__main__":
    arguments = reader(__doc__)
    what, named = ARGUMENTS["model"]
    arguments.add_argument("model", metavar="MODEL", help=what, type=named)
    arguments.add_argument("--check", action="store_true", help="only decode the file and compare it with the images")
    with one_line():
        given = arguments.parse_args()
        if given.check:
            check(given.model)
        else:
            with stage_lock.exclusive():
                write(given.model)
            if subprocess.run(
                [sys.executable, "-m", "stages.compress", given.model, "--check"], check=False
            ).returncode:
                sys.exit(1)
            for label, size in sizes(given.model):
                print(f"{size:>12,} bytes  {label}")
            print("decoded in another process: the same images")
