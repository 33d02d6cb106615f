"""Draw images from a trained model: `python -m stages.sample <name> <seed>`."""

import time

import torch
from torch import Generator, Tensor

from workflow import params
from workflow.data.pictures import overview, png
from workflow.data.tensors import write_tensors
from workflow.device import prepare_torch
from workflow.engines import timing
from workflow.engines.command import run
from workflow.errors import BakeoffError
from workflow.evaluation.batching import in_batches
from workflow.files import write_bytes
from workflow.models import registry
from workflow.models.base import HasDecodings, HasHold, Model
from workflow.paths import RunFiles
from workflow.random_streams import Stream, make_generator
from workflow.training.checkpoint import drop_if_recorded


def main(name: str, seed: int) -> None:
    """Load the model, draw images, and write them and a picture of the first hundred; also modes and means, if any."""
    settings = params.load()
    device = prepare_torch(settings.compute)
    files = RunFiles(name, seed)
    model = registry.load(files.model).model.to(device)
    drop_if_recorded(name, seed)

    count, batch, draws = settings.sample.count, settings.sample.batch_size, settings.evaluate.draws
    random = make_generator(device, seed, Stream.SAMPLES)

    def draw() -> list[Tensor]:
        return in_batches(lambda rows, r: model.sample(len(rows), r).cpu(), count, batch, random)

    start = time.perf_counter()
    if held := isinstance(model, HasHold):
        images = distinct(name, model, draws * count, random)
    else:  # one stream: the first draw is always the same
        images = torch.cat([part for _ in range(draws) for part in draw()])
    seconds = time.perf_counter() - start

    random = make_generator(device, seed, Stream.SAMPLES)  # the same latents as in the first draw
    write_tensors(files.samples, {"images": images, **decodings(model, count, batch, random)})
    write_bytes(files.overview, png(overview(images[:count].numpy(), model.levels)))
    if not held:  # how fast images are looked up says nothing of who made them
        facts = {"seconds": seconds, "images": len(images), "images_per_second": len(images) / seconds}
        timing.record(files.model, "sample", facts, device)


def distinct(name: str, model: HasHold, count: int, generator: Generator) -> Tensor:
    """So many of the images that a model holds, uint8 (N, C, H, W), on the CPU; BakeoffError if there are fewer."""
    try:
        return model.distinct(count, generator).cpu()
    except ValueError as error:
        raise BakeoffError(f"{params.PATH}: models.{name}.samples: {error}") from None


def decodings(model: Model, count: int, batch: int, generator: Generator) -> dict[str, Tensor]:
    """The "mode" and the "mean" of p(x|z) at the latents of `count` samples; {} if a model has no such decoder.

    Args:
        model: in evaluation mode.
        count: number of samples.
        batch: how many are drawn at once.
        generator: in the state in which the generator of the samples was.
    """
    if not isinstance(model, HasDecodings):
        return {}
    decode = model.decodings

    def draw(rows: range, random: Generator) -> tuple[Tensor, Tensor]:
        decoded = decode(len(rows), random)
        return decoded.mode.cpu(), decoded.mean.cpu()

    modes, means = zip(*in_batches(draw, count, batch, generator), strict=True)
    return {"mode": torch.cat(modes), "mean": torch.cat(means)}


if __name__ == "__main__":
    run(main, __doc__, "model", "seed")
