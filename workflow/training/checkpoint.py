"""Checkpoints: a training run that was interrupted resumes and ends with the same bytes as one that was not.

The file is not an output of a stage, because DVC and Snakemake delete outputs before they run a stage. Each file
carries a key, a hash of everything that determines the result; a file with another key is ignored.
"""

import hashlib
import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from workflow.errors import BakeoffError, Stopped
from workflow.files import write_text
from workflow.params import Params
from workflow.paths import CHECKPOINTS, DVC_LOCK, RunFiles

if TYPE_CHECKING:
    from torch import Tensor

AGAIN = 1.0  # seconds; a second signal within them is taken for the first one, delivered twice
OLD = 30 * 24 * 3600.0  # seconds
PATIENCE = 5.0  # seconds from the request to stop within which a step or a validation may still finish
LEAST_SHARE = 20  # the pause between two checkpoints is at least this many times as long as writing one took


@dataclass
class Checkpoint:
    """Everything that training needs to resume.

    tensors: by name, on any device. facts: numbers and lists that JSON can represent.
    """

    tensors: dict[str, "Tensor"] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def put(self, prefix: str, tensors: dict[str, "Tensor"]) -> None:
        """Add tensors under names that begin with `prefix`."""
        self.tensors |= {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}

    def get(self, prefix: str) -> dict[str, "Tensor"]:
        """The tensors that `put` added with this prefix, under their own names."""
        start = f"{prefix}/"
        return {name.removeprefix(start): tensor for name, tensor in self.tensors.items() if name.startswith(start)}


class CheckpointFile:
    """Where the checkpoint of one training run is stored, and when to write it.

    Args:
        path: of the file.
        key: hash of everything that determines the result; a file with another key is ignored.
        every: seconds between two checkpoints, at least.
    """

    def __init__(self, path: Path, key: str, every: float) -> None:
        self.path, self.key, self.every = path, key, every
        self._written, self._cost = time.monotonic(), 0.0
        self._asked_to_stop = math.inf  # time of the request, on the monotonic clock
        self._step = 0  # of the checkpoint in the file

    def read(self) -> Checkpoint:
        """The last checkpoint; an empty one if there is none, if it has another key or if it is damaged.

        A damaged file is reported on standard error.
        """
        from workflow.data.tensors import read_tensors  # imports torch, which `drop_if_recorded` does not need

        if not self.path.exists():
            return Checkpoint()
        try:
            tensors, text = read_tensors(self.path)
            content = json.loads(text)
        except (BakeoffError, OSError, ValueError) as error:
            print(f"warning: {str(error).split(';')[0]}; training starts from the beginning", file=sys.stderr)
            return Checkpoint()
        if content["key"] != self.key:
            return Checkpoint()
        self._step = content["facts"]["step"]
        return Checkpoint(tensors, content["facts"])

    def due(self) -> bool:
        """Whether it is time to write a checkpoint."""
        wait = max(self.every, LEAST_SHARE * self._cost)
        return self._asked_to_stop < math.inf or time.monotonic() >= self._written + wait

    def write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint atomically: the previous one stays until the new one is complete on disk.

        Raises Stopped if this process was asked to stop.
        """
        from workflow.data.tensors import write_tensors

        start = time.monotonic()
        write_tensors(self.path, checkpoint.tensors, json.dumps({"key": self.key, "facts": checkpoint.facts}))
        self._written, self._step = time.monotonic(), checkpoint.facts["step"]
        self._cost = self._written - start
        self.hurry(0.0)

    def hurry(self, patience: float = PATIENCE) -> None:
        """Raise Stopped if this process was asked to stop at least `patience` seconds ago."""
        if time.monotonic() >= self._asked_to_stop + patience:
            raise Stopped(f"stopped; run the same command again to continue after step {self._step}")

    @contextmanager
    def stopping_politely(self) -> Iterator[None]:
        """Let SIGINT (Ctrl-C) and SIGTERM take effect only after the current step; a second one is immediate."""

        def ask(number: int, _: FrameType | None) -> None:
            self._asked_to_stop = min(self._asked_to_stop, time.monotonic())
            if time.monotonic() > self._asked_to_stop + AGAIN:
                signal.signal(number, before[number])
                signal.raise_signal(number)

        before = {number: signal.getsignal(number) for number in (int(signal.SIGINT), int(signal.SIGTERM))}
        try:
            for number in before:
                signal.signal(number, ask)
            yield
        finally:
            if self._asked_to_stop == math.inf:  # otherwise the same request may still arrive a second time
                for number, handler in before.items():
                    signal.signal(number, handler)


def checkpoint_path(name: str, seed: int) -> Path:
    """The checkpoint file of a model and seed."""
    return CHECKPOINTS / f"{name}-{seed}.safetensors"


def failure_path(name: str, seed: int) -> Path:
    """Where a training run that failed because of its own parameters is recorded, until it starts again."""
    return CHECKPOINTS / f"{name}-{seed}.failed"


@contextmanager
def noting_failure(name: str, seed: int) -> Iterator[None]:
    """Record a BakeoffError of a training run, so that a sweep can tell failure from interruption."""
    path = failure_path(name, seed)
    path.unlink(missing_ok=True)
    try:
        yield
    except BakeoffError as error:
        write_text(path, f"{error}\n")
        raise


def drop_if_recorded(name: str, seed: int) -> None:
    """Delete the checkpoint of a finished training run once dvc.lock records its model.

    Until then an engine may train it again.
    """
    model = RunFiles(name, seed).model
    if not (checkpoint_path(name, seed).exists() and model.exists() and DVC_LOCK.exists()):
        return
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()  # DVC's hash
    if digest in DVC_LOCK.read_text(encoding="utf-8"):
        checkpoint_path(name, seed).unlink(missing_ok=True)


def prune(settings: Params) -> None:
    """Delete old files of models and seeds that are no longer in the parameters."""
    known = {checkpoint_path(name, seed) for name in settings.models for seed in settings.seeds}
    for file in set(CHECKPOINTS.glob("*")) - known if CHECKPOINTS.exists() else ():
        if time.time() - file.stat().st_mtime > OLD:
            file.unlink(missing_ok=True)
