"""A network from a file as extractor: its features are its own, and what is not fit is refused in one line."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from tests.conftest import ROOT
from tests.invented_project import write
from workflow import params
from workflow.data.tensors import join, read_tensors, write_tensors
from workflow.engines.ledger import Code, bring_up_to_date
from workflow.errors import BakeoffError
from workflow.evaluation.network import Network, load_network, take_network, try_network
from workflow.files import sha256
from workflow.paths import EXTERNAL, LEDGER, stage_page

EYE = EXTERNAL / "eye.pt"
GREY, COLOUR = (1, 8, 8), (3, 8, 8)
SMOKE: dict[str, Any] = yaml.safe_load((ROOT / "presets/smoke.yaml").read_text(encoding="utf-8"))


class Eye(nn.Module):
    """Two convolutions of pictures that it shifts and scales itself, and their means: 5 features."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first((x - 0.5) / 0.25))
        return torch.tanh(self.second(hidden)).mean((2, 3))


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.double().flatten(1)


class Pixels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Twice(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Infinite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).log()


class OneChannel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x).mean((2, 3))
        return found


def save(network: nn.Module, path: Path = EYE) -> None:
    """As TorchScript."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(network.eval()), str(path))


def note() -> None:
    """On the page of the stage, as the ledger does."""
    write(stage_page("extractor"), {str(EYE): sha256(EYE)})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    EXTERNAL.mkdir(parents=True)
    return tmp_path


def settings(extractor: Any = str(EYE), **others: Any) -> params.Params:
    """The smoke preset's, with another extractor; also written as the project's parameters."""
    content = {**SMOKE, "evaluate": {**SMOKE["evaluate"], "extractor": extractor}, **others}
    text = yaml.safe_dump(content, sort_keys=False)
    Path("params.yaml").write_text(text, encoding="utf-8")
    return params.parse(text)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("shape", "levels"), [(GREY, 17), (COLOUR, 256)])
def test_features_are_those_of_the_network_called_directly(shape: tuple[int, int, int], levels: int) -> None:
    save(Eye())
    images = torch.randint(levels, (11, *shape), dtype=torch.uint8)
    note()
    facts = take_network(EYE, shape, levels, Path("model"))
    found = load_network(Path("model")).outputs(images, 4)
    pixels = images.double().div(levels - 1).repeat(1, 3 // shape[0], 1, 1)
    torch.testing.assert_close(found.features, Eye().double()(pixels).detach().float(), rtol=1e-4, atol=1e-6)
    assert (found.features.dtype, found.logits, found.classes) == (torch.float32, None, None)
    assert (facts["name"], facts["features"], facts["sha256"]) == ("eye", 5, sha256(EYE))


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_an_exported_program_is_read_as_well() -> None:
    images, path = torch.randint(256, (5, *COLOUR), dtype=torch.uint8), EYE.with_suffix(".pt2")
    anything = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(Eye(), (torch.rand(2, *COLOUR),), dynamic_shapes=anything), path)
    content, features = try_network(path, COLOUR)
    assert features == 5
    found = Network(content, ".pt2", 256).outputs(images, 2).features
    torch.testing.assert_close(found, Eye()(images / 255).detach())
    torch.export.save(torch.export.export(Eye(), (torch.rand(2, *COLOUR),)), path)
    with pytest.raises(BakeoffError, match=r"^data/external/eye\.pt2: fails on 3 images \(3, 8, 8\): .*any number of"):
        try_network(path, COLOUR)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("network", "says"),
    [
        (Pixels(), r"gives \(3, 3, 8, 8\) for 3 images \(3, 8, 8\); let it give floats \(3, features\)$"),
        (Twice(), "gives tuple for 3 images"),
        (Infinite(), "gives features that are not finite"),
        (OneChannel(), r"fails on 3 images \(3, 8, 8\): .*expected input.* to have 1 channels.*; let it take"),
    ],
)
def test_what_is_not_fit_is_refused_in_one_line(network: nn.Module, says: str) -> None:
    save(network)
    with pytest.raises(BakeoffError, match=rf"^{EYE}: {says}") as caught:
        try_network(EYE, GREY)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("folder")
def test_what_is_no_program_is_refused_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BakeoffError, match=rf"^{EYE}: No such file or directory; put it there, or change evaluate\."):
        try_network(EYE, GREY)
    weights = EXTERNAL / "weights.pt"
    torch.save(Eye().state_dict(), weights)
    for path in (EYE, EYE.with_suffix(".pt2"), weights, weights.with_suffix(".pt2")):
        path.write_bytes(weights.read_bytes() if path.stem == "weights" else b"no archive")
        with pytest.raises(BakeoffError, match=rf"^{re.escape(str(path))}: not a program of [Tt]orch") as caught:
            try_network(path, GREY)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""
    with pytest.raises(BakeoffError, match=r"takes 3 channels, but the data have 2; set evaluate\.extractor: trained$"):
        try_network(EYE, (2, 8, 8))


@pytest.mark.usefixtures("folder")
def test_doubles_become_floats_and_points_are_no_pictures() -> None:
    save(Double())
    content, features = try_network(EYE, GREY)
    found = Network(content, ".pt", 17).outputs(torch.full((2, *GREY), 8, dtype=torch.uint8), 1)
    assert features == 3 * 64
    assert torch.equal(found.features, torch.full((2, 192), 0.5))


@pytest.mark.usefixtures("folder")
def test_memory_that_runs_out_inside_it_halves_the_batch(capsys: pytest.CaptureFixture[str]) -> None:
    """TorchScript's own error says so in its text alone."""
    save(Eye())
    network, sizes = Network(EYE.read_bytes(), ".pt", 256), list[int]()
    program = network.program

    class Small(nn.Module):
        def forward(self, x: Tensor) -> Any:
            sizes.append(len(x))
            if len(x) > 2:
                raise RuntimeError("Operation failed in the TorchScript interpreter.\nCUDA out of memory.")
            return program(x)

    network.program = Small()
    images = torch.randint(256, (4, *COLOUR), dtype=torch.uint8)
    found = network.outputs(images, 4).features
    assert sizes == [4, 2, 2]
    assert "out of GPU memory" in capsys.readouterr().err
    torch.testing.assert_close(found, Eye()(images / 255).detach())


def pages() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in LEDGER.rglob("*.json")}


def test_a_changed_file_is_on_the_pages_that_reruns_follow_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What depends on the stage `extractor` follows from the graph, which `test_ledger.py` tests."""
    (folder / "stages").symlink_to(ROOT / "stages")
    monkeypatch.setattr(Code, "hashes", lambda *_: {})  # of the code, which takes a second
    save(Eye(0))
    chosen = settings(["trained", str(EYE)])
    bring_up_to_date(chosen)
    before = pages()
    bring_up_to_date(chosen)
    assert pages() == before
    save(Eye(1))
    with pytest.raises(BakeoffError, match=rf"^{EYE}: has changed since the run began; run again$"):
        take_network(EYE, GREY, 17, Path("model"))
    bring_up_to_date(chosen)
    after = pages()
    assert {path for path in after if after[path] != before[path]} == {stage_page("extractor"), stage_page("check")}
    EYE.unlink()
    with pytest.raises(BakeoffError, match=rf"^{EYE}: no such file or folder$"):
        bring_up_to_date(chosen)


def test_the_graph_follows_the_file() -> None:
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert "data/external" in graph["ledger"]["deps"]
    assert "evaluate.extractor" in graph["ledger"]["params"]
    assert str(stage_page("extractor")) in graph["extractor"]["deps"]
    for stage in ("reference", "audit", "evaluate"):
        assert "data/extractor/model.safetensors" in graph[stage]["deps"]


@pytest.mark.usefixtures("folder")
def test_several_share_a_file_and_one_has_it_as_before() -> None:
    write_tensors(Path("a"), {"x": torch.arange(3)}, "about a")
    save(Eye())
    note()
    take_network(EYE, GREY, 17, Path("b"))
    join([Path("a"), Path("b")], Path("both"))
    images = torch.randint(17, (4, *GREY), dtype=torch.uint8)
    together, alone = (load_network(Path(path), part) for path, part in (("both", 1), ("b", None)))
    assert torch.equal(together.outputs(images, 4).features, alone.outputs(images, 4).features)
    assert read_tensors(Path("both"))[0].keys() == {"0/x", "1/program"}
    for path, part in (("both", 0), ("both", 2), ("b", 0), ("a", None)):
        with pytest.raises(BakeoffError, match=rf"^{path}: (not a network's program|has no part)"):
            load_network(Path(path), part)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("trianed", "'trianed': should be trained, inception, or a network's file below data/external"),
        ("eye.pt", "'eye.pt': should be trained"),
        ("data/external/../eye.pt", "should be trained"),
        ("data/external/eye.pth", "should be trained"),
        (3, "3: should be trained"),
        ([], "names no extractor"),
        (["trained", 3], "3 should be trained"),
        (["trained", "trained"], "trained stands twice; remove or rename one of them"),
        (["data/external/eye.pt", "data/external/b/eye.pt2"], "eye stands twice"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_other_names_are_refused(given: Any, says: str) -> None:
    with pytest.raises(BakeoffError, match=rf"^params\.yaml: evaluate\.extractor: .*{re.escape(says)}"):
        settings(given)
