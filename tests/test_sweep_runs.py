"""Sweeps for real, on the smallest preset: Optuna's trials, cut off and taken up, by both engines."""

import os
import signal
from pathlib import Path

import pytest

from tests.copied_project import DVC, SNAKEMAKE, Project
from tests.tracking.conftest import PATIENCE, wait_for
from workflow import params
from workflow.files import read_json

# With the second rate the training diverges at once.
SWEEP = (
    "python",
    "-m",
    "stages.sweep",
    "nice",
    "couplings=2..9",
    "train.lr=0.004,1e30",
    "--trials",
    "4",
    "--parallel",
    "2",
)


@pytest.mark.slow
def test_optunas_trials_cut_off_and_taken_up_again_by_both_engines(tmp_path: Path) -> None:
    project = Project(tmp_path, ("nice",))
    path, command = project.folder / "params.yaml", (*SWEEP, "--", *DVC, "--keep-going", "train")
    running = project.start(*command)
    wait_for(lambda: (project.folder / "data/raw").exists())
    os.killpg(running.pid, signal.SIGKILL)
    running.wait(PATIENCE)
    first = params.load(path)
    assert first.sweeps["nice"].trials == ["nice_1", "nice_2"]

    printed = project.run(*command)
    settings = params.load(path)
    sweep = settings.sweeps["nice"]
    assert sorted([*sweep.trials, *sweep.failed]) == ["nice_1", "nice_2", "nice_3", "nice_4"]
    assert sweep.trials  # with the seeds as they are, there is some of each
    assert {values["train.lr"] for values in sweep.failed.values()} == {1e30}
    assert printed.count("training diverged: ") >= len(sweep.failed)
    for name in {"nice_1", "nice_2"} & set(sweep.trials):
        assert settings.models[name] == first.models[name]

    project.run(*SNAKEMAKE, "-q")
    summary = read_json(project.folder / "report/summary.json")
    told = summary["sweeps"]["nice"]
    means = {name: trial["mean"] for name, trial in told["trials"].items() if not trial["failed"]}
    assert set(means) == {"nice", *sweep.trials}
    assert told["best"] == min(means, key=lambda name: means[name])
    assert list(summary["models"]) == [told["best"]]
    assert f"best of {len(means)} by validation loss: {told['best']} (" in printed
    runs = {run.info.run_name: run for run in project.tracked()}
    parent = runs["sweep of nice"]
    children = {name for name, run in runs.items() if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert children == {f"{name}-0" for name in means}
    assert parent.data.tags["bakeoff.best"] == told["best"]
    project.assert_settled_for(DVC)
