"""What the report says of the data: the user's files, leaks, and nats of black and white images."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from stages import report
from tests.invented_project import make_project, write
from workflow import params
from workflow.data.tensors import ImageSet
from workflow.report.results import read_results
from workflow.report.summary import summarise
from workflow.report.tables import understanding


@pytest.fixture(params=[2, 5])
def project(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Invented results of images of so many levels."""
    levels: int = request.param
    images = torch.randint(0, levels, (40, 1, 6, 6), dtype=torch.uint8)
    some = ImageSet(images, torch.arange(40) % 3)
    make_project(tmp_path, dict.fromkeys(("train", "valid", "test"), some), levels, ["a", "b", "c"], [0])
    monkeypatch.chdir(tmp_path)
    return levels


def _summary() -> dict[str, Any]:
    return summarise(read_results(params.load()))


def test_nats_are_of_black_and_white_images_alone(project: int) -> None:
    summary = _summary()
    for name, model in summary["models"].items():
        bits = model["mean"]["bits_per_dim"]
        expected = bits * 36 * math.log(2) if project == 2 and bits is not None else None
        assert model["mean"]["nats"] == pytest.approx(expected), name
    shown = "nats per image" in [column.title for column in understanding(summary).columns]
    assert shown == (project == 2)


@pytest.mark.slow
def test_the_page_tells_of_files_and_leaks(project: int) -> None:
    report.build()
    page = Path("report/index.html").read_text(encoding="utf-8")
    assert "Leakage" not in page
    assert "Images by class and split" not in page
    card = Path("data/prepared/card.json")
    files = {"pictures used": 1200, "unreadable, left out": 3, "<b>odd</b>": 1}
    counts = {"train": [1100, 30, 20], "valid": [0, 11, 12], "test": [13, 14, 0]}
    told = {"understood": "splits from folders (<train>); classes from folders below them: 3", "class_counts": counts}
    write(card, json.loads(card.read_text(encoding="utf-8")) | {"leaks": 7, "files": files} | told)
    report.build()
    page = Path("report/index.html").read_text(encoding="utf-8")
    head = page.partition('<section id="data">')[2]
    assert "<dd>splits from folders (&lt;train&gt;); classes from folders below them: 3<details open>" in head
    rows = re.findall(r"<th scope=\"row\">(\w)</th><td>([\d,]+)</td><td>(\d+)</td><td>(\d+)</td>", head)
    assert rows == [("a", "1,100", "0", "13"), ("b", "30", "11", "14"), ("c", "20", "12", "0")]
    assert "1,200 pictures used; 3 unreadable, left out; 1 &lt;b&gt;odd&lt;/b&gt;" in page
    assert re.search(r"<b>7</b> of the test images are also among the training or validation images", page)


def test_the_page_does_not_take_all_data_for_digits(project: int) -> None:
    for file in Path("runs").rglob("metrics.json"):
        metrics = json.loads(file.read_text(encoding="utf-8"))
        if metrics["oddity"]:
            write(file, metrics | {"oddity": {"photographs": 0.6, "upside down": 0.5}})
    report.build()
    page = " ".join(Path("report/index.html").read_text(encoding="utf-8").split())
    assert "are out of distribution only for data that are not photographs themselves" in page
