"""Models that have been trained, found by the folders of their runs."""

import os
from pathlib import Path

from workflow.data.arrays import BLANK_SEAL, reading
from workflow.errors import BakeoffError
from workflow.models import registry
from workflow.models.base import Model
from workflow.paths import RunFiles

FILE = RunFiles("", 0).model.name


def load(run: str | os.PathLike[str]) -> Model:
    """The model of a run, on the CPU and in evaluation mode; raises BakeoffError if there is none.

    Args:
        run: its folder, or its file with the weights.
    """
    path = Path(run)
    if not path.exists():
        raise BakeoffError(f"{path}: no such file or folder; name the folder of a run, such as runs/vae/0")
    if path.is_dir():
        path = _in_folder(path)
    if path.suffix != ".safetensors":
        raise BakeoffError(f"{path}: not a file with a model; name a {FILE}, or the folder that it is in")
    with reading(path, "np") as file:
        recipe = (file.metadata() or {}).get("bakeoff", "")[len(BLANK_SEAL) :]
    if not recipe:  # a file of another program, or of images
        raise BakeoffError(f"{path}: no model is in it; name the {FILE} of a run")
    return registry.load(path).model


def _in_folder(folder: Path) -> Path:
    if (found := folder / FILE).exists():
        return found
    below = sorted(folder.glob(f"*/{FILE}")) or sorted(folder.glob(f"*/*/{FILE}"))
    if below:
        raise BakeoffError(f"{folder}: not the folder of one run; name one in it, such as {below[0].parent}")
    raise BakeoffError(f"{folder}: has no {FILE}; name the folder of a run that has been trained")
