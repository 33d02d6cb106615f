"""A published figure, with the paper's length of training or as much of it as fits: NICE and PixelCNN.

`presets/published/` has the settings, made for a CPU; what is different on a card is below.
"""

import math
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu import data
from benchmarks.gpu.machine import facts
from benchmarks.gpu.task import Task
from benchmarks.gpu.training import log_prob, train
from workflow.errors import BakeoffError
from workflow.params import Entry

SHARE = 0.85  # of the time, for training
NEAR = 0.02  # of the paper's figure, that ours may be worse and still count as near


@dataclass(frozen=True)
class Paper:
    """What a paper reports of test images, in nats, and its setting.

    higher: whether more is better. continuous: whether it is the log-density of continuous images in [0, 1], which is
    D ln(levels) above the log-probability of discrete ones. epochs: that the paper trains for, or enough for it.
    training, model: what differs from the preset's entry.
    """

    source: str
    figure: float
    higher: bool
    continuous: bool
    epochs: int
    training: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)


PAPERS = {
    "nice": Paper("Dinh et al. 2015, table 1", 1980.50, higher=True, continuous=True, epochs=1500),
    "pixelcnn": Paper(
        "van den Oord et al. 2016a, table 4",
        81.30,
        higher=False,
        continuous=False,
        epochs=200,
        training={"batch_size": 128, "lr": 0.001, "bf16": True},
        model={"channels": 64, "layers": 12},
    ),
}


def main(task: Task) -> None:
    """Train and test."""
    paper, device, preset = PAPERS[task.what], task.device(), task.preset(f"published/{task.what}")
    settings = data.settings_of(task, preset.data)
    if settings != preset.data:
        raise BakeoffError(f"{paper.source}: not tried, as that takes MNIST, which is not here")
    images = data.split(task, settings)
    start = time.perf_counter()
    entry = setting(preset.models[task.what], paper, tiny=task.tiny)
    trained = train(task, entry, images, device, SHARE * task.left)
    found = {"machine": facts(device), "paper": paper.source, "figure": paper.figure, **trained.facts}
    found |= {"training_seconds": time.perf_counter() - start, "curve": trained.curve}
    length = f"{images.card.name}, {found['epochs']:g} of {paper.epochs} epochs"
    task.write(length, found)
    nats = log_prob(trained.model, images.test.images)
    if paper.continuous:
        nats = nats + math.prod(images.card.shape) * math.log(images.card.levels)
    nats = nats if paper.higher else -nats
    ours, margin = float(nats.mean()), 1.96 * float(nats.std()) / len(nats) ** 0.5
    found |= {"ours": ours, "margin": margin, "verdict": "of other images" if task.tiny else verdict(paper, ours)}
    task.write(f"{length}: {ours:,.2f} ± {margin:.2f} nats, the paper {paper.figure:,.2f}: {found['verdict']}", found)


def setting(entry: Entry, paper: Paper, *, tiny: bool) -> Entry:
    """The preset's entry in the paper's setting; in a rehearsal as small as it is."""
    if tiny:
        return entry
    training = entry.training.model_copy(update={**paper.training, "epochs": paper.epochs, "gflops": None})
    return entry.model_copy(update={"train": training, **paper.model})


def verdict(paper: Paper, ours: float) -> str:
    """Met, within 2 % or not met."""
    worse = (paper.figure - ours if paper.higher else ours - paper.figure) / paper.figure
    return "met" if worse <= 0 else "within 2 %" if worse <= NEAR else "not met"
