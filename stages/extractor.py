"""Train the network whose features the metrics use."""

from pathlib import Path

from workflow import params
from workflow.compute import prepare_torch
from workflow.errors import one_line
from workflow.extractor import accuracy, fit_classifier, save_classifier
from workflow.files import sha256, write_json
from workflow.images import read_card, read_split

if __name__ == "__main__":
    with one_line():
        settings = params.load()
        device = prepare_torch(settings.compute)
        card, valid, test = read_card(), read_split("valid"), read_split("test")
        model = fit_classifier(
            read_split("train"),
            valid,
            card.levels,
            len(card.classes),
            settings.extractor,
            device,
            channelwise=card.channelwise,
        )

        folder, batch = Path("data/extractor"), settings.extractor.batch_size
        save_classifier(model, folder / "model.safetensors")
        facts = {
            **model.facts,
            "features": settings.extractor.features,
            "accuracy": accuracy(*model.answers(test, batch)),
            "valid_accuracy": accuracy(*model.answers(valid, batch)),
            "classes": list(card.classes),
            "sha256": sha256(folder / "model.safetensors"),
        }
        write_json(folder / "metrics.json", facts)
