"""The MLflow run of a model trained with one seed: found by its content, created if there is none.

A tag names the content: what was trained, on what, with which code. So a training that is repeated has one run.
"""

import contextlib
import json
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

from workflow.data.arrays import read_card
from workflow.params import Params, own_title
from workflow.tracking.identity import content_tag
from workflow.tracking.parent_runs import adopt, parent_run_of, tags_of_child
from workflow.tracking.store import Points, Store, retried

CONTENT = "bakeoff.content"  # tag: what the run is of


def run_of(store: Store, name: str, seed: int, settings: Params) -> Any:
    """The run of this model and seed, created if there is none, under its parent run if it has one."""
    from mlflow.exceptions import MlflowException

    tag, parent = content_tag(name, seed, settings), parent_run_of(name, settings)
    if not (found := store.find(CONTENT, tag)):
        tags = {CONTENT: tag, "model": name, "kind": settings.models[name].kind, "seed": str(seed), **_source()}
        tags |= tags_of_child(store, parent)
        made = store.client.create_run(store.experiment, tags=tags, run_name=f"{name}-{seed}")
        found = store.find(CONTENT, tag) or [made]  # another machine may have created one at the same moment
    elif parent and parent.adopts:
        adopt(store, parent, found[0])
    for younger in found[1:]:
        with contextlib.suppress(MlflowException):  # the other machine has already deleted it
            store.client.delete_run(younger.info.run_id)
    run = found[0]
    if not run.data.params:  # they are written last: without them the run is new, or its creation was interrupted
        retried(lambda: _describe(store, run.info.run_id, name, seed, settings))
    return run


def _source() -> dict[str, str]:
    """MLflow's tags for what made a run: the stage, and the commit if there is one."""
    tags = {"mlflow.source.type": "LOCAL", "mlflow.source.name": "stages/train.py"}
    with contextlib.suppress(OSError):  # no git
        asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, encoding="utf-8", check=False)
        if asked.returncode == 0:
            tags["mlflow.source.git.commit"] = asked.stdout.strip()
    return tags


def _describe(store: Store, run_id: str, name: str, seed: int, settings: Params) -> None:
    """Log the data set and the parameters."""
    import numpy as np
    from mlflow.data.schema import TensorDatasetSchema
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param
    from mlflow.types import Schema, TensorSpec

    card = read_card()
    images = Schema([TensorSpec(np.dtype(np.uint8), (-1, *card.shape))])
    data = Dataset(
        name=own_title(settings.data) or card.name,
        digest=card.sha256["train"][:8],
        source_type="code",
        source=json.dumps({"tags": {"mlflow.source.name": card.source}}),
        schema=json.dumps(TensorDatasetSchema(images).to_dict()),
        profile=json.dumps({**card.counts, "levels": card.levels, "classes": len(card.classes)}),
    )
    with store.lock:
        store.client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
    entry = settings.models[name].model_dump(mode="json")
    train = entry.pop("train", {})
    flat = {"seed": seed, **entry, **{f"train.{key}": value for key, value in train.items()}}
    store.client.log_batch(run_id, params=[Param(key, str(value)) for key, value in flat.items()])


def curves(history: Iterable[Mapping[str, float]]) -> Points:
    """A training's records as points; the part of a metric's name before the slash is a section of MLflow's page."""
    points: Points = {}
    for record in history:
        for key, value in record.items():
            if key != "step":
                metric = f"valid/{key.removeprefix('valid_')}" if key.startswith("valid_") else f"train/{key}"
                points[metric, int(record["step"])] = float(value)
    return points
