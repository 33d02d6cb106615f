"""Draw images from a trained model, for other uses: `python -m stages.draw vae --count 64 --out pictures`.

Not a stage of the graph: it reads a run, and writes only what `--out` names, a folder of PNG files, a .png with all
images in a grid, or an .npz (`arr_0`: uint8, (N, H, W, C), 0 to 255; `arr_1`: classes, with `--class`). A model with
captions draws what it is told: `python -m stages.draw vqvae_text --prompt "a thin three" --out threes.png`.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor

from workflow import params
from workflow.data import export
from workflow.data.captions import read_prompt
from workflow.data.given import read_picture
from workflow.data.pictures import in_levels
from workflow.device import prepare_torch
from workflow.engines.command import ARGUMENTS, reader
from workflow.errors import BakeoffError, one_line
from workflow.evaluation.batching import in_batches
from workflow.models import registry
from workflow.models.base import HasComplete, HasSampleGiven, Model, reads_captions
from workflow.paths import RunFiles
from workflow.random_streams import Stream, make_generator


def main(given: argparse.Namespace) -> None:
    """Draw what the command line asks for, and write it."""
    settings = params.load()
    export.check_target(given.out)
    seed = settings.seeds[0] if given.seed is None else given.seed
    path = RunFiles(given.model, seed).model
    if not path.exists():
        raise BakeoffError(f"{path}: missing; run `dvc repro train@{given.model}-{seed}`")
    loaded = registry.load(path)
    model, labels, start, caption = loaded.model, None, None, None
    if given.prompt is not None:
        caption = _caption(given.model, model, loaded.about.get("words", ()), given.prompt)
    elif given.best_of != 1:
        raise BakeoffError("--best-of: needs --prompt; add it")
    if given.of_class is not None:
        named = loaded.about.get("class_names", ())
        labels = torch.full((given.count,), _class(given.model, model, named, given.of_class))
    if given.complete is not None:
        start = _beginning(given.model, model, given.complete)
    model = model.to(prepare_torch(settings.compute))
    random = make_generator(model.device, given.random_seed, Stream.TAKEN)
    images = torch.cat(
        in_batches(
            lambda rows, part: draw(model, len(rows), part, labels, start, caption, given.best_of).cpu(),
            given.count,
            settings.sample.batch_size,
            random,
        )
    )
    export.write(given.out, images.numpy(), model.levels, None if labels is None else labels.numpy())
    print(f"{given.out}: {given.count:,} images of {path.parent}")


@torch.no_grad()
def draw(
    model: Model,
    n: int,
    generator: Generator,
    labels: Tensor | None,
    start: Tensor | None,
    caption: Tensor | None,
    tries: int,
) -> Tensor:
    """Draw n images, uint8 (n, C, H, W).

    Args:
        model: in evaluation mode.
        n: number of images.
        generator: on the model's device.
        labels: of the one class to draw, int64 (N,), N at least n; None for p(x).
        start: an image, uint8 (C, H, W), of which the upper half is kept and the rest drawn; None for whole images.
        caption: what to draw, int64 (caption_length,); None for p(x).
        tries: of so many draws of the caption, the most probable one is kept.
    """
    if caption is not None:
        rows = caption.expand(n, -1).to(model.device)
        assert reads_captions(model)
        return model.sample_captioned(rows, generator, tries)
    if start is not None:
        assert isinstance(model, HasComplete)
        repeated = start.repeat(n, 1, 1, 1).to(model.device)
        return model.complete(repeated, start.shape[1] // 2, generator)
    if labels is not None:
        assert isinstance(model, HasSampleGiven)
        return model.sample_given(labels[:n].to(model.device), generator)
    return model.sample(n, generator)


def _class(name: str, model: Model, names: Sequence[str], asked: str) -> int:
    """The number of a class, from its name or, if no class has that name, the number itself.

    Raises BakeoffError if it is unknown.
    """
    if not (model.classes and isinstance(model, HasSampleGiven)):
        raise BakeoffError(f"--class: {name} was trained without classes; leave it out, or draw from a model of p(x|y)")
    numbers = [str(number) for number in range(model.classes)]
    for known in (names, numbers):
        if asked in known:
            return known.index(asked)
    raise BakeoffError(f"--class: {asked!r}: no such class; known: {', '.join(names or numbers)}")


def _caption(name: str, model: Model, words: Sequence[str], prompt: str) -> Tensor:
    """A prompt as numbers of words, int64 (caption_length,); BakeoffError for an unknown one, or if there are none."""
    if not reads_captions(model):
        raise BakeoffError(f"--prompt: {name} was trained without captions; leave it out, or draw from one with them")
    try:
        return torch.from_numpy(read_prompt(prompt, words, model.caption_length))
    except BakeoffError as error:
        raise BakeoffError(f"--prompt: {error}") from None


def _beginning(name: str, model: Model, path: Path) -> Tensor:
    """The image to complete, uint8 (C, H, W); raises BakeoffError if it does not fit, or if the model cannot."""
    if not isinstance(model, HasComplete):
        raise BakeoffError(f"--complete: {name} cannot complete images; use an autoregressive model, such as pixelcnn")
    return torch.from_numpy(in_levels(read_picture(path, model.shape), model.levels))


def _number_for(option: str) -> Callable[[str], int]:
    """A reader of whole numbers of at least 1."""

    def read(text: str) -> int:
        if not (text.isdecimal() and int(text)):
            raise BakeoffError(f"{option}: {text!r}: should be a whole number of at least 1")
        return int(text)

    return read


def _random_seed(text: str) -> int:
    if not (text.isdecimal() and int(text) < 2**31):
        raise BakeoffError(f"--random-seed: {text!r}: should be a whole number from 0 to {2**31 - 1}")
    return int(text)


if __name__ == "__main__":
    arguments = reader(__doc__)
    arguments.add_argument("model", metavar="MODEL", help=ARGUMENTS["model"][0], type=ARGUMENTS["model"][1])
    arguments.add_argument(
        "--seed", metavar="N", help="of the training; by default the first in params.yaml", type=ARGUMENTS["seed"][1]
    )
    arguments.add_argument(
        "--count", metavar="N", help="number of images; by default 64", type=_number_for("--count"), default=64
    )
    arguments.add_argument("--out", metavar="PATH", help="a new folder, .png or .npz", type=Path, required=True)
    what = arguments.add_mutually_exclusive_group()
    what.add_argument(
        "--class", metavar="CLASS", help="draw images of this class, from a model of p(x|y)", dest="of_class"
    )
    what.add_argument(
        "--complete", metavar="IMAGE", help="keep the upper half of this picture, and draw the rest", type=Path
    )
    what.add_argument("--prompt", metavar="TEXT", help='draw what it says ("a thin three"), from a model with captions')
    arguments.add_argument(
        "--best-of",
        metavar="N",
        help="of so many draws of each image, keep the most probable given the prompt; by default 1",
        type=_number_for("--best-of"),
        default=1,
    )
    arguments.add_argument(
        "--random-seed", metavar="N", help="of the draws; by default 0", type=_random_seed, default=0
    )
    with one_line():
        main(arguments.parse_args())
