"""Estimate log-likelihoods by Parzen windows, as papers on GANs did until 2016: `python -m stages.parzen`.

Not a stage of the graph: it prints a row for each model's samples, for as many training images and for as many centres
of k-means, and changes no file. The centres beat the true images, so the measure says nothing of densities (Theis et
al. 2016), and no report has it. The samples must be there (`dvc repro sample`).
"""

import torch
from rich.console import Console
from rich.table import Table
from sklearn.cluster import KMeans
from torch import Tensor

from workflow import params
from workflow.data.arrays import read_card
from workflow.data.tensors import read_split, read_tensors
from workflow.device import prepare_torch
from workflow.engines.command import reader
from workflow.errors import one_line
from workflow.evaluation.metrics.parzen import log_likelihoods
from workflow.params import Params
from workflow.paths import RunFiles

WIDTHS = [10 ** (place / 20) for place in range(-20, -5)]  # 0.1 to 0.5
ROUNDS = 5  # of k-means
MOST_VALID = 2000  # validation images, at most, by which a width is chosen


def main() -> None:
    """Print the table."""
    settings, levels = params.load(), read_card().levels
    prepare_torch(settings.compute)
    train, valid, test = (_flat(read_split(split).images, levels) for split in ("train", "valid", "test"))
    count = min(settings.sample.count * settings.evaluate.draws, len(train))
    shown = Table("centres", "nats ↑", "standard error", "width")
    for name, centres in {
        "training images": train[:count],
        **_samples(settings, count, levels),
        "centres of k-means": _means(train, count),
    }.items():
        found, width = log_likelihoods(test, valid[:MOST_VALID], centres, WIDTHS)
        error = float(found.std()) / len(found) ** 0.5
        shown.add_row(f"{len(centres):,} {name}", f"{float(found.mean()):.1f}", f"{error:.1f}", f"{width:.3f}")
    Console(highlight=False).print(shown)


def _samples(settings: Params, count: int, levels: int) -> dict[str, Tensor]:
    """Samples of each model with the first seed."""
    found = {}
    for name in settings.models:
        images = read_tensors(RunFiles(name, settings.seeds[0]).samples)[0]["images"]
        found[f"samples of {name}"] = _flat(images[:count], levels)
    return found


def _means(train: Tensor, count: int) -> Tensor:
    """So many centres of k-means, which begins at images chosen at random, float64 (count, D)."""
    means = KMeans(count, init="random", n_init=1, max_iter=ROUNDS, random_state=0).fit(train.float().numpy())
    return torch.from_numpy(means.cluster_centers_).double()


def _flat(images: Tensor, levels: int) -> Tensor:
    """Pixels in [0, 1], float64 (N, D), of images uint8 (N, C, H, W)."""
    return images.flatten(1).double() / (levels - 1)


if __name__ == "__main__":
    reader(__doc__).parse_args()
    with one_line():
        main()
