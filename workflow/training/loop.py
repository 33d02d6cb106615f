"""The one training loop: for each player in turn, loss, backward, step.

No family is named here. What families differ in, they say through the contract in `models/base.py`.
"""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from workflow.data.tensors import ImageSet
from workflow.device import at_hand
from workflow.device import generator as make_generator
from workflow.errors import BakeoffError
from workflow.models.base import HasCalibrate, HasInitialise, HasProject, Model
from workflow.params import Train
from workflow.training.checkpoint import State, StateFile
from workflow.training.distributed import Team
from workflow.training.history import History, Record, diverged
from workflow.training.optimizer import AdamW

ALONE = Team()
LOGS_AN_EPOCH = 2  # lines of training losses an epoch: enough for a curve, few enough for a small file
SNAPSHOTS = 8  # times at which samples are kept during training, evenly spaced, beside those of the untrained model
SNAPSHOT_NUMBERS = 1024  # pixels and channels in the samples of a snapshot, about
INITIALISED, CALIBRATED = 1024, 10_000  # of the first training images, at most, that a model may want to see at once


@dataclass(frozen=True)
class Fitted:
    """The weights that were best on the validation images, when that was, and how long it took.

    records: all that were logged.
    snapshots: samples over training, from the same noise each time, uint8 (S, n, C, H, W), at snapshot_steps: (S,).
    """

    state: dict[str, Tensor]
    step: int
    valid_loss: float
    steps: int
    seconds: float
    records: list[Record]
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
    file: StateFile | None = None,
) -> Fitted:
    """Train `model`, on the device where it is, and return its best weights.

    `log` is called with each record: {"step", "epoch", and scalars}; scalars of a player among several carry its name
    (`critic_loss`), those on validation images begin with `valid_`. Of a team it is the first process that calls this,
    the others call `assist`. If `file` holds a state of this training, it goes on from there: `log` gets the records
    until then once more. The model's weights are left as the last step had them.
    Raises BakeoffError if the loss is not finite, or if there are fewer images than parts of a batch, and Stopped if
    it was stopped through `file`.
    """
    train, valid = at_hand(train, model.device), at_hand(valid, model.device)
    steps = _Steps(model, train, settings, seed, team)
    judge, history = _Judge(model, train, valid, settings, seed, steps.total), History(log, settings, model.device)
    state = file.read() if file else State()
    done, seconds = state.facts.get("step", 0), state.facts.get("seconds", 0.0)
    start = time.perf_counter() - seconds
    if done:
        for part in (steps, judge, history):
            part.restore(state)
    else:
        judge.snapshot(0)

    quiet = None if progress else True  # None: unless there is a terminal
    bar = tqdm(total=steps.total, initial=done, desc=progress, disable=quiet, unit="step", dynamic_ncols=True)
    with bar:
        for step in range(done + 1, steps.total + 1):
            history.add(steps.take(step))
            judge.follow(step)
            bar.update()

            ends_epoch, epoch = step % steps.an_epoch == 0, step / steps.an_epoch
            if ends_epoch or step % max(1, steps.an_epoch // LOGS_AN_EPOCH) == 0:
                means = history.means(step)
                history.write({"step": step, "epoch": round(epoch, 4), **means})
                bar.set_postfix({term: f"{value:.3f}" for term, value in list(means.items())[:3]}, refresh=False)
            if ends_epoch and (epoch % settings.valid_every == 0 or step == steps.total):
                history.write({"step": step, "epoch": int(epoch), **judge.validate(step, file)})
            if file and (file.due() or step == steps.total):
                if not _sound(model):  # not worth keeping; the next losses will say so
                    file.hurry(0.0)
                    continue
                state = State(facts={"step": step, "seconds": time.perf_counter() - start})
                for part in (steps, judge, history):
                    part.save(state)
                file.write(state)
    for player in model.players.values():
        player.requires_grad_(True)
    return judge.fitted(time.perf_counter() - start, history.records)


def assist(
    model: Model, train: ImageSet, settings: Train, seed: int, team: Team, file: StateFile | None = None
) -> None:
    """The share of the other processes of a team in what `fit` does: the same steps, on other parts of the batches."""
    steps = _Steps(model, at_hand(train, model.device), settings, seed, team)
    # Before the first has taken a step with the others it cannot have written another state.
    state = file.read() if file else State()
    if done := state.facts.get("step", 0):
        steps.restore(state)
    for step in range(done + 1, steps.total + 1):
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
        self._batches = _Batches(train, settings, make_generator(torch.device("cpu"), seed, 2), model.device)
        self._turns = 0
        if isinstance(model, HasInitialise):
            model.initialise(train.images[:INITIALISED].to(model.device), self._generator)
        self._optimisers = {name: AdamW(player.parameters()) for name, player in model.players.items()}
        self._factor = _schedule(settings, self.total)

    def take(self, step: int) -> Iterator[tuple[str, Tensor]]:
        """Each player's turns, in order; yields their terms, with the player's name if there are several."""
        if not self.model.training:  # it walks through all modules, which a small model's step feels
            self.model.train()
        players = self.model.players
        for name in self.model.turns:
            if several := len(players) > 1:
                for other, player in players.items():
                    player.requires_grad_(other == name)
            prefix = f"{name}_" if several else ""
            for term, value in self._turn(name, self._factor(step)).items():
                yield prefix + term, value.detach()

    def save(self, state: State) -> None:
        """Put into `state` all that the next step depends on."""
        state.put("model", self.model.state_dict())
        for name, optimiser in self._optimisers.items():
            for i, moments in optimiser.state.items():
                state.put(f"optimiser/{name}/{i}", moments)
        state.put("random", {"loss": self._generator.get_state(), "torch": torch.get_rng_state()})
        if self.model.device.type == "cuda":
            state.put("random", {"cuda": torch.cuda.get_rng_state(self.model.device)})
        state.put("random", {"order": self._batches.before})
        state.facts |= {"position": self._batches.position, "turns": self._turns}

    def restore(self, state: State) -> None:
        """Be where `save` was called."""
        self.model.load_state_dict(state.get("model"))
        for name, optimiser in self._optimisers.items():
            moments: dict[int, dict[str, Tensor]] = {}
            for key, tensor in state.get(f"optimiser/{name}").items():
                i, _, moment = key.partition("/")
                moments.setdefault(int(i), {})[moment] = tensor
            optimiser.restore(moments)
        random = state.get("random")
        self._generator.set_state(random["loss"])
        torch.set_rng_state(random["torch"])
        if "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"], self.model.device)
        self._batches.go_to(random["order"], state.facts["position"])
        self._turns = state.facts["turns"]

    def _turn(self, player: str, factor: float) -> dict[str, Tensor]:
        settings, optimiser = self.settings, self._optimisers[player]
        optimiser.forget_gradients()
        x, y = next(self._batches)
        if settings.parts == 1:
            terms = self._loss(x, y, player, self._generator)
            terms["loss"].backward()
        else:
            terms = self._in_parts(x, y, player, optimiser.parameters)
        if settings.clip:
            terms["gradient_norm"] = nn.utils.clip_grad_norm_(optimiser.parameters, settings.clip)
        optimiser.step(settings.lr * factor, settings.betas, settings.weight_decay)
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


class _Batches(Iterator[tuple[Tensor, Tensor]]):
    """Images and labels in batches on the device, for ever, each epoch in a new order.

    The incomplete batch at an epoch's end is left out.
    """

    def __init__(self, train: ImageSet, settings: Train, generator: torch.Generator, device: torch.device) -> None:
        self.train, self.generator, self.device = train, generator, device
        self.size = min(settings.batch_size, len(train) // settings.parts * settings.parts)
        self.go_to(generator.get_state(), 0)

    def go_to(self, before: Tensor, position: int) -> None:
        """Begin an epoch with the generator in the state `before`, and leave out its first `position` images."""
        self.before, self.position = before, position
        self.generator.set_state(before)
        self._order = torch.randperm(len(self.train), generator=self.generator).to(self.train.images.device)

    def __next__(self) -> tuple[Tensor, Tensor]:
        if self.position + self.size > len(self._order):
            self.go_to(self.generator.get_state(), 0)
        chosen = self._order[self.position : self.position + self.size]
        self.position += self.size
        return self.train.images[chosen].to(self.device), self.train.labels[chosen].to(self.device)


class _Judge:
    """Validates the model that is to be kept, remembers its best weights, and draws samples over training.

    That is the model itself or, if the settings ask for it, an average of its weights over the steps.
    """

    def __init__(self, model: Model, train: ImageSet, valid: ImageSet, settings: Train, seed: int, total: int) -> None:
        self.trained, self.train, self.valid, self.settings = model, train, valid, settings
        self.seed, self.total = seed, total
        self.batch_size = max(settings.batch_size, 256)
        self.averages = settings.ema > 0
        self.model = copy.deepcopy(model) if self.averages else model
        self.best: tuple[dict[str, Tensor], int, float] | None = None
        self.snapshots: dict[int, Tensor] = {}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Take the weights after a step into the average, which begins with those after the first."""
        if not self.averages:
            return
        share = 1 - self.settings.ema if step > 1 else 1.0
        torch._foreach_lerp_(list(self.model.parameters()), list(self.trained.parameters()), share)
        for average, last in zip(self.model.buffers(), self.trained.buffers(), strict=True):
            average.copy_(last)

    @torch.no_grad()
    def validate(self, step: int, file: StateFile | None) -> dict[str, float]:
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
            if file:
                file.hurry()
        for term, score in scores.items():
            if not math.isfinite(score):
                raise diverged(term, score, step, self.settings)
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

    def save(self, state: State) -> None:
        """Put into `state` the average, the best weights and the samples."""
        if self.averages:
            state.put("average", self.model.state_dict())
        if self.best:
            state.put("best", self.best[0])
            state.facts["best"] = self.best[1:]
        state.put("snapshots", {str(step): images for step, images in self.snapshots.items()})
        state.facts["snapshots"] = list(self.snapshots)

    def restore(self, state: State) -> None:
        """Know what `save` was called with."""
        if self.averages:
            self.model.load_state_dict(state.get("average"))
        if "best" in state.facts:
            step, valid_loss = state.facts["best"]
            self.best = state.get("best"), step, valid_loss
        snapshots = state.get("snapshots")
        self.snapshots = {step: snapshots[str(step)] for step in state.facts["snapshots"]}

    def fitted(self, seconds: float, records: list[Record]) -> Fitted:
        """What training came to."""
        assert self.best is not None  # the last step always validates
        state, step, valid_loss = self.best
        snapshots = torch.stack(list(self.snapshots.values()))
        return Fitted(state, step, valid_loss, self.total, seconds, records, snapshots, tuple(self.snapshots))


def _schedule(settings: Train, total: int) -> Callable[[int], float]:
    """The factor on the learning rate at a step: a linear warm-up, then constant or half a cosine to zero."""
    warm = max(1, round(settings.warmup * total))

    def factor(step: int) -> float:
        rise = min(1.0, step / warm)
        if settings.schedule == "constant":
            return rise
        return rise * 0.5 * (1 + math.cos(math.pi * max(0.0, (step - warm) / max(1, total - warm))))

    return factor


def _sound(model: Model) -> bool:
    """Whether all weights are finite: a state in which they are not is not worth keeping."""
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())
