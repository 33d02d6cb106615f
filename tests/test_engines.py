"""Both engines, really run, on the smallest preset: they make the same files and leave each other nothing to do."""

import os
import re
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.copied_project import DVC, MODELS, SNAKEMAKE, TRAINED, Project, trained, untrained
from tests.tracking.conftest import PATIENCE, wait_for
from workflow.files import read_json

# What takes a good part of a second or more to load, and which stages may have it loaded when they end.
HEAVY = {
    *("torch", "torch._dynamo", "torchvision", "torch_fidelity", "scipy", "scipy.stats", "sklearn", "sympy"),
    *("networkx", "mlflow", "pandas", "sqlalchemy", "matplotlib", "jinja2", "PIL", "dvc", "snakemake", "pooch"),
}
ALLOWED = {
    "check": {"torch", "PIL"},  # a model's class is the schema of its entry
    "ledger": set[str](),
    "download": set[str](),
    "prepare": set[str](),
    "extractor": {"torch", "PIL"},
    "reference": {"torch", "PIL", "scipy"},
    "train": {"torch", "PIL"},  # MLflow only if there is time to watch
    "sample": {"torch", "PIL"},
    "evaluate": {"torch", "PIL", "scipy"},
    "track": {"PIL", "mlflow", "pandas", "sqlalchemy", "scipy"},
    "report": {"PIL", "matplotlib", "jinja2"},
}


def _chain(model: str) -> set[str]:
    return {f"{stage}@{model}-0" for stage in ("train", "sample", "evaluate")}


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Project]:
    """A project that DVC has run and one that Snakemake has, made side by side."""
    by_dvc, by_snakemake = (Project(tmp_path_factory.mktemp(name)) for name in ("by_dvc", "by_snakemake"))
    engines = (DVC, (*SNAKEMAKE, "--quiet", "all"))
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda project, engine: project.run(*engine), (by_dvc, by_snakemake), engines))
    return by_dvc, by_snakemake


@pytest.fixture
def by_dvc(projects: tuple[Project, Project]) -> Project:
    return projects[0]


@pytest.fixture
def by_snakemake(projects: tuple[Project, Project]) -> Project:
    return projects[1]


def test_same_files_and_lock_by_both_routes(by_dvc: Project, by_snakemake: Project) -> None:
    assert by_dvc.outputs() == by_snakemake.outputs()
    assert {f"runs/{model}/0/metrics.json" for model in MODELS} <= set(by_dvc.outputs())
    assert (by_dvc.folder / "dvc.lock").read_bytes() == (by_snakemake.folder / "dvc.lock").read_bytes()
    for project in (by_dvc, by_snakemake):
        assert list((project.folder / "states").iterdir()) == []  # what came of them is recorded
        assert project.ran(*DVC) == set()
        assert project.ran(*SNAKEMAKE) == set()


@pytest.mark.parametrize("stage", ALLOWED)
def test_a_stage_loads_what_it_needs_and_no_more(stage: str, by_dvc: Project) -> None:
    assert by_dvc.imported(stage) & HEAVY <= ALLOWED[stage]


def test_the_table_has_every_stage(by_dvc: Project) -> None:
    assert {name.partition("@")[0] for name in by_dvc.locked()} == set(ALLOWED)


def test_snakemake_runs_again_only_what_a_hyper_parameter_changed(by_snakemake: Project, tmp_path: Path) -> None:
    project = by_snakemake.copy(tmp_path)
    stages = project.locked()
    project.edit("params.yaml", "couplings: 2", "couplings: 3")
    assert project.ran(*SNAKEMAKE) == {"check", *_chain("nice"), "track", "report"}
    project.assert_settled_for(DVC)
    assert project.locked() == stages
    lock = (project.folder / "dvc.lock").read_bytes()
    project.run("dvc", "commit", "-f", "-q")
    assert (project.folder / "dvc.lock").read_bytes() == lock  # as DVC writes it


def test_an_edited_file_of_a_model_concerns_its_chain_alone(by_dvc: Project, tmp_path: Path) -> None:
    project = by_dvc.copy(tmp_path)
    project.edit("workflow/models/gan.py", "", "\nMODEL.title = 'Changed'\n")
    assert project.ran(*SNAKEMAKE, "-n") == {"check", *_chain("gan"), "track", "report"}
    assert project.ran(*DVC, "ledger") == {"ledger"}
    changed = re.findall(r"^([\w@-]+):$", project.run("dvc", "status"), re.MULTILINE)
    assert set(changed) == {"check", *_chain("gan"), "track"}


def test_dvc_runs_again_only_what_an_edited_file_changed_as_snakemake_would(by_dvc: Project, tmp_path: Path) -> None:
    project = by_dvc.copy(tmp_path)
    project.edit("workflow/report/page.html.j2", "</body>", "<!-- new --></body>")
    assert project.ran(*SNAKEMAKE, "-n") == {"report"}
    assert project.ran(*DVC) == {"ledger", "report"}
    project.assert_settled_for(SNAKEMAKE)


def test_nothing_to_do_in_a_clone_after_dvc_pull(by_snakemake: Project, tmp_path: Path) -> None:
    clone = _clone(by_snakemake, tmp_path / "clone")
    for engine in (DVC, SNAKEMAKE):
        clone.assert_settled_for(engine)
    assert clone.outputs() == by_snakemake.outputs()
    assert "report/index.html" in clone.outputs()


@pytest.mark.slow
def test_a_model_that_diverges_stops_no_other_and_is_missing_from_a_partial_report(
    by_snakemake: Project, tmp_path: Path
) -> None:
    project = by_snakemake.copy(tmp_path)
    project.edit("params.yaml", "width: 32", "width: 16")  # of the other model
    content = (project.folder / "params.yaml").read_text(encoding="utf-8")
    gan = content.index("kind: gan")
    broken = content[:gan] + content[gan:].replace("lr: 0.002", "lr: 1.0e+30", 1)
    (project.folder / "params.yaml").write_text(broken)
    printed = project.run(*SNAKEMAKE, "--keep-going", good=False)
    assert "error: params.yaml: models.gan with seed 0: training diverged: " in printed
    assert set(re.findall(r"^(?:local)?rule (\w+):$", printed, re.MULTILINE)) == {
        "check", "train_gan_0", "train_nice_0", "sample_nice_0", "evaluate_nice_0",
    }  # fmt: skip
    assert "missing, as they have no results yet: gan" in project.run("python", "-m", "stages.report", "--partial")
    page = (project.folder / "report/index.html").read_text(encoding="utf-8")
    assert "<dt>Missing</dt><dd><b>gan</b>" in page
    assert set(read_json(project.folder / "report/summary.json")["models"]) == {"nice"}


@pytest.mark.slow
def test_file_times_mean_nothing(by_snakemake: Project, tmp_path: Path) -> None:
    project = by_snakemake.copy(tmp_path)
    project.edit("workflow/report/page.html.j2", "</main>", "</MAIN>")
    random = np.random.default_rng(0)
    for file in project.folder.rglob("*"):
        if file.is_file() and not {".git", ".dvc"} & set(file.parts):
            time = int(random.integers(315532800, 2208988800))  # 1980 to 2040
            os.utime(file, (time, time))
    assert project.ran(*SNAKEMAKE, "-n") == {"report"}
    assert project.ran(*DVC) == {"ledger", "report"}
    project.assert_settled_for(SNAKEMAKE)


@pytest.mark.parametrize("engine", [DVC, SNAKEMAKE])
def test_a_page_that_was_removed_comes_back_the_same(engine: tuple[str, ...], by_dvc: Project, tmp_path: Path) -> None:
    project = by_dvc.copy(tmp_path)
    (page := project.folder / "report/index.html").unlink()
    project.run(*engine)
    assert page.read_bytes() == (by_dvc.folder / "report/index.html").read_bytes()
    project.assert_settled_for(DVC if engine == SNAKEMAKE else SNAKEMAKE)


def test_durations_are_of_the_weights_that_are_there(by_dvc: Project, tmp_path: Path) -> None:
    project = by_dvc.copy(tmp_path)
    lock = project.folder / "dvc.lock"

    def shown() -> dict[str, Any]:
        project.run("python", "-m", "stages.report", "--show")
        runs = read_json(project.folder / "report/speed.json")["runs"]
        return {run["name"]: {key: facts for key, facts in run.items() if key not in ("name", "seed")} for run in runs}

    before, locked = shown(), lock.read_bytes()
    assert all(set(run) == {"sha256", "train", "sample", "evaluate"} for run in before.values())
    project.edit("params.yaml", "couplings: 2", "couplings: 3")
    project.run(*DVC, "train@nice-0")
    after = shown()
    assert after["gan"] == before["gan"]
    assert set(after["nice"]) == {"sha256", "train"}  # not drawn from yet
    assert after["nice"]["sha256"] != before["nice"]["sha256"]
    project.edit("params.yaml", "couplings: 3", "couplings: 2")
    lock.write_bytes(locked)
    project.run("dvc", "checkout", "-q")
    assert shown() == before
    shutil.rmtree(project.folder / "timings")  # as where nothing was trained
    assert all(set(run) == {"sha256"} for run in shown().values())
    project.assert_settled_for(DVC)


def _interrupt(project: Project, engine: tuple[str, ...], how: int) -> None:
    """Run an engine until the training has kept a state, then send all its processes a signal."""
    running = project.start(*engine)
    wait_for(lambda: (project.folder / "states/gan-0.safetensors").exists())
    os.killpg(running.pid, how)
    assert running.wait(PATIENCE) != 0


@pytest.mark.slow
def test_after_a_power_cut_dvc_goes_on_to_the_same_bytes(by_dvc: Project, tmp_path: Path) -> None:
    project, engine = untrained(by_dvc, tmp_path), (*DVC, "train@gan-0")
    _interrupt(project, engine, signal.SIGKILL)
    assert project.ran(*engine) == {"train@gan-0"}
    assert trained(project) == trained(by_dvc)


@pytest.mark.slow
def test_a_second_run_is_refused_and_a_killed_snakemakes_orphan_is_waited_for(
    by_snakemake: Project, tmp_path: Path
) -> None:
    project, engine = untrained(by_snakemake, tmp_path), (*SNAKEMAKE, TRAINED[0])
    running = project.start(*engine)
    wait_for(lambda: (project.folder / "states/gan-0.safetensors").exists())
    os.killpg(running.pid, signal.SIGSTOP)  # else it might be over too soon
    for other in (DVC, SNAKEMAKE):
        refused = project.run(*other, good=False)
        assert f"is busy, it is being blocked by: (PID {running.pid}): " in " ".join(refused.split())
        assert "Traceback" not in refused
    os.kill(running.pid, signal.SIGKILL)
    os.killpg(running.pid, signal.SIGCONT)
    running.wait(PATIENCE)
    assert project.ran(*engine) == {"train@gan-0"}
    assert trained(project) == trained(by_snakemake)


@pytest.mark.slow
def test_ctrl_c_stops_snakemake_and_says_how_to_go_on(by_snakemake: Project, tmp_path: Path) -> None:
    project, engine = untrained(by_snakemake, tmp_path), (*SNAKEMAKE, TRAINED[0])
    _interrupt(project, engine, signal.SIGINT)
    printed = (project.folder / "started.log").read_text(encoding="utf-8")
    assert "stopped; the same command goes on after step " in printed
    assert "Traceback" not in printed
    assert project.ran(*engine) == {"train@gan-0"}
    assert trained(project) == trained(by_snakemake)


def test_what_is_asked_for_again_runs_with_all_that_depends_on_it(by_snakemake: Project) -> None:
    behind = {"track", "report"}
    assert by_snakemake.ran(*SNAKEMAKE, "-n", "-R", "evaluate_nice_0") == {"evaluate@nice-0", *behind}
    both = {f"{stage}@{model}-0" for stage in ("sample", "evaluate") for model in MODELS}
    assert by_snakemake.ran(*SNAKEMAKE, "-n", "-R", "sample") == {*both, *behind}
    assert by_snakemake.ran(*SNAKEMAKE, "-n", "-f", "sample") == {f"sample@{model}-0" for model in MODELS}
    assert by_snakemake.ran(*SNAKEMAKE, "-n", "-R", "data/extractor/model.safetensors", "--until", "reference") == {
        "extractor", "reference",
    }  # fmt: skip
    refused = by_snakemake.run(*SNAKEMAKE, "-n", "--until", "train", good=False)
    assert "error: --until train: name its rules one by one: train_gan_0 train_nice_0\n" in refused
    by_snakemake.assert_settled_for(SNAKEMAKE)


def test_a_kind_of_stage_is_a_target(by_snakemake: Project, tmp_path: Path) -> None:
    project = by_snakemake.copy(tmp_path)
    project.edit("params.yaml", "couplings: 2", "couplings: 3")
    assert project.ran(*SNAKEMAKE, "-n", "sample") == {"train@nice-0", "sample@nice-0"}


def test_outputs_are_never_passed_off_as_new_ones(by_snakemake: Project, tmp_path: Path) -> None:
    project = by_snakemake.copy(tmp_path)
    project.edit("params.yaml", "couplings: 2", "couplings: 3")
    before = (project.outputs(), (project.folder / "dvc.lock").read_bytes())
    printed = project.run(*SNAKEMAKE, "--touch", good=False)
    assert re.findall(r"^error: --touch: .*; run without it, nothing has been touched$", printed, re.MULTILINE)
    assert (project.outputs(), (project.folder / "dvc.lock").read_bytes()) == before
    assert "train@nice-0" in project.run("dvc", "status")


def test_parameters_that_come_by_snakemakes_own_way_are_refused(by_snakemake: Project) -> None:
    printed = by_snakemake.run(*SNAKEMAKE, "-n", "--config", "epochs=3", good=False)
    assert "error: --config, --configfile: epochs: parameters are in params.yaml; change them there\n" in printed


@pytest.mark.slow
def test_anchors_in_the_parameters_reach_the_lock_by_both_routes(
    by_dvc: Project, by_snakemake: Project, tmp_path: Path
) -> None:
    copies = []
    for name, origin, engine in (("d", by_dvc, DVC), ("s", by_snakemake, SNAKEMAKE)):
        project = origin.copy(tmp_path / name)
        settings = yaml.safe_load((project.folder / "params.yaml").read_text(encoding="utf-8"))
        shared = {"epochs": 1, "batch_size": 64, "lr": 0.001}
        for model in MODELS:
            settings["models"][model]["train"] = shared
        text = yaml.safe_dump(settings, sort_keys=False)
        assert "&id001" in text
        (project.folder / "params.yaml").write_text(text, encoding="utf-8")
        assert {"train@gan-0", "train@nice-0", "track", "report"} <= project.ran(*engine)
        for other in (DVC, SNAKEMAKE):
            project.assert_settled_for(other)
        copies.append((project.folder / "dvc.lock").read_bytes())
    assert copies[0] == copies[1]
    assert b"&id001" in copies[0]


@pytest.mark.slow
def test_leftovers_change_nothing_also_in_a_clone(by_dvc: Project, tmp_path: Path) -> None:
    project = by_dvc.copy(tmp_path / "origin")
    project.edit("params.yaml", "  nice:\n", "  flow:\n")
    assert {"train@flow-0", "track", "report"} <= project.ran(*DVC)
    assert (project.folder / "runs/nice/0/metrics.json").exists()
    for place in ("runs", "runs/gan/0", "data/index", "data/ledger", "data/raw/digits"):
        (project.folder / place / ".DS_Store").touch()
    (project.folder / "runs/notes.txt").touch()
    for engine in (DVC, SNAKEMAKE):
        project.assert_settled_for(engine)
    clone = _clone(project, tmp_path / "clone")
    for engine in (DVC, SNAKEMAKE):
        clone.assert_settled_for(engine)
    project.edit("params.yaml", "  flow:\n", "  nice:\n")
    assert project.ran(*SNAKEMAKE) == {"check", "track", "report"}  # what there is of it is what it was
    project.assert_settled_for(DVC)


def _clone(project: Project, folder: Path) -> Project:
    """A clone of all that is committed and pushed."""
    project.run("dvc", "remote", "add", "-f", "-d", "store", f"{folder}.store")
    project.run("dvc", "push", "-q")
    project.run("git", "add", "-A")
    project.run("git", "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qm", "run")
    project.run("git", "clone", "-q", ".", str(folder))
    clone = Project.of(folder)
    clone.run("dvc", "pull", "-q")
    return clone


@pytest.mark.slow
def test_new_pictures_in_a_folder_make_the_data_anew(tmp_path: Path) -> None:
    pictures = tmp_path / "my own pictures"
    pictures.mkdir()
    for seed in range(8):
        _noise(pictures / f"{seed}.png", seed)
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    settings = yaml.safe_load((project.folder / "params.yaml").read_text(encoding="utf-8"))
    settings["data"] = {"name": "folder", "root": str(pictures), "size": 8, "valid": 0.25, "test": 0.25}
    settings["evaluate"]["neighbours"] = 1  # of two test images
    (project.folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    card = "data/prepared/card.json"
    assert project.ran("dvc", "repro", "prepare") == {"ledger", "check", "download", "prepare"}
    assert project.ran("snakemake", "--cores", "1", card) == set()
    _noise(pictures / "new one.png", 8)
    assert project.ran("snakemake", "--cores", "1", card) == {"download", "prepare"}
    assert project.ran("dvc", "repro", "prepare") == set()
    assert read_json(project.folder / card)["files"] == {"pictures used": 9}


def _noise(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    Image.fromarray(pixels).save(path)
