"""Provide the network whose features the metrics use: train a classifier, or take Inception."""

from pathlib import Path
from typing import Any

import torch

from workflow import params
from workflow.data.arrays import Card, read_card
from workflow.data.tensors import read_split
from workflow.device import prepare_torch
from workflow.engines.command import run
from workflow.evaluation.classifier import accuracy, fit_classifier, save_classifier
from workflow.evaluation.inception import FACTS, take_inception
from workflow.files import sha256, write_json
from workflow.paths import EXTRACTOR, EXTRACTOR_METRICS


def train(settings: params.Params, card: Card, device: torch.device, path: Path) -> dict[str, Any]:
    """Train a classifier, write it to `path` and return facts about it."""
    valid, test = read_split("valid"), read_split("test")
    model = fit_classifier(
        read_split("train"),
        valid,
        card.levels,
        len(card.classes),
        settings.extractor,
        device,
        channelwise=card.channelwise,
    )
    save_classifier(model, path)
    batch = settings.extractor.batch_size
    return {
        **model.facts,
        "features": settings.extractor.features,
        "accuracy": accuracy(*model.answers(test, batch)),
        "valid_accuracy": accuracy(*model.answers(valid, batch)),
        "classes": list(card.classes),
        "sha256": sha256(path),
    }


def take(settings: params.Params, card: Card, _: torch.device, path: Path) -> dict[str, Any]:
    """Write the Inception network to `path` and return facts about it."""
    take_inception(settings.evaluate.inception_weights, card, path)
    return {**FACTS}


MAKERS = {"trained": train, "inception": take}


def main() -> None:
    """Write the network and facts about it."""
    settings = params.load()
    device = prepare_torch(settings.compute)
    make = MAKERS[settings.evaluate.extractor]
    write_json(EXTRACTOR_METRICS, make(settings, read_card(), device, EXTRACTOR))


if __name__ == "__main__":
    run(main, __doc__)
