"""One of the first five families on MNIST, from training to measures: as a run of `presets/mnist.yaml`, in less time.

Trained for as many epochs as fit, 10,000 samples, measured like all runs: density and measures of samples first, then
everything.
"""

import io
import time
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import data
from benchmarks.gpu.machine import facts
from benchmarks.gpu.task import Task, cell
from benchmarks.gpu.training import log_prob, train
from workflow.data.pictures import overview, png
from workflow.errors import BakeoffError
from workflow.evaluation.batching import in_batches
from workflow.evaluation.classifier import load_classifiers
from workflow.evaluation.evaluate import evaluate
from workflow.evaluation.evaluator import Evaluator
from workflow.models.base import HasLogProb, Model, bits_per_dim
from workflow.random_streams import Stream, make_generator

SHARE = 0.35  # of the time, for training
DRAWN = 2500  # images at once
SHOWN = ("fid", "kid", "precision", "recall", "bits_per_dim")


def main(task: Task) -> None:
    """Train, draw, measure; write after each."""
    device, preset = task.device(), task.preset("mnist")
    images = data.split(task, data.settings_of(task, preset.data))
    start = time.perf_counter()
    trained = train(task, preset.models[task.what], images, device, SHARE * task.left)
    found: dict[str, Any] = {"machine": facts(device), "data": images.card.name, **trained.facts}
    found |= {"training_seconds": time.perf_counter() - start, "curve": trained.curve}
    task.write(_line(found, {}), found)

    start, count = time.perf_counter(), preset.sample.count
    random = make_generator(device, 0, Stream.SAMPLES)
    model: Model = trained.model
    samples = torch.cat(in_batches(lambda rows, r: model.sample(len(rows), r).cpu(), count, DRAWN, random))
    found["samples_per_second"] = count / (time.perf_counter() - start)
    task.keep("samples.png", png(overview(samples.numpy(), model.levels)))
    with io.BytesIO() as file:
        np.savez_compressed(file, images=samples.numpy())
        task.keep("samples.npz", file.getvalue())
    task.write(_line(found, {}), found)

    if isinstance(model, HasLogProb):
        bits = bits_per_dim(log_prob(model, images.test.images), model.shape)
        found["metrics"] = {"bits_per_dim": float(bits.mean())}
        task.write(_line(found, found["metrics"]), found)
    if not (path := data.extractor(task)).exists():
        raise BakeoffError("no measures: the job `data` has not trained the classifiers")
    extractors = [extractor.to(device) for extractor in load_classifiers(path)]
    settings = preset.evaluate.model_copy(update={"draws": 1})
    evaluator = Evaluator(extractors, images.train, images.test, images.card, settings, preset.extractor)
    found["metrics"] = {**found.get("metrics", {}), **evaluator.scores([samples]).means}
    task.write(_line(found, found["metrics"]), found)
    found["metrics"], _ = evaluate(model, [samples], evaluator, 0, {})
    task.write(_line(found, found["metrics"]), found)


def _line(found: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Data, training and the main figures."""
    shown = [f"{key} {cell(metrics[key])}" for key in SHOWN if metrics.get(key) is not None]
    speed = [f"{found['samples_per_second']:,.0f} samples/s"] if "samples_per_second" in found else []
    length = f"{found['data']}, {found['epochs']:g} of {found['epochs_of_the_entry']} epochs"
    return ", ".join([length, *speed, *shown])
