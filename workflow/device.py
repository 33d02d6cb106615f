"""Where computation runs: the device, the number of threads, and the settings that make runs repeatable."""

import contextlib
import ctypes
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

M_MMAP_MAX, M_TRIM_THRESHOLD, NEVER = -4, -1, -1  # glibc, malloc.h
POLL = 1.0  # seconds between attempts to find a free GPU
_own: dict[int, "BaseFileLock"] = {}  # the GPUs that this process holds until it ends, by number, and their locks


def prepare_torch(compute: Compute) -> torch.device:
    """Set up torch for repeatable runs and return the device to use.

    Of several GPUs, this is the first that no other stage of this user holds; this process holds it until it ends.
    Whichever engine runs the stages, each has a GPU of its own. If none is free, waits for one. Raises BakeoffError if
    a GPU is requested and there is none.
    """
    kind = device_kind(compute)
    repeatable(compute)
    if kind == "cpu":
        return torch.device(kind)
    device = torch.device(kind, next(iter(_own)) if _own else _wait_for_gpu())
    torch.cuda.set_device(device)  # otherwise some memory of the first GPU is allocated as well
    return device


def repeatable(compute: Compute) -> None:
    """Set up this process so that it computes the same bytes every time."""
    from threadpoolctl import threadpool_limits

    instructions.check(compute.instructions)
    keep_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is repeatable only with this
    # The number of threads determines the order of sums. Engines set only some of these variables, so set all of them
    # for libraries yet to be loaded, and limit those that are already loaded.
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = str(compute.threads)
    threadpool_limits(compute.threads)
    torch.set_num_threads(compute.threads)
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms would load the compiler
    # Otherwise torch first fills every new tensor with NaN, a seventh of a PixelCNN's training time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.allow_tf32 = False  # TF32 has 10 bits of precision: too few to invert a flow


def keep_memory() -> None:
    """Let this process keep the memory of freed tensors for the next ones, where the C library is glibc.

    It would give memory back to the system and ask for it again in each step, one page at a time: a fifth of the time
    that a PixelCNN's training takes at 28x28, and two fifths where a layer has 100 MB of weights.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, NEVER)


def device_kind(compute: Compute) -> str:
    """`cuda` or `cpu`; raises BakeoffError if a GPU is requested and there is none."""
    available = torch.cuda.is_available()
    if compute.device == "cuda" and not available:
        raise BakeoffError("params.yaml: compute.device: 'cuda': no GPU that torch can use; set it to auto or cpu")
    return "cuda" if available and compute.device != "cpu" else "cpu"


def warn_of_other_instructions(compute: Compute) -> None:
    """Warn if the processor lacks the instruction set of the published results."""
    found = torch.backends.cpu.get_cpu_capability()
    if compute.instructions == "avx2" and not found.startswith("AVX"):  # AVX512 in a process without the limit
        print(
            f"warning: params.yaml: compute.instructions: avx2: this processor has none (torch uses {found}); results "
            "can be repeated here, but are not byte for byte those of other machines",
            file=sys.stderr,
        )


def _wait_for_gpu() -> int:
    """Wait for a free GPU and take it; returns its number."""
    told = False
    while (number := take_gpu()) is None:
        if not told:
            print(f"waiting: all GPUs ({torch.cuda.device_count()}) are in use by other stages", file=sys.stderr)
        told = True
        time.sleep(POLL)
    return number


def more_devices(device: torch.device, most: int) -> list[torch.device]:
    """`device`, which this process holds, and further free GPUs, up to `most` devices in total."""
    devices = [device]
    while device.type == "cuda" and len(devices) < most and (number := take_gpu()) is not None:
        devices.append(torch.device("cuda", number))
    return devices


def take_gpu() -> int | None:
    """Take a free GPU until this process ends; returns its number, or None if none is free.

    The operating system releases the lock however the process ends. Locks are named by the GPU's UUID, because its
    number depends on CUDA_VISIBLE_DEVICES.
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
