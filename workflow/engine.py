"""Snakemake as DVC's other pair of hands: the graph and what is out of date come from DVC, the results go back to it.

DVC alone decides what has changed (by content, from `dvc.lock`), so the two engines cannot disagree: Snakemake runs
what `dvc status` calls changed, and what depends on it, several stages at a time. Stages that have finished are
committed to DVC while others run, so that a run that is cut off loses next to nothing.
"""

import atexit
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from workflow.errors import BakeoffError
from workflow.files import read_json, write_text
from workflow.state import drop_if_recorded

# Says only that the parameters are good: who reads it need not run again. The Snakefile checks them itself, so the file
# is no input of a rule: Snakemake would look no further at what depends on a job that is to run.
CHECKED = "data/checked.json"
MARKER = Path(".snakemake/changed")
PLAN = Path(".snakemake/plan.json")
COMMIT_EVERY, LONG = 20.0, 10.0  # seconds; what took long is committed at once


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml as Snakemake needs it."""

    name: str
    rule: str
    command: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    threads: int
    resources: dict[str, Any]
    local: bool  # runs where the engine does, not on a cluster's node
    changed: bool
    priority: int = 0


def planned() -> list[Stage]:
    """The stages of the run that holds this folder, for a process of Snakemake that does one of its jobs.

    On a cluster there are two for each job; DVC, which takes seconds to load and keeps its lock to the first, they need
    not ask.
    """
    return [Stage(**stage) for stage in read_json(PLAN)]


def visible_gpus() -> int:
    """How many GPUs there are for jobs, of which each has one: all, or those that CUDA_VISIBLE_DEVICES names.

    Without torch, which takes a second to load.
    """
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return sum(name.strip() not in ("", "-1") for name in named.split(","))
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    except OSError:
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


class Graph:
    """The stages of dvc.yaml in this folder, resolved by DVC."""

    def __init__(self) -> None:
        from dvc.exceptions import DvcException
        from dvc.lock import LockError
        from dvc.repo import Repo
        from dvc.repo.reproduce import plan_repro

        try:
            self._repo = Repo()
            _forget_the_dead(Path(self._repo.tmp_dir) / "rwlock")
            index = self._repo.index
            # The order in which `dvc repro` would come to them, and so the order of a new dvc.lock.
            ordered = plan_repro(index.graph, index.stages)
            with self._repo.lock:  # what `dvc status` does, which reads dvc.yaml and dvc.lock once more before
                changed = {stage.addressing for stage in ordered if stage.status()}
        except LockError as error:
            raise _busy(error) from None
        except DvcException as error:
            raise BakeoffError(f"dvc.yaml: {' '.join(str(error).split())}") from None
        upstream = {stage: set(index.graph.successors(stage)) for stage in ordered}
        outputs = {stage: [out.def_path for out in stage.outs] for stage in ordered}
        dirty: set[Any] = set()
        self.stages: list[Stage] = []
        for stage in ordered:
            gates = {source for source in upstream[stage] if outputs[source] == [CHECKED]}
            if stage.addressing in changed or dirty & (upstream[stage] - gates):
                dirty.add(stage)
            produced = [path for source in upstream[stage] for path in outputs[source]]
            self.stages.append(_describe(stage, produced, stage in dirty))
        self._rank(index.graph, ordered)
        self._stages = {stage.addressing: stage for stage in ordered}
        self._pending: list[str] = []
        self._started: dict[int, float] = {}  # jobs under way, and since when on the monotonic clock
        self._noted: set[int] = set()  # jobs that are over and, but for those pending, committed
        self._finished: Callable[[], dict[int, str]] = dict
        self._committed = 0.0  # when, on the monotonic clock
        self._locked_before = list(_Lock().stages)

    def _rank(self, graph: Any, ordered: list[Any]) -> None:
        """Give each stage its priority: first what the longest chain of others waits for, then as in params.yaml.

        So all models are trained before the first is drawn from, and what is short is left to fill the gaps at the end.
        """
        behind: dict[Any, int] = {}
        for stage in reversed(ordered):
            behind[stage] = 1 + max((behind[other] for other in graph.predecessors(stage)), default=0)
        order = sorted(range(len(ordered)), key=lambda place: (behind[ordered[place]], -place))
        for priority, place in enumerate(order):
            self.stages[place] = replace(self.stages[place], priority=priority)

    @property
    def checked(self) -> bool:
        """Whether the parameters are those that the stage `check` has already found good."""
        return not any(stage.changed for stage in self.stages if stage.outputs == (CHECKED,))

    def mark(self) -> str:
        """A file newer than every output, with new contents each time: the reason for which changed stages run."""
        MARKER.parent.mkdir(exist_ok=True)
        MARKER.write_text(str(time.time_ns()))
        return str(MARKER)

    def hold(self) -> None:
        """Keep all outputs to this process until it ends, however it does: DVC's commands and other runs are refused.

        Leaves the plan where jobs on other machines find it.
        Raises BakeoffError, which names the process, if another one is at work on some of them.
        """
        from dvc.lock import LockError
        from dvc.rwlock import rwlock

        paths = [out.fs_path for stage in self._stages.values() for out in stage.outs]
        command = " ".join(sys.argv)  # as DVC's own: a process is told from another by its number and its command
        held = rwlock(self._repo.tmp_dir, self._repo.fs, command, [], paths, self._repo.config["core"]["hardlink_lock"])
        try:
            held.__enter__()
        except LockError as error:
            raise _busy(error) from None
        atexit.register(held.__exit__, None, None, None)
        write_text(PLAN, json.dumps([asdict(stage) for stage in self.stages]))

    def note_checked(self) -> None:
        """Commit the stage `check`, as this process has done its work, also if its job is not asked for."""
        self._pending += [stage.name for stage in self.stages if stage.outputs == (CHECKED,)]

    def committer(self, finished: Callable[[], dict[int, str]]) -> logging.Handler:
        """A handler for Snakemake's log that commits stages to DVC as their jobs finish.

        finished: gives number and rule of the jobs that are over. Snakemake tells of an end only if it is not quiet, of
        a start unless `--quiet all`, and there is one after each end that others wait for; `settle` does what is left.
        """
        self._finished = finished
        return _OnJobsStarted(self._take_note)

    def _take_note(self, jobs: Iterable[int]) -> None:
        """Commit what has finished, now or soon, and remember that these jobs have started."""
        now, longest = time.monotonic(), 0.0
        for job, rule in self._finished().items():
            if job not in self._noted:
                self._noted.add(job)
                longest = max(longest, now - self._started.pop(job, now))
                self._pending += [stage.name for stage in self.stages if stage.rule == rule]
        self._started |= dict.fromkeys(jobs, now)
        if longest > LONG or now > self._committed + COMMIT_EVERY:
            self._commit_pending()

    def settle(self) -> None:
        """Commit what could not be committed before, and leave dvc.lock as `dvc repro` would have.

        DVC appends new stages to the file as it runs them; Snakemake finishes them in another order.
        """
        self._take_note(())
        if error := self._commit_pending():
            names = " ".join(self._pending)
            print(f"error: DVC does not know yet of {names} ({error}); run `dvc commit -f {names}`", file=sys.stderr)
            return
        before, lock = self._locked_before, _Lock()
        new = [stage.name for stage in self.stages if stage.name in lock.stages and stage.name not in before]
        if new:
            with self._repo.lock:
                lock.write({name: lock.stages[name] for name in [*before, *new]})

    def _commit_pending(self) -> str | None:
        """`dvc commit -f` of all pending stages at once; returns why it could not be done, if so."""
        from dvc.exceptions import DvcException

        stages = [self._stages[name] for name in self._pending]
        try:
            with self._repo.lock:
                for stage in stages:
                    stage.save()
                    stage.commit(relink=False)
                if stages:
                    lock = _Lock()
                    lock.write(lock.stages | {stage.addressing: _as_locked(stage) for stage in stages})
        except (DvcException, BakeoffError) as error:  # another DVC command holds the lock, or dvc.lock was edited
            return str(error)
        for stage in stages:
            if stage.addressing.startswith("train@"):
                name, _, seed = stage.addressing.removeprefix("train@").rpartition("-")
                drop_if_recorded(name, int(seed))
        self._pending.clear()
        self._committed = time.monotonic()
        return None


class _Lock:
    """dvc.lock as the text of its stages; DVC takes seconds to read and write the file, for each one that it records.

    stages: the lines of each, by name.
    """

    PATH = Path("dvc.lock")
    LAYOUT = re.compile(r"(.*?^stages:\n)((?:^(?: [^\n]*)?\n)*)((?:\w.*)?)", re.DOTALL | re.MULTILINE)

    def __init__(self) -> None:
        content = self.PATH.read_text() if self.PATH.exists() else "schema: '2.0'\nstages:\n"
        content += "" if content.endswith("\n") else "\n"
        parts = self.LAYOUT.fullmatch(content)
        if not parts:
            raise BakeoffError(f"{self.PATH}: not as DVC writes it; take it from git again, or delete it")
        self._head, stages, self._tail = parts.groups()
        blocks = re.split(r"^(?=  \S)", stages, flags=re.MULTILINE)[1:]
        self.stages = {block.strip().partition(":")[0]: block for block in blocks}

    def write(self, stages: dict[str, str]) -> None:
        """Replace all stages by these."""
        write_text(self.PATH, self._head + "".join(stages.values()) + self._tail)


def _as_locked(stage: Any) -> str:
    """The lines that DVC would write to dvc.lock of a stage."""
    from dvc.stage.serialize import to_lockfile
    from dvc.utils.serialize import dumps_yaml

    text: str = dumps_yaml({"stages": to_lockfile(stage)})
    return text.removeprefix("stages:\n")


def _busy(error: Exception) -> BakeoffError:
    """DVC's words for who holds a lock, in one line, without its advice to delete files."""
    words = " ".join(str(error).split()).partition(" If there are no processes")[0]
    return BakeoffError(f"{words}; wait for it, or end it, and run again")


def _forget_the_dead(locks: Path) -> None:
    """Take locks out of DVC's list whose process is another program by now: DVC itself asks only for its number."""
    import psutil  # type: ignore[import-untyped]

    try:
        kinds = json.loads(locks.read_text())
    except (OSError, ValueError):
        return

    def alive(holder: dict[str, Any]) -> bool:
        try:
            command = " ".join(psutil.Process(holder["pid"]).cmdline())
        except psutil.NoSuchProcess:
            return False
        return "dvc" in command or "snakemake" in command

    readers = {path: [*filter(alive, holders)] for path, holders in kinds.get("read", {}).items()}
    left = {
        "write": {path: holder for path, holder in kinds.get("write", {}).items() if alive(holder)},
        "read": {path: holders for path, holders in readers.items() if holders},
    }
    if left != kinds:
        write_text(locks, json.dumps(left))


class _OnJobsStarted(logging.Handler):
    """Calls `react` with the numbers of jobs that are about to start."""

    def __init__(self, react: Callable[[Iterable[int]], None]) -> None:
        super().__init__()
        self._react = react

    def emit(self, record: logging.LogRecord) -> None:
        from snakemake_interface_logger_plugins.common import LogEvent

        if getattr(record, "event", None) == LogEvent.JOB_STARTED:
            self._react(record.jobs)  # type: ignore[attr-defined]


def _describe(stage: Any, produced: list[str], changed: bool) -> Stage:
    """One stage for Snakemake; a folder among its dependencies stands for all that other stages write there."""
    inputs: list[str] = []
    for path in (dep.def_path for dep in stage.deps if type(dep).__name__ == "Dependency"):
        if path == CHECKED:
            continue
        inside = [out for out in produced if out.startswith(f"{path}/")]
        inputs += inside or [path]
    meta = dict(stage.meta or {})
    return Stage(
        name=stage.addressing,
        rule=stage.addressing.replace("@", "_").replace("-", "_"),
        command=stage.cmd,
        inputs=tuple(inputs),
        outputs=tuple(out.def_path for out in stage.outs),
        threads=meta.pop("threads", 1),
        local=meta.pop("local", False),
        resources=meta,
        changed=changed,
    )
