"""Scores of images that were made elsewhere, in the terminal."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stages import score
from workflow.errors import BakeoffError
from workflow.evaluation.columns import GENERATION
from workflow.evaluation.evaluate import evaluate
from workflow.evaluation.evaluator import Evaluator
from workflow.evaluation.reference import reference
from workflow.files import write_json
from workflow.models.external import External
from workflow.paths import REFERENCE


def test_the_estimates_are_those_of_the_report(two_eyes: Evaluator, digits: Tensor) -> None:
    """Value by value what `evaluate` measures of a model with these images; intervals where anything was varied."""
    model = External((1, 8, 8), 17)
    model.hold(digits[300:480])
    draws = list(model.distinct(180, torch.Generator().manual_seed(0)).split(90))
    expected, _ = evaluate(model, draws, two_eyes, 0, {})
    baseline = reference(two_eyes, 90)[0]["histogram_model"]
    found = score.estimates(draws, two_eyes, baseline)
    assert {"fid", "kid", "precision", "coverage", "modes_found", "copies", "nearest_neighbour_ratio"} < found.keys()
    assert not {"class_accuracy", "high_quality"} & found.keys()
    for column in GENERATION:
        if column.key in found and column.key != "nearest_neighbour_ratio":
            value, ends = found[column.key]
            assert value == column.read(expected)
            assert ends
            assert ends[0] <= value <= ends[1]
    near = expected["nearest_neighbour"]
    assert found["nearest_neighbour_ratio"][0] == near["samples"] / near["test"]


def test_the_table_has_both_references_beside_each_value(capsys: pytest.CaptureFixture[str]) -> None:
    real = {"fid": 0.7, "nearest_neighbour": {"copies": 1.0}}
    found: score.Estimates = {"fid": (8.9, [6.2, 11.6]), "copies": (0.0, [0.0, 0.0])}
    shown = score.table(found, {"real": real, "histogram_model": {"fid": 31.4}}, "classifier")
    from rich.console import Console

    Console(width=100).print(shown)
    _, fid, copies = (line.split() for line in capsys.readouterr().out.splitlines())
    assert fid == ["classifier", "FID", "↓", "8.90", "6.20", "to", "11.60", "0.70", "31.40"]
    assert copies == ["copies", "↓", "0.0", "%"]


def test_too_few_images_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Tensor, digit_labels: Tensor
) -> None:
    from tests.test_external import _prepared, _settings

    monkeypatch.chdir(tmp_path)
    _settings()
    _prepared(digits, digit_labels)
    write_json(REFERENCE, {})
    np.save("theirs.npy", digits[:19, 0].numpy() * np.uint8(15))
    with pytest.raises(BakeoffError, match=r"^theirs\.npy: 19 images, but 20 are needed: distances depend on"):
        score.main(Path("theirs.npy"))
