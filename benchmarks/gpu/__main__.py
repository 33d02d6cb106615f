"""One job of `python -m benchmarks gpu`, as a process of its own: calls `main` of its module."""

import argparse
import importlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

from benchmarks.gpu.task import Task
from workflow.errors import BakeoffError

POLL = 1.0  # seconds


def main() -> None:
    """Do one job; what the user can put right is its last line on standard error."""
    reader = argparse.ArgumentParser()
    for name in ("name", "out", "scratch", "ends", "tiny", "threads"):
        reader.add_argument(name)
    told = reader.parse_args()
    task = Task(
        told.name, Path(told.out), Path(told.scratch), float(told.ends), bool(int(told.tiny)), int(told.threads)
    )
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = told.threads  # before torch is loaded
    try:
        importlib.import_module(f"benchmarks.gpu.{told.name.partition(':')[0]}").main(task)
    except BakeoffError as error:
        sys.exit(f"{error}")
    except ModuleNotFoundError as error:
        sys.exit(f"the package {error.name} is missing; carry it along as a wheel")


def _end_with(command: int) -> None:
    """End this job and all that it started if the command is killed, which could not tell it."""
    while os.getppid() == command:
        time.sleep(POLL)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
