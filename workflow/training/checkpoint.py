"""The state of a training on disk: one that was cut off goes on from it and ends with the bytes of an undisturbed one.

The file stands outside what DVC and Snakemake call outputs, which they delete before they run a stage. It is of one
training alone: it has a key, made of all that decides the result, and a file of another key is never used.
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

AGAIN = 1.0  # seconds after which another signal is one more wish, not the same one that came by two ways
OLD = 30 * 24 * 3600.0  # seconds
PATIENCE = 5.0  # seconds that one who wants to stop a training waits for the end of a step, and of a validation
LEAST_SHARE = 20  # at least so many times as long as a state took to write goes by before the next is written


@dataclass
class State:
    """Tensors by name, on any device, and numbers and lists that JSON can hold."""

    tensors: dict[str, "Tensor"] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def put(self, prefix: str, tensors: dict[str, "Tensor"]) -> None:
        """Take tensors in, under names that begin with `prefix`."""
        self.tensors |= {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}

    def get(self, prefix: str) -> dict[str, "Tensor"]:
        """The tensors that were `put` with this prefix."""
        start = f"{prefix}/"
        return {name.removeprefix(start): tensor for name, tensor in self.tensors.items() if name.startswith(start)}


class StateFile:
    """Where the state of one training is kept, and when it is time to write it."""

    def __init__(self, path: Path, key: str, every: float) -> None:
        self.path, self.key, self.every = path, key, every
        self._written, self._cost = time.monotonic(), 0.0
        self._asked_to_stop = math.inf  # when, on the monotonic clock
        self._step = 0  # of the state in the file

    def read(self) -> State:
        """The state that was written last; an empty one if there is none, if it is of another training or damaged.

        Of a damaged one it is told on standard error.
        """
        from workflow.data.tensors import read_tensors  # brings torch, which `drop_if_recorded` has no use for

        if not self.path.exists():
            return State()
        try:
            tensors, text = read_tensors(self.path)
            content = json.loads(text)
        except (BakeoffError, OSError, ValueError) as error:
            print(f"warning: {str(error).split(';')[0]}; this training starts anew", file=sys.stderr)
            return State()
        if content["key"] != self.key:
            return State()
        self._step = content["facts"]["step"]
        return State(tensors, content["facts"])

    def due(self) -> bool:
        """Whether the state should be written now."""
        wait = max(self.every, LEAST_SHARE * self._cost)
        return self._asked_to_stop < math.inf or time.monotonic() >= self._written + wait

    def write(self, state: State) -> None:
        """Write it, atomically: what was there before stays until all of it is on the disk.

        Raises Stopped if this process has been asked to stop.
        """
        from workflow.data.tensors import write_tensors

        start = time.monotonic()
        write_tensors(self.path, state.tensors, json.dumps({"key": self.key, "facts": state.facts}))
        self._written, self._step = time.monotonic(), state.facts["step"]
        self._cost = self._written - start
        self.hurry(0.0)

    def hurry(self, patience: float = PATIENCE) -> None:
        """Raise Stopped if this process was asked to stop so many seconds ago."""
        if time.monotonic() >= self._asked_to_stop + patience:
            raise Stopped(f"stopped; the same command goes on after step {self._step}")

    @contextmanager
    def stopping_politely(self) -> Iterator[None]:
        """In here SIGINT (Ctrl-C) and SIGTERM wait for the end of a step; a later one ends the process at once."""

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
            if self._asked_to_stop == math.inf:  # else the same wish may still come by the other way
                for number, handler in before.items():
                    signal.signal(number, handler)


def state_path(name: str, seed: int) -> Path:
    """Where the state of a model's training with a seed is kept."""
    return CHECKPOINTS / f"{name}-{seed}.safetensors"


def failure_path(name: str, seed: int) -> Path:
    """Where a training that its own parameters have ended says so, until it is begun again."""
    return CHECKPOINTS / f"{name}-{seed}.failed"


@contextmanager
def noting_failure(name: str, seed: int) -> Iterator[None]:
    """Write down any BakeoffError of a training, so that a sweep can tell it from one that was cut off."""
    path = failure_path(name, seed)
    path.unlink(missing_ok=True)
    try:
        yield
    except BakeoffError as error:
        write_text(path, f"{error}\n")
        raise


def drop_if_recorded(name: str, seed: int) -> None:
    """Delete the state of a training that is over if dvc.lock has its model: till then an engine may train it again."""
    model = RunFiles(name, seed).model
    if not (state_path(name, seed).exists() and model.exists() and DVC_LOCK.exists()):
        return
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()  # as DVC has it
    if digest in DVC_LOCK.read_text(encoding="utf-8"):
        state_path(name, seed).unlink(missing_ok=True)


def prune(settings: Params) -> None:
    """Delete what lies here of models and seeds that have not been among the parameters for long."""
    known = {state_path(name, seed) for name in settings.models for seed in settings.seeds}
    for file in set(CHECKPOINTS.glob("*")) - known if CHECKPOINTS.exists() else ():
        if time.time() - file.stat().st_mtime > OLD:
            file.unlink(missing_ok=True)
