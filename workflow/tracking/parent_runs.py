"""Parent runs in MLflow: its page folds under one what belongs together, a sweep's trials or a queue of experiments.

A parent is found by a tag of its content, as all runs are. Any call may raise whatever MLflow raises.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workflow.params import Params
from workflow.sweeps.trials import best_of, members, read_losses, sweep_of, varied

if TYPE_CHECKING:
    from workflow.tracking.store import Store

CHILD_OF = "mlflow.parentRunId"  # the tag by which MLflow knows
CONTENT, BEST = "bakeoff.parent", "bakeoff.best"
LEAST = "least_valid_loss"  # the figure of a run, and of the best of its parent's
# Of a stage that DVC runs for an experiment: the commit that it began with, and its name.
BASELINE, EXPERIMENT = "DVC_EXP_BASELINE_REV", "DVC_EXP_NAME"


@dataclass(frozen=True)
class Parent:
    """What a parent run is called and known by.

    adopts: whether runs that were there before become its children. child: tags of one that is made under it.
    """

    title: str
    content: str
    adopts: bool
    child: dict[str, str]


def parent_of(name: str, settings: Params, content: Mapping[str, Any]) -> Parent | None:
    """The parent of a model's runs, if they have one; content: what decides their result, but the seed.

    A sweep's is the same whatever trials it comes to have: it is known by the model that it began with. An experiment
    of DVC's is the child of the commit that it began with, unless it is in a sweep.
    """
    if base := sweep_of(name, settings):
        entry = settings.models[base].model_dump(mode="json")
        return Parent(f"sweep of {base}", hex_digits({**content, "entry": entry, "sweep": base}), True, {})
    if revision := os.environ.get(BASELINE):
        named = {"dvc.experiment": os.environ.get(EXPERIMENT, "")}
        return Parent(f"experiments on {revision[:7]}", hex_digits({"baseline": revision}), False, named)
    return None


def parent_tags(store: "Store", parent: Parent | None) -> dict[str, str]:
    """The tags of a new run that is a child of this parent, if of any."""
    return {**parent.child, CHILD_OF: _id(store, parent)} if parent else {}


def adopt(store: "Store", parent: Parent, run: Any) -> None:
    """Make a run that is there a child of this parent."""
    if run.data.tags.get(CHILD_OF) != (found := _id(store, parent)):
        store.client.set_tag(run.info.run_id, CHILD_OF, found)


def _id(store: "Store", parent: Parent) -> str:
    """The id of the parent run, made if there is none."""
    with store.alone:
        if not (found := _find(store, parent)):
            tags = {CONTENT: parent.content, "mlflow.source.type": "PROJECT", "mlflow.source.name": parent.title}
            made = store.client.create_run(store.experiment, tags=tags, run_name=parent.title).info.run_id
            store.client.set_terminated(made)  # what is running are the children
            found = _find(store, parent)  # on a server others may have made one, too: all take the same
    return str(found[0].info.run_id)


def tell_the_best(store: "Store", settings: Params, content: Mapping[str, Mapping[str, Any]]) -> None:
    """Bring each sweep's parent up to date: which trial is best, by which loss; content: as above, of each model."""
    from mlflow.entities import RunTag

    for base, sweep in settings.sweeps.items():
        losses = {name: read_losses(name, settings) for name in members(base, settings)}
        top = best_of(losses)
        parent = parent_of(base, settings, content[base])
        if top is None or parent is None:
            continue
        (run,) = _find(store, parent)[:1] or [store.client.get_run(_id(store, parent))]
        value = sum(losses[top]) / len(losses[top])
        values = ", ".join(f"{key} {what}" for key, what in varied(top, base, settings).items())
        seeds = ", ".join(str(seed) for seed in settings.seeds)
        note = (
            f"**{top}** ({values}) is the best of {len(losses)} trials of {', '.join(sweep.varied)}: least validation "
            f"loss, mean over seeds {seeds}. No test figure chose it."
        )
        tags = {BEST: top, "mlflow.note.content": note, "kind": settings.models[base].kind}
        if {key: run.data.tags.get(key) for key in tags} != tags or run.data.metrics.get(LEAST) != value:
            store.send(run.info.run_id, {(LEAST, len(losses)): value})  # a curve over the number of trials
            store.client.log_batch(run.info.run_id, tags=[RunTag(key, tag) for key, tag in tags.items()])


def _find(store: "Store", parent: Parent) -> list[Any]:
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    found: list[Any] = store.client.search_runs(
        [store.experiment], f"tags.`{CONTENT}` = '{parent.content}'", max_results=1, order_by=order
    )
    return found


def hex_digits(parts: Mapping[str, Any]) -> str:
    """16 hex digits over these values, which JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
