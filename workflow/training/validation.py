"""What happens beside the steps: validation, the best weights, moving averages, samples in the course of training."""

import copy
import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from workflow.data.tensors import ImageSet
from workflow.models.base import HasCalibrate, HasFinish, Model
from workflow.params import Train
from workflow.random_streams import Stream, make_generator
from workflow.training.checkpoint import Checkpoint, CheckpointFile
from workflow.training.history import Record, diverged

SNAPSHOTS = 8  # evenly spaced times at which samples are kept, besides those of the untrained model
SNAPSHOT_NUMBERS = 1024  # pixels times channels in the samples of a snapshot, approximately
FOLLOWED = 250  # samples whose FID is followed over training, at each of `train.snapshots` times
FITTED = 10_000  # training images, at most, that `calibrate` and `finish` are given


@dataclass(frozen=True)
class Fitted:
    """The outcome of training.

    state: the weights with the lowest validation loss. step, valid_loss: when that was, and the loss.
    steps, gflops, seconds: of the whole training. records: all that were logged.
    snapshots: samples in the course of training, always from the same noise, uint8 (S, n, C, H, W).
    snapshot_steps: when they were drawn, (S,).
    samples: as many at each time as an FID needs, from the same noise too, uint8 (K, FOLLOWED, C, H, W); empty unless
        the settings ask for them.
    sample_steps: when these were drawn, (K,).
    """

    state: dict[str, Tensor]
    step: int
    valid_loss: float
    steps: int
    gflops: float
    seconds: float
    records: list[Record]
    snapshots: Tensor
    snapshot_steps: tuple[int, ...]
    samples: Tensor
    sample_steps: tuple[int, ...]


class Validator:
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
        self.samples: dict[int, Tensor] = {}

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
            self.model.calibrate(self.train.images[:FITTED].to(self.model.device), generator)
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
        if step * (self.settings.snapshots or 0) >= (len(self.samples) + 1) * self.total:
            self.samples[step] = self._samples_of_now()
        return scores

    def snapshot(self, step: int) -> None:
        """Draw samples, always from the same noise."""
        n = max(10, SNAPSHOT_NUMBERS // math.prod(self.model.shape))
        random = make_generator(self.model.device, self.seed, Stream.SNAPSHOTS)
        self.snapshots[step] = self.model.eval().sample(n, random).cpu()

    def _samples_of_now(self) -> Tensor:
        """What the model would draw if training ended here, always from the same noise."""
        model = self.model
        if isinstance(model, HasFinish):
            model = copy.deepcopy(model)
            model.load_state_dict(self._finished(self.model.state_dict()))
        return model.sample(FOLLOWED, make_generator(model.device, self.seed, Stream.SNAPSHOTS, 1)).cpu()

    def save(self, checkpoint: Checkpoint) -> None:
        """Store the average, the best weights and the samples in `checkpoint`."""
        if self.averages:
            checkpoint.put("average", self.model.state_dict())
        if self.best:
            checkpoint.put("best", self.best[0])
            checkpoint.facts["best"] = self.best[1:]
        checkpoint.put("snapshots", {str(step): images for step, images in self.snapshots.items()})
        checkpoint.facts["snapshots"] = list(self.snapshots)
        checkpoint.put("samples", {str(step): images for step, images in self.samples.items()})
        checkpoint.facts["samples"] = list(self.samples)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore what `save` stored."""
        if self.averages:
            self.model.load_state_dict(checkpoint.get("average"))
        if "best" in checkpoint.facts:
            step, valid_loss = checkpoint.facts["best"]
            self.best = checkpoint.get("best"), step, valid_loss
        snapshots = checkpoint.get("snapshots")
        self.snapshots = {step: snapshots[str(step)] for step in checkpoint.facts["snapshots"]}
        samples = checkpoint.get("samples")
        self.samples = {step: samples[str(step)] for step in checkpoint.facts["samples"]}

    def fitted(self, start: float, records: list[Record], gflops: float) -> Fitted:
        """The outcome of a training that started at `start` (by `time.perf_counter`) and took so many GFLOPs."""
        assert self.best is not None  # the last step always validates
        state, step, valid_loss = self.best
        if isinstance(self.model, HasFinish):
            state = self._finished(state)
        none = torch.empty(0, FOLLOWED, *self.model.shape, dtype=torch.uint8)
        return Fitted(
            state,
            step,
            valid_loss,
            self.total,
            gflops,
            time.perf_counter() - start,
            records,
            torch.stack(list(self.snapshots.values())),
            tuple(self.snapshots),
            torch.stack(list(self.samples.values())) if self.samples else none,
            tuple(self.samples),
        )

    def _finished(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights `state`, and what is fitted to them."""
        model, device = copy.deepcopy(self.model).eval(), self.model.device
        model.load_state_dict(state)
        assert isinstance(model, HasFinish)
        x, y = self.train.images[:FITTED], self.train.labels[:FITTED]
        model.finish(x.to(device), y.to(device), make_generator(device, self.seed, Stream.FINISH))
        return model.state_dict()
