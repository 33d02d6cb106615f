"""The stage that draws: several draws of equally many images, one after another from one stream."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from stages import sample
from tests.conftest import ROOT
from workflow.data.tensors import read_tensors
from workflow.engines import timing
from workflow.models import registry
from workflow.paths import RunFiles

SMOKE: dict[str, Any] = yaml.safe_load((ROOT / "presets/smoke.yaml").read_text(encoding="utf-8"))
COUNT = 10


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which models draw untrained and no time is recorded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sample, "drop_if_recorded", lambda *_: None)
    monkeypatch.setattr(timing, "record", lambda *_: None)
    return tmp_path


def _drawn(name: str, draws: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, bytes]:
    """What the stage writes, and the picture of it."""
    settings = {**SMOKE, "sample": {"count": COUNT, "batch_size": batch}}
    settings["evaluate"] = {**SMOKE["evaluate"], "draws": draws}
    Path("params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    own = {key: value for key, value in SMOKE["models"][name].items() if key not in ("kind", "train")}
    torch.manual_seed(0)
    model = registry.build(SMOKE["models"][name]["kind"], (1, 8, 8), 17, own).eval()
    for parameter in model.parameters():  # fresh ones may draw the same image each time
        parameter.data += 0.3 * torch.randn_like(parameter)
    monkeypatch.setattr(registry, "load", lambda _: SimpleNamespace(model=model))
    sample.main(name, 0)
    files = RunFiles(name, 0)
    return read_tensors(files.samples)[0]["images"].clone(), files.overview.read_bytes()


@pytest.mark.parametrize("name", list(SMOKE["models"]))
@pytest.mark.usefixtures("folder")
def test_the_first_draw_is_the_same_however_many_follow(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where batches do not divide the count: each draw has batches of its own."""
    once, picture = _drawn(name, 1, 4, monkeypatch)
    images, again = _drawn(name, 3, 4, monkeypatch)
    assert images.shape == (3 * COUNT, 1, 8, 8)
    assert torch.equal(images[:COUNT], once)
    assert picture == again
    first, second, third = images.split(COUNT)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
