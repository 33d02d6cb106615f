"""Make the networks whose features the metrics use: train classifiers on the images, or take Inception or a file's."""

import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from workflow import params
from workflow.data.arrays import Card, read_card
from workflow.data.tensors import join, read_split
from workflow.device import prepare_torch
from workflow.engines.command import run
from workflow.evaluation.classifier import accuracy, fit_classifier, save_classifiers
from workflow.evaluation.inception import FACTS, take_inception
from workflow.evaluation.network import take_network
from workflow.files import sha256, write_json
from workflow.paths import EXTRACTOR, EXTRACTOR_METRICS


def train(settings: params.Params, card: Card, device: torch.device, path: Path) -> dict[str, Any]:
    """Train a classifier with each seed, write them to `path` and return what there is to know of them."""
    fit, valid, test = read_split("train"), read_split("valid"), read_split("test")
    chosen, classes = settings.extractor, len(card.classes)
    models = [
        fit_classifier(fit, valid, card.levels, classes, chosen, device, seed=seed, channelwise=card.channelwise)
        for seed in chosen.seeds
    ]
    save_classifiers(models, path)
    each = [
        {
            "seed": seed,
            "accuracy": accuracy(*model.answers(test, chosen.batch_size)),
            "valid_accuracy": accuracy(*model.answers(valid, chosen.batch_size)),
        }
        for seed, model in zip(chosen.seeds, models, strict=True)
    ]
    return {
        **models[0].facts,
        "features": chosen.features,
        "accuracy": fmean(one["accuracy"] for one in each),
        "valid_accuracy": fmean(one["valid_accuracy"] for one in each),
        "classifiers": each,
        "classes": list(card.classes),
        "sha256": sha256(path),
    }


def take(settings: params.Params, card: Card, _: torch.device, path: Path) -> dict[str, Any]:
    """Write the Inception network to `path` and return facts about it."""
    take_inception(settings.evaluate.inception_weights, card, path)
    return {**FACTS}


MAKERS = {"trained": train, "inception": take}


def make(name: str, settings: params.Params, card: Card, device: torch.device, path: Path) -> dict[str, Any]:
    """Write the networks that `evaluate.extractor` calls by this name to `path` and return facts about them."""
    if name in MAKERS:
        return MAKERS[name](settings, card, device, path)
    return take_network(Path(name), card.shape, card.levels, path)


def main() -> None:
    """Write the networks and facts about them: those of the main extractor and, in a list, those of others."""
    settings = params.load()
    device, names = prepare_torch(settings.compute), settings.evaluate.extractors
    if len(names) == 1:
        write_json(EXTRACTOR_METRICS, make(names[0], settings, read_card(), device, EXTRACTOR))
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / str(place) for place in range(len(names))]
        pairs = zip(names, paths, strict=True)
        facts, *others = [make(name, settings, read_card(), device, path) for name, path in pairs]
        join(paths, EXTRACTOR)
    write_json(EXTRACTOR_METRICS, {**facts, "others": others})


if __name__ == "__main__":
    run(main, __doc__)
