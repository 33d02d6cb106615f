"""Both engines, really run, on the smallest preset: they make the same files and leave each other nothing to do."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.copied_project import DVC, MODELS, SNAKEMAKE, Project
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
    "audit": {"torch", "PIL", "scipy"},
    "train": {"torch", "PIL"},  # MLflow only if there is time to watch
    "sample": {"torch", "PIL"},
    "evaluate": {"torch", "PIL", "scipy"},
    "track": {"PIL", "mlflow", "pandas", "sqlalchemy", "scipy"},
    "report": {"PIL", "matplotlib", "jinja2", "scipy"},
}


def _chain(model: str) -> set[str]:
    return {f"{stage}@{model}-0" for stage in ("train", "sample", "evaluate")}


@pytest.mark.slow
def test_same_files_and_lock_by_both_routes(by_dvc: Project, by_snakemake: Project) -> None:
    assert by_dvc.outputs() == by_snakemake.outputs()
    assert {f"runs/{model}/0/metrics.json" for model in MODELS} <= set(by_dvc.outputs())
    assert (by_dvc.folder / "dvc.lock").read_bytes() == (by_snakemake.folder / "dvc.lock").read_bytes()
    for project in (by_dvc, by_snakemake):
        assert list((project.folder / "states").iterdir()) == []  # what came of them is recorded
        assert project.ran(*DVC) == set()
        assert project.ran(*SNAKEMAKE) == set()


@pytest.mark.parametrize(
    "stage",
    [pytest.param(stage, marks=() if stage in ("train", "report") else pytest.mark.slow) for stage in ALLOWED],
)
def test_a_stage_loads_what_it_needs_and_no_more(stage: str, by_dvc: Project) -> None:
    assert by_dvc.imported(stage) & HEAVY <= ALLOWED[stage]


def test_the_table_has_every_stage(by_dvc: Project) -> None:
    assert {name.partition("@")[0] for name in by_dvc.locked()} == set(ALLOWED)


@pytest.mark.slow
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


@pytest.mark.slow
def test_dvc_runs_again_only_what_an_edited_file_changed_as_snakemake_would(by_dvc: Project, tmp_path: Path) -> None:
    project = by_dvc.copy(tmp_path)
    project.edit("workflow/report/templates/page.html.j2", "</body>", "<!-- new --></body>")
    assert project.ran(*SNAKEMAKE, "-n") == {"report"}
    assert project.ran(*DVC) == {"ledger", "report"}
    project.assert_settled_for(SNAKEMAKE)


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
    log = (project.folder / "logs/train_gan_0.log").read_text(encoding="utf-8")
    assert "error: params.yaml: models.gan with seed 0: training diverged: " in log
    assert set(re.findall(r"^(?:local)?rule (\w+):$", printed, re.MULTILINE)) == {
        "check", "train_gan_0", "train_nice_0", "sample_nice_0", "evaluate_nice_0",
    }  # fmt: skip
    assert "missing, no results yet: gan" in project.run("python", "-m", "stages.report", "--partial")
    page = (project.folder / "report/index.html").read_text(encoding="utf-8")
    assert "<b>Missing:</b> gan: not trained or not evaluated" in page
    assert set(read_json(project.folder / "report/summary.json")["models"]) == {"nice"}


@pytest.mark.slow
def test_file_times_mean_nothing(by_snakemake: Project, tmp_path: Path) -> None:
    project = by_snakemake.copy(tmp_path)
    project.edit("workflow/report/templates/page.html.j2", "</main>", "</MAIN>")
    random = np.random.default_rng(0)
    for file in project.folder.rglob("*"):
        if file.is_file() and not {".git", ".dvc"} & set(file.parts):
            time = int(random.integers(315532800, 2208988800))  # 1980 to 2040
            os.utime(file, (time, time))
    assert project.ran(*SNAKEMAKE, "-n") == {"report"}
    assert project.ran(*DVC) == {"ledger", "report"}
    project.assert_settled_for(SNAKEMAKE)


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_kind_of_stage_is_a_target(by_snakemake: Project, tmp_path: Path) -> None:
    project = by_snakemake.copy(tmp_path)
    project.edit("params.yaml", "couplings: 2", "couplings: 3")
    assert project.ran(*SNAKEMAKE, "-n", "sample") == {"train@nice-0", "sample@nice-0"}


@pytest.mark.slow
def test_snakemakes_report_shows_the_page_charts_and_samples(by_snakemake: Project) -> None:
    by_snakemake.run("snakemake", "--report", "report/snakemake.html")
    report = (by_snakemake.folder / "report/snakemake.html").read_text(encoding="utf-8")
    for shown in ("index.html", "summary.csv", "gan-1.svg", "quality-gflops_per_sample.svg", "samples.png"):
        assert f'"name": "{shown}"' in report
    for category in ("Report", "Charts", "Samples"):
        assert f'"{category}": ' in report
    assert "The first hundred images that the model has drawn, none selected" in report


@pytest.mark.slow
def test_snakemake_finds_nothing_to_improve_but_the_environment_that_all_rules_share(by_snakemake: Project) -> None:
    found = by_snakemake.run("snakemake", "--lint", good=False)
    findings = set(re.findall(r"^    \* (.*?):$", found, re.MULTILINE))
    assert findings == {"Specify a conda environment or container for each rule."}


@pytest.mark.slow
def test_outputs_are_never_passed_off_as_new_ones(by_snakemake: Project, tmp_path: Path) -> None:
    project = by_snakemake.copy(tmp_path)
    project.edit("params.yaml", "couplings: 2", "couplings: 3")
    before = (project.outputs(), (project.folder / "dvc.lock").read_bytes())
    printed = project.run(*SNAKEMAKE, "--touch", good=False)
    assert re.findall(r"^error: --touch: .*; run without it, nothing has been touched$", printed, re.MULTILINE)
    printed = project.run(*SNAKEMAKE, "--immediate-submit", "--notemp", good=False)
    assert "\nerror: --immediate-submit: ends jobs before they have run; run without it\n" in printed
    assert (project.outputs(), (project.folder / "dvc.lock").read_bytes()) == before
    assert "train@nice-0" in project.run("dvc", "status")


def test_parameters_that_come_by_snakemakes_own_way_are_refused(by_dvc: Project) -> None:
    printed = by_dvc.run(*SNAKEMAKE, "-n", "--config", "epochs=3", good=False)
    assert "error: --config, --configfile: epochs: parameters are in params.yaml; change them there\n" in printed


@pytest.mark.slow
def test_anchors_in_the_parameters_reach_the_lock_by_both_routes(
    by_dvc: Project, by_snakemake: Project, tmp_path: Path
) -> None:
    copies = []
    for name, origin, engine in (("d", by_dvc, DVC), ("s", by_snakemake, SNAKEMAKE)):
        project = origin.copy(tmp_path / name)
        settings = yaml.safe_load((project.folder / "params.yaml").read_text(encoding="utf-8"))
        shared = {"varied": ["train.lr"], "trials": list[str]()}
        settings["sweeps"] = dict.fromkeys(MODELS, shared)  # which three stages record
        text = yaml.safe_dump(settings, sort_keys=False)
        assert "&id001" in text
        (project.folder / "params.yaml").write_text(text, encoding="utf-8")
        assert project.ran(*engine) - {"ledger"} == {"check", "track", "report"}
        for other in (DVC, SNAKEMAKE):
            project.assert_settled_for(other)
        copies.append((project.folder / "dvc.lock").read_bytes())
    assert copies[0] == copies[1]
    assert b"&id001" in copies[0]


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
