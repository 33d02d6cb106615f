"""Score images that were made elsewhere: `python -m stages.score pictures`, a folder of pictures, an .npz or an .npy.

Not a stage of the graph: it prints what the table of the report would say of them, next to real images and independent
pixels, and changes no file. The data, the extractor and the reference must be there (`dvc repro reference`).
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from workflow import params
from workflow.data.arrays import read_card
from workflow.data.given import Source
from workflow.data.tensors import write_tensors
from workflow.device import prepare_torch
from workflow.engines.command import reader
from workflow.errors import BakeoffError, one_line
from workflow.evaluation.columns import GENERATION, Column, named
from workflow.evaluation.derived import with_ratio
from workflow.evaluation.evaluator import Evaluator, read_evaluator
from workflow.evaluation.measurements import Measured, measurements
from workflow.evaluation.scores import read_real
from workflow.files import read_json
from workflow.models.external import External
from workflow.paths import EXTRACTOR_METRICS, REFERENCE
from workflow.random_streams import Stream, make_generator

Estimates = dict[str, tuple[float, list[float] | None]]  # by column: the value, and the ends of its interval


def main(path: Path) -> None:
    """Print a row for each measure that needs samples alone."""
    settings, card = params.load(), read_card()
    real, count = read_json(REFERENCE), settings.sample.count
    images = torch.from_numpy(Source(path, card.shape).read(card.levels))
    if not (draws := min(settings.evaluate.draws, len(images) // count)):
        raise BakeoffError(
            f"{path}: {len(images):,} images, but {count:,} are needed: distances depend on the number, and those of "
            "the report are of so many (sample.count); add more"
        )
    model = External(card.shape, card.levels)
    model.hold(images)
    # The images that the stage `sample` would choose with the first seed.
    chosen = model.distinct(draws * count, make_generator(torch.device("cpu"), settings.seeds[0], Stream.SAMPLES))
    evaluator = read_evaluator(settings, prepare_torch(settings.compute), read_real())
    found = estimates(list(chosen.split(count)), evaluator, real["histogram_model"])
    title = (
        f"{path}: {draws} draw{'s' if draws > 1 else ''} of {count:,} of its {len(images):,} images, against "
        f"{len(evaluator.test):,} test images of {card.name}"
    )
    console = Console(highlight=False)
    console.print(title, soft_wrap=True, markup=False)
    console.print(table(found, real, read_json(EXTRACTOR_METRICS)["name"]))


def estimates(draws: list[torch.Tensor], evaluator: Evaluator, baseline: dict[str, Any]) -> Estimates:
    """The measures of samples, with their 95 % intervals over draws, extractors and the choice of test images.

    Args:
        draws: uint8 (N, C, H, W) each.
        evaluator: of the data.
        baseline: the scores of independent pixels.
    """
    scores = evaluator.scores(draws) | evaluator.memorisation(draws)
    metrics = with_ratio({**scores.means, "repeats": scores.repeats})
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures.safetensors"
        write_tensors(pictures, scores.pictures)
        measured = measurements({"": [Measured(metrics, pictures)]}, baseline)
    found: Estimates = {}
    for column in GENERATION:
        if (value := column.read(metrics)) is not None:
            estimate = measured[column.key][""].estimate
            off = [end - estimate.mean + value for end in estimate.interval] if estimate else None
            found[column.key] = value, column.within_limits(off) if off else None
    return found


def table(found: Estimates, reference: dict[str, Any], extractor: str) -> Table:
    """A row for each measure: its value and interval, and the values of real images and of independent pixels."""
    made = Table(box=None, padding=(0, 2, 0, 0))
    made.add_column("")
    for head in ("value", "95 % interval", "real images", "independent pixels"):
        made.add_column(head, justify="right")
    for column in named(GENERATION, {"extractor": {"name": extractor}}):
        if column.key in found:
            value, ends = found[column.key]
            interval = f"{column.bare(ends[0])} to {column.bare(ends[1])}" if ends and ends[0] < ends[1] else ""
            beside = (_beside(column, reference[row]) for row in ("real", "histogram_model"))
            made.add_row(f"{column.title} {column.arrow}", column.text(value), interval, *beside)
    return made


def _beside(column: Column, scores: dict[str, Any]) -> str:
    """The value of a reference; none for its nearest training images, which real ones are themselves."""
    return "" if column.path.startswith("nearest_neighbour") else column.text(column.read(scores))


if __name__ == "__main__":
    arguments = reader(__doc__)
    arguments.add_argument("path", metavar="PATH", help="a folder of pictures, an .npz or an .npy", type=Path)
    with one_line():
        main(arguments.parse_args().path)
