"""The training loop of all families: for each player in turn, compute the loss, backpropagate, take a step.

No family is named here. Whatever differs between families goes through the contract in `models/base.py`.
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
from workflow.errors import BakeoffError
from workflow.models.base import HasCalibrate, HasFinish, HasInitialise, HasProject, Model
from workflow.params import Train
from workflow.random_streams import Stream, make_generator
from workflow.training.checkpoint import Checkpoint, CheckpointFile
from workflow.training.distributed import ProcessGroup
from workflow.training.history import History, Record, diverged
from workflow.training.optimizer import AdamW

CPU = torch.device("cpu")
SINGLE = ProcessGroup()
LOGS_PER_EPOCH = 2  # records of training losses per epoch: enough for a curve, few enough for a small file
SNAPSHOTS = 8  # evenly spaced times at which samples are kept, besides those of the untrained model
SNAPSHOT_NUMBERS = 1024  # pixels times channels in the samples of a snapshot, approximately
INITIALISED, CALIBRATED = 1024, 10_000  # training images, at most, passed to `initialise`, and to the two others


@dataclass(frozen=True)
class Fitted:
    """The outcome of training.

    state: the weights with the lowest validation loss. step, valid_loss: when that was, and the loss.
    steps, seconds: of the whole training. records: all that were logged.
    snapshots: samples in the course of training, always from the same noise, uint8 (S, n, C, H, W).
    snapshot_steps: when they were drawn, (S,).
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
    group: ProcessGroup = SINGLE,
    file: CheckpointFile | None = None,
) -> Fitted:
    """Train `model` on the device where it is, and return its best weights.

    Rank 0 of a process group calls this; the others call `assist`. The model itself is left with the weights of the
    last step. Raises BakeoffError if the loss is not finite or if there are fewer images than parts of a batch, and
    Stopped if training was stopped through `file`.

    Args:
        model: freshly built, in any mode.
        train: images to train on.
        valid: images by whose loss the best weights are chosen.
        settings: the model's `train` section of the parameters.
        seed: of all random streams.
        log: called with each record: "step", "epoch" and scalars. If there are several players, their scalars begin
            with the player's name (`critic_loss`); scalars on validation images begin with `valid_`.
        progress: label of the progress bar; without one there is no bar.
        group: the processes that share the work.
        file: where checkpoints are written. If it holds one of this training, training resumes from it, and `log` gets
            the earlier records again.
    """
    train, valid = (images.to_device_if_it_fits(model.device) for images in (train, valid))
    steps = _Steps(model, train, settings, seed, group)
    validator, history = (
        _Validator(model, train, valid, settings, seed, steps.total),
        History(log, settings, model.device),
    )
    checkpoint = file.read() if file else Checkpoint()
    done, seconds = checkpoint.facts.get("step", 0), checkpoint.facts.get("seconds", 0.0)
    start = time.perf_counter() - seconds
    if done:
        for part in (steps, validator, history):
            part.restore(checkpoint)
    else:
        validator.snapshot(0)

    quiet = None if progress else True  # None: unless there is a terminal
    bar = tqdm(total=steps.total, initial=done, desc=progress, disable=quiet, unit="step", dynamic_ncols=True)
    with bar:
        for step in range(done + 1, steps.total + 1):
            history.add(steps.take(step))
            validator.follow(step)
            bar.update()

            ends_epoch, epoch = step % steps.per_epoch == 0, step / steps.per_epoch
            if ends_epoch or step % max(1, steps.per_epoch // LOGS_PER_EPOCH) == 0:
                means = history.means(step)
                history.write({"step": step, "epoch": round(epoch, 4), **means})
                bar.set_postfix({term: f"{value:.3f}" for term, value in list(means.items())[:3]}, refresh=False)
            if ends_epoch and (epoch % settings.valid_every == 0 or step == steps.total):
                history.write({"step": step, "epoch": int(epoch), **validator.validate(step, file)})
            if file and (file.due() or step == steps.total):
                if not _finite(model):  # not worth keeping; the next losses will report it
                    file.hurry(0.0)
                    continue
                checkpoint = Checkpoint(facts={"step": step, "seconds": time.perf_counter() - start})
                for part in (steps, validator, history):
                    part.save(checkpoint)
                file.write(checkpoint)
    for player in model.players.values():
        player.requires_grad_(True)
    return validator.fitted(start, history.records)


def assist(
    model: Model, train: ImageSet, settings: Train, seed: int, group: ProcessGroup, file: CheckpointFile | None = None
) -> None:
    """What the other processes of a group do while rank 0 calls `fit`: the same steps on other parts of the batches.

    Args:
        model: built from the same seed as that of rank 0.
        train: the same images.
        settings: the model's `train` section of the parameters.
        seed: of all random streams.
        group: this process's place in the group.
        file: where rank 0 writes checkpoints; only read here.
    """
    steps = _Steps(model, train.to_device_if_it_fits(model.device), settings, seed, group)
    # Rank 0 cannot have written a newer one yet: it needs the other processes for the first step.
    checkpoint = file.read() if file else Checkpoint()
    if done := checkpoint.facts.get("step", 0):
        steps.restore(checkpoint)
    for step in range(done + 1, steps.total + 1):
        for _ in steps.take(step):
            pass


class _Steps:
    """Takes training steps: in each, every player in turn computes its loss, backpropagates and updates its weights.

    Args:
        model: to train, on its device.
        train: images to train on, on any device.
        settings: the model's `train` section of the parameters.
        seed: of all random streams.
        group: the processes that share the work.
    """

    def __init__(self, model: Model, train: ImageSet, settings: Train, seed: int, group: ProcessGroup) -> None:
        if len(train) < settings.parts:
            raise BakeoffError(
                f"train.parts: {settings.parts}: more than there are training images ({len(train)}); set it lower"
            )
        self.model, self.settings, self.seed, self.group = model, settings, seed, group
        self.per_epoch = max(1, len(train) // (settings.batch_size * len(model.turns)))
        self.total = self.per_epoch * settings.epochs
        torch.manual_seed(seed)  # dropout draws from torch's own generator
        self._generator = make_generator(model.device, seed, Stream.LOSS)
        self._batches = _Batches(train, settings, make_generator(CPU, seed, Stream.ORDER), model.device)
        self._turns = 0
        if isinstance(model, HasInitialise):
            model.initialise(train.images[:INITIALISED].to(model.device), self._generator)
        self._optimisers = {name: AdamW(player.parameters()) for name, player in model.players.items()}
        self._factor = _schedule(settings, self.total)

    def take(self, step: int) -> Iterator[tuple[str, Tensor]]:
        """Let each player take its turns, in order; yields their terms, prefixed by the player if there are several."""
        if not self.model.training:  # `train` visits all modules, which a small model would notice
            self.model.train()
        players = self.model.players
        for name in self.model.turns:
            if several := len(players) > 1:
                for other, player in players.items():
                    player.requires_grad_(other == name)
            prefix = f"{name}_" if several else ""
            for term, value in self._turn(name, self._factor(step)).items():
                yield prefix + term, value.detach()

    def save(self, checkpoint: Checkpoint) -> None:
        """Store in `checkpoint` everything that the next step depends on."""
        checkpoint.put("model", self.model.state_dict())
        for name, optimiser in self._optimisers.items():
            for i, moments in optimiser.state.items():
                checkpoint.put(f"optimiser/{name}/{i}", moments)
        checkpoint.put("random", {"loss": self._generator.get_state(), "torch": torch.get_rng_state()})
        if self.model.device.type == "cuda":
            checkpoint.put("random", {"cuda": torch.cuda.get_rng_state(self.model.device)})
        checkpoint.put("random", {"order": self._batches.before})
        checkpoint.facts |= {"position": self._batches.position, "turns": self._turns}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from where `save` was called."""
        self.model.load_state_dict(checkpoint.get("model"))
        for name, optimiser in self._optimisers.items():
            moments: dict[int, dict[str, Tensor]] = {}
            for key, tensor in checkpoint.get(f"optimiser/{name}").items():
                i, _, moment = key.partition("/")
                moments.setdefault(int(i), {})[moment] = tensor
            optimiser.restore(moments)
        random = checkpoint.get("random")
        self._generator.set_state(random["loss"])
        torch.set_rng_state(random["torch"])
        if "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"], self.model.device)
        self._batches.go_to(random["order"], checkpoint.facts["position"])
        self._turns = checkpoint.facts["turns"]

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
        """Average gradients and terms over the parts of the batch; the number of processes makes no difference.

        Buffers that the loss updates (running averages over batches) are updated by each part as if it were the only
        one; the mean of these updates is applied.
        """
        parts, buffers = self.settings.parts, list(self.model.buffers())
        before = [buffer.clone() for buffer in buffers]
        averaged = [pair for pair in zip(buffers, before, strict=True) if pair[0].is_floating_point()]
        changes = [torch.zeros_like(buffer) for buffer, _ in averaged]
        means: dict[str, Tensor] = {}
        self._turns += 1
        for part in self.group.share(parts):
            generator = make_generator(self.model.device, self.seed, Stream.LOSS, self._turns, part)
            torch.manual_seed(generator.initial_seed())
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
            terms = self._loss(x.chunk(parts)[part], y.chunk(parts)[part], player, generator)
            (terms["loss"] / parts).backward()
            for term, value in terms.items():
                means[term] = means.get(term, 0.0) + value.detach() / parts
            for change, (buffer, value) in zip(changes, averaged, strict=True):
                change += (buffer - value) / parts
        self.group.add_up([*(p.grad for p in parameters if p.grad is not None), *means.values(), *changes])
        for change, (buffer, value) in zip(changes, averaged, strict=True):
            buffer.copy_(value + change)
        return means


class _Batches(Iterator[tuple[Tensor, Tensor]]):
    """An endless stream of batches of images and labels on the device, reshuffled every epoch.

    An incomplete batch at the end of an epoch is dropped.

    Args:
        train: images, on any device.
        settings: the model's `train` section of the parameters.
        generator: of the order, on the CPU.
        device: of the batches.
    """

    def __init__(self, train: ImageSet, settings: Train, generator: torch.Generator, device: torch.device) -> None:
        self.train, self.generator, self.device = train, generator, device
        self.size = min(settings.batch_size, len(train) // settings.parts * settings.parts)
        self.go_to(generator.get_state(), 0)

    def go_to(self, before: Tensor, position: int) -> None:
        """Start an epoch with the generator in the state `before`, and skip its first `position` images."""
        self.before, self.position = before, position
        self.generator.set_state(before)
        self._order = torch.randperm(len(self.train), generator=self.generator).to(self.train.images.device)

    def __next__(self) -> tuple[Tensor, Tensor]:
        if self.position + self.size > len(self._order):
            self.go_to(self.generator.get_state(), 0)
        chosen = self._order[self.position : self.position + self.size]
        self.position += self.size
        return self.train.images[chosen].to(self.device), self.train.labels[chosen].to(self.device)


class _Validator:
    """Validates the model that will be saved, remembers its best weights, and draws samples in the course of training.

    It is the trained model itself or, with `ema`, an exponential moving average of its weights (cf. Polyak & Juditsky
    1992, Acceleration of Stochastic Approximation by Averaging).

    Args:
        model: that is trained.
        train: images to calibrate with.
        valid: images to validate on.
        settings: the model's `train` section of the parameters.
        seed: of all random streams.
        total: number of training steps.
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
        """Update the moving average with the weights after `step`; it starts from those after the first step."""
        if not self.averages:
            return
        share = 1 - self.settings.ema if step > 1 else 1.0
        torch._foreach_lerp_(list(self.model.parameters()), list(self.trained.parameters()), share)
        for average, last in zip(self.model.buffers(), self.trained.buffers(), strict=True):
            average.copy_(last)

    @torch.no_grad()
    def validate(self, step: int, file: CheckpointFile | None) -> dict[str, float]:
        """The model's scalars on the validation images, with the same random numbers every time."""
        self.model.eval()
        generator = make_generator(self.model.device, self.seed, Stream.VALIDATION)
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
        """Draw samples, always from the same noise."""
        n = max(10, SNAPSHOT_NUMBERS // math.prod(self.model.shape))
        random = make_generator(self.model.device, self.seed, Stream.SNAPSHOTS)
        self.snapshots[step] = self.model.eval().sample(n, random).cpu()

    def save(self, checkpoint: Checkpoint) -> None:
        """Store the average, the best weights and the samples in `checkpoint`."""
        if self.averages:
            checkpoint.put("average", self.model.state_dict())
        if self.best:
            checkpoint.put("best", self.best[0])
            checkpoint.facts["best"] = self.best[1:]
        checkpoint.put("snapshots", {str(step): images for step, images in self.snapshots.items()})
        checkpoint.facts["snapshots"] = list(self.snapshots)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore what `save` stored."""
        if self.averages:
            self.model.load_state_dict(checkpoint.get("average"))
        if "best" in checkpoint.facts:
            step, valid_loss = checkpoint.facts["best"]
            self.best = checkpoint.get("best"), step, valid_loss
        snapshots = checkpoint.get("snapshots")
        self.snapshots = {step: snapshots[str(step)] for step in checkpoint.facts["snapshots"]}

    def fitted(self, start: float, records: list[Record]) -> Fitted:
        """The outcome of a training that started at `start` (by `time.perf_counter`)."""
        assert self.best is not None  # the last step always validates
        state, step, valid_loss = self.best
        if isinstance(self.model, HasFinish):
            state = self._finished(state)
        seconds, snapshots = time.perf_counter() - start, torch.stack(list(self.snapshots.values()))
        return Fitted(state, step, valid_loss, self.total, seconds, records, snapshots, tuple(self.snapshots))

    def _finished(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights `state`, and what is fitted to them."""
        model, device = copy.deepcopy(self.model).eval(), self.model.device
        model.load_state_dict(state)
        assert isinstance(model, HasFinish)
        x, y = self.train.images[:CALIBRATED], self.train.labels[:CALIBRATED]
        model.finish(x.to(device), y.to(device), make_generator(device, self.seed, Stream.FINISH))
        return model.state_dict()


def _schedule(settings: Train, total: int) -> Callable[[int], float]:
    """The learning rate's factor at a step: linear warm-up, then constant, or cosine annealing to zero.

    Loshchilov & Hutter 2017, SGDR: Stochastic Gradient Descent with Warm Restarts, equation 5, without restarts.
    """
    warm = max(1, round(settings.warmup * total))

    def factor(step: int) -> float:
        rise = min(1.0, step / warm)
        if settings.schedule == "constant":
            return rise
        return rise * 0.5 * (1 + math.cos(math.pi * max(0.0, (step - warm) / max(1, total - warm))))

    return factor


def _finite(model: Model) -> bool:
    """Whether all weights are finite; otherwise a checkpoint is not worth keeping."""
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())
