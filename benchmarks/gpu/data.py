"""The images that the other jobs train on: MNIST from the user's files or, without these, printed digits.

Also trains the classifiers whose features the measures of samples use.
"""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.task import Task, file_name
from workflow.data import catalogue
from workflow.data.arrays import Card, read_card, write_prepared
from workflow.data.tensors import ImageSet, read_split
from workflow.errors import BakeoffError
from workflow.files import read_json, write_json
from workflow.params import Data, Published, load
from workflow.paths import RAW, own

MNIST = "mnist"
FILES = Path("MNIST/raw")  # in the folder of the user's own files
ABSENT = f"MNIST is neither in {RAW / MNIST} nor in {{root}}/{FILES}"


@dataclass(frozen=True)
class Images:
    """What is trained, validated and tested on, and the card that describes it."""

    card: Card
    train: ImageSet
    valid: ImageSet
    test: ImageSet


def main(task: Task) -> None:
    """Find the images, split them, train the classifiers."""
    from workflow.evaluation.classifier import accuracy, fit_classifier, save_classifiers

    device, preset = task.device(), task.preset("mnist")
    settings, raw, line = _found(preset.data, task.scratch / "raw")
    write_json(_place(task), {"raw": str(raw), "name": settings.name})
    images = split(task, settings)
    task.write(line, {"counts": images.card.counts})
    chosen, classes = preset.extractor, len(images.card.classes)
    models = [
        fit_classifier(images.train, images.valid, images.card.levels, classes, chosen, device, seed=seed)
        for seed in chosen.seeds
    ]
    save_classifiers(models, extractor(task))
    right = [accuracy(*model.answers(images.test, chosen.batch_size)) for model in models]
    line = f"{line}; classifiers right on {min(right):.4f} to {max(right):.4f} of the test images"
    task.write(line, {"counts": images.card.counts, "accuracy": right})


def _found(settings: Data, raw: Path) -> tuple[Data, Path, str]:
    """The settings and the raw folder of the images that are there, and a line that says which; never downloads."""
    if isinstance(settings, Published):
        if (RAW / MNIST / "images.safetensors").exists():
            return settings, RAW / MNIST, f"MNIST from {RAW / MNIST}"
        root = own(Path(settings.root))
        why = ABSENT.format(root=root)
        if any((root / FILES).glob("train-images-idx3-ubyte*")):
            try:
                catalogue.download(settings, raw)
            except (BakeoffError, ModuleNotFoundError) as error:
                why = f"MNIST cannot be read ({error})"
            else:
                return settings, raw, f"MNIST from {root / FILES}"
        settings = load(Path("presets/glyphs.yaml")).data
        line = f"{why}; printed digits instead"
    else:
        line = f"{settings.name}"
    catalogue.download(settings, raw)
    return settings, raw, line


def split(task: Task, settings: Data) -> Images:
    """The images of the job `data` as these settings split and binarise them; raises BakeoffError without any."""
    if not _place(task).exists():
        raise BakeoffError("no images: the job `data` has not found any")
    raw, folder = Path(read_json(_place(task))["raw"]), task.scratch / f"prepared-{file_name(task.name)}"
    sets, about = catalogue.prepare(settings, raw)
    write_prepared(folder, sets, **about)
    parts = {name: read_split(name, folder) for name in ("train", "valid", "test")}
    return Images(read_card(folder), **parts)


def settings_of(task: Task, preset: Data) -> Data:
    """The preset's settings or, where MNIST is missing, those of the images in its place."""
    name = read_json(_place(task))["name"] if _place(task).exists() else preset.name
    return preset if preset.name == name else load(Path(f"presets/{name}.yaml")).data


def extractor(task: Task) -> Path:
    """The file of the classifiers."""
    return task.scratch / "extractor.safetensors"


def _place(task: Task) -> Path:
    return task.scratch / "images.json"
