"""Bad parameters are refused with one line that names the key, the value and what is allowed."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from tests.conftest import ROOT
from workflow import params
from workflow.errors import BakeoffError
from workflow.models.registry import check_entries
from workflow.yaml_as_dvc import Loader

GOOD: dict[str, Any] = yaml.safe_load((ROOT / "presets/smoke.yaml").read_text(encoding="utf-8"))


def _load(content: object, folder: Path) -> None:
    file = folder / "params.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    check_entries(params.load(file))


def _changed(path: str, value: object) -> dict[str, Any]:
    content = copy.deepcopy(GOOD)
    *parents, last = path.split("/")
    section: Any = content
    for part in parents:
        section = section[part]
    if value is None:
        del section[last]
    else:
        section[last] = value
    return content


@pytest.mark.parametrize(
    "file", [ROOT / "params.yaml", *sorted((ROOT / "presets").rglob("*.yaml"))], ids=lambda f: f.name
)
def test_our_own_files_are_good(file: Path) -> None:
    check_entries(params.load(file))


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("sampel", {}, ["sampel", "unknown key", "sample"]),
        ("data/vald", 0.1, ["data.vald", "unknown key", "valid"]),
        ("sample/count", None, ["sample.count", "missing"]),
        ("seeds", None, ["seeds", "missing"]),
        ("models/vae/kind", None, ["models.vae.kind", "missing"]),
        ("models/vae/train", None, ["models.vae.train", "missing"]),
        ("sample/count", "many", ["sample.count", "'many'", "integer"]),
        ("sample/count", 1.5, ["sample.count", "1.5", "integer"]),
        ("sample/count", True, ["sample.count", "True", "integer"]),
        ("sample/count", 1, ["sample.count", "1", "greater than or equal to 10"]),
        ("data/test", 1.5, ["data.test", "1.5", "less than 1"]),
        (
            "data/test",
            0.95,
            ["data", "valid + test is 1.05, which leaves nothing to train on; lower them to less than 1"],
        ),
        ("data/name", "imagenet", ["data.name", "'imagenet'", "'digits'"]),
        ("compute/device", "tpu", ["compute.device", "'tpu'", "'cuda'"]),
        ("extractor/seed", 0, ["extractor.seed", "unknown key", "seeds"]),
        ("extractor/seeds", [], ["extractor.seeds", "at least 1"]),
        ("extractor/seeds", [1, 0, 1], ["extractor.seeds", "twice"]),
        ("extractor/seeds", 0, ["extractor.seeds", "list"]),
        ("evaluate/draws", 0, ["evaluate.draws", "0", "greater than or equal to 1"]),
        ("seeds", 0, ["seeds", "list"]),
        ("seeds", [0, 0], ["seeds", "twice"]),
        ("seeds", [], ["seeds", "at least 1"]),
        ("models/../up", {"kind": "vae"}, ["models", "a-z"]),
        ("models/vae/kind", "vea", ["models.vae.kind", "'vea'", "unknown model kind", "vae", "nice"]),
        ("models/vae/latens", 3, ["models.vae.latens", "unknown key", "latents"]),
        ("models/vae/latents", None, ["models.vae.latents", "missing"]),
        ("models/vae/latents", "ten", ["models.vae.latents", "'ten'", "integer"]),
        ("models/vae/latents", 0, ["models.vae.latents", "0", "greater than"]),
        ("models/vae/train/lr", -1.0, ["models.vae.train.lr", "-1.0", "greater than 0"]),
        ("models/vae/train/epoch", 3, ["models.vae.train.epoch", "unknown key", "epochs"]),
        ("models/vae/train/gflops", 3, ["models.vae.train", "epochs, gflops", "both are given; remove one"]),
        ("models/vae/train/epochs", None, ["models.vae.train", "epochs, gflops", "missing; add one of them"]),
        ("models/vae/train/schedule", "step", ["models.vae.train.schedule", "'step'", "'cosine'"]),
        ("models", {}, ["models", "should have at least 1 entry; add one"]),
        ("models/vae", 3, ["models.vae: 3: should be a section, which has keys of its own"]),
        (
            "models/vae/train/parts",
            3,
            ["models.vae.train: batch_size: 64: not a multiple of parts (3); set it to 63 or 66"],
        ),
        ("models/vae/train/parts", 70, ["batch_size: 64: not a multiple of parts (70); set it to 70, or change parts"]),
        ("models/vae/train/lr", float("inf"), ["models.vae.train.lr: inf: should be a finite number"]),
        ("models/vae/train/betas", 0.9, ["models.vae.train.betas: 0.9: should be a list, in square brackets or with"]),
        ("data/root", 3, ["data.root: 3: should be a path; put it into quotes"]),
        ("extractor/batch_size", 1, ["extractor.batch_size: 1: should be greater than or equal to 2"]),
        (
            "data",
            {"name": "stacked_mnist", "root": "", "valid": 0.1, "seed": 0, "binarise": "threshold"},
            ["data: binarise: 'threshold': not for stacked_mnist; set it to none"],
        ),
    ],
)
def test_a_bad_value_is_named(path: str, value: object, expected: list[str], tmp_path: Path) -> None:
    if path == "models/../up":
        content = copy.deepcopy(GOOD)
        content["models"]["../up"] = content["models"]["vae"]
    else:
        content = _changed(path, value)
    with pytest.raises(BakeoffError) as caught:
        _load(content, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert "params.yaml: " in message
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    "content", ["", "a: [", "- 1\n", "3", "seeds: !!python/object/apply:os.getcwd []\n", "\x00", "a: 2020-13-45"]
)
def test_a_file_that_is_no_mapping_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(BakeoffError) as caught:
        _load(content, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("sample:\n", "seeds: [1]\nsample:\n", "'seeds' stands twice, in lines 11 and 23; "),
        ("    latents: 4\n", "    latents: 4\n    channels: 8\n", "'channels' stands twice, in lines 52 and 53; "),
        ("  nice:\n", "  gan:\n    kind: gan\n  nice:\n", "'gan' stands twice, in lines 71 and 86; "),
        ("  threads: 1\n", "  threads: 1\n  'threads': 2\n", "'threads' stands twice, in lines 10 and 11; "),
        ("seeds:\n  - 0\n", "seeds: [{a: 1, a: 2}]\n", "'a' stands twice, in line 11; "),
        ("compute:\n", "compute:\n  <<: {}\n  <<: {}\n", "'<<' stands twice, in lines 9 and 10; "),
    ],
)
def test_a_key_that_stands_twice_is_refused(old: str, new: str, expected: str, tmp_path: Path) -> None:
    """PyYAML takes the second; DVC refuses the file, at length."""
    text = (ROOT / "presets/smoke.yaml").read_text(encoding="utf-8")
    assert text.count(old) == 1
    with pytest.raises(BakeoffError) as error:
        _load(text.replace(old, new), tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'params.yaml'}: {expected}")


def test_keys_that_are_merged_in_may_be_overridden(tmp_path: Path) -> None:
    text = (ROOT / "presets/smoke.yaml").read_text(encoding="utf-8")
    train = "    train:\n      epochs: 2\n      batch_size: 64\n      lr: 0.005\n"
    first = text.index(train)
    text = text[:first] + text[first:].replace(train, train.replace("train:", "train: &usual"), 1)
    text += "  two:\n    <<: &vae {kind: vae, latents: 4, channels: 8, dropout: 0.1, beta: 1.0}\n    beta: 2.0\n"
    text += "    decoder: logistic\n    importance_samples: 4\n    train: {<<: *usual, lr: 0.001}\n"
    text += "  three:\n    <<: [*vae, {decoder: logistic, importance_samples: 4}]\n    train: *usual\n"
    _load(text, tmp_path)
    models = params.load(tmp_path / "params.yaml").models
    assert [models[name].hyperparameters["beta"] for name in ("two", "three")] == [2.0, 1.0]
    assert [models[name].training.lr for name in ("two", "three")] == [0.001, 0.005]


@pytest.mark.parametrize(
    ("scalar", "stages", "dvc"),
    [
        *(("012", "10", "12"), ("-012", "-10", "-12"), ("0o12", "'0o12'", "10"), ("08", "'08'", "8")),
        *(("1:30", "90", "'1:30'"), ("1:30.5", "90.5", "'1:30.5'"), ("-1:30", "-90", "'-1:30'")),
        *(("yes", "true", "'yes'"), ("No", "false", "'No'"), ("ON", "true", "'ON'"), ("off", "false", "'off'")),
        *((".5e3", "500.0", "'.5e3'"), ("1_e5", "'1_e5'", "100000.0"), ("._1", "'._1'", "0.1")),
        ("!!int '012'", "10", "12"),
    ],
)
def test_what_the_two_readers_take_for_different_values_is_refused(scalar: str, stages: str, dvc: str) -> None:
    smoke = (ROOT / "presets/smoke.yaml").read_text(encoding="utf-8")
    text = smoke.replace("seeds:\n  - 0\n", f"seeds: [{scalar}]\n", 1)
    with pytest.raises(BakeoffError) as error:
        params.parse(text)
    shown = scalar.removeprefix("!!int ").strip("'")
    assert str(error.value) == (
        f"params.yaml: line 11: {shown} is {stages} to the stages (YAML 1.1) but {dvc} to DVC (YAML 1.2); "
        f"write {stages} or {dvc}, whichever you mean"
    )
    for remedy in (stages, dvc):
        assert _ours(remedy) == _dvcs(remedy)


def _ours(scalar: str) -> Any:
    return yaml.load(f"- {scalar}\n", Loader)[0]  # noqa: S506 -- a SafeLoader


def _dvcs(scalar: str) -> Any:
    return YAML(typ="safe").load(f"- {scalar}\n")[0]  # as dvc.utils.serialize


ALIKE = "0 -0 7 +5 00 007 1_000 0b101 0x1F 0.5 .5 -.5 5. 1e5 1E-5 1.5e5 1.e5 1e05 1e400 .inf -.Inf ~ null true y n"


@pytest.mark.parametrize(
    "scalar", [*ALIKE.split(), "nUll", "tRue", "1.2.3", "2020-01-01", "a: {b: c}", "'012'", '"no"']
)
def test_what_the_two_readers_take_for_the_same_value_is_read(scalar: str) -> None:
    assert _ours(scalar) == _dvcs(scalar)
    assert type(_ours(scalar)) is type(_dvcs(scalar))


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.text("0123456789", min_size=1, max_size=3) | st.text("0189abeEoxXfFnN:._+- ~yst", min_size=1, max_size=7))
def test_no_scalar_is_read_in_two_ways(scalar: str) -> None:
    try:
        ours = _ours(scalar)
    except (yaml.YAMLError, ValueError):
        return
    assert repr(ours) == repr(_dvcs(scalar))  # a NaN equals none


def test_the_version_of_yaml_is_not_for_the_file_to_choose() -> None:
    text = (ROOT / "presets/smoke.yaml").read_text(encoding="utf-8")
    assert params.parse("%YAML 1.2\n---\n" + text) == params.parse(text)
    with pytest.raises(BakeoffError, match=r"^params\.yaml: line 1: %YAML 1\.1: the file is read as YAML 1\.2; remove"):
        params.parse("%YAML 1.1\n---\n" + text)


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(BakeoffError, match=r"params\.yaml: missing"):
        params.load(tmp_path / "params.yaml")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, derandomize=True)
@given(section=st.sampled_from(sorted(GOOD)), key=st.none() | st.text(max_size=8), value=VALUES)
def test_anything_else_is_loaded_or_refused_in_one_line(
    section: str, key: str | None, value: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = copy.deepcopy(GOOD)
    if key is not None and isinstance(content[section], dict):
        content[section][key] = value
    else:
        content[section] = value
    message = ""
    try:
        _load(content, tmp_path_factory.getbasetemp())
    except BakeoffError as error:
        message = str(error)
    assert "\n" not in message


def test_weights_are_given_for_inception_alone(tmp_path: Path) -> None:
    content = _changed("evaluate/inception_weights", "somewhere.pth")
    with pytest.raises(BakeoffError, match=r"inception_weights needs extractor: inception; remove it or set that$"):
        _load(content, tmp_path)
    content["evaluate"]["extractor"] = "inception"
    _load(content, tmp_path)


@pytest.mark.parametrize(
    ("data", "called"),
    [
        ({"name": "folder", "root": "/some/shells", "size": 32}, "shells"),
        ({"name": "folder", "root": "/some/shells", "size": 32, "title": "Shells of 2024"}, "Shells of 2024"),
        ({"name": "arrays", "root": "/some/shells.npz"}, "shells"),
        ({"name": "digits", "root": "data/own", "valid": 0.1, "test": 0.1, "seed": 0}, None),
    ],
)
def test_own_data_are_called_by_their_title_or_their_folder(data: dict[str, Any], called: str | None) -> None:
    settings = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    found = params.parse(yaml.safe_dump({**settings, "data": data}))
    assert params.own_title(found.data) == called
