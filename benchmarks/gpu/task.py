"""What each job of `python -m benchmarks gpu` is told, and how it writes what it found."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow.files import write_bytes, write_json, write_text
from workflow.params import Compute, Params, load

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Task:
    """A job's own share of the command.

    name: of the job; its module, and after a colon what the module is to do. out: the folder of results. scratch: a
    folder for files that another job reads, deleted in the end. ends: when the job must have written everything,
    seconds since the epoch. tiny: whether this is a rehearsal, on the CPU and with tiny sizes. threads: of the CPU.
    """

    name: str
    out: Path
    scratch: Path
    ends: float
    tiny: bool
    threads: int

    @property
    def what(self) -> str:
        """What the module is to do: for one that trains, the name of the model."""
        return self.name.partition(":")[2]

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self.ends - time.time()

    def device(self) -> "torch.device":
        """Set up torch as the stages do, and return the device.

        Without taking the GPU for this process alone, since several jobs share it. Raises BakeoffError without one.
        """
        import torch

        from workflow.device import device_kind, repeatable

        compute = Compute(device="cpu" if self.tiny else "cuda", threads=self.threads)
        kind = device_kind(compute)
        repeatable(compute)
        return torch.device(kind, 0) if kind == "cuda" else torch.device(kind)

    def preset(self, name: str) -> Params:
        """The parameters of a preset; in a rehearsal always the smallest."""
        return load(Path("presets/smoke.yaml" if self.tiny else f"presets/{name}.yaml"))

    def write(self, line: str, results: dict[str, Any]) -> None:
        """Write what was found so far, in place of what was written before: one line for people, and all of it."""
        file = self.out / file_name(self.name)
        write_json(file.with_suffix(".json"), {"job": self.name, "line": line, **results})
        rows = results.get("rows", [])
        write_text(file.with_suffix(".txt"), "".join(f"{text}\n" for text in (line, *map(in_words, rows))))

    def keep(self, name: str, content: bytes) -> None:
        """Write a file beside the results; the largest of these are deleted if the folder becomes too large."""
        write_bytes(self.out / f"{file_name(self.name)}-{name}", content)


def file_name(job: str) -> str:
    """What the files of a job's results are called, without an ending."""
    return job.replace(":", "-")


def in_words(row: dict[str, Any]) -> str:
    """A row of results in one line."""
    return "  ".join(f"{key}={cell(value)}" for key, value in row.items())


def cell(value: object) -> str:
    """A figure as people read it."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def arguments(task: Task) -> list[str]:
    """The command that starts a job."""
    told = [task.name, str(task.out), str(task.scratch), str(task.ends), str(int(task.tiny)), str(task.threads)]
    return [sys.executable, "-m", "benchmarks.gpu", *told]
