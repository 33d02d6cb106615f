"""A copy of the project for the tests that run an engine for real."""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from tests.conftest import ROOT

SNAKEMAKE = ("snakemake", "--cores", "2")
DVC = ("dvc", "repro")
MODELS = ("gan", "nice")
TRAINED = tuple(f"runs/gan/0/{name}" for name in ("model.safetensors", "history.jsonl", "snapshots.safetensors"))
# Python runs a file of this name first: at the end of a stage it writes down what the stage has imported. DVC's
# commands, of which the tests run many, also start as fast as stages do.
RECORDER = """
import atexit, runpy, sys
from pathlib import Path

startup = runpy.run_path(str(Path(__file__).parents[1] / "workflow/startup.py"))
startup["collect_garbage_rarely"]()
startup["skip_final_collection"]()

@atexit.register
def record():
    if name := next((word for word in sys.orig_argv if word.startswith("stages.")), ""):
        (Path(__file__).parent / name).write_text(" ".join(sys.modules))
"""


def copy_tracked_files(folder: Path) -> None:
    """Copy what git tracks, and new files that it does not ignore, as they are here."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


STARTED: list[subprocess.Popen[str]] = []  # by `Project.start`, each the leader of a group; ended with the test


class Project:
    """A copy of the project that runs the smoke preset with few models: an engine treats all of them alike."""

    def __init__(self, folder: Path, models: tuple[str, ...] = MODELS) -> None:
        self.folder = folder
        copy_tracked_files(folder)
        (folder / "dvc.lock").unlink(missing_ok=True)
        smoke = yaml.safe_load((ROOT / "presets/smoke.yaml").read_text(encoding="utf-8"))
        smoke["models"] = {name: smoke["models"][name] for name in models}
        (folder / "params.yaml").write_text(yaml.safe_dump(smoke, sort_keys=False))
        (folder / "imported").mkdir()
        (folder / "imported/sitecustomize.py").write_text(RECORDER)
        self.run("git", "init", "-q")

    @classmethod
    def of(cls, folder: Path) -> "Project":
        """The one that is there."""
        project = object.__new__(cls)
        project.folder = folder
        return project

    def copy(self, folder: Path) -> "Project":
        """The same in another folder, with all that has been run; but MLflow's store, which knows where it is."""
        no_store = shutil.ignore_patterns("mlflow.db*", "mlartifacts")
        return self.of(Path(shutil.copytree(self.folder, folder, ignore=no_store, dirs_exist_ok=True)))

    def run(self, *command: str, good: bool = True) -> str:
        """Run a command there; returns what it printed. Fails the test if its exit status is not as expected."""
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
        environment["PYTHONPATH"] = str(self.folder / "imported")
        done = subprocess.run(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) == good, done.stdout[-4000:]
        return done.stdout

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Begin a command there, the leader of a group of processes of its own; it prints into `started.log`."""
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
        with (self.folder / "started.log").open("w") as log:
            started = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, text=True, start_new_session=True
            )
        STARTED.append(started)
        return started

    def ran(self, *command: str) -> set[str]:
        """Run an engine; returns the stages that it ran, by the names that DVC gives them."""
        printed = self.run(*command)
        if command[0] == "dvc":
            return set(re.findall(r"^Running stage '(.+)':$", printed, re.MULTILINE))
        rules = set(re.findall(r"^(?:local)?rule (\w+):$", printed, re.MULTILINE)) - {
            "all",
            "train",
            "sample",
            "evaluate",
        }  # targets
        return {_stage_name(rule) for rule in rules}

    def imported(self, stage: str) -> set[str]:
        """The modules that this stage had loaded when it ended, the last time that it ran."""
        return set((self.folder / f"imported/stages.{stage}").read_text(encoding="utf-8").split())

    def locked(self) -> list[str]:
        """The stages of dvc.lock, in its order."""
        return list(self._lock())

    def locked_outputs(self) -> list[str]:
        """The outputs that dvc.lock records."""
        return [out["path"] for stage in self._lock().values() for out in stage["outs"]]

    def _lock(self) -> dict[str, Any]:
        stages: dict[str, Any] = yaml.safe_load((self.folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]
        return stages

    def outputs(self) -> dict[str, str]:
        """SHA-256 of every file that DVC tracks."""
        paths = [self.folder / out["path"] for stage in self._lock().values() for out in stage["outs"]]
        files = [f for path in paths for f in (path.rglob("[!.]*") if path.is_dir() else [path])]
        return {
            str(f.relative_to(self.folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()
        }

    def tracked(self) -> list[Any]:
        """All runs of the bake-off in the project's MLflow store."""
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{self.folder / 'mlflow.db'}")
        (experiment,) = client.search_experiments(filter_string="name = 'generative-bakeoff/digits'")
        return list(client.search_runs([experiment.experiment_id]))

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace the one occurrence of `old` by `new`, or put `new` at the end if `old` is empty."""
        content = (self.folder / file).read_text(encoding="utf-8")
        assert not old or content.count(old) == 1
        (self.folder / file).write_text(content.replace(old, new) if old else content + new)

    def assert_settled_for(self, engine: tuple[str, ...]) -> None:
        """This engine finds nothing to do."""
        asked = ("snakemake", "-n") if engine == SNAKEMAKE else ("dvc", "status")
        assert re.search(r"Nothing to be done|up to date", self.run(*asked))


def finished(engine: tuple[str, ...], factory: pytest.TempPathFactory) -> Project:
    """A copy of a project that this engine has run: once for all of the tests' processes, and the others wait."""
    shared = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    folder = shared / f"finished_by_{engine[0]}"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            project = Project(factory.mktemp("unfinished"))
            project.run(*engine)
            project.folder.rename(folder)
    return Project.of(folder).copy(factory.mktemp(f"by_{engine[0]}"))


def lengthen(project: Project) -> None:
    """Let the GAN train for long enough to be caught at it on a busy machine."""
    settings = yaml.safe_load((project.folder / "params.yaml").read_text(encoding="utf-8"))
    settings["models"]["gan"]["train"]["epochs"] = 60
    (project.folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))


def untrained(project: Project, folder: Path) -> Project:
    """A copy in which the GAN's training has left nothing, nor a memory of it in DVC's caches; it keeps every state."""
    copy = project.copy(folder)
    shutil.rmtree(copy.folder / ".dvc/cache/runs", ignore_errors=True)
    for file in (copy.folder / name for name in TRAINED):
        digest = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
        (copy.folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]).unlink()
        file.unlink()
    copy.edit("params.yaml", "models:\n", "save_every: 0\nmodels:\n")
    return copy


def trained(project: Project) -> list[bytes]:
    """What the GAN's training has left."""
    return [(project.folder / name).read_bytes() for name in TRAINED]


def _stage_name(rule: str) -> str:
    return re.sub(r"^(code)_(\w+)$", r"\1@\2", re.sub(r"^(train|sample|evaluate)_(\w+)_(\d+)$", r"\1@\2-\3", rule))
