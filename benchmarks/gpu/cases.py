"""Every family at two sizes, and the usual loop that ours is held against."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.gpu.command import FAMILIES
from benchmarks.gpu.task import Task
from workflow.data.tensors import ImageSet
from workflow.models import kinds, registry
from workflow.models.base import HasHold, HasInitialise, Model
from workflow.params import Entry, Train
from workflow.training.distributed import ProcessGroup
from workflow.training.steps import INITIALISED, Steps

# By size: shape, levels, and the presets in whose order an entry of each kind is looked for.
SIZES: dict[str, tuple[tuple[int, int, int], int, tuple[str, ...]]] = {
    "28x28": ((1, 28, 28), 256, ("mnist", "lectures")),
    "32x32x3": ((3, 32, 32), 256, ("colour", "mnist", "lectures")),
}
TINY = {"8x8": ((1, 8, 8), 17, ("smoke",))}
BATCHES = 4  # images that are held, in batches


@dataclass(frozen=True)
class Case:
    """A family at a size: the entry of a preset, for images of this shape with levels 0..levels-1."""

    kind: str
    size: str
    shape: tuple[int, int, int]
    levels: int
    entry: Entry

    def settings(self, batch_size: int, *, bf16: bool) -> Train:
        """How it is trained; what is measured does not depend on how long."""
        changes = {"epochs": 1, "gflops": None, "batch_size": batch_size, "bf16": bf16, "parts": 1}
        return self.entry.training.model_copy(update=changes)

    def build(self, device: torch.device) -> Model:
        """The model, with weights as before training."""
        return registry.build(self.kind, self.shape, self.levels, self.entry.hyperparameters, 0).to(device)

    def images(self, count: int, device: torch.device) -> ImageSet:
        """Random images: no cost depends on their content."""
        random = torch.Generator(device).manual_seed(0)
        drawn = torch.randint(self.levels, (count, *self.shape), dtype=torch.uint8, generator=random, device=device)
        return ImageSet(drawn, torch.arange(count, device=device) % 10)

    def steps(self, batch_size: int, device: torch.device, *, bf16: bool) -> Steps:
        """Our training steps."""
        model, settings = self.build(device), self.settings(batch_size, bf16=bf16)
        return Steps(model, self.images(BATCHES * batch_size, device), settings, 0, ProcessGroup())


def cases(task: Task) -> list[Case]:
    """The first five families at each size, then the others at each size."""
    found = []
    for size, (shape, levels, presets) in (TINY if task.tiny else SIZES).items():
        entries: dict[str, Entry] = {}
        for preset in presets:
            for entry in task.preset(preset).models.values():
                entries.setdefault(entry.kind, entry)
        usable = [kind for kind in kinds() if kind in entries and not issubclass(registry.model_class(kind), HasHold)]
        found += [Case(kind, size, shape, levels, entries[kind]) for kind in usable]
    return sorted(found, key=lambda case: case.kind not in FAMILIES)


def taken(steps: Steps) -> Callable[[], None]:
    """One of our steps; what it yields are its terms."""

    def step() -> None:
        for _ in steps.take(1):
            pass

    return step


def usual_loop(case: Case, batch_size: int, device: torch.device) -> Callable[[], None]:
    """A step of the loop that everybody writes: a DataLoader, each batch sent to the card, `loss.item()`, AdamW."""
    images, settings = case.images(BATCHES * batch_size, torch.device("cpu")), case.entry.training
    loader = DataLoader(TensorDataset(images.images, images.labels), batch_size, shuffle=True, drop_last=True)
    model, generator = case.build(device).train(), Generator(device).manual_seed(0)
    if isinstance(model, HasInitialise):
        model.initialise(images.images[:INITIALISED].to(device), generator)
    optimisers = {
        name: torch.optim.AdamW(player.parameters(), settings.lr, settings.betas, weight_decay=settings.weight_decay)
        for name, player in model.players.items()
    }
    batches = iter(loader)
    losses: list[float] = []

    def following() -> tuple[Tensor, Tensor]:
        nonlocal batches
        try:
            x, y = next(batches)
        except StopIteration:
            batches = iter(loader)
            x, y = next(batches)
        return x.to(device), y.to(device)

    def step() -> None:
        for player, optimiser in ((player, optimisers[player]) for player in model.turns):
            x, y = following()
            optimiser.zero_grad()
            loss: Any = model.loss(x, y, player, generator)["loss"]
            loss.backward()
            optimiser.step()
            losses.append(loss.item())

    return step
