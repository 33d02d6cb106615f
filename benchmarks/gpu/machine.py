"""The card and what it can do: the measured peaks that speeds are shares of, and how to time work on it."""

import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WARM = 3  # calls before the clock starts, or fewer if these take longer than what is to be measured
TRIES = 5  # of which the fastest counts, where a peak is measured


def facts(device: torch.device) -> dict[str, Any]:
    """What was measured on."""
    about: dict[str, Any] = {
        "device": "cpu",
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "platform": platform.platform(),
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        about |= {
            "device": card.name,
            "memory_gb": card.total_memory / 1e9,
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
        }
    return about


def matrix_peak(device: torch.device, n: int, dtype: torch.dtype = torch.bfloat16) -> float:
    """Floating-point operations per second of a product of two matrices of random numbers, n x n."""
    a, b = torch.randn(2, n, n, device=device, dtype=dtype)
    return 2 * n**3 / min(seconds(lambda: a @ b, device, 0.05) for _ in range(TRIES))


def bandwidth(device: torch.device, size: int) -> float:
    """Bytes per second, read and written, of a copy of `size` bytes within the device's memory."""
    source = torch.randint(255, (size,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * size / min(seconds(lambda: target.copy_(source), device, 0.05) for _ in range(TRIES))


def seconds(work: Callable[[], Any], device: torch.device, budget: float) -> float:
    """Seconds that a call takes, with everything that it starts on the device; budget: seconds to measure for.

    Calls are counted in blocks that double, and only the last block is timed, without a pause between its calls.
    """
    begun = time.perf_counter()
    for _ in range(WARM):
        work()
        synchronise(device)
        if time.perf_counter() > begun + budget:
            break
    calls = 1
    while True:
        synchronise(device)
        start = time.perf_counter()
        for _ in range(calls):
            work()
        synchronise(device)
        taken = time.perf_counter() - start
        if taken >= budget / 2:
            return taken / calls
        calls *= 2


def synchronise(device: torch.device) -> None:
    """Wait for what was started on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of the tensors that operations read and write."""

    total: int

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Otherwise torch loads its compiler for this mode, as in `workflow/operations.py`."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        read = {id(x): x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        written = {id(x): x for x in tree_leaves(out) if isinstance(x, torch.Tensor)}
        memory = {x.untyped_storage().data_ptr() for x in read.values()}
        view = not func._schema.is_mutable and all(x.untyped_storage().data_ptr() in memory for x in written.values())
        if not view:
            self.total += sum(x.nbytes for x in (*read.values(), *written.values()))
        return out


def traffic(work: Callable[[], Any]) -> int:
    """Bytes that the operations in `work` read and write, each counted as if no cache held them.

    >>> import torch
    >>> x = torch.ones(3, 4)
    >>> traffic(lambda: x.t() + 1)  # twelve numbers of four bytes are read, and as many written
    96
    """
    with _Traffic() as counted:
        work()
    return int(counted.total)
