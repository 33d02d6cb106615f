"""Bringing MLflow up to date with the files of all runs, from which its store can be rebuilt at any time."""

import hashlib
import json
import math
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from workflow.data.arrays import read_card
from workflow.engines import timing
from workflow.errors import BakeoffError
from workflow.evaluation.columns import MEASURED
from workflow.evaluation.comparison import Verdict
from workflow.evaluation.derived import complete
from workflow.evaluation.measurements import Measured, measurements, verdicts
from workflow.evaluation.trust import unfit
from workflow.files import read_json, sha256
from workflow.params import Params, own_title
from workflow.paths import AUDIT, REFERENCE, RunFiles
from workflow.sweeps.trials import least_valid_loss
from workflow.tracking import moved
from workflow.tracking.identity import content_tag
from workflow.tracking.names import LEAST, metric, title
from workflow.tracking.parent_runs import show_best_trials
from workflow.tracking.runs import curves, run_of
from workflow.tracking.store import NOTE, Store, never_failing

MIRRORED = "bakeoff.mirrored"  # tag: hash of the files that the run shows
BEST_IN = "best in"  # tag: the measures in which no other model is better, beyond chance
WEIGHTS = "bakeoff.weights"  # tag: SHA-256 of the model that was measured
USE = """\
```python
import mlflow
import pandas as pd

model = mlflow.pyfunc.load_model("models:/{model_id}")
images = model.predict(pd.DataFrame({{"n": [16], "seed": [0]}}))
```

A row is a batch of `n` images that are drawn with this `seed`. They are uint8 {shape}, values 0 to {top}. In another \
folder than the project's, set `MLFLOW_TRACKING_URI` first."""
REQUIREMENTS = ("torch", "safetensors", "pydantic", "numpy", "pandas", "pillow", "pyyaml")  # of `pyfunc.py`


def mirror(settings: Params) -> dict[str, Any]:
    """Bring MLflow up to date with the files of every model and seed; returns what identifies their content.

    Raises BakeoffError if a run's file is missing, but never because of MLflow.
    """
    runs = [(name, seed) for name in settings.models for seed in settings.seeds]
    tags = {f"{name}/{seed}": {"tag": content_tag(name, seed, settings)} for name, seed in runs}
    digests = [digest_of(RunFiles(name, seed)) for name, seed in runs]
    with never_failing():
        store = Store(own_title(settings.data) or settings.data.name)
        for (name, seed), digest in zip(runs, digests, strict=True):
            mirror_run(store, name, seed, settings, digest)
        show_best_trials(store, settings)
        _show_best_models(store, settings)
    return {"runs": tags}


def _show_best_models(store: Store, settings: Params) -> None:
    """Tag every run with the measures in which its model is best, and with which others it is tied.

    Trials of sweeps are left out: test results are not for choosing among them.
    """
    trials = {name for sweep in settings.sweeps.values() for name in sweep.trials}
    files = {n: [RunFiles(n, seed) for seed in settings.seeds] for n in settings.models if n not in trials}
    measured = {n: [Measured(read_json(one.metrics), one.pictures) for one in of] for n, of in files.items()}
    conditional = {n for n in files if settings.models[n].hyperparameters.get("classes", 0) > 0}
    refused = unfit(read_json(AUDIT))
    ranking = [column for column in MEASURED if column.key not in refused]
    judged = verdicts(measurements(measured, read_json(REFERENCE)["histogram_model"]), ranking, conditional)
    titles = {column.key: title(column) for column in MEASURED}
    for name in files:
        best = [_in_words(titles[key], name, one) for key, one in judged.items() if name in one.best and one.decided]
        for seed in settings.seeds:
            run = run_of(store, name, seed, settings)
            if run.data.tags.get(BEST_IN, "") != (text := "; ".join(best)):
                store.client.set_tag(run.info.run_id, BEST_IN, text)


def _in_words(measure: str, name: str, one: Verdict) -> str:
    """The measure, and who else is best in it: "FID, tied with autoencoder"."""
    others = [other for other in one.best if other != name]
    return f"{measure}, tied with {' and '.join(others)}" if others else measure


def digest_of(files: RunFiles) -> str:
    """16 hex digits over the files of a run that are mirrored; raises BakeoffError if one is missing."""
    mirrored = (files.model, files.history, files.snapshots, files.overview, files.metrics, files.pictures)
    for file in mirrored:
        if not file.exists():
            raise BakeoffError(f"{file}: missing; run the stage that makes it (`dvc repro`)")
    return hashlib.sha256("".join(sha256(file) for file in mirrored).encode()).hexdigest()[:16]


def mirror_run(store: Store, name: str, seed: int, settings: Params, digest: str) -> None:
    """Bring one run up to date with its files; costs next to nothing if it already is.

    Args:
        store: the store, with the experiment of the data set.
        name: the model.
        seed: its training's seed.
        settings: all parameters.
        digest: `digest_of` the run's files.

    """
    run, files = run_of(store, name, seed, settings), RunFiles(name, seed)
    if run.data.tags.get(MIRRORED) == digest and not _files_lost(store, run):
        return
    run_id = run.info.run_id
    metrics, weights = complete(read_json(files.metrics), read_card()), sha256(files.model)
    times = timing.read(weights)
    _send(store, run, files, figures(metrics, times), weights)
    _log_files(store, run_id, files)
    _log_model(store, run, files.model)
    _finish(store, run, times.get("train", {}).get("seconds"), weights)
    _set_tags(store, run_id, metrics, weights)
    store.client.set_tag(run_id, MIRRORED, digest)


def _files_lost(store: Store, run: Any) -> bool:
    """Whether files of the run or of its logged model should be in a folder of this machine and are not."""
    if not moved.is_local(run.info.artifact_uri):
        return False
    models = store.client.search_logged_models([store.experiment], f"source_run_id = '{run.info.run_id}'")
    return any(map(moved.lost, (run.info.artifact_uri, *(model.artifact_location for model in models))))


def _finish(store: Store, run: Any, seconds: float | None, weights: str) -> None:
    """Mark the run as finished and give it the duration of its training, which MLflow takes from start and end.

    If nobody has measured here how long these weights took, the run has no end, and MLflow shows no duration. An end
    that it has already stays if it was measured of these weights elsewhere; otherwise the run ends as it begins, since
    MLflow forgets no end.

    Args:
        store: the store.
        run: the run in MLflow, as it is before.
        seconds: that the training took; None if unknown.
        weights: SHA-256 of its model.

    """
    start, end = run.info.start_time, run.info.end_time
    if seconds is not None:
        end = start + round(seconds * 1000)
    elif end is not None and run.data.tags.get(WEIGHTS, weights) != weights:
        end = start
    if end is None:
        store.client.update_run(run.info.run_id, status="FINISHED")
    elif (end, "FINISHED") != (run.info.end_time, run.info.status):
        store.client.set_terminated(run.info.run_id, end_time=end)


def figures(metrics: dict[str, Any], times: dict[str, Any]) -> dict[str, float]:
    """Final figures, with the same names for all families.

    metrics: the content of `metrics.json`. times: what each stage measured, as `timing.read` returns it.
    """
    found = {path: value for path, value in metrics.items() if path != "seed"}
    for group in ("modes", "nearest_neighbour", "copying", "prd"):
        found |= {f"{group}.{key}": value for key, value in (metrics[group] or {}).items()}
    found |= {column.path: column.read(metrics) for column in MEASURED if column.path}
    named = {metric(path, metrics["extractor"]["name"]): value for path, value in found.items()}
    for other, seen in metrics.get("other_features", {}).items():
        named |= {metric(path, other): value for path, value in seen.items()}
    for stage, facts in times.items():
        measured = (key for key in ("seconds", "images_per_second") if key in facts)
        named |= {f"time/{stage} {key.replace('_', ' ')}": facts[key] for key in measured}
    return {name: float(value) for name, value in named.items() if isinstance(value, (int, float))}


def _send(store: Store, run: Any, files: RunFiles, final: dict[str, float], weights: str) -> None:
    """Send the points of the learning curves and the final figures that the run lacks.

    Args:
        store: the store.
        run: the run in MLflow, as it is before.
        files: the run's files.
        final: its final figures.
        weights: SHA-256 of its model.

    """
    history = [json.loads(line) for line in files.history.read_text(encoding="utf-8").splitlines()]
    known, logged = store.points(run), run.data.metrics
    store.send(run.info.run_id, {point: value for point, value in curves(history).items() if point not in known})
    if run.data.tags.get(WEIGHTS, weights) != weights:  # MLflow never forgets a figure: void those of other weights
        final = final | {key: math.nan for key in logged if key.startswith("time/") and key not in final}
    if (least := least_valid_loss(history)) is not None:
        final = final | {LEAST: least}
    # At step 0, so that MLflow draws them as bars, one for each run.
    store.send(run.info.run_id, {(key, 0): value for key, value in final.items() if logged.get(key) != value})


def _log_files(store: Store, run_id: str, files: RunFiles) -> None:
    """Log the samples, the figures, and all pictures."""
    from workflow.tracking.pictures import FOLDER, write_pictures, write_snapshots

    logged = [file.path for file in store.client.list_artifacts(run_id, FOLDER)]
    with tempfile.TemporaryDirectory() as temporary:
        place, levels = Path(temporary), read_card().levels
        for file in (files.overview, files.metrics, files.history):
            (place / file.name).write_bytes(file.read_bytes())
        write_pictures(place, files, levels)
        write_snapshots(place, files, levels, logged)
        store.client.log_artifacts(run_id, temporary)


def _log_model(store: Store, run: Any, weights: Path) -> None:
    """Log the model under its run's name, with a description that says how to load it and draw from it."""
    import numpy as np
    import pandas as pd
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    from workflow.tracking import pyfunc  # MLflow runs it again, from its file, when it loads the model

    run_id, package, card = run.info.run_id, Path(__file__).parents[1], read_card()
    if logged := run.outputs.model_outputs if run.outputs else []:
        model_id = logged[0].model_id
    else:
        model_id = store.client.create_logged_model(store.experiment, run.info.run_name, run_id).model_id
        store.client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
    inputs = Schema([ColSpec(DataType.long, "n"), ColSpec(DataType.long, "seed")])
    outputs = Schema([TensorSpec(np.dtype(np.uint8), (-1, *card.shape))])
    with tempfile.TemporaryDirectory() as temporary:
        save_model(
            temporary,
            python_model=pyfunc.__file__,
            artifacts={"model": str(weights)},
            code_paths=[str(package)],
            signature=ModelSignature(inputs, outputs),
            input_example=pd.DataFrame({"n": [16], "seed": [0]}),
            pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in REQUIREMENTS],
            mlflow_model=Model(run_id=run_id, model_id=model_id),
        )
        store.client.log_model_artifacts(model_id, temporary)
    use = USE.format(model_id=model_id, shape=(16, *card.shape), top=card.levels - 1)
    store.client.set_logged_model_tags(model_id, {NOTE: use})
    store.client.finalize_logged_model(model_id, "READY")


def _set_tags(store: Store, run_id: str, metrics: dict[str, Any], weights: str) -> None:
    """Tag the run with what its model is, and with the weights that were measured."""
    from mlflow.entities import RunTag

    from workflow.tracking.pictures import LOGGED_IMAGES

    tags = {tag: metrics[tag] or "none" for tag in ("family", "taxonomy", "likelihood", "bits_per_dim_kind")}
    tags |= {"data": read_card().name, WEIGHTS: weights, LOGGED_IMAGES: "True"}
    tags[NOTE] = f"**{metrics['title']}** ({metrics['paper']}). {metrics['about']}"
    store.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
