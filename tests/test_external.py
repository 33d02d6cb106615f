"""Images that were made elsewhere, as an entry of the comparison: from their files to their row."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from stages import evaluate as evaluate_stage
from stages import report, sample, train
from tests.conftest import ROOT
from tests.copied_project import DVC, SNAKEMAKE, Project
from tests.evaluated import LEVELS, SAMPLES_ALONE, SHAPE, OnlySamples, measure
from tests.invented_project import make_project, small_sets, write
from workflow import params
from workflow.data import export
from workflow.data.given import Source, check_samples
from workflow.data.pictures import in_bytes
from workflow.data.tensors import ImageSet, read_tensors, write_tensors
from workflow.engines.ledger import bring_up_to_date
from workflow.errors import BakeoffError
from workflow.evaluation.columns import GENERATION
from workflow.evaluation.evaluate import evaluate
from workflow.evaluation.evaluator import Evaluator
from workflow.files import read_json
from workflow.models import base, registry
from workflow.models.external import External
from workflow.params import Params
from workflow.paths import CURVES, LEDGER, PAGE, SUMMARY, RunFiles, model_page, stage_page
from workflow.report.claims import judge
from workflow.report.results import read_results
from workflow.report.tables import model_groups

SMOKE: dict[str, Any] = yaml.safe_load((ROOT / "presets/smoke.yaml").read_text(encoding="utf-8"))
THEIRS = Path("data/external/theirs.npz")
NEEDED = 40  # images: two draws of 20


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one entry of images made elsewhere, and no images yet."""
    monkeypatch.chdir(tmp_path)
    THEIRS.parent.mkdir(parents=True)
    return tmp_path


def _settings(**entry: Any) -> Params:
    """The smoke preset's, with an entry `theirs`; also written as the project's parameters."""
    content = {**SMOKE, "sample": {"count": NEEDED // 2, "batch_size": 7}}
    content["models"] = {
        "vae": SMOKE["models"]["vae"],
        "theirs": {"kind": "external", "samples": str(THEIRS), **entry},
    }
    text = yaml.safe_dump(content, sort_keys=False)
    Path("params.yaml").write_text(text, encoding="utf-8")
    return params.parse(text)


def _save(images: Tensor, path: Path = THEIRS) -> None:
    """Images of 17 levels as other programs store them: 0 to 255, channels last."""
    np.savez(path, in_bytes(images.numpy(), LEVELS).transpose(0, 2, 3, 1))


def test_it_keeps_the_contract_and_has_no_more_capabilities(digits: Tensor) -> None:
    model = External(SHAPE, LEVELS)
    model.hold(digits[:50])
    assert isinstance(model, base.HasHold)
    further = [
        *(base.HasLogProb, base.HasEncode, base.HasReconstruct, base.HasInterpolate, base.HasComplete),
        *(base.HasDecodings, base.HasCalibrate, base.HasFinish, base.HasInitialise),
    ]
    assert not any(isinstance(model, capability) for capability in further)
    drawn = model.sample(5, torch.Generator().manual_seed(1))
    assert (drawn.shape, drawn.dtype) == ((5, *SHAPE), torch.uint8)
    assert torch.equal(drawn, model.sample(5, torch.Generator().manual_seed(1)))


def test_distinct_images_are_distinct_and_all_of_them_if_so_many_are_asked_for() -> None:
    images = torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1).expand(40, 1, 8, 8)
    model = External((1, 8, 8), 256)
    model.hold(images)
    found = model.distinct(40, torch.Generator().manual_seed(0))[:, 0, 0, 0].tolist()
    assert found != list(range(40))
    assert sorted(found) == list(range(40))
    few = model.distinct(7, torch.Generator().manual_seed(0))[:, 0, 0, 0].tolist()
    assert few == found[:7]  # more draws leave the first one as it was
    with pytest.raises(ValueError, match=r"^40 images, but 41 are needed; add more$"):
        model.distinct(41, torch.Generator())


def test_it_comes_back_from_its_file_with_as_many_images(digits: Tensor, tmp_path: Path) -> None:
    model = External(SHAPE, LEVELS, title="theirs")
    model.hold(digits[:33])
    registry.save(model, tmp_path / "model.safetensors", "external", {"title": "theirs"}, {"source": None})
    again = registry.load(tmp_path / "model.safetensors").model
    assert isinstance(again, External)
    assert again.title == "theirs"
    assert torch.equal(again.images, digits[:33])


def test_the_same_images_have_the_same_scores_as_those_of_a_model(evaluator: Evaluator, digits: Tensor) -> None:
    """Exactly, whoever made them; what needs more than images is missing."""
    model = External(SHAPE, LEVELS)
    model.hold(digits[300:390])
    images = model.distinct(90, torch.Generator().manual_seed(0))
    found, _ = evaluate(model, [images], evaluator, 0, {})
    expected, _ = measure(OnlySamples(), images, evaluator, 0)
    assert {key: found[key] for key in SAMPLES_ALONE} == {key: expected[key] for key in SAMPLES_ALONE}
    unknown = {key for key, value in found.items() if value is None}
    assert unknown - {key for key, value in expected.items() if value is None} == {
        "gflops_per_sample",
        "passes_in_sequence",
    }


def test_torch_fidelity_finds_the_same_fid_in_an_exported_file(
    evaluator: Evaluator, samples: Tensor, tmp_path: Path
) -> None:
    """Of the same features, from the file as it stands to the figure."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    export.write(tmp_path / "samples.npz", samples.numpy(), LEVELS)
    with np.load(tmp_path / "samples.npz") as file:
        stored = torch.from_numpy(file["arr_0"]).permute(0, 3, 1, 2)
    images = (stored.double() * ((LEVELS - 1) / 255)).round().to(torch.uint8)
    both = (fid_features_to_statistics(evaluator.outputs(x)[0].features) for x in (images, evaluator.test.images))
    expected = fid_statistics_to_metric(*both, verbose=False)[KEY_METRIC_FID]
    read = Source(tmp_path / "samples.npz", SHAPE).read(LEVELS)
    assert evaluator.scores([torch.from_numpy(read)]).means["fid"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("form", ["npz", "npy", "grey pictures", "pictures in colour", "three equal channels"])
def test_every_form_gives_the_same_pixels(form: str, digits: Tensor, tmp_path: Path) -> None:
    images = digits[:12]
    pixels = in_bytes(images.numpy(), LEVELS)
    path = tmp_path / "theirs"
    if form == "npy":
        np.save(path := tmp_path / "theirs.npy", pixels[:, 0])
    elif form == "npz":
        np.savez(path := tmp_path / "theirs.npz", pixels.transpose(0, 2, 3, 1), mu=np.zeros(3))
    elif form == "three equal channels":
        np.save(path := tmp_path / "theirs.npy", pixels.repeat(3, 1))
    else:
        (path / "below").mkdir(parents=True)
        (path / ".hidden").write_text("", encoding="utf-8")
        for number, image in enumerate(pixels[:, 0]):
            picture = Image.fromarray(image)
            name = f"{number:02}.png" if number < 6 else f"below/{number:02}.png"
            (picture if form == "grey pictures" else picture.convert("RGBA")).save(path / name)
    source = Source(path, SHAPE)
    assert source.count() == 12
    assert np.array_equal(source.read(LEVELS), images.numpy())


def _picture(change: Callable[[Image.Image], Image.Image], name: str = "1.png") -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        folder.mkdir()
        good = Image.fromarray(np.full((8, 8), 200, np.uint8))
        good.save(folder / "0.png")
        change(good).save(folder / name)

    return write


def _array(**arrays: Any) -> Callable[[Path], None]:
    return lambda path: np.savez(path.open("wb"), **arrays)


def _text(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").write_text("", encoding="utf-8")


def _damaged(folder: Path) -> None:
    folder.mkdir()
    (folder / "0.png").write_bytes(b"no picture")


BRIGHT = np.full((4, 8, 8), 255, np.uint8)
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda _: None, "no such file or folder; name a folder of pictures, an .npz or an .npy"),
    "empty": (Path.mkdir, "has no pictures in it"),
    "other file": (_text, "/notes.txt: not a picture by its name; remove it, or name the file if it is an .npz or"),
    "size": (_picture(lambda p: p.resize((9, 8))), "/1.png: 8x9 pixels, but the data have 8x8; resize what you"),
    "colour": (
        _picture(lambda _: Image.new("RGB", (8, 8), "red")),
        "/1.png: is in colour, but the data are grey; convert it",
    ),
    "alpha": (_picture(lambda _: Image.new("RGBA", (8, 8), (1, 1, 1, 9))), "/1.png: is transparent; put it on a"),
    "16 bits": (_picture(lambda _: Image.new("I;16", (8, 8), 900)), "/1.png: has more than 8 bits per pixel and"),
    "damaged": (
        _damaged,
        "/0.png: cannot be read as a picture; write it again, or leave it out",
    ),
    "dark": (
        _array(x=np.full((4, 8, 8), 16, np.uint8)),
        "the brightest pixel is only 16 of 255; scale the images to 0 to 255: (x * (255 / 16)).round()",
    ),
    "black": (_array(x=np.zeros((4, 8, 8), np.uint8)), "the brightest pixel is only 0 of 255; scale the images to 0"),
    "floats": (_array(x=np.zeros((4, 8, 8))), "x: float64: images should be uint8, 0 to 255; convert them: (x * 255)"),
    "array size": (_array(x=np.zeros((4, 9, 8), np.uint8)), "9x8 pixels, but the data have 8x8; resize what you"),
    "several": (_array(x_train=BRIGHT, x_test=BRIGHT), "x_train, x_test: several arrays of images; store those that"),
    "no file of NumPy": (lambda path: path.write_bytes(b"nothing"), "cannot be read ("),
}


@pytest.mark.parametrize(("write", "line"), BAD.values(), ids=BAD.keys())
def test_what_is_not_like_the_data_is_refused_by_name(
    write: Callable[[Path], object], line: str, tmp_path: Path
) -> None:
    write(tmp_path / "theirs")
    with pytest.raises(BakeoffError) as raised:
        Source(tmp_path / "theirs", SHAPE).read(LEVELS)
    assert str(raised.value).startswith(f"{tmp_path / 'theirs'}{'' if line.startswith('/') else ': '}{line}")
    assert "\n" not in str(raised.value)


def test_grey_images_are_no_match_for_data_in_colour(tmp_path: Path) -> None:
    np.save(tmp_path / "theirs.npy", BRIGHT)
    with pytest.raises(BakeoffError, match=r"theirs\.npy: is grey, but the data have 3 channels; repeat the one"):
        Source(tmp_path / "theirs.npy", (3, 8, 8)).count()


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        (
            {},
            "params.yaml: models.theirs.samples: data/external/theirs.npz: 39 images, but 40 are needed "
            "(evaluate.draws × sample.count); add more, or lower one of these",
        ),
        (
            {"samples": "elsewhere/theirs.npz"},
            "params.yaml: models.theirs.samples: elsewhere/theirs.npz: should lie in data/external, where DVC sees "
            "when it changes; move it there",
        ),
        (
            {"samples": "data/external/../../theirs.npz"},
            "params.yaml: models.theirs.samples: data/external/../../theirs.npz: should lie in data/external, where "
            "DVC sees when it changes; move it there",
        ),
        (
            {"samples": "data/external/none"},
            "data/external/none: no such file or folder; name a folder of pictures, an .npz or an .npy",
        ),
    ],
)
@pytest.mark.usefixtures("folder")
def test_the_check_says_where_images_should_lie_and_how_many_are_needed(
    entry: dict[str, Any], line: str, digits: Tensor
) -> None:
    _save(digits[: NEEDED - 1])
    with pytest.raises(BakeoffError) as raised:
        check_samples(_settings(**entry), SHAPE)
    assert str(raised.value) == line


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        (
            {"train": SMOKE["models"]["vae"]["train"]},
            "models.theirs: train, samples: how it is trained, or where its images are: both are given; remove one",
        ),
        ({"samples": None}, "models.theirs.train: missing; add it"),
        (
            {"samples": None, "train": SMOKE["models"]["vae"]["train"]},
            "models.theirs.train: kind 'external' is not trained; give samples instead: a folder of pictures, an .npz",
        ),
        ({"kind": "vae"}, "models.theirs.samples: kind 'vae' is trained; give train instead, or set kind: external"),
        ({"samples": 3}, "models.theirs.samples: 3: should be a path; put it into quotes"),
        ({"titel": "x"}, "models.theirs.titel: unknown key; known here: title"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_an_entry_is_trained_or_has_samples(entry: dict[str, Any], line: str) -> None:
    with pytest.raises(BakeoffError) as raised:
        registry.check_entries(_settings(**entry))
    assert str(raised.value).startswith(f"params.yaml: {line}")


@pytest.mark.usefixtures("folder")
def test_entries_that_are_trained_say_nothing_of_samples() -> None:
    assert set(_settings().models["vae"].model_dump(mode="json")) == {
        *SMOKE["models"]["vae"],
    }


def test_a_changed_file_changes_the_pages_of_its_model_and_of_the_check_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, digits: Tensor
) -> None:
    (folder / "stages").symlink_to(ROOT / "stages")
    (folder / "workflow").symlink_to(ROOT / "workflow")
    _save(digits[:NEEDED])
    settings = _settings()
    bring_up_to_date(settings)
    before = {page: page.read_bytes() for page in LEDGER.rglob("*.json")}
    bring_up_to_date(settings)
    assert {page: page.read_bytes() for page in LEDGER.rglob("*.json")} == before
    _save(digits[1 : NEEDED + 1])
    bring_up_to_date(settings)
    changed = {page for page, content in before.items() if page.read_bytes() != content}
    assert changed == {model_page("theirs"), stage_page("check")}
    THEIRS.unlink()
    with pytest.raises(BakeoffError, match=r"^data/external/theirs\.npz: no such file or folder$"):
        bring_up_to_date(settings)


def _prepared(digits: Tensor, labels: Tensor) -> None:
    from workflow.data.arrays import write_prepared

    parts = {"train": slice(400, 600), "valid": slice(600, 650), "test": slice(650, 750)}
    sets = {split: ImageSet(digits[rows].clone(), labels[rows]) for split, rows in parts.items()}
    about = {"name": "digits", "source": "", "licence": "", "split": "", "shape": SHAPE, "levels": LEVELS}
    write_prepared(Path("data/prepared"), sets, **about, classes=[str(n) for n in range(10)])


def test_the_stages_take_each_image_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, digits: Tensor, digit_labels: Tensor
) -> None:
    (folder / "stages").symlink_to(ROOT / "stages")
    (folder / "workflow").symlink_to(ROOT / "workflow")
    _save(digits[:60])
    bring_up_to_date(_settings())
    _prepared(digits, digit_labels)
    monkeypatch.setattr(train, "prune", lambda _: None)
    train.main("theirs", 0)
    files = RunFiles("theirs", 0)
    found = registry.load(files.model)
    assert isinstance(found.model, External)
    assert torch.equal(found.model.images, digits[:60])
    assert found.model.title == "theirs"
    source = found.about["source"]
    assert source == {
        "place": str(THEIRS),
        "images": 60,
        "sha256": read_json(model_page("theirs"))[str(THEIRS)],
    }
    assert evaluate_stage.note("", 0.0, source) == f"60 images from {THEIRS}, SHA-256 {source['sha256']}."
    assert files.history.read_bytes() == b""
    assert len(read_tensors(files.snapshots)[0]["steps"]) == 0
    sample.main("theirs", 0)
    images = read_tensors(files.samples)[0]["images"]
    known = {image.numpy().tobytes() for image in digits[:60]}
    drawn = [image.numpy().tobytes() for image in images]
    assert len(drawn) == len(set(drawn)) == NEEDED
    assert set(drawn) < known
    assert not list(Path().glob("timings/*"))  # nothing was made here
    _save(digits[:NEEDED])
    with pytest.raises(BakeoffError, match=r"^data/external/theirs\.npz: has changed since the run began; run again$"):
        train.main("theirs", 0)


def test_the_page_says_what_is_known_of_them_and_what_is_not(folder: Path) -> None:
    """Two models of the invented project, as if their images had been made elsewhere."""
    make_project(folder, small_sets(), 5, ["a", "b", "c"], [0])
    settings = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    for name in ("gan", "nice"):
        settings["models"][name] = {"kind": "external", "samples": f"data/external/{name}.npz"}
    Path("params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    about = ("paper", "family", "taxonomy", "likelihood", "objective", "about")
    unknown = dict.fromkeys(("parameters", "training_gflops", "gflops_per_sample", "passes_in_sequence"))
    unknown |= dict.fromkeys(("bits_per_dim", "bits_per_dim_kind", "probe_accuracy", "oddity"))
    for name in ("gan", "nice"):
        files, own = RunFiles(name, 0), {key: getattr(External, key) for key in about}
        own |= {"kind": "external", "title": f"their {name}", "note": f"The hash of {name}."}
        write(files.metrics, {**read_json(files.metrics), **own, **unknown})
        files.history.write_text("", encoding="utf-8")
        none = {"images": torch.empty(0, 0, 1, 6, 6, dtype=torch.uint8), "steps": torch.empty(0, dtype=torch.int64)}
        write_tensors(files.snapshots, none)
    report.build()
    page = PAGE.read_text(encoding="utf-8")
    assert "their gan and their nice: images made elsewhere. All others were trained on the same 60 images" in page
    assert '<span class="quiet">unknown</span>' in page
    assert "Besides <b>gan</b>: <b>nice</b> (samples data/external/nice.npz)." in page
    provenance = page.partition('<section id="provenance">')[2]
    assert all(f"<dt>their {name}</dt><dd>The hash of {name}.</dd>" in provenance for name in ("gan", "nice"))
    assert {file.stem for file in CURVES.iterdir()}.isdisjoint({"gan", "nice"})  # DVC cannot plot an empty one
    summary = read_json(SUMMARY)
    assert list(summary["models"])[-2:] == ["gan", "nice"]  # below all places of the taxonomy
    assert summary["verdicts"]["fid"]["best"] == ["gan"]
    assert "gan" not in summary["verdicts"]["gflops_per_sample"]["best"]
    claims = judge(summary, read_results(params.load()).measurements)
    assert not [
        claim for claim in claims if "their " in str(claim) and "memorise" not in claim.says
    ]  # none of families
    groups = model_groups(summary, GENERATION)
    heading, rows = groups[-1]
    assert (heading, [row.label for row in rows]) == ("Images made elsewhere", ["their gan", "their nice"])


@pytest.mark.slow
@pytest.mark.parametrize("engine", [DVC, SNAKEMAKE], ids=lambda engine: engine[0])
def test_a_changed_file_reruns_exactly_its_chain(engine: tuple[str, ...], tmp_path: Path) -> None:
    """And its row is in the report, with its hash."""
    project = Project(tmp_path, ("nice",))
    settings = yaml.safe_load((tmp_path / "params.yaml").read_text(encoding="utf-8"))
    settings["models"]["theirs"] = {"kind": "external", "samples": str(THEIRS), "title": "Somebody’s samples"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    random = np.random.default_rng(0)
    np.savez(tmp_path / THEIRS, random.integers(0, 256, (200, 8, 8, 1), np.uint8))
    chain = {f"{stage}@theirs-0" for stage in ("train", "sample", "evaluate")}
    assert chain <= project.ran(*engine)
    for other in (DVC, SNAKEMAKE):
        project.assert_settled_for(other)
    np.savez(tmp_path / THEIRS, random.integers(0, 256, (200, 8, 8, 1), np.uint8))
    ran = project.ran(*engine)
    assert ran - {"ledger", "check"} == {*chain, "track", "report"}
    for other in (DVC, SNAKEMAKE):
        project.assert_settled_for(other)
    page = (tmp_path / "report/index.html").read_text(encoding="utf-8")
    metrics = json.loads((tmp_path / "runs/theirs/0/metrics.json").read_text(encoding="utf-8"))
    assert metrics["note"] in page
    assert "Somebody’s samples" in page
    assert metrics["gflops_per_sample"] is metrics["parameters"] is metrics["bits_per_dim"] is None
