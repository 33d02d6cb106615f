"""The one training loop: for each player in turn, loss, backward, step.

No family is named here. What families differ in, they say through the contract in `models/base.py`.
"""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from workflow.compute import at_hand
from workflow.compute import generator as make_generator
from workflow.errors import BakeoffError
from workflow.images import ImageSet
from workflow.models.base import HasCalibrate, HasInitialise, HasProject, Model
from workflow.params import Train
from workflow.team import Team

Record = dict[str, float | int]
ALONE = Team()
LOGS_AN_EPOCH = 2  # lines of training losses an epoch: enough for a curve, few enough for a small file
SNAPSHOTS = 8  # times at which samples are kept during training, evenly spaced, beside those of the untrained model
SNAPSHOT_NUMBERS = 1024  # pixels and channels in the samples of a snapshot, about
INITIALISED, CALIBRATED = 1024, 10_000  # of the first training images, at most, that a model may want to see at once


@dataclass(frozen=True)
class Fitted:
    """The weights that were best on the validation images, when that was, and how long it took.

    snapshots: samples over training, from the same noise each time, uint8 (S, n, C, H, W), at snapshot_steps: (S,).
    """

    state: dict[str, Tensor]
    step: int
    valid_loss: float
    steps: int
    seconds: float
    snapshots: Tensor
    snapshot_steps: tuple[int, ...]


def fit(
    model: Model,
    train: ImageSet,
    valid: ImageSet,
    settings: Train,
    seed: int,
    log: Callable[[Record], None],
    progress: str = "",
    team: Team = ALONE,
) -> Fitted:
    """Train `model`, on the device where it is, and return its best weights.

    `log` is called with each record: {"step", "epoch", and scalars}; scalars of a player among several carry its name
    (`critic_loss`), those on validation images begin with `valid_`. Of a team it is the first process that calls this,
    the others call `assist`.
    The model's weights are left as the last step had them. Raises BakeoffError if the loss is not finite, or if there
    are fewer images than parts of a batch.
    """
    train, valid = at_hand(train, model.device), at_hand(valid, model.device)
    steps = _Steps(model, train, settings, seed, team)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema)) if settings.ema else None
    judged = cast(Model, average.module) if average else model
    judge = _Judge(judged, train, valid, settings.batch_size, seed, steps.total)
    sums: dict[str, list[Tensor]] = {}
    start = time.perf_counter()

    bar = tqdm(total=steps.total, desc=progress, disable=None if progress else True, unit="step", dynamic_ncols=True)
    with bar:
        judge.snapshot(0)
        for step in range(1, steps.total + 1):
            for term, value in steps.take(step):
                sums.setdefault(term, []).append(value)
            if average:
                average.update_parameters(model)
            bar.update()

            ends_epoch = step % steps.an_epoch == 0
            if ends_epoch or step % max(1, steps.an_epoch // LOGS_AN_EPOCH) == 0:
                means = {term: torch.stack(values).mean().item() for term, values in sums.items()}
                sums.clear()
                log({"step": step, "epoch": round(step / steps.an_epoch, 4), **_finite(means, step)})
                bar.set_postfix({term: f"{value:.3f}" for term, value in list(means.items())[:3]}, refresh=False)
            if ends_epoch and (step // steps.an_epoch % settings.valid_every == 0 or step == steps.total):
                log({"step": step, "epoch": step // steps.an_epoch, **judge.validate(step)})
    for player in model.players.values():
        player.requires_grad_(True)
    return judge.fitted(time.perf_counter() - start)


def assist(model: Model, train: ImageSet, settings: Train, seed: int, team: Team) -> None:
    """The share of the other processes of a team in what `fit` does: the same steps, on other parts of the batches."""
    steps = _Steps(model, at_hand(train, model.device), settings, seed, team)
    for step in range(1, steps.total + 1):
        for _ in steps.take(step):
            pass


class _Steps:
    """Takes the steps of a training: in each, for each player in turn, loss, backward, step."""

    def __init__(self, model: Model, train: ImageSet, settings: Train, seed: int, team: Team) -> None:
        if len(train) < settings.parts:
            raise BakeoffError(
                f"train.parts: {settings.parts}: more than there are training images ({len(train)}); set it lower"
            )
        self.model, self.settings, self.seed, self.team = model, settings, seed, team
        self.an_epoch = max(1, len(train) // (settings.batch_size * len(model.turns)))
        self.total = self.an_epoch * settings.epochs
        torch.manual_seed(seed)  # dropout draws from torch's own generator
        self._generator = make_generator(model.device, seed, 1)
        self._batches = _batches(train, settings, make_generator(torch.device("cpu"), seed, 2), model.device)
        self._turns = 0
        if isinstance(model, HasInitialise):
            model.initialise(train.images[:INITIALISED].to(model.device), self._generator)
        self._optimisers = {name: _optimiser(player.parameters(), settings) for name, player in model.players.items()}
        self._factor = _schedule(settings, self.total)

    def take(self, step: int) -> Iterator[tuple[str, Tensor]]:
        """Each player's turns, in order; yields their terms, with the player's name if there are several."""
        self.model.train()
        players = self.model.players
        for name in self.model.turns:
            for other, player in players.items():
                player.requires_grad_(other == name)
            prefix = f"{name}_" if len(players) > 1 else ""
            for term, value in self._turn(name, self._factor(step)).items():
                yield prefix + term, value.detach()

    def _turn(self, player: str, factor: float) -> dict[str, Tensor]:
        settings, optimiser = self.settings, self._optimisers[player]
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * factor
        optimiser.zero_grad(set_to_none=True)
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        x, y = next(self._batches)
        if settings.parts == 1:
            terms = self._loss(x, y, player, self._generator)
            terms["loss"].backward()
        else:
            terms = self._in_parts(x, y, player, parameters)
        if settings.clip:
            terms["gradient_norm"] = nn.utils.clip_grad_norm_(parameters, settings.clip)
        optimiser.step()
        if isinstance(self.model, HasProject):
            self.model.project(player)
        return terms

    def _loss(self, x: Tensor, y: Tensor, player: str, generator: torch.Generator) -> dict[str, Tensor]:
        bf16 = self.settings.bf16
        with torch.autocast(self.model.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext():
            return self.model.loss(x, y, player, generator)

    def _in_parts(self, x: Tensor, y: Tensor, player: str, parameters: list[nn.Parameter]) -> dict[str, Tensor]:
        """Gradients and terms, means over the parts of the batch, the same however many processes share them.

        What the loss changes in the model (averages over batches) each part changes as if it were the only one; the
        mean of these changes stays.
        """
        parts, buffers = self.settings.parts, list(self.model.buffers())
        before = [buffer.clone() for buffer in buffers]
        averaged = [pair for pair in zip(buffers, before, strict=True) if pair[0].is_floating_point()]
        changes = [torch.zeros_like(buffer) for buffer, _ in averaged]
        means: dict[str, Tensor] = {}
        self._turns += 1
        for part in self.team.share(parts):
            generator = make_generator(self.model.device, self.seed, 1, self._turns, part)
            torch.manual_seed(generator.initial_seed())
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
            terms = self._loss(x.chunk(parts)[part], y.chunk(parts)[part], player, generator)
            (terms["loss"] / parts).backward()
            for term, value in terms.items():
                means[term] = means.get(term, 0.0) + value.detach() / parts
            for change, (buffer, value) in zip(changes, averaged, strict=True):
                change += (buffer - value) / parts
        self.team.add_up([*(p.grad for p in parameters if p.grad is not None), *means.values(), *changes])
        for change, (buffer, value) in zip(changes, averaged, strict=True):
            buffer.copy_(value + change)
        return means


class _Judge:
    """Validates the model that is to be kept, remembers its best weights, and draws samples over training."""

    def __init__(self, model: Model, train: ImageSet, valid: ImageSet, batch_size: int, seed: int, total: int) -> None:
        self.model, self.train, self.valid = model, train, valid
        self.batch_size, self.seed, self.total = max(batch_size, 256), seed, total
        self.best: tuple[dict[str, Tensor], int, float] | None = None
        self.snapshots: dict[int, Tensor] = {}

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """The model's scalars on the validation images, with the same random numbers at every step."""
        self.model.eval()
        generator = make_generator(self.model.device, self.seed, 3)
        if isinstance(self.model, HasCalibrate):
            self.model.calibrate(self.train.images[:CALIBRATED].to(self.model.device), generator)
        scores: dict[str, float] = {}
        for images in self.valid.split(self.batch_size):
            x, y = (part.to(self.model.device) for part in images)
            for term, value in self.model.validate(x, y, generator).items():
                scores[f"valid_{term}"] = scores.get(f"valid_{term}", 0.0) + value.item() * len(x) / len(self.valid)
        _finite(scores, step)
        if self.best is None or scores["valid_loss"] < self.best[2]:
            self.best = copy.deepcopy(self.model.state_dict()), step, scores["valid_loss"]
        if step * SNAPSHOTS >= len(self.snapshots) * self.total:
            self.snapshot(step)
        return scores

    def snapshot(self, step: int) -> None:
        """Draw samples, each time from the same noise."""
        n = max(10, SNAPSHOT_NUMBERS // math.prod(self.model.shape))
        random = make_generator(self.model.device, self.seed, 9)
        self.snapshots[step] = self.model.eval().sample(n, random).cpu()

    def fitted(self, seconds: float) -> Fitted:
        """What training came to."""
        assert self.best is not None  # the last step always validates
        state, step, valid_loss = self.best
        snapshots = torch.stack(list(self.snapshots.values()))
        return Fitted(state, step, valid_loss, self.total, seconds, snapshots, tuple(self.snapshots))


def _batches(
    train: ImageSet, settings: Train, generator: torch.Generator, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels in batches on the device, for ever, each epoch in a new order.

    The incomplete batch at an epoch's end is left out.
    """
    size = min(settings.batch_size, len(train) // settings.parts * settings.parts)
    while True:
        order = torch.randperm(len(train), generator=generator).to(train.images.device)
        for i in range(0, len(train) - size + 1, size):
            chosen = order[i : i + size]
            yield train.images[chosen].to(device), train.labels[chosen].to(device)


def _optimiser(parameters: Iterator[nn.Parameter], settings: Train) -> torch.optim.Optimizer:
    return torch.optim.AdamW(list(parameters), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)


def _schedule(settings: Train, total: int) -> Callable[[int], float]:
    """The factor on the learning rate at a step: a linear warm-up, then constant or half a cosine to zero."""
    warm = max(1, round(settings.warmup * total))

    def factor(step: int) -> float:
        rise = min(1.0, step / warm)
        if settings.schedule == "constant":
            return rise
        return rise * 0.5 * (1 + math.cos(math.pi * max(0.0, (step - warm) / max(1, total - warm))))

    return factor


def _finite(scalars: dict[str, float], step: int) -> dict[str, float]:
    for name, value in scalars.items():
        if not math.isfinite(value):
            raise BakeoffError(
                f"training diverged: {name} is {value} at step {step}; try a lower train.lr or train.clip"
            )
    return scalars
