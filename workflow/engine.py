"""Snakemake as DVC's other pair of hands: the graph and what is out of date come from DVC, the results go back to it.

DVC alone decides what has changed (by content, from `dvc.lock`), so the two engines cannot disagree: Snakemake runs
what `dvc status` calls changed, and what depends on it, several stages at a time. Stages that have finished are
committed to DVC while others run, so that a run that is cut off loses next to nothing.
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow.errors import BakeoffError

# Says only that the parameters are good: who reads it need not run again. The Snakefile checks them itself, so the file
# is no input of a rule: Snakemake would look no further at what depends on a job that is to run.
CHECKED = "data/checked.json"
MARKER = Path(".snakemake/changed")
COMMIT_EVERY = 20.0  # seconds; to commit takes a good part of one, mostly for dvc.lock as a whole


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
    changed: bool


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

    def __init__(self, root: Path = Path()) -> None:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo
        from dvc.repo.reproduce import plan_repro

        try:
            self._repo = Repo(str(root))
            index = self._repo.index
            # The order in which `dvc repro` would come to them, and so the order of a new dvc.lock.
            ordered = plan_repro(index.graph, index.stages)
            changed = set(self._repo.status())
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
        self._stages = {stage.addressing: stage for stage in ordered}
        self._pending: list[str] = []
        self._committed = 0.0  # when, on the monotonic clock
        self._locked_before = self._locked_stages()

    @property
    def checked(self) -> bool:
        """Whether the parameters are those that the stage `check` has already found good."""
        return not any(stage.changed for stage in self.stages if stage.outputs == (CHECKED,))

    def mark(self) -> str:
        """A file newer than every output, with new contents each time: the reason for which changed stages run."""
        MARKER.parent.mkdir(exist_ok=True)
        MARKER.write_text(str(time.time_ns()))
        return str(MARKER)

    def committer(self, rule_of_job: Callable[[int], str]) -> logging.Handler:
        """A handler for Snakemake's log that commits each stage to DVC when its job has finished."""
        return _OnJobFinished(lambda job: self.commit(rule_of_job(job)))

    def commit(self, rule: str) -> None:
        """Note that this rule's stage has run, and tell DVC of it now and then; of what is left, `settle` does."""
        self._pending += [stage.name for stage in self.stages if stage.rule == rule]
        if time.monotonic() > self._committed + COMMIT_EVERY:
            self._commit_pending()

    def settle(self) -> None:
        """Commit what could not be committed before, and leave dvc.lock as `dvc repro` would have.

        DVC appends new stages to the file as it runs them; Snakemake finishes them in another order.
        """
        from dvc.utils.serialize import modify_yaml

        if error := self._commit_pending():
            names = " ".join(self._pending)
            print(f"error: DVC does not know yet of {names} ({error}); run `dvc commit -f {names}`", file=sys.stderr)
        locked = self._locked_stages()
        new = [stage.name for stage in self.stages if stage.name in locked and stage.name not in self._locked_before]
        if new:
            with self._repo.lock, modify_yaml(self._lockfile.path) as content:
                stages = content["stages"]
                content["stages"] = {name: stages[name] for name in [*self._locked_before, *new]}

    @property
    def _lockfile(self) -> Any:
        from dvc.dvcfile import Lockfile

        return Lockfile(self._repo, "dvc.lock")

    def _locked_stages(self) -> list[str]:
        return list(self._lockfile.load().get("stages", {})) if self._lockfile.exists() else []

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
                    stages[0].dvcfile.dump_stages(stages, update_pipeline=False)
        except DvcException as error:  # another DVC command holds the lock
            return str(error)
        self._pending.clear()
        self._committed = time.monotonic()
        return None


class _OnJobFinished(logging.Handler):
    def __init__(self, react: Callable[[int], None]) -> None:
        super().__init__()
        self._react = react

    def emit(self, record: logging.LogRecord) -> None:
        from snakemake_interface_logger_plugins.common import LogEvent

        if getattr(record, "event", None) == LogEvent.JOB_FINISHED:
            self._react(record.job_id)  # type: ignore[attr-defined]


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
        resources=meta,
        changed=changed,
    )
