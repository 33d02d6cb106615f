"""The JSON Schema of params.yaml for editors, and the page that describes every parameter."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import ROOT
from workflow.models import kinds
from workflow.models.base import Model
from workflow.models.registry import hyperparameter_schema, model_class
from workflow.params import Entry, Section
from workflow.schema import written
from workflow.schema.docstrings import arguments

WRITTEN = written()
SCHEMA = json.loads(WRITTEN[Path("params.schema.json")])
FILES = [ROOT / "params.yaml", *sorted((ROOT / "presets").rglob("*.yaml"))]
SMOKE: dict[str, Any] = yaml.safe_load((ROOT / "presets/smoke.yaml").read_text(encoding="utf-8"))

TRAIN = SMOKE["models"]["vae"]["train"]
THEIRS = {"kind": "external", "samples": "data/external/theirs.npz"}


def _problems(settings: dict[str, Any]) -> list[str]:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(settings)]


def _with(path: str, value: object) -> dict[str, Any]:
    """The smoke preset with one value changed; None: removed."""
    settings = copy.deepcopy(SMOKE)
    *parents, last = path.split("/")
    section: Any = settings
    for part in parents:
        section = section[part]
    section[last] = value
    if value is None:
        del section[last]
    return settings


@pytest.mark.parametrize("path", WRITTEN, ids=str)
def test_what_is_written_is_current(path: Path) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == WRITTEN[path], "run `python -m workflow.schema`"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_our_own_files_are_valid(file: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert _problems(yaml.safe_load(file.read_text(encoding="utf-8"))) == []


def test_the_file_names_its_schema_for_editors() -> None:
    first, _ = (ROOT / "params.yaml").read_text(encoding="utf-8").split("\n", 1)
    assert first == "# yaml-language-server: $schema=params.schema.json"
    assert (ROOT / "params.schema.json").exists()


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("sampel", {}, ": Additional properties are not allowed ('sampel' was unexpected)"),
        ("models/vae/latens", 3, "models.vae: Additional properties are not allowed ('latens' was unexpected)"),
        ("models/vae/couplings", 3, "models.vae: Additional properties are not allowed ('couplings' was unexpected)"),
        ("models/vae/latents", None, "models.vae: 'latents' is a required property"),
        ("models/vae/latents", 0, "models.vae.latents: 0 is less than the minimum of 1"),
        ("models/vae/train/epoch", 3, "models.vae.train: Additional properties are not allowed ('epoch' was"),
        ("models/vae/train/lr", "1e-3", "models.vae.train.lr: '1e-3' is not of type 'number'"),
        ("models/vae/train", None, "models.vae: 'train' is a required property"),
        ("models/vae/samples", "a.npz", "models.vae: Additional properties are not allowed ('samples' was unexpected)"),
        ("models/theirs", {"kind": "external"}, "models.theirs: 'samples' is a required property"),
        ("models/theirs", {**THEIRS, "train": TRAIN}, "models.theirs: Additional properties are not allowed ('tr"),
        ("models/theirs", {**THEIRS, "samples": None}, "models.theirs.samples: None is not of type 'string'"),
        ("models/vae/kind", "vea", "models.vae.kind: 'vea' is not one of ['autoencoder', 'consistency', 'ddpm', "),
        ("models/vae/kind", None, "models.vae: 'kind' is a required property"),
        ("models/My VAE", SMOKE["models"]["vae"], "models: 'My VAE' does not match '^[a-z0-9]"),
        ("data/name", "imagenet", "data.name: 'imagenet' is not one of ['digits', "),
        ("data/size", 32, "data: Additional properties are not allowed ('size' was unexpected)"),
        ("seeds", [0, 0], "seeds: [0, 0] has non-unique elements"),
        ("seeds", [], "seeds: [] should be non-empty"),
    ],
)
def test_a_mistake_is_marked_once(path: str, value: object, expected: str) -> None:
    (problem,) = _problems(_with(path, value))
    assert problem.startswith(expected)


def test_images_made_elsewhere_need_no_training() -> None:
    assert _problems(_with("models/theirs", {**THEIRS, "title": "Theirs"})) == []


@pytest.mark.parametrize("section", [*Section.__subclasses__(), Entry], ids=lambda section: section.__name__)
def test_every_key_of_a_section_is_described_and_no_other(section: type[Section]) -> None:
    assert list(arguments(section)) == list(section.model_fields)


@pytest.mark.parametrize("kind", kinds())
def test_every_hyper_parameter_is_described_and_no_other(kind: str) -> None:
    family: type[Model] = model_class(kind)
    described = set(arguments(family)) - {"shape", "levels"}
    assert described == set(hyperparameter_schema(kind).model_fields)


def test_a_row_of_the_page() -> None:
    page = WRITTEN[Path("docs/params.md")]
    assert "| `seeds` | list of whole numbers ≥ 0, < 2147483648 | `[0, 1, 2]` | a network is trained with " in page
    assert "| `betas` | list of 2 numbers ≥ 0, < 1 | `[0.9, 0.999]` | decay rates of its two moments. |" in page
    assert "| `gflops` | number > 0 | none | how long to train, in 10⁹ floating-point operations " in page
    assert "| `channels` | whole number ≥ 4, a multiple of 4 |  | of the convolutions " in page
    assert "| `classes` | whole number ≥ 0 | `0` | number of classes of p(x\\|y), " in page
    assert "| `objective` | `minimax`, `non-saturating` or `relativistic` |  | " in page
