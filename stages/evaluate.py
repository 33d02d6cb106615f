"""Evaluate a model and its samples: `python -m stages.evaluate <name> <seed>`."""

import json
import time
from typing import Any

from workflow import params
from workflow.data.tensors import read_split, read_tensors, write_tensors
from workflow.device import prepare_torch
from workflow.engines import timing
from workflow.engines.command import run
from workflow.engines.index import write_entry
from workflow.evaluation.evaluate import evaluate
from workflow.evaluation.evaluator import Evaluator, read_evaluator
from workflow.evaluation.over_training import over_training
from workflow.evaluation.scores import read_real
from workflow.files import read_json, write_json
from workflow.models import registry
from workflow.models.base import HasHold
from workflow.paths import EXTRACTOR_METRICS, RunFiles

NOT_REPEATED = ("classes", "classifiers", "about", "comparable", "others")  # of the extractor's facts


def main(name: str, seed: int) -> None:
    """Read the model, its samples and the real images; write the metrics and the pictures."""
    start = time.perf_counter()
    settings = params.load()
    device = prepare_torch(settings.compute)
    files, evaluator = RunFiles(name, seed), read_evaluator(settings, device, read_real())
    loaded = registry.load(files.model)
    samples, _ = read_tensors(files.samples)
    draws = samples.pop("images").chunk(settings.evaluate.draws)

    model = loaded.model.to(device)
    metrics, pictures = evaluate(model, draws, evaluator, seed, samples)
    facts = ("title", "paper", "family", "taxonomy", "likelihood", "objective", "about")
    held, entry = isinstance(model, HasHold), settings.models[name]
    content = {
        "name": name,
        "kind": loaded.kind,
        "seed": seed,
        **{fact: getattr(model, fact) for fact in facts},
        "note": note(model.note, entry.train.ema if entry.train else 0.0, loaded.about.get("source")),
        **{fact: value for fact, value in loaded.about.items() if fact != "words"},
        "parameters": None if held else sum(p.numel() for p in model.parameters()),
        "extractor": {k: v for k, v in read_json(EXTRACTOR_METRICS).items() if k not in NOT_REPEATED},
        **metrics,
        **followed(files, evaluator),
    }
    write_tensors(files.pictures, pictures)
    write_json(files.metrics, content)
    write_entry(name, seed)
    timing.record(files.model, "evaluate", {"seconds": time.perf_counter() - start}, device)


def followed(files: RunFiles, evaluator: Evaluator) -> dict[str, Any]:
    """The FID over training and the curves of the training; {} if it kept no samples for that."""
    kept, _ = read_tensors(files.snapshots)
    if "samples" not in kept:
        return {}
    history = [json.loads(line) for line in files.history.read_text(encoding="utf-8").splitlines()]
    valid = read_split("valid").images
    return {"over_training": over_training(kept["samples"], kept["sample_steps"].tolist(), history, valid, evaluator)}


def note(of_model: str, ema: float, source: dict[str, Any] | None = None) -> str:
    """What to bear in mind about a model: what it says itself, averaged weights, where its images are from.

    source: of images that were made elsewhere: their place, number and hash.
    """
    held = "{images:,} images from {place}, SHA-256 {sha256}.".format(**source) if source else ""
    averaged = f"Its weights are an exponential moving average (decay {ema:g}) of those during training." if ema else ""
    return " ".join(filter(None, (of_model, averaged, held)))


if __name__ == "__main__":
    run(main, __doc__, "model", "seed")
