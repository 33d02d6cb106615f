"""From the settings of a data set to the functions that fetch and split it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workflow.data import array_file, embedded, published, splits, teacher, tones
from workflow.data.arrays import Pieces
from workflow.params import ArrayFile, Data, Embedded, Folder, Published, Signals

SHAPES = {
    "digits": (1, 8, 8),
    "stacked_digits": (3, 8, 8),
    "glyphs": (1, 28, 28),
    "tones": (1, 1, tones.LENGTH),
    **dict.fromkeys(teacher.TEACHERS, teacher.SHAPE),
    **dict.fromkeys(embedded.MIXTURES, (1, 1, 2)),
    **dict.fromkeys(("mnist", "fashion_mnist", "kmnist"), (1, 28, 28)),
    "stacked_mnist": (3, 28, 28),
    **dict.fromkeys(("cifar10", "svhn"), (3, 32, 32)),
}


def shape_of(settings: Data) -> tuple[int, int, int]:
    """Shape (C, H, W) of the images, (1, 1, T) of signals, which is known before they are fetched.

    Raises BakeoffError if a user's own arrays cannot be read or are no images.
    """
    if isinstance(settings, ArrayFile):
        return array_file.shape_of_images(settings)
    if isinstance(settings, Folder):
        return (1 if settings.grey else 3, settings.size, settings.size)
    if isinstance(settings, Signals):
        return (1, 1, settings.length)
    return SHAPES[settings.name]


def download(settings: Data, raw: Path) -> None:
    """Fetch the data set, unchanged, into the folder `raw`; raises BakeoffError if that fails."""
    if isinstance(settings, Folder):
        from workflow.data import folder  # imports Pillow, which only this one needs

        folder.read_pictures(settings, raw)
    elif isinstance(settings, ArrayFile):
        array_file.read_file(settings, raw)
    elif isinstance(settings, Signals):
        from workflow.data import recordings  # imports SciPy, which only this one needs

        recordings.read_recordings(settings, raw)
    elif isinstance(settings, Published):
        published.download(settings.name, settings.root, raw)
    elif settings.name in embedded.MIXTURES:
        embedded.download_mixture(settings.name, raw)
    elif settings.name == "glyphs":
        from workflow.data import glyphs  # imports fontTools, which only this one needs

        glyphs.download_glyphs(raw)
    elif settings.name == "tones":
        tones.download_tones(raw)
    elif settings.name in teacher.TEACHERS:
        teacher.download_teacher(settings.name, raw)
    else:
        embedded.download_digits(raw)


def prepare(settings: Data, raw: Path) -> tuple[Mapping[str, Pieces], dict[str, Any]]:
    """The three splits of what `download` fetched, and the fields of the card that describe them."""
    if isinstance(settings, Embedded) and settings.name in embedded.MIXTURES:
        return embedded.prepare_mixture(settings, raw)
    if isinstance(settings, Embedded) and settings.name in teacher.TEACHERS:
        return teacher.prepare_teacher(settings, raw)
    return splits.prepare(settings, raw)
