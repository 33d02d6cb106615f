"""Measure real images against real ones, and the baseline of independent pixels."""

from pathlib import Path

from workflow import params
from workflow.compute import prepare_torch
from workflow.errors import one_line
from workflow.evaluation import Judge, reference
from workflow.extractor import load_classifier
from workflow.files import write_json
from workflow.images import read_card, read_split

if __name__ == "__main__":
    with one_line():
        settings = params.load()
        device = prepare_torch(settings.compute)
        classifier = load_classifier(Path("data/extractor/model.safetensors")).to(device)
        card = read_card()
        judge = Judge(classifier, read_split("train"), read_split("test"), card.levels, settings.evaluate, card.mixture)
        write_json(Path("data/reference/reference.json"), reference(judge, settings.sample.count))
