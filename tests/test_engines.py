"""Both engines, really run, on the smallest preset: they make the same files and leave each other nothing to do."""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

SNAKEMAKE = ("snakemake", "--cores", "2")
DVC = ("dvc", "repro")
MODELS = ("gan", "nice", "pixelcnn", "vae", "vqvae")


class Project:
    """A copy of the project that runs the smoke preset."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tracked = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout.decode()
        for name in filter(None, tracked.split("\0")):
            if (ROOT / name).exists() and name != "dvc.lock":
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        shutil.copy(ROOT / "presets/smoke.yaml", folder / "params.yaml")
        self.run("git", "init", "-q")

    def run(self, *command: str, good: bool = True) -> str:
        """Run a command there; returns what it printed. Fails the test if its exit status is not as expected."""
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) == good, done.stdout[-4000:]
        return done.stdout

    def ran(self, *command: str) -> set[str]:
        """Run an engine; returns the stages that it ran, by the names that DVC gives them."""
        printed = self.run(*command)
        if command[0] == "dvc":
            return set(re.findall(r"^Running stage '(.+)':$", printed, re.MULTILINE))
        rules = set(re.findall(r"^(?:local)?rule (\w+):$", printed, re.MULTILINE)) - {"all"}
        return {_stage_name(rule) for rule in rules}

    def outputs(self) -> dict[str, str]:
        """SHA-256 of every file that DVC tracks."""
        lock = yaml.safe_load((self.folder / "dvc.lock").read_text())
        paths = [self.folder / out["path"] for stage in lock["stages"].values() for out in stage["outs"]]
        files = [f for path in paths for f in (path.rglob("[!.]*") if path.is_dir() else [path])]
        return {str(f.relative_to(self.folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace the one occurrence of `old` by `new`, or put `new` at the end if `old` is empty."""
        content = (self.folder / file).read_text()
        assert not old or content.count(old) == 1
        (self.folder / file).write_text(content.replace(old, new) if old else content + new)

    def assert_settled(self) -> None:
        """Neither engine finds anything to do."""
        assert "up to date" in self.run("dvc", "status")
        assert "Nothing to be done" in self.run("snakemake", "-n")


def _stage_name(rule: str) -> str:
    return re.sub(r"^(code)_(\w+)$", r"\1@\2", re.sub(r"^(train|sample|evaluate)_(\w+)_(\d+)$", r"\1@\2-\3", rule))


def _chain(model: str) -> set[str]:
    return {f"{stage}@{model}-0" for stage in ("train", "sample", "evaluate")}


@pytest.fixture(scope="module")
def by_dvc(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("by_dvc"))
    project.run(*DVC)
    return project


@pytest.fixture(scope="module")
def by_snakemake(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("by_snakemake"))
    project.run(*SNAKEMAKE)
    return project


def test_same_files_and_lock_by_both_routes(by_dvc: Project, by_snakemake: Project) -> None:
    assert by_dvc.outputs() == by_snakemake.outputs()
    assert {f"runs/{model}/0/metrics.json" for model in MODELS} <= set(by_dvc.outputs())
    assert (by_dvc.folder / "dvc.lock").read_bytes() == (by_snakemake.folder / "dvc.lock").read_bytes()
    for project in (by_dvc, by_snakemake):
        project.assert_settled()
        assert project.ran(*DVC) == set()
        assert project.ran(*SNAKEMAKE) == set()


EDITS = {
    "a hyper-parameter": ("params.yaml", "couplings: 2", "couplings: 3", {"check", *_chain("nice"), "track", "report"}),
    "a model's file": (
        "workflow/models/vae.py",
        "",
        "\nMODEL.title = 'Changed'\n",
        {"code@vae", *_chain("vae"), "track", "report"},
    ),
    "the report's template": ("workflow/report/page.html.j2", "</body>", "<!-- new --></body>", {"report"}),
}


@pytest.mark.parametrize(("file", "old", "new", "expected"), EDITS.values(), ids=EDITS.keys())
def test_only_what_changed_runs_again(
    file: str, old: str, new: str, expected: set[str], by_dvc: Project, by_snakemake: Project
) -> None:
    for project, engine in ((by_dvc, DVC), (by_snakemake, SNAKEMAKE)):
        project.edit(file, old, new)
        assert project.ran(*engine) == expected
        project.assert_settled()
    assert (by_dvc.folder / "dvc.lock").read_bytes() == (by_snakemake.folder / "dvc.lock").read_bytes()
    assert by_dvc.outputs() == by_snakemake.outputs()


def test_nothing_to_do_in_a_clone_after_dvc_pull(by_snakemake: Project, tmp_path: Path) -> None:
    by_snakemake.run("dvc", "remote", "add", "-f", "-d", "store", str(tmp_path / "store"))
    by_snakemake.run("dvc", "push", "-q")
    by_snakemake.run("git", "add", "-A")
    by_snakemake.run("git", "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qm", "run")
    by_snakemake.run("git", "clone", "-q", ".", str(tmp_path / "clone"))
    clone = object.__new__(Project)
    clone.folder = tmp_path / "clone"
    clone.run("dvc", "pull", "-q")
    clone.assert_settled()
    assert clone.outputs() == by_snakemake.outputs()


@pytest.mark.parametrize("engine", [DVC, SNAKEMAKE], ids=["dvc", "snakemake"])
@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("count: 100", "coutn: 100", "sample.coutn: unknown key; known here: count, batch_size"),
        ("width: 32", "width: 0", "models.nice.width: 0: should be greater than or equal to"),
        ("kind: gan", "kind: gam", "models.gan.kind: 'gam': unknown model kind; known: gan, nice"),
        ("name: digits", "name: mnits", "data.name: 'mnits': should be 'digits'"),
        ("device: cpu", "device: cuda", "compute.device: 'cuda': no GPU"),
        ("  gan:\n", "  ../gan:\n", "a model's name must be"),
    ],
    ids=["misspelt", "range", "kind", "data", "gpu", "name"],
)
def test_bad_parameters_stop_both_engines_and_touch_nothing(
    old: str, new: str, expected: str, engine: tuple[str, ...], by_dvc: Project
) -> None:
    good = (by_dvc.folder / "params.yaml").read_text()
    before = (by_dvc.outputs(), (by_dvc.folder / "dvc.lock").read_bytes())
    by_dvc.edit("params.yaml", old, new)
    try:
        printed = by_dvc.run(*engine, good=False)
    finally:
        (by_dvc.folder / "params.yaml").write_text(good)
    assert expected in printed
    assert "Traceback" not in printed
    assert (by_dvc.outputs(), (by_dvc.folder / "dvc.lock").read_bytes()) == before


def test_damaged_data_is_named_and_never_used(by_dvc: Project) -> None:
    file = by_dvc.folder / "data/prepared/train.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        model = by_dvc.folder / "runs/nice/0/model.safetensors"
        before = model.read_bytes()
        printed = by_dvc.run("python", "-m", "stages.train", "nice", "0", good=False)
        assert "data/prepared/train.safetensors: SHA-256" in printed
        assert "Traceback" not in printed
        assert model.read_bytes() == before
        assert "prepare" in by_dvc.ran(*SNAKEMAKE, "-n")  # the engines see it too,
        by_dvc.run(*DVC)  # and put it right
        assert file.read_bytes() == good
    finally:
        file.write_bytes(good)
