"""Images drawn from trained models for other uses, and read back."""

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.conftest import ROOT
from workflow.data.given import Source
from workflow.data.pictures import in_bytes, in_levels
from workflow.data.tensors import write_tensors
from workflow.models import registry
from workflow.models.base import Model
from workflow.paths import RunFiles
from workflow.random_streams import Stream, make_generator

SMOKE: dict[str, Any] = yaml.safe_load((ROOT / "presets/smoke.yaml").read_text(encoding="utf-8"))
SHAPE, LEVELS = (1, 8, 8), 17
WORDS = ["a", "thin", "three"]


@pytest.fixture(autouse=True)
def _a_project_with_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of untrained models: `vae`, `pixelcnn`, `told`, a VAE of p(x|y), and `reader`, which has captions."""
    monkeypatch.chdir(tmp_path)
    models = {**SMOKE["models"], "told": {**SMOKE["models"]["vae"], "classes": 10}}
    read = {"prior": "transformer", "vocabulary": len(WORDS), "caption_length": 3}
    models["reader"] = {**SMOKE["models"]["vqvae"], **read}
    Path("params.yaml").write_text(yaml.safe_dump({**SMOKE, "models": models}, sort_keys=False), encoding="utf-8")
    for name in ("vae", "pixelcnn", "told", "reader"):
        own = {key: value for key, value in models[name].items() if key not in ("kind", "train")}
        model = registry.build(models[name]["kind"], SHAPE, LEVELS, own)
        for parameter in model.parameters():  # fresh ones may draw the same image each time
            parameter.data += 0.3 * torch.randn_like(parameter)
        about = {"words": WORDS} if name == "reader" else {}
        registry.save(model, RunFiles(name, 0).model, models[name]["kind"], own, about)


def _draw(*arguments: str) -> int | str | None:
    before, sys.argv = sys.argv, [str(ROOT / "stages/draw.py"), *arguments]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        return ended.code
    finally:
        sys.argv = before
    return 0


def _model(name: str) -> Model:
    return registry.load(RunFiles(name, 0).model).model


@pytest.mark.parametrize("levels", range(2, 257))
def test_levels_survive_the_way_through_bytes(levels: int) -> None:
    values = np.arange(levels, dtype=np.uint8)
    in_between = in_bytes(values, levels)
    assert in_between[0] == 0
    assert in_between[-1] == 255
    assert np.array_equal(in_levels(in_between, levels), values)


@pytest.mark.parametrize("out", ["pictures", "below/samples.npz"])
def test_what_is_drawn_can_be_read_back_pixel_by_pixel(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _draw("vae", "--count", "12", "--out", out) == 0
    assert capsys.readouterr().out == f"{out}: 12 images of runs/vae/0\n"
    expected = _model("vae").sample(12, make_generator(torch.device("cpu"), 0, Stream.TAKEN))
    assert np.array_equal(Source(Path(out), SHAPE).read(LEVELS), expected.numpy())
    assert not [file for file in Path().rglob(".*") if file.name.endswith(".part")]


def test_the_file_has_the_layout_that_evaluators_read() -> None:
    assert _draw("told", "--count", "11", "--class", "3", "--out", "samples.npz") == 0
    with np.load("samples.npz") as found:
        assert list(found) == ["arr_0", "arr_1"]
        assert (found["arr_0"].shape, found["arr_0"].dtype) == ((11, 8, 8, 1), np.uint8)
        assert (found["arr_1"] == np.full(11, 3)).all()
        y, random = torch.full((11,), 3), make_generator(torch.device("cpu"), 0, Stream.TAKEN)
        expected = _model("told").sample_given(y, random)  # type: ignore[operator]
        assert np.array_equal(found["arr_0"].transpose(0, 3, 1, 2), in_bytes(expected.numpy(), LEVELS))


@pytest.mark.parametrize("tries", [1, 4])
def test_a_prompt_is_read_word_by_word_and_the_best_of_several_kept(tries: int) -> None:
    asked = ("--prompt", "A thin three!", "--best-of", str(tries))
    assert _draw("reader", "--count", "9", *asked, "--out", "threes") == 0
    rows = torch.tensor([1, 2, 3]).expand(9, -1)
    random = make_generator(torch.device("cpu"), 0, Stream.TAKEN)
    expected = _model("reader").sample_captioned(rows, random, tries)  # type: ignore[operator]
    assert np.array_equal(Source(Path("threes"), SHAPE).read(LEVELS), expected.numpy())


def test_other_random_numbers_give_other_images_and_the_same_ones_the_same_bytes() -> None:
    for out, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        assert _draw("vae", "--count", "9", "--random-seed", seed, "--out", f"{out}.npz") == 0
    a, b, c = (Path(f"{out}.npz").read_bytes() for out in "abc")
    assert a == b != c


def test_a_grid_of_all() -> None:
    assert _draw("vae", "--count", "10", "--out", "grid.png") == 0
    with Image.open("grid.png") as picture:
        assert picture.size == (4 * 49 - 1, 3 * 49 - 1)


def test_completions_keep_the_upper_half() -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(pixels).convert("RGB").save("given.png")
    assert _draw("pixelcnn", "--count", "5", "--complete", "given.png", "--out", "done") == 0
    done = Source(Path("done"), SHAPE).read(LEVELS)
    assert (done[:, 0, :4] == in_levels(pixels, LEVELS)[:4]).all()
    assert len(np.unique(done, axis=0)) > 1


WRONG = [
    (("vae", "--out", "full"), "--out: full: exists already, and nothing is overwritten; name another, or remove it"),
    (("vae", "--out", "a.npz"), "--out: a.npz: exists already, and nothing is overwritten; name another, or remove it"),
    (
        ("vae", "--out", "a.jpg"),
        "--out: a.jpg: should be a folder, a .png (one grid) or an .npz; folders are named without a dot",
    ),
    (("gan", "--out", "x"), "runs/gan/0/model.safetensors: missing; run `dvc repro train@gan-0`"),
    (
        ("vea", "--out", "x"),
        "'vea': no such model in params.yaml; known: pixelcnn, vae, vqvae, gan, nice, told, reader",
    ),
    (("vae", "--seed", "3", "--out", "x"), "'3': not among the seeds in params.yaml; known: 0"),
    (("vae", "--count", "0", "--out", "x"), "--count: '0': should be a whole number of at least 1"),
    (
        ("vae", "--random-seed", "-1", "--out", "x"),
        "--random-seed: '-1': should be a whole number from 0 to 2147483647",
    ),
    (
        ("vae", "--class", "3", "--out", "x"),
        "--class: vae was trained without classes; leave it out, or draw from a model of p(x|y)",
    ),
    (
        ("told", "--class", "10", "--out", "x"),
        "--class: '10': no such class; known: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
    ),
    (
        ("vae", "--prompt", "a three", "--out", "x"),
        "--prompt: vae was trained without captions; leave it out, or draw from one with them",
    ),
    (
        ("reader", "--prompt", "a thin cat", "--out", "x"),
        "--prompt: 'cat': in no caption of the training; known: a, thin, three",
    ),
    (("vae", "--best-of", "3", "--out", "x"), "--best-of: needs --prompt; add it"),
    (("reader", "--best-of", "no", "--out", "x"), "--best-of: 'no': should be a whole number of at least 1"),
    (
        ("vae", "--complete", "wide.png", "--out", "x"),
        "--complete: vae cannot complete images; use an autoregressive model, such as pixelcnn",
    ),
    (
        ("pixelcnn", "--complete", "wide.png", "--out", "x"),
        "wide.png: 8x9 pixels, but the data have 8x8; resize what you compare",
    ),
    (("pixelcnn", "--complete", "none.png", "--out", "x"), "none.png: no such file"),
    (
        ("pixelcnn", "--complete", "a.npz", "--out", "x"),
        "a.npz: cannot be read as a picture; write it again, or leave it out",
    ),
]


@pytest.mark.parametrize(("arguments", "line"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_each_wrong_use_gets_one_line(
    arguments: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("full").mkdir()
    for name in ("full/mine.txt", "a.npz"):
        Path(name).write_text("mine", encoding="utf-8")
    Image.new("L", (9, 8)).save("wide.png")
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    assert _draw(*arguments) == 2
    assert capsys.readouterr() == ("", f"error: {line}\n")
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before


def test_an_empty_folder_is_filled_and_a_failure_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("new").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr("workflow.data.pictures.io.BytesIO", lambda: 1 / 0)  # while the first picture is written
        with pytest.raises(ZeroDivisionError):
            _draw("vae", "--out", "new")
    assert [*Path("new").iterdir(), *Path().glob(".new*")] == []
    assert _draw("vae", "--count", "2", "--out", str(Path("new").absolute())) == 0


@pytest.mark.parametrize("asked", ["c7", "7"])
def test_classes_are_asked_for_by_the_names_they_had_in_training_or_by_number(asked: str) -> None:
    from workflow.data.arrays import Arrays, write_prepared

    options = {key: value for key, value in SMOKE["models"]["vae"].items() if key not in ("kind", "train")}
    names = {"class_names": [f"c{n}" for n in range(10)]}
    registry.save(_model("told"), RunFiles("told", 0).model, "vae", {**options, "classes": 10}, names)
    own = Arrays(np.zeros((2, *SHAPE), np.uint8), np.zeros(2, np.int64))
    others = {"name": "x", "shape": SHAPE, "levels": LEVELS, "classes": [f"c{9 - n}" for n in range(10)]}
    about = others | {"source": "", "licence": "", "split": ""}
    write_prepared(Path("data/prepared"), dict.fromkeys(("train", "valid", "test"), own), **about)
    assert _draw("told", "--class", asked, "--count", "2", "--out", "seven.npz") == 0
    with np.load("seven.npz") as found:
        assert found["arr_1"].tolist() == [7, 7]


def test_tensors_are_not_taken_for_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    write_tensors(RunFiles("vae", 0).model, {"images": torch.zeros(1)})
    assert _draw("vae", "--out", "x") == 2
    assert capsys.readouterr().err.startswith("error: runs/vae/0/model.safetensors: not a model that this code can")
