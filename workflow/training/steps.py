"""One training step: the next batch, each player's loss and gradients, the optimiser."""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from workflow.data.tensors import ImageSet
from workflow.errors import BakeoffError
from workflow.models.base import HasInitialise, HasProject, Model
from workflow.operations import operations
from workflow.params import Train
from workflow.random_streams import Stream, make_generator
from workflow.training.checkpoint import Checkpoint
from workflow.training.distributed import ProcessGroup
from workflow.training.optimizer import AdamW

CPU = torch.device("cpu")
INITIALISED = 1024  # training images, at most, that `initialise` is given


class Steps:
    """Takes training steps: in each, every player in turn computes its loss, backpropagates and updates its weights.

    Attributes:
        per_epoch: number of steps in an epoch. total: in the whole training.
        gflops: 10⁹ floating-point operations of one step, forwards and backwards, counted.

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
                f"train.parts: {settings.parts}: more than there are training images ({len(train)}); set it to "
                f"{len(train)} or lower"
            )
        self.model, self.settings, self.seed, self.group = model, settings, seed, group
        self.per_epoch = max(1, len(train) // (settings.batch_size * len(model.turns)))
        torch.manual_seed(seed)  # dropout draws from torch's own generator
        self._generator = make_generator(model.device, seed, Stream.LOSS)
        self._batches = _Batches(train, settings, seed, model.device)
        self._turns = 0
        if isinstance(model, HasInitialise):
            model.initialise(train.images[:INITIALISED].to(model.device), self._generator)
        self.gflops = self._cost() / 1e9
        self.total = self._total()
        self._optimisers = {name: AdamW(player.parameters()) for name, player in model.players.items()}
        self._factor = _schedule(settings, self.total)

    def take(self, step: int) -> Iterator[tuple[str, Tensor]]:
        """Let each player take its turns, in order; yields their terms, prefixed by the player if there are several."""
        if not self.model.training:  # `train` visits all modules, which a small model would notice
            self.model.train()
        several = len(self.model.players) > 1
        for name in self.model.turns:
            _only_train(self.model, name)
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
        checkpoint.facts |= {"position": self._batches.position, "drawn": self._batches.drawn, "turns": self._turns}

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
        self._batches.drawn = checkpoint.facts["drawn"]
        self._turns = checkpoint.facts["turns"]

    def _cost(self) -> int:
        """Floating-point operations of one step, forwards and backwards, counted on a copy of the model."""
        model, (x, y) = copy.deepcopy(self.model).train(), self._batches.first()
        generator = make_generator(model.device, self.seed, Stream.LOSS)

        def step() -> None:
            for player in model.turns:
                _only_train(model, player)
                model.loss(x, y, player, generator)["loss"].backward()

        with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
            return operations(step)

    def _total(self) -> int:
        """Steps: those of the epochs that were asked for, or as many as come nearest to the budget."""
        if self.settings.epochs is not None:
            return self.per_epoch * self.settings.epochs
        assert self.settings.gflops is not None
        if not self.gflops:
            raise BakeoffError("train.gflops: a step of this model has no matrix product to count; give epochs instead")
        return max(1, round(self.settings.gflops / self.gflops))

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
        optimiser.step(settings.lr * factor, settings.betas, settings.weight_decay, settings.eps)
        if isinstance(self.model, HasProject):
            self.model.project(player)
        return terms

    def _loss(self, x: Tensor, y: Tensor, player: str, generator: torch.Generator) -> dict[str, Tensor]:
        bf16 = self.settings.bf16
        with torch.autocast(self.model.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext():
            return self.model.loss(x, y, player, generator)

    def _in_parts(self, x: Tensor, y: Tensor, player: str, parameters: list[nn.Parameter]) -> dict[str, Tensor]:
        """Average gradients and terms over the parts of the batch; the number of processes makes no difference.

        Buffers that the loss updates are updated by each part as if it were the only one. Of running averages over
        batches, the mean of these updates is applied; of buffers of whole numbers (counts, states of chains), which
        have no mean, that of the first part.
        """
        parts, buffers = self.settings.parts, list(self.model.buffers())
        before = [buffer.clone() for buffer in buffers]
        updated = [pair for pair in zip(buffers, before, strict=True) if pair[0].dtype != torch.bool]
        changes = [torch.zeros_like(buffer) for buffer, _ in updated]
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
            for change, (buffer, value) in zip(changes, updated, strict=True):
                if buffer.is_floating_point():
                    change += (buffer - value) / parts
                elif part == 0:
                    change += buffer - value
        self.group.add_up([*(p.grad for p in parameters if p.grad is not None), *means.values(), *changes])
        for change, (buffer, value) in zip(changes, updated, strict=True):
            buffer.copy_(value + change)
        return means


def _only_train(model: Model, player: str) -> None:
    """Let gradients reach the weights of `player` alone, if there are several players."""
    if len(model.players) > 1:
        for name, network in model.players.items():
            network.requires_grad_(name == player)


class _Batches(Iterator[tuple[Tensor, Tensor]]):
    """An endless stream of batches of images and labels on the device, reshuffled every epoch.

    An incomplete batch at the end of an epoch is dropped. drawn: number of batches so far.

    Args:
        train: images, on any device; drawn anew for each batch if they have brightness.
        settings: the model's `train` section of the parameters.
        seed: of their order and of what is drawn.
        device: of the batches.
    """

    def __init__(self, train: ImageSet, settings: Train, seed: int, device: torch.device) -> None:
        self.train, self.seed, self.device, self.drawn = train, seed, device, 0
        self.generator = make_generator(CPU, seed, Stream.ORDER)
        self.size = min(settings.batch_size, len(train) // settings.parts * settings.parts)
        self.go_to(self.generator.get_state(), 0)

    def go_to(self, before: Tensor, position: int) -> None:
        """Start an epoch with the generator in the state `before`, and skip its first `position` images."""
        self.before, self.position = before, position
        self.generator.set_state(before)
        self._order = torch.randperm(len(self.train), generator=self.generator).to(self.train.images.device)

    def first(self) -> tuple[Tensor, Tensor]:
        """The first images of the training data, as many as a batch has, in their own order."""
        return self.train.images[: self.size].to(self.device), self.train.labels[: self.size].to(self.device)

    def __next__(self) -> tuple[Tensor, Tensor]:
        if self.position + self.size > len(self._order):
            self.go_to(self.generator.get_state(), 0)
        chosen = self._order[self.position : self.position + self.size]
        self.position += self.size
        self.drawn += 1
        return self._images(chosen), self.train.labels[chosen].to(self.device)

    def _images(self, chosen: Tensor) -> Tensor:
        if self.train.brightness is None:
            return self.train.images[chosen].to(self.device)
        brightness = self.train.brightness[chosen].to(self.device)
        generator = make_generator(self.device, self.seed, Stream.BINARISATION, self.drawn)
        marks = torch.randint(255, brightness.shape, generator=generator, dtype=torch.uint8, device=self.device)
        return (marks < brightness).to(torch.uint8)


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
