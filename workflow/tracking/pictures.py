"""What a run shows in MLflow as pictures: what the report draws, and samples over training.

MLflow shows images with a key and a step side by side for several runs, with a slider over the steps. Its `log_image`
would log them one by one, under new names each time. They are written here with the names that it would give them, but
for its random part: all files of a run are then logged at once, and logged again they are the same files.
"""

import re
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from workflow.data.arrays import Array, read_arrays
from workflow.data.pictures import POINT, grid, overview, png
from workflow.files import sha256
from workflow.paths import RunFiles
from workflow.tracking.names import IMAGES

LOGGED_IMAGES = "mlflow.loggedImages"  # MLflow's own tag, without which it does not look for images
FOLDER = "images"  # MLflow's
TIMES, SHOWN, COLUMNS = 8, 16, 4  # equal parts of a training; images in a picture, and in a row of it


def write_pictures(place: Path, files: RunFiles, levels: int) -> None:
    """Every set of pictures that the report draws, as a grid; numbers, which it shows as histograms, are left out."""
    for key, images in read_arrays(files.pictures).items():
        if images.ndim < 4:
            continue
        columns = images.shape[1] if images.ndim == 5 else 8
        flat = images.reshape(-1, *images.shape[-3:])
        (place / f"{key}.png").write_bytes(png(grid(flat, levels, columns)))


def write_snapshots(place: Path, files: RunFiles, levels: int, logged: Iterable[str]) -> None:
    """Samples over training, as MLflow's `log_image` would log them.

    The models take different numbers of steps, so the "step" is the percentage of the training: otherwise hardly any
    two of them would have an image at the same place of the slider.

    Args:
        place: an empty folder, in which the folder of images is made.
        files: the run's files.
        levels: pixel values are 0..levels-1.
        logged: the paths of the images that the run has already.

    """
    content = sha256(files.snapshots)[:16]
    written = time_of(content, logged)
    snapshots = read_arrays(files.snapshots)
    (place / FOLDER).mkdir()
    for percent, index in nearest(snapshots["steps"]).items():
        picture = draw(snapshots["images"][index], levels)
        name = f"{IMAGES.replace('/', '~')}+step+{percent}+timestamp+{written}+{content}"
        (place / FOLDER / f"{name}.png").write_bytes(png(picture))
        # The copy that MLflow's grid shows; without loss, as a drawn pixel is several of the screen's.
        picture.save(place / FOLDER / f"{name}+compressed.webp", lossless=True)


def time_of(content: str, logged: Iterable[str]) -> int:
    """When images were logged, in ms: of these if they are the latest, otherwise now. MLflow shows the latest."""
    found = (re.search(r"\+timestamp\+(\d+)\+([0-9a-f]+)", path) for path in logged)
    at, latest = max(((int(one[1]), one[2]) for one in found if one), default=(0, ""))
    return at if latest == content else int(time.time() * 1000)


def nearest(steps: Array) -> dict[int, int]:
    """For equally spaced percentages of a training, the index of the nearest snapshot. steps: of these, (S,).

    Images made elsewhere have no snapshots, and so no percentages.
    """
    if not len(steps):
        return {}
    parts = np.linspace(0, steps[-1], TIMES + 1)
    return {round(100 * i / TIMES): int(np.abs(steps - part).argmin()) for i, part in enumerate(parts)}


def draw(images: Array, levels: int) -> Image.Image:
    """Some of the images in a square grid, enlarged if they are small; all points in one plane."""
    return overview(images, levels) if images.shape[1:] == POINT else grid(images[:SHOWN], levels, COLUMNS)
