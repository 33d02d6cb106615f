"""Where computation runs: the device, the number of threads, and the settings that make runs repeatable."""

import contextlib
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from workflow import instructions
from workflow.errors import BakeoffError
from workflow.params import Compute

if TYPE_CHECKING:
    from filelock import BaseFileLock

POLL = 1.0  # seconds between looks for a GPU that has become free
_own: dict[int, "BaseFileLock"] = {}  # the GPUs that are this process's until it ends, by number, and their locks


def prepare_torch(compute: Compute) -> torch.device:
    """Set torch up for repeatable runs and return the device to use.

    Of several GPUs it is the first that no other stage of this user's has, and it is this process's until it ends:
    whichever engine runs the stages, and however many, each has a GPU of its own. If there is none left, waits.
    Raises BakeoffError if a GPU is asked for and there is none.
    """
    kind = device_kind(compute)
    repeatable(compute)
    if kind == "cpu":
        return torch.device(kind)
    device = torch.device(kind, next(iter(_own)) if _own else _wait_for_gpu())
    torch.cuda.set_device(device)  # else some memory of the first GPU is taken as well
    return device


def repeatable(compute: Compute) -> None:
    """Set this process up so that it comes to the same bytes each time."""
    from threadpoolctl import threadpool_limits

    instructions.check(compute.instructions)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is repeatable only so
    # Another number of threads adds in another order. Engines set some of these variables and not others, so set all,
    # for libraries still to be loaded, and limit those that are loaded already.
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = str(compute.threads)
    threadpool_limits(compute.threads)
    torch.set_num_threads(compute.threads)
    torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms, which loads the compiler as well
    torch.backends.cudnn.allow_tf32 = False  # else convolutions have 10 bits on a GPU: too few to invert a flow


def device_kind(compute: Compute) -> str:
    """`cuda` or `cpu`; raises BakeoffError if a GPU is asked for and there is none."""
    available = torch.cuda.is_available()
    if compute.device == "cuda" and not available:
        raise BakeoffError("params.yaml: compute.device: 'cuda': no GPU that torch can use; set it to auto or cpu")
    return "cuda" if available and compute.device != "cpu" else "cpu"


def warn_of_other_instructions(compute: Compute) -> None:
    """Say what follows where the processor lacks the instruction set that results are published with."""
    found = torch.backends.cpu.get_cpu_capability()
    if compute.instructions == "avx2" and found != "AVX2":
        print(
            f"warning: params.yaml: compute.instructions: avx2: this processor has none (torch uses {found}); results "
            "can be repeated here, but are not byte for byte those of other machines",
            file=sys.stderr,
        )


def _wait_for_gpu() -> int:
    """The number of a GPU that nobody had."""
    told = False
    while (number := take_gpu()) is None:
        if not told:
            print(f"waiting: other stages have all GPUs ({torch.cuda.device_count()})", file=sys.stderr)
        told = True
        time.sleep(POLL)
    return number


def more_devices(device: torch.device, most: int) -> list[torch.device]:
    """`device`, this process's already, and as many GPUs that nobody had as make `most` with it, or fewer."""
    devices = [device]
    while device.type == "cuda" and len(devices) < most and (number := take_gpu()) is not None:
        devices.append(torch.device("cuda", number))
    return devices


def take_gpu() -> int | None:
    """The number of a GPU that nobody had and that is this process's until it ends; None if there is none left.

    The system gives a process's locks back however it ends. They go by the GPU's own name: its number depends on
    CUDA_VISIBLE_DEVICES.
    """
    from filelock import FileLock, Timeout

    folder = Path(tempfile.gettempdir()) / f"generative-bakeoff-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for number in set(range(torch.cuda.device_count())) - set(_own):
        lock = FileLock(folder / f"{torch.cuda.get_device_properties(number).uuid}.lock")
        with contextlib.suppress(Timeout):
            lock.acquire(blocking=False)
            _own[number] = lock
            return number
    return None


def free_memory(device: torch.device) -> float:
    """Bytes that are free on a GPU; without limit on the CPU, where data lie in any case."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf
