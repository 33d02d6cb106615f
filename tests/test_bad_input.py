"""Bad parameters and damaged data stop either engine early, with one line, and nothing is deleted or overwritten."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages import train
from stages.check import check, main
from tests.conftest import ROOT
from tests.copied_project import DVC, SNAKEMAKE, Project
from workflow import params
from workflow.data.counts import recorded_card
from workflow.engines.snakemake import Graph
from workflow.errors import BakeoffError


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose data are prepared."""
    project = Project(tmp_path_factory.mktemp("project"))
    project.run("dvc", "repro", "prepare")
    return project


BAD = {
    "misspelt": ("count: 100", "coutn: 100", "sample.coutn: unknown key; known here: count, batch_size"),
    "range": ("width: 32", "width: 0", "models.nice.width: 0: should be greater than or equal to"),
    "kind": ("kind: gan", "kind: gam; touch pwned", "models.gan.kind: 'gam; touch pwned': unknown model kind; known: "),
    "data": (
        "name: digits",
        "name: mnits",
        "data.name: 'mnits': should be one of 'digits', 'stacked_digits', 'glyphs',",
    ),
    "gpu": ("device: cpu", "device: cuda", "compute.device: 'cuda': no GPU"),
    "name": ("  gan:\n", "  ../gan:\n", "a model's name must be"),
}


@contextlib.contextmanager
def _params(project: Project, old: str, new: str) -> Iterator[None]:
    """With that change, in the project's folder."""
    good = (project.folder / "params.yaml").read_text(encoding="utf-8")
    project.edit("params.yaml", old, new)
    try:
        with contextlib.chdir(project.folder):
            yield
    finally:
        (project.folder / "params.yaml").write_text(good)


@pytest.mark.parametrize(("old", "new", "expected"), BAD.values(), ids=BAD.keys())
def test_the_check_names_bad_parameters(old: str, new: str, expected: str, project: Project) -> None:
    with _params(project, old, new), pytest.raises(BakeoffError, match=re.escape(expected)):
        check(params.load())


# Each engine meets what makes the graph itself odd, and what only the check finds: it is the same check for all.
@pytest.mark.parametrize(
    ("fault", "engine"),
    [
        *(("data", DVC), ("data", SNAKEMAKE), ("name", DVC), ("name", SNAKEMAKE)),
        *(("kind", DVC), ("kind", SNAKEMAKE), ("misspelt", SNAKEMAKE)),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_bad_parameters_stop_both_engines_and_touch_nothing(
    fault: str, engine: tuple[str, ...], project: Project
) -> None:
    before = (project.outputs(), (project.folder / "dvc.lock").read_bytes())
    old, new, expected = BAD[fault]
    with _params(project, old, new):
        printed = project.run(*engine, good=False)
    assert expected in printed
    assert "Traceback" not in printed
    assert (project.outputs(), (project.folder / "dvc.lock").read_bytes()) == before
    assert not (project.folder / "pwned").exists()


def test_a_folder_that_dvc_cannot_hash_is_named_before_dvc_hashes_it(tmp_path: Path, project: Project) -> None:
    """Each time: the stage `check` has accepted the folder as it was, and DVC would wait for a pipe forever."""
    os.mkfifo(tmp_path / "pipe.png")
    with _params(project, "  root: data/own", f"  root: {tmp_path}"):
        with pytest.raises(
            BakeoffError, match=r"DVC cannot record this folder: 1 pipe, socket or device \(pipe\.png\)"
        ):
            Graph(params.load())
        with pytest.raises(BakeoffError, match=r"1 pipe, socket or device \(pipe\.png\), remove it$"):
            main(data=True)


def test_a_look_at_the_data_says_how_a_folder_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("train", "validation", "test"):
        (tmp_path / "pictures" / place).mkdir(parents=True)
        (tmp_path / "pictures" / place / "1.png").touch()
    settings = params.parse((ROOT / "presets/folder.yaml").read_text(encoding="utf-8"))
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"root": tmp_path / "pictures"})})
    monkeypatch.setattr(params, "load", lambda: settings)
    monkeypatch.chdir(tmp_path)
    main(data=True)
    first, *table = capsys.readouterr().out.splitlines()
    assert first == f"data.root: {tmp_path}/pictures: splits from folders (train, validation, test); no classes"
    assert table == ["     train  valid  test", "all      1      1     1"]
    assert [file.name for file in tmp_path.iterdir()] == ["pictures"]


def test_a_model_of_more_classes_than_there_are_is_refused_before_it_trains(project: Project) -> None:
    more = _params(project, "    critic_steps: 1\n", "    critic_steps: 1\n    classes: 7\n")
    message = r"^params\.yaml: models\.gan\.classes: 7: the data have 10 classes; set 10, or 0"
    with more, pytest.raises(BakeoffError, match=message):
        train.main("gan", 0)
    assert not (project.folder / "runs/gan").exists()


def test_what_the_prepared_data_cannot_meet_is_refused_by_the_check(project: Project) -> None:
    count = len(project.outputs())
    message = (
        r"^params\.yaml: evaluate\.neighbours: 50: too many for 50 samples \(sample\.count\); set it to 49 or lower$"
    )
    with (
        _params(project, "  count: 100\n", "  count: 50\n"),
        _params(project, "  neighbours: 5\n", "  neighbours: 50\n"),
    ):
        with pytest.raises(BakeoffError, match=message):
            check(params.load())
        with pytest.raises(BakeoffError, match=message):
            train.main("nice", 0)
        for old, new in (("  test: 0.2\n", "  test: 0.3\n"), ("name: digits", "name: ring")):
            with _params(project, old, new):  # to be prepared anew
                assert recorded_card(params.load().data) is None
        printed = project.run(*DVC, good=False)
    assert "error: params.yaml: evaluate.neighbours: 50: too many" in printed
    assert len(project.outputs()) == count


def test_a_card_that_dvc_does_not_know_is_not_asked(project: Project) -> None:
    with contextlib.chdir(project.folder):
        settings = params.load().data
        card, lock = project.folder / "data/prepared/card.json", project.folder / "dvc.lock"
        assert recorded_card(settings) is not None
        for file, other in ((card, card.read_bytes() + b" "), (lock, b"schema: '2.0'\nstages:\n"), (lock, b": [")):
            good = file.read_bytes()
            try:
                file.write_bytes(other)
                assert recorded_card(settings) is None
            finally:
                file.write_bytes(good)


def test_damaged_data_is_named_and_never_used(project: Project) -> None:
    file = project.folder / "data/prepared/train.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        model = project.folder / "runs/nice/0/model.safetensors"
        model.parent.mkdir(parents=True)
        model.write_bytes(b"of an earlier training")
        printed = project.run("python", "-m", "stages.train", "nice", "0", good=False)
        assert "data/prepared/train.safetensors: SHA-256" in printed
        assert "Traceback" not in printed
        assert model.read_bytes() == b"of an earlier training"
        assert "prepare" in project.ran(*SNAKEMAKE, "-n")  # the engines see it too,
        project.run(*DVC, "prepare")  # and put it right
        assert file.read_bytes() == good
    finally:
        file.write_bytes(good)
