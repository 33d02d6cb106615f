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
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from workflow.compute import generator as make_generator
from workflow.errors import BakeoffError
from workflow.models.base import HasInitialise, Model
from workflow.params import Train

Record = dict[str, float | int]
LOGS_AN_EPOCH = 2  # lines of training losses an epoch: enough for a curve, few enough for a small file


@dataclass(frozen=True)
class Fitted:
    """The weights that were best on the validation images, when that was, and how long it took."""

    state: dict[str, Tensor]
    step: int
    valid_loss: float
    steps: int
    seconds: float


def fit(
    model: Model,
    train: Tensor,
    valid: Tensor,
    settings: Train,
    seed: int,
    log: Callable[[Record], None],
    progress: str = "",
) -> Fitted:
    """Train `model`, on the device where it is, and return its best weights.

    train, valid: uint8 (N, C, H, W). `log` is called with each record: {"step", "epoch", and scalars}; scalars of a
    player among several carry its name (`critic_loss`), those on validation images begin with `valid_`.
    The model's weights are left as the last step had them. Raises BakeoffError if the loss is not finite.
    """
    device = model.device
    torch.manual_seed(seed)  # dropout draws from torch's own generator
    generator = make_generator(device, seed, 1)
    train, valid = train.to(device), valid.to(device)
    batches = _batches(train, settings.batch_size, make_generator(torch.device("cpu"), seed, 2))
    if isinstance(model, HasInitialise):
        model.initialise(train[:1024], generator)

    steps_an_epoch = max(1, len(train) // (settings.batch_size * len(model.turns)))
    total = steps_an_epoch * settings.epochs
    players = model.players
    optimisers = {name: _optimiser(player.parameters(), settings) for name, player in players.items()}
    factor = _schedule(settings, total)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema)) if settings.ema else None
    best: Fitted | None = None
    sums: dict[str, list[Tensor]] = {}
    start = time.perf_counter()

    bar = tqdm(total=total, desc=progress, disable=None if progress else True, unit="step", dynamic_ncols=True)
    with bar:
        for step in range(1, total + 1):
            model.train()
            for name in model.turns:
                for other, player in players.items():
                    player.requires_grad_(other == name)
                terms = _turn(model, name, next(batches), optimisers[name], factor(step), settings, generator)
                prefix = f"{name}_" if len(players) > 1 else ""
                for term, value in terms.items():
                    sums.setdefault(prefix + term, []).append(value.detach())
            if average:
                average.update_parameters(model)
            bar.update()

            epoch = step / steps_an_epoch
            ends_epoch = step % steps_an_epoch == 0
            if ends_epoch or step % max(1, steps_an_epoch // LOGS_AN_EPOCH) == 0:
                means = {term: torch.stack(values).mean().item() for term, values in sums.items()}
                sums.clear()
                log({"step": step, "epoch": round(epoch, 4), **_finite(means, step)})
                bar.set_postfix({term: f"{value:.3f}" for term, value in list(means.items())[:3]}, refresh=False)
            if ends_epoch and (round(epoch) % settings.valid_every == 0 or step == total):
                judged = cast(Model, average.module) if average else model
                scores = _validate(judged, valid, settings.batch_size, seed)
                log({"step": step, "epoch": round(epoch), **_finite(scores, step)})
                if best is None or scores["valid_loss"] < best.valid_loss:
                    state = copy.deepcopy(judged.state_dict())
                    best = Fitted(state, step, scores["valid_loss"], total, 0.0)
    for player in players.values():
        player.requires_grad_(True)
    assert best is not None  # the last step always validates
    return Fitted(best.state, best.step, best.valid_loss, total, time.perf_counter() - start)


def _batches(images: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches for ever, each epoch in a new order; the incomplete batch at an epoch's end is left out."""
    size = min(size, len(images))
    while True:
        order = torch.randperm(len(images), generator=generator).to(images.device)
        for i in range(0, len(images) - size + 1, size):
            yield images[order[i : i + size]]


def _optimiser(parameters: Iterator[torch.nn.Parameter], settings: Train) -> torch.optim.Optimizer:
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


def _turn(
    model: Model,
    player: str,
    x: Tensor,
    optimiser: torch.optim.Optimizer,
    factor: float,
    settings: Train,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    for group in optimiser.param_groups:
        group["lr"] = settings.lr * factor
    autocast = torch.autocast(x.device.type, torch.bfloat16) if settings.bf16 else contextlib.nullcontext()
    with autocast:
        terms = model.loss(x, player, generator)
    optimiser.zero_grad(set_to_none=True)
    terms["loss"].backward()
    if settings.clip:
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        terms["gradient_norm"] = torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
    optimiser.step()
    return terms


@torch.no_grad()
def _validate(model: Model, valid: Tensor, batch_size: int, seed: int) -> dict[str, float]:
    """The model's scalars on the validation images, with the same random numbers at every step."""
    model.eval()
    generator = make_generator(valid.device, seed, 3)
    sums: dict[str, float] = {}
    for x in valid.split(max(batch_size, 256)):
        for term, value in model.validate(x, generator).items():
            sums[f"valid_{term}"] = sums.get(f"valid_{term}", 0.0) + value.item() * len(x) / len(valid)
    return sums


def _finite(scalars: dict[str, float], step: int) -> dict[str, float]:
    for name, value in scalars.items():
        if not math.isfinite(value):
            raise BakeoffError(
                f"training diverged: {name} is {value} at step {step}; try a lower train.lr or train.clip"
            )
    return scalars
