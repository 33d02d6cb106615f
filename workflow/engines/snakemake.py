"""Snakemake as a second engine: DVC provides the graph and what is out of date, and gets the results.

Only DVC decides what has changed (by content, from `dvc.lock`), so the two engines cannot disagree: Snakemake runs what
`dvc status` reports as changed, and everything that depends on it, several stages at a time. Finished stages are
committed to DVC while others run, so that an interrupted run loses almost nothing.
"""

import atexit
import contextlib
import copy
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from workflow.data.listing import check_root
from workflow.engines import clone, dvc_locks
from workflow.engines.ledger import bring_up_to_date
from workflow.errors import BakeoffError
from workflow.files import read_json, write_text
from workflow.params import ArrayFile, Params
from workflow.paths import CHECKED, DVC_LOCK, LEDGER
from workflow.training.checkpoint import drop_if_recorded

# Outputs of the stages that check the parameters and write the ledger. The Snakefile does their work before it plans,
# so they are not inputs of rules: Snakemake does not examine what depends on a job that will run.
GATES = ([str(CHECKED)], [str(LEDGER)])
MARKER = Path(".snakemake/changed")
PLAN = Path(".snakemake/plan.json")
ORDER = Path(".snakemake/order.json")  # of stages in dvc.lock: before an unfinished run, and as it last left them
COMMIT_EVERY, LONG = 20.0, 10.0  # seconds; stages that took long are committed at once
LEAST_SHARE = 20  # the pause between two commits is at least this many times as long as a commit took


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
    local: bool  # runs on the engine's machine, not on a cluster node
    changed: bool
    priority: int = 0

    @property
    def kind(self) -> str:
        """The name that it shares with the stages of other models and seeds: `evaluate` of `evaluate@vae-0`."""
        return self.name.partition("@")[0]


def planned() -> list[Stage]:
    """The stages of the run that holds this folder, for a Snakemake process that executes one of its jobs.

    On a cluster there are two such processes per job. They need not load DVC, which takes seconds and whose lock the
    main process holds.
    """
    return [Stage(**stage) for stage in read_json(PLAN)]


def visible_gpus() -> int:
    """Number of GPUs for jobs, one each: all, or those in CUDA_VISIBLE_DEVICES.

    This does without torch, which takes a second to import.
    """
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return sum(name.strip() not in ("", "-1") for name in named.split(","))
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, encoding="utf-8", check=False)
    except OSError:
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def refuse_config(config: dict[str, Any]) -> None:
    """Raise BakeoffError if parameters are passed to Snakemake directly, unknown to DVC."""
    if config:
        raise BakeoffError(
            f"--config, --configfile: {', '.join(config)}: parameters are in params.yaml; change them there"
        )


def refuse_without_running(workflow: Any) -> None:
    """Raise BakeoffError for options that make Snakemake report jobs as finished that have not run."""
    if workflow.touch:
        raise BakeoffError("--touch: would pass old outputs off as new ones; run without it, nothing has been touched")
    if workflow.remote_execution_settings.immediate_submit:
        raise BakeoffError("--immediate-submit: ends jobs before they have run; run without it")


class Graph:
    """The stages of dvc.yaml in this folder, as DVC resolves them.

    Creating it updates the ledger and repairs DVC's locks. Raises BakeoffError if DVC cannot record the user's data.
    """

    def __init__(self, settings: Params) -> None:
        from dvc.exceptions import DvcException
        from dvc.lock import LockError
        from dvc.repo import Repo
        from dvc.repo.reproduce import plan_repro

        # Each time: the stage `check` has seen the data as they were.
        check_root(settings.data.root, isinstance(settings.data, ArrayFile))
        clone.tell_dvc()
        dvc_locks.repair()
        bring_up_to_date(settings)  # DVC learns from the ledger which code has changed
        try:
            self._repo = Repo()
            index = self._repo.index
            # The order in which `dvc repro` would run them, and so the order of a new dvc.lock.
            ordered = plan_repro(index.graph, index.stages)
            with self._repo.lock:  # as `dvc status`, which would first read dvc.yaml and dvc.lock again
                changed = {stage.addressing for stage in ordered if stage.status()}
        except LockError as error:
            raise _busy(error) from None
        except DvcException as error:
            raise BakeoffError(f"dvc.yaml: {' '.join(str(error).split())}") from None
        upstream = {stage: set(index.graph.successors(stage)) for stage in ordered}
        outputs = {stage: [out.def_path for out in stage.outs] for stage in ordered}
        self.stages: list[Stage] = []
        for stage in ordered:
            produced = [path for source in upstream[stage] for path in outputs[source]]
            if outputs[stage] != [str(LEDGER)]:
                self.stages.append(_describe(stage, produced))
        behind_gates = {stage: {s.addressing for s in upstream[stage] if outputs[s] not in GATES} for stage in ordered}
        self._upstream = {stage.addressing: sources for stage, sources in behind_gates.items()}
        self._mark_changed(changed)
        self._heeded = False
        self._unrecorded = [
            stage.addressing for stage in ordered if outputs[stage] == [str(LEDGER)] and stage.addressing in changed
        ]
        self._rank(index.graph, ordered)
        self._stages = {stage.addressing: stage for stage in ordered}
        self._pending: list[str] = []  # stages whose jobs have finished, still to be committed
        self._started: dict[int, float] = {}  # running jobs, and when they started on the monotonic clock
        self._noted: set[int] = set()  # finished jobs, committed unless pending
        self._finished: Callable[[], dict[int, str]] = dict
        self._committed, self._cost = 0.0, 0.0  # time of the last commit on the monotonic clock, and its duration
        self._lock = _Lock()
        self._locked_before = self._read_order()
        self._order = [stage.addressing for stage in ordered]

    def _rank(self, graph: Any, ordered: list[Any]) -> None:
        """Set priorities: stages with the longest chain of dependents first, then in the order of params.yaml.

        So all models are trained before the first is sampled from, and short stages are left to fill gaps at the end.
        """
        behind: dict[Any, int] = {}
        for stage in reversed(ordered):
            behind[stage] = 1 + max((behind[other] for other in graph.predecessors(stage)), default=0)
        place = {stage.addressing: i for i, stage in enumerate(ordered)}
        depth = {stage.addressing: behind[stage] for stage in ordered}
        order = sorted(self.stages, key=lambda stage: (depth[stage.name], -place[stage.name]))
        priorities = {stage.name: priority for priority, stage in enumerate(order)}
        self.stages = [replace(stage, priority=priorities[stage.name]) for stage in self.stages]

    def _mark_changed(self, changed: Collection[str]) -> None:
        """Mark stages, by name, and everything that depends on them as changed."""
        dirty = {stage.name for stage in self.stages if stage.changed}
        for place, stage in enumerate(self.stages):
            if stage.name in changed or dirty & self._upstream[stage.name]:
                dirty.add(stage.name)
                self.stages[place] = replace(stage, changed=True)

    def heed(self, asked: Any) -> None:
        """Mark what Snakemake's -R and -f request, and all dependents, which Snakemake would take to be up to date.

        asked: Snakemake's settings of what to run, with names of rules, kinds of stages or outputs; only the first call
        counts. Raises BakeoffError if --until or --omit-from name a kind, where Snakemake would cut nothing off.
        """
        if self._heeded:
            return
        self._heeded = True
        kinds = {stage.kind for stage in self.stages if stage.kind != stage.rule}
        for option, names in (("--until", asked.until), ("--omit-from", asked.omit_from)):
            if found := sorted(kinds & set(names)):
                rules = [stage.rule for stage in self.stages if stage.kind == found[0]]
                raise BakeoffError(f"{option} {found[0]}: name its rules one by one: {' '.join(rules)}")
        names = {*asked.forcerun, *(asked.targets if asked.forcetargets else ())}
        again = {stage.name for stage in self.stages if names & {stage.rule, stage.kind, *stage.outputs}}
        if again:
            self._mark_changed(again)

    @property
    def checked(self) -> bool:
        """Whether the stage `check` has already accepted the present parameters."""
        return not any(stage.changed for stage in self.stages if stage.outputs == (str(CHECKED),))

    def mark(self) -> str:
        """Write a file newer than all outputs, with new content each time: an input that makes changed stages run."""
        MARKER.parent.mkdir(exist_ok=True)
        MARKER.write_text(str(time.time_ns()), encoding="utf-8")
        return str(MARKER)

    def hold(self) -> None:
        """Lock all outputs until this process ends, however it does: DVC commands and other runs are rejected.

        Writes the plan for jobs on other machines. Raises BakeoffError, naming the process, if another one is working
        on some of the outputs.
        """
        from dvc.lock import LockError
        from dvc.rwlock import rwlock

        paths = [out.fs_path for stage in self._stages.values() for out in stage.outs]
        command = " ".join(sys.argv)  # as DVC does: a process is identified by its number and command
        held = rwlock(self._repo.tmp_dir, self._repo.fs, command, [], paths, self._repo.config["core"]["hardlink_lock"])
        try:
            held.__enter__()
        except LockError as error:
            raise _busy(error) from None
        atexit.register(held.__exit__, None, None, None)
        write_text(PLAN, json.dumps([asdict(stage) for stage in self.stages]))

    def note_checked(self) -> None:
        """Commit the stage `check`, whose work this process has done, even if its job was not requested."""
        self._pending += [stage.name for stage in self.stages if stage.outputs == (str(CHECKED),)]

    def committer(self, finished: Callable[[], dict[int, str]]) -> logging.Handler:
        """A handler for Snakemake's log that commits stages to DVC as their jobs finish.

        It reacts to the start of jobs, which Snakemake logs unless run with `--quiet all`, whereas it logs their end
        only if not quiet at all. A job that others wait for is followed by a start; `settle` commits the rest.

        Args:
            finished: returns numbers and rules of the finished jobs.
        """
        self._finished = finished
        return _OnJobsStarted(self._take_note)

    def _take_note(self, jobs: Iterable[int]) -> None:
        """Commit finished jobs, now or soon, and note that the given jobs have started."""
        now, longest = time.monotonic(), 0.0
        for job, rule in self._finished().items():
            if job not in self._noted:
                self._noted.add(job)
                longest = max(longest, now - self._started.pop(job, now))
                self._pending += [stage.name for stage in self.stages if stage.rule == rule]
        self._started |= dict.fromkeys(jobs, now)
        if longest > LONG or now > self._committed + max(COMMIT_EVERY, LEAST_SHARE * self._cost):
            self._commit_pending()

    def settle(self, done: bool = False) -> None:
        """Commit everything that is still pending; done: whether the run has finished successfully."""
        self._take_note(())
        if error := self._commit_pending():
            names = " ".join(self._pending)
            print(f"error: not committed to DVC: {names} ({error}); run `dvc commit -f {names}`", file=sys.stderr)
        elif done:
            ORDER.unlink(missing_ok=True)

    def record_ledger(self) -> None:
        """Commit the ledger, which the Snakefile has updated, even if there was nothing else to do."""
        if self._unrecorded:
            self.settle()

    def _commit_pending(self) -> str | None:
        """`dvc commit -f` for all pending stages at once; returns the reason if it fails."""
        from dvc.exceptions import DvcException
        from dvc.stage.serialize import to_lockfile

        stages = [self._stages[name] for name in (*self._unrecorded, *self._pending)]
        if not stages:
            return None
        start = time.monotonic()
        try:
            with self._repo.lock:
                for stage in stages:
                    stage.save()
                    stage.commit(relink=False)
                # Copies, because the writer would turn shared objects into anchors; DVC writes stages one by one.
                locked = {stage.addressing: copy.deepcopy(to_lockfile(stage)[stage.addressing]) for stage in stages}
                self._write_lock(self._lock.read() | locked)
        except (DvcException, BakeoffError) as error:  # another DVC command holds the lock, or dvc.lock is invalid
            return str(error)
        for stage in stages:
            if stage.addressing.startswith("train@"):
                name, _, seed = stage.addressing.removeprefix("train@").rpartition("-")
                drop_if_recorded(name, int(seed))
        self._pending.clear()
        self._unrecorded.clear()
        self._committed = time.monotonic()
        self._cost = self._committed - start
        return None

    def _write_lock(self, stages: dict[str, Any]) -> None:
        """Write dvc.lock as `dvc repro` would, which appends new stages in the order of the graph.

        Snakemake finishes stages in any order, and an interrupted run may be resumed, so the stages that were there
        before the run are recorded in a file.
        """
        before = self._locked_before
        new = [name for name in self._order if name in stages and name not in before]
        names = [*(name for name in before if name in stages), *new]
        names += [name for name in stages if name not in names]
        self._lock.write({name: stages[name] for name in names})
        write_text(ORDER, json.dumps({"before": before, "after": names}))

    def _read_order(self) -> list[str]:
        """Stages of dvc.lock before this run, or before an interrupted one if dvc.lock has not changed since."""
        names = list(self._lock.read())
        with contextlib.suppress(BakeoffError, KeyError, TypeError):
            known = read_json(ORDER)
            if known["after"] == names:
                return list(known["before"])
        return names


class _Lock:
    """dvc.lock, read and written as a whole by DVC's own parser and writer.

    DVC itself parses it for every stage that it records, which takes a second or more; here, text that was written last
    is not parsed again.
    """

    PATH = DVC_LOCK

    def __init__(self) -> None:
        self._text, self._content = "", dict[str, Any]()

    def read(self) -> dict[str, Any]:
        """The entries of all stages, by name; raises BakeoffError if the file cannot be read."""
        from dvc.exceptions import DvcException
        from dvc.utils.serialize import parse_yaml

        text = self.PATH.read_text(encoding="utf-8") if self.PATH.exists() else ""
        if text != self._text:
            try:
                self._text, self._content = text, parse_yaml(text, str(self.PATH))
            except DvcException as error:
                raise BakeoffError(f"{error}; restore it from git, or delete it") from None
        stages: dict[str, Any] = self._content.get("stages", {})
        return stages

    def write(self, stages: dict[str, Any]) -> None:
        """Replace the entries of all stages."""
        from dvc.utils.serialize import dumps_yaml

        self._content = {"schema": "2.0", **self._content, "stages": stages}
        self._text = dumps_yaml(self._content)
        write_text(self.PATH, self._text)


def _busy(error: Exception) -> BakeoffError:
    """DVC's message on who holds a lock, in one line, without its advice to delete files."""
    words = " ".join(str(error).split()).partition(" If there are no processes")[0]
    return BakeoffError(f"{words}; wait for it, or end it, and run again")


class _OnJobsStarted(logging.Handler):
    """Calls `react` with the numbers of jobs that start."""

    def __init__(self, react: Callable[[Iterable[int]], None]) -> None:
        super().__init__()
        self._react = react

    def emit(self, record: logging.LogRecord) -> None:
        from snakemake_interface_logger_plugins.common import LogEvent

        if getattr(record, "event", None) == LogEvent.JOB_STARTED:
            self._react(record.jobs)  # type: ignore[attr-defined]


def _describe(stage: Any, produced: list[str]) -> Stage:
    """A stage for Snakemake; a folder among its dependencies stands for everything that other stages write there."""
    inputs: list[str] = []
    for path in (dep.def_path for dep in stage.deps if type(dep).__name__ == "Dependency"):
        if path == str(CHECKED) or path.startswith(f"{LEDGER}/"):
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
        changed=False,
    )
