"""Several processes, each with a device of its own, that train one model together."""

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

# For as long the others wait while the first validates. That one has died is seen by its end, not by its silence.
PATIENCE = timedelta(days=7)
TOLD, STOPPED = 2, 130  # exit statuses: it has said in one line why it failed; that it was stopped, and can go on
ALONE_NOW = 3  # it only lost touch with another that ended
POLL = 0.5  # seconds
GRACE = 10.0  # seconds that the others have to end by themselves


@dataclass(frozen=True)
class Team:
    """A process's place among those that train one model; by default it is the only one."""

    rank: int = 0
    size: int = 1

    def share(self, parts: int) -> range:
        """Which of the parts of a batch are this process's."""
        return range(self.rank, parts, self.size)

    @torch.no_grad()
    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Add each tensor up over all processes, in place: all get the same bytes. One message for each dtype."""
        if self.size == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            alike = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.flatten() for tensor in alike])
            try:
                dist.all_reduce(flat)
            except RuntimeError:  # another process has ended, and says why or is reported by `together`
                sys.exit(ALONE_NOW)
            for tensor, total in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
                tensor.copy_(total.view_as(tensor))


def together(work: Callable[..., None], devices: Sequence[torch.device], compute: Compute, *args: object) -> None:
    """Call `work(team, device, *args)` in a new process for each of the devices, and wait for all.

    If one of them fails, the others are ended. Raises BakeoffError if one was killed; one that ends by a BakeoffError
    or Stopped has said so itself, and this process exits with the same status. SIGINT and SIGTERM go on to the first.
    """
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        context = spawn(_member, (work, list(devices), compute, meeting, args), len(devices), join=False)

        def pass_on(*_: object) -> None:  # to the first, which saves what there is
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
            for status in (STOPPED, TOLD):
                if status in [process.exitcode for process in context.processes]:
                    sys.exit(status)
            raise BakeoffError(
                f"process {error.error_index + 1} of {len(devices)} that train together has ended "
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
    if rank:  # the first ends when it is asked to, and the others with it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with one_line():
            repeatable(compute)
            if device.type == "cuda":
                torch.cuda.set_device(device)
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, f"file://{meeting}", PATIENCE, len(devices), rank)
            work(Team(rank, len(devices)), device, *args)
            dist.destroy_process_group()
    except SystemExit as ended:  # at once: threads that talk to the others would now and then end it with words of C++
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(ended.code or 0))


def _end_with(parent: int) -> None:
    """End this process if its parent has been killed, which has all the locks."""
    while os.getppid() == parent:
        time.sleep(POLL)
    os._exit(ALONE_NOW)
