"""Make a frozen model and the images that are drawn from it again: `python -m stages.teacher teacher`.

Not a stage of the graph: it trains the model on the digits, writes its weights and images into
`workflow/data/teachers`, where git has them, and prints the hashes that stand in `workflow/data/teacher.py`. Both files
are the same bytes on every x86-64 processor with AVX2.
"""

import lzma
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workflow.data.arrays import Arrays
from workflow.data.embedded import download_digits
from workflow.data.splits import Chosen, prepare
from workflow.data.teacher import COUNT, FOLDER, SHAPE, TEACHERS, pack
from workflow.data.tensors import ImageSet
from workflow.device import repeatable
from workflow.engines.command import reader
from workflow.errors import one_line
from workflow.evaluation.batching import in_batches
from workflow.files import write_bytes
from workflow.models import registry
from workflow.models.base import Model
from workflow.models.pixelcnn import PixelCNN
from workflow.models.rbm import Rbm
from workflow.params import Compute, Embedded, Entry
from workflow.random_streams import Stream, make_generator
from workflow.training.loop import fit

DIGITS = Embedded(name="digits", root=Path(), valid=0.1, test=0.2, seed=0)
BATCH = 500  # images drawn at once
RECIPES: dict[str, dict[str, Any]] = {
    "teacher": {
        "kind": "pixelcnn",
        "train": {"gflops": 300, "batch_size": 64, "lr": 0.01347, "schedule": "cosine"},
        "channels": 12,
        "layers": 6,
        "dropout": 0.2,
        "classes": 10,
    },
    "teacher_rbm": {
        "kind": "rbm",
        "train": {"gflops": 10, "batch_size": 64, "lr": 0.003, "schedule": "cosine", "valid_every": 50},
        "hidden": 20,
        "k": 1,
        "chains": 64,
        "sampling_steps": 200,
    },
}


def main(name: str) -> None:
    """Train the teacher, draw from it and write both files."""
    repeatable(Compute(device="cpu", threads=1, instructions="avx2"))
    entry, levels = Entry.model_validate(RECIPES[name]), TEACHERS[name].levels
    model = registry.build(entry.kind, SHAPE, levels, entry.hyperparameters)
    train, valid = digits(levels)
    fitted = fit(model, train, valid, entry.training, 0, lambda _: None, name)
    model.load_state_dict(fitted.state)
    model.eval()
    registry.save(model, FOLDER / f"{name}.safetensors", entry.kind, entry.hyperparameters, {"step": fitted.step})
    content = pack(draw(model))
    write_bytes(FOLDER / f"{name}.xz", lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))


def digits(levels: int) -> tuple[ImageSet, ImageSet]:
    """The digits that the default run trains on and validates with; of two levels, white is half brightness or more."""
    with tempfile.TemporaryDirectory() as folder:
        download_digits(Path(folder))
        found = prepare(DIGITS, Path(folder))[0]
        train, valid = (_read(found[split], levels) for split in ("train", "valid"))
    return train, valid


def _read(chosen: Chosen, levels: int) -> ImageSet:
    parts = list(chosen.pieces())
    images, labels = (np.concatenate([getattr(part, key) for part in parts]) for key in ("images", "labels"))
    if levels == 2:
        images = (images >= 8).astype(np.uint8)
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels))


@torch.no_grad()
def draw(model: Model) -> Arrays:
    """Exact draws, each independent of all others."""
    random = make_generator(model.device, 0, Stream.SAMPLES)
    if isinstance(model, Rbm):
        return Arrays(model.draw_exactly(COUNT, random).numpy(), np.zeros(COUNT, np.int64))
    assert isinstance(model, PixelCNN)
    labels = torch.randint(model.classes, (COUNT,), generator=random)

    def of_classes(rows: range, part: torch.Generator) -> Tensor:
        return model.sample_given(labels[rows.start : rows.stop], part)

    return Arrays(torch.cat(in_batches(of_classes, COUNT, BATCH, random)).numpy(), labels.numpy())


if __name__ == "__main__":
    arguments = reader(__doc__)
    arguments.add_argument("name", metavar="NAME", help="of the data", choices=sorted(TEACHERS))
    with one_line():
        main(arguments.parse_args().name)
