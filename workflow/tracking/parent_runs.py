"""Parent runs in MLflow, whose page folds their children under them: a sweep's trials, an experiment's models.

A parent run is found by a tag of its content, as all runs are. Any call may raise whatever MLflow raises.
"""

import os
from dataclasses import dataclass
from typing import Any

from workflow.params import Params
from workflow.sweeps.trials import best_of, members, read_losses, sweep_of, varied
from workflow.tracking.identity import content, hex_digits
from workflow.tracking.names import LEAST
from workflow.tracking.store import NOTE, Store

CHILD_OF = "mlflow.parentRunId"  # MLflow's own tag
CONTENT, BEST = "bakeoff.parent", "bakeoff.best"
# Set by DVC in a stage that it runs for an experiment: the commit that the experiment began with, and its name.
BASELINE, EXPERIMENT = "DVC_EXP_BASELINE_REV", "DVC_EXP_NAME"


@dataclass(frozen=True)
class ParentRun:
    """A parent run, which need not exist yet.

    title: its name in MLflow. content: hex digits by which it is found. adopts: whether runs that existed before it
    become its children. child_tags: further tags of a run that is created under it.
    """

    title: str
    content: str
    adopts: bool
    child_tags: dict[str, str]


def parent_run_of(name: str, settings: Params) -> ParentRun | None:
    """The parent run of a model's runs; None if they have none.

    A sweep's parent run is identified by the model that the sweep began with, so it stays the same as trials are added.
    A run of a DVC experiment belongs to the commit that the experiment began with, unless its model is in a sweep.
    """
    if base := sweep_of(name, settings):
        return _of_sweep(base, name, settings)
    if revision := os.environ.get(BASELINE):
        tags = {"dvc.experiment": os.environ.get(EXPERIMENT, "")}
        return ParentRun(f"experiments on {revision[:7]}", hex_digits({"baseline": revision}), False, tags)
    return None


def _of_sweep(base: str, name: str, settings: Params) -> ParentRun:
    """Of the sweep that began with the model `base`, as its trial `name` sees it; both have the same code."""
    entry = settings.models[base].model_dump(mode="json")
    return ParentRun(
        f"sweep of {base}", hex_digits({**content(name, settings), "entry": entry, "sweep": base}), True, {}
    )


def tags_of_child(store: Store, parent: ParentRun | None) -> dict[str, str]:
    """The tags that make a new run a child of this parent run; none if there is no parent run."""
    return {**parent.child_tags, CHILD_OF: _id(store, parent)} if parent else {}


def adopt(store: Store, parent: ParentRun, run: Any) -> None:
    """Make an existing run a child of this parent run."""
    if run.data.tags.get(CHILD_OF) != (found := _id(store, parent)):
        store.client.set_tag(run.info.run_id, CHILD_OF, found)


def _id(store: Store, parent: ParentRun) -> str:
    """The id of the parent run, which is created if it does not exist."""
    with store.lock:
        if not (found := store.find(CONTENT, parent.content)):
            tags = {CONTENT: parent.content, "mlflow.source.type": "PROJECT", "mlflow.source.name": parent.title}
            made = store.client.create_run(store.experiment, tags=tags, run_name=parent.title).info.run_id
            store.client.set_terminated(made)  # only its children run
            found = store.find(CONTENT, parent.content)  # others may have created one on a server: all take the oldest
    return str(found[0].info.run_id)


def show_best_trials(store: Store, settings: Params) -> None:
    """Bring each sweep's parent run up to date: which trial is best, and its loss."""
    for base in settings.sweeps:
        losses = {name: read_losses(name, settings) for name in members(base, settings)}
        if best := best_of(losses):
            value = sum(losses[best]) / len(losses[best])
            _show_best(store, base, settings, best, value, len(losses))


def _show_best(store: Store, base: str, settings: Params, best: str, value: float, trials: int) -> None:
    """Bring one sweep's parent run up to date.

    Args:
        store: the store that holds it.
        base: the model that the sweep began with.
        settings: all parameters.
        best: the best trial.
        value: its least validation loss, mean over seeds.
        trials: number of trials.

    """
    from mlflow.entities import RunTag

    parent = _of_sweep(base, base, settings)
    (run,) = store.find(CONTENT, parent.content)[:1] or [store.client.get_run(_id(store, parent))]
    values = ", ".join(f"{key} {what}" for key, what in varied(best, base, settings).items())
    seeds = ", ".join(str(seed) for seed in settings.seeds)
    note = (
        f"**{best}** ({values}) is the best of {trials} trials of {', '.join(settings.sweeps[base].varied)}: least "
        f"validation loss, mean over seeds {seeds}. No test figure chose it."
    )
    tags = {BEST: best, NOTE: note, "kind": settings.models[base].kind}
    if {key: run.data.tags.get(key) for key in tags} != tags or run.data.metrics.get(LEAST) != value:
        store.send(run.info.run_id, {(LEAST, trials): value})  # a curve over the number of trials
        store.client.log_batch(run.info.run_id, tags=[RunTag(key, tag) for key, tag in tags.items()])
