"""An experiment from DVC's queue, really run: it leaves its MLflow run in the project, and its loss where DVC ranks."""

import csv
import io
from pathlib import Path

import pytest

from tests.copied_project import Project


@pytest.mark.slow
def test_a_queued_experiment_is_tracked_where_the_project_is_and_ranked_by_validation(tmp_path: Path) -> None:
    project = Project(tmp_path, ("nice",))
    for words in ("config user.name x", "config user.email x@example.org", "add -A", "commit -qm first"):
        project.run("git", *words.split())
    project.run("dvc", "exp", "run", "--queue", "-S", "models.nice.train.lr=1e-05", "-n", "slow-one")
    project.run("dvc", "exp", "run", "--run-all")
    runs = project.tracked()
    (parent,) = [run for run in runs if run.info.run_name.startswith("experiments on ")]
    (child,) = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert (child.data.tags["dvc.experiment"], child.data.params["train.lr"]) == ("slow-one", "1e-05")
    column = "valid_loss"
    by = f"report/metrics/nice.json:{column}"
    asked = ("--csv", "--drop", ".*", "--keep", f"Experiment|{column}", "--sort-by", by)
    rows = list(csv.DictReader(io.StringIO(project.run("dvc", "exp", "show", *asked))))
    losses = {row["Experiment"]: row[column] for row in rows}
    assert float(losses["slow-one"]) == child.data.metrics["least validation loss"]
    assert not (project.folder / "runs").exists()  # it ran elsewhere
