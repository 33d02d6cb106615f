"""How cost grows: the cost at sizes that double, and the exponent of the power law fitted to the upper half of them.

`exponent` is the least-squares slope of log cost over log size for the `points` sizes between `from` and `to`;
`expected` is what the algorithm should have: 1 where work is proportional to size, 2 where everything is compared with
everything, 0 where size should not matter. Smaller exponents are due to costs that do not depend on size. `seconds` and
`mb` are for the largest size: the time is the shortest of three; where `cost` is memory, it is the peak of a separate
process's own (anonymous) memory beyond what it held at the start, without memory maps, which belong to the file. `-`
means not measured.
"""

import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor

from benchmarks.compare import Row, seconds
from workflow import params
from workflow.data.tensors import ImageSet
from workflow.evaluation.classifier import Classifier
from workflow.evaluation.metrics.frechet import fit_gaussian, frechet_distance
from workflow.evaluation.metrics.inception import inception_score
from workflow.evaluation.metrics.kernel import kernel_distance
from workflow.evaluation.metrics.manifold import fit_manifold, manifold_scores, overlap
from workflow.evaluation.metrics.neighbours import memorisation
from workflow.models import registry
from workflow.models.base import Model
from workflow.training.distributed import ProcessGroup
from workflow.training.loop import assist

REPEATS = 3
BATCH = 16  # images, where the size of one grows
PIXELS = [side * side for side in (8, 16, 24, 32, 48)]

# sys.argv: the kind of work, the number of images, a folder. Prints how many MB of its own it came to hold.
MEMORY = """
import sys, threading, time
from pathlib import Path
import numpy as np
import torch
from workflow.data.tensors import ImageSet
from workflow.models import registry
from workflow.params import Train
from workflow.data.arrays import Arrays, write_images
from workflow.training.loop import fit

torch.set_num_threads(1)
work, count, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
over = threading.Event()

def held():
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("RssAnon:")[1].split()[0]) / 1024

def watch(most):
    while not over.wait(0.005):
        most[0] = max(most[0], held())

class Drawn:
    def __len__(self):
        return count

    def pieces(self):
        for start in range(0, count, 1000):
            n = min(1000, count - start)
            yield Arrays(np.random.default_rng(start).integers(0, 256, (n, 1, 28, 28), "u1"), np.zeros(n, "i8"))

def write():
    write_images(folder / "images", Drawn())

def train():
    images = torch.from_file(str(folder / "raw"), shared=True, size=count * 784, dtype=torch.uint8)
    data = ImageSet(images.view(count, 1, 28, 28), torch.zeros(count, dtype=torch.long))
    few = ImageSet(data.images[:64], data.labels[:64])
    fit(model, data, few, Train(epochs=1, batch_size=128, lr=1e-4), 0, lambda record: None)

nice = {"prior": "logistic", "couplings": 2, "width": 16, "depth": 1, "dropout": 0.0, "dequantisation_samples": 1}
model = registry.build("nice", (1, 28, 28), 256, nice)
if work == "train":
    np.memmap(folder / "raw", np.uint8, "w+", shape=count * 784).flush()
begin = held()
most = [begin]
watcher = threading.Thread(target=watch, args=(most,))
watcher.start()
{"train": train, "write": write}[work]()
over.set()
watcher.join()
print(most[0] - begin)
"""


def measure() -> Iterator[Row]:
    yield from _training()
    yield from _sampling()
    yield from _evaluation()
    for work, name in (("train", "fit, memory-mapped images of 28x28"), ("write", "prepare's writer, images of 28x28")):
        yield _row(name, "images", _doubled(8000, 5), partial(_memory, work), 0, "memory")


def _training() -> Iterator[Row]:
    for kind in ("vae", "nice"):
        yield _row(f"training {kind}, an epoch", "images", _doubled(256, 5), partial(_of_images, kind), 1)
    for kind in ("vae", "pixelcnn", "nice", "ddpm"):
        expected = 2 if kind == "ddpm" else 1  # its attention compares all with all, at a quarter of the size
        yield _row(f"training {kind}, a step", "pixels", PIXELS, partial(_of_pixels, kind), expected)
    for kind, expected in (("pixelcnn", 1), ("vae", 0)):  # a number a level, or two numbers for all
        yield _row(f"training {kind}, a step", "levels", _doubled(16, 5), partial(_of_levels, kind), expected)


def _sampling() -> Iterator[Row]:
    for kind in ("vae", "pixelcnn"):
        yield _row(f"sampling {kind}", "samples", _doubled(64, 5), partial(_draw, kind, 64), 1)
    yield _row("sampling pixelcnn", "pixels", PIXELS, lambda pixels: _draw("pixelcnn", pixels, BATCH), 1)


def _evaluation() -> Iterator[Row]:
    random = Generator().manual_seed(0)
    features, real = torch.randn(2, 16_000, 64, generator=random)
    images = torch.randint(17, (4000, 1, 8, 8), dtype=torch.uint8, generator=random)
    network = Classifier((1, 8, 8), 17, classes=10, channels=16, features=64, dropout=0.0).eval()

    def manifolds(n: int) -> object:
        return manifold_scores(overlap(fit_manifold(features[:n], 5), fit_manifold(real[:n], 5)), 5)

    many, few = _doubled(1000, 5), _doubled(250, 5)
    works: list[tuple[str, list[int], Callable[[int], object], int]] = [
        ("Fréchet distance", many, lambda n: frechet_distance(fit_gaussian(features[:n]), fit_gaussian(real[:n])), 1),
        ("kernel distance, 100 subsets of 200", many, lambda n: kernel_distance(features[:n], real[:n], 100, 200), 0),
        ("Inception Score", many, lambda n: inception_score(features[:n, :10], 10), 1),
        ("precision, recall, density, coverage", few, manifolds, 2),
        ("features", few, lambda n: network.outputs(images[:n], 256), 1),
        ("memorisation", few, lambda n: memorisation([images[:n]], images, images, 17), 1),
    ]
    for what, sizes, work, expected in works:
        yield _row(what, "samples", sizes, lambda n, work=work: partial(work, n), expected)  # type: ignore[misc]


def _row(
    what: str, against: str, sizes: list[int], make: Callable[[int], object], expected: float, cost: str = "time"
) -> Row:
    """make: what is to be timed, of a size, or the memory that it took."""
    costs = [_least(found) if callable(found) else float(str(found)) for found in map(make, sizes)]
    upper = slice(len(sizes) // 2, None)
    last = costs[-1]
    return {
        "what": what,
        "cost": cost,
        "against": against,
        "from": sizes[upper][0],
        "to": sizes[-1],
        "points": len(sizes[upper]),
        "exponent": _slope(sizes[upper], costs[upper]),
        "expected": expected,
        "seconds": last if cost == "time" else "-",
        "mb": last if cost == "memory" else "-",
    }


def _slope(sizes: list[int], costs: list[float]) -> float:
    """By least squares, of log cost over log size."""
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (sizes, costs))
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())


def _doubled(first: int, count: int) -> list[int]:
    return [first << i for i in range(count)]


def _least(work: Callable[[], object]) -> float:
    work()
    return min(seconds(work) for _ in range(REPEATS))


def _of_images(kind: str, count: int) -> Callable[[], None]:
    return _epoch(kind, (1, 8, 8), 17, count, 64)


def _of_pixels(kind: str, pixels: int) -> Callable[[], None]:
    side = math.isqrt(pixels)
    return _epoch(kind, (1, side, side), 17, BATCH, BATCH)


def _of_levels(kind: str, levels: int) -> Callable[[], None]:
    return _epoch(kind, (1, 8, 8), levels, 64, 64)


def _build(kind: str, shape: tuple[int, int, int], levels: int) -> Model:
    return registry.build(kind, shape, levels, params.load().models[kind].hyperparameters)


def _epoch(kind: str, shape: tuple[int, int, int], levels: int, count: int, batch: int) -> Callable[[], None]:
    """A training of one epoch: so many images of the family as params.yaml has it."""
    settings = params.load().models[kind].training.model_copy(update={"epochs": 1, "batch_size": batch})
    model = _build(kind, shape, levels)
    images = torch.randint(levels, (count, *shape), dtype=torch.uint8, generator=Generator().manual_seed(0))
    data = ImageSet(images, torch.zeros(count, dtype=torch.long))
    return lambda: assist(model, data, settings, 0, ProcessGroup())


def _draw(kind: str, pixels: int, n: int) -> Callable[[], Tensor]:
    side = math.isqrt(pixels)
    model = _build(kind, (1, side, side), 17).eval()
    return lambda: model.sample(n, Generator().manual_seed(0))


def _memory(work: str, count: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", MEMORY, work, str(count), str(Path(folder))]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
