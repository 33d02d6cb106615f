"""Data-parallel training: several processes, each with its own device, train one model together."""

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException, spawn

from workflow.device import repeatable
from workflow.errors import BakeoffError, one_line
from workflow.params import Compute

# How long the others wait while rank 0 validates. A dead process is noticed because it exits, not by a timeout.
PATIENCE = timedelta(days=7)
FAILED, STOPPED = 2, 130  # exit statuses of a process that printed why it failed, or that it was stopped
LOST_PEER = 3  # exit status of a process that only lost its connection to another one
POLL = 0.5  # seconds
GRACE = 10.0  # seconds that the others have to exit on their own


@dataclass(frozen=True)
class ProcessGroup:
    """A process's place among those that train one model; by default it is the only one.

    rank: its number, 0..size-1. Rank 0 also validates, logs and writes the results. size: number of processes.
    """

    rank: int = 0
    size: int = 1

    def share(self, parts: int) -> range:
        """The parts of each batch that this process computes, of 0..parts-1."""
        return range(self.rank, parts, self.size)

    @torch.no_grad()
    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over all processes, in place (all-reduce), one message per dtype; all get the same bytes."""
        if self.size == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            alike = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.flatten() for tensor in alike])
            try:
                dist.all_reduce(flat)
            except RuntimeError:  # another process has exited; it says why itself, or `together` does
                sys.exit(LOST_PEER)
            for tensor, total in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
                tensor.copy_(total.view_as(tensor))


def together(work: Callable[..., None], devices: Sequence[torch.device], compute: Compute, *args: object) -> None:
    """Call `work(group, device, *args)` in a new process for each device, and wait for all of them.

    If one fails, the others are terminated. Raises BakeoffError if one was killed. A process that ends with a
    BakeoffError or Stopped prints the reason itself, and this process exits with the same status. SIGINT and SIGTERM
    are forwarded to rank 0.

    Args:
        work: what each process does.
        devices: one per process, in order of rank.
        compute: number of threads of each process.
        args: further arguments of `work`, which must be picklable.
    """
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        context = spawn(_member, (work, list(devices), compute, meeting, args), len(devices), join=False)

        def pass_on(*_: object) -> None:  # to rank 0, which saves a checkpoint
            context.processes[0].terminate()

        before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            over = False
            while not over:
                connection.wait([process.sentinel for process in context.processes])
                if context.processes[0].exitcode == STOPPED:  # the others have nothing to save
                    for process in context.processes[1:]:
                        process.kill()
                over = context.join(grace_period=GRACE)
        except ProcessExitedException as error:
            for status in (STOPPED, FAILED):
                if status in [process.exitcode for process in context.processes]:
                    sys.exit(status)
            raise BakeoffError(
                f"process {error.error_index + 1} of {len(devices)} training together ended "
                f"({error.signal_name or error.exit_code}); run again"
            ) from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _member(
    rank: int,
    work: Callable[..., None],
    devices: list[torch.device],
    compute: Compute,
    meeting: Path,
    args: tuple[object, ...],
) -> None:
    device = devices[rank]
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if rank:  # rank 0 handles the signals, and the others end with it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with one_line():
            repeatable(compute)
            if device.type == "cuda":
                torch.cuda.set_device(device)
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, f"file://{meeting}", PATIENCE, len(devices), rank)
            work(ProcessGroup(rank, len(devices)), device, *args)
            dist.destroy_process_group()
    except SystemExit as ended:  # at once: communication threads would sometimes print a C++ error at exit
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(ended.code or 0))


def _end_with(parent: int) -> None:
    """Exit if the parent process, which holds all the locks, is killed."""
    while os.getppid() == parent:
        time.sleep(POLL)
    os._exit(LOST_PEER)
