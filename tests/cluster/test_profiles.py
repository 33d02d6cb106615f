"""Snakemake's profiles beside Slurm's: Kubernetes', against a pretended kubectl, and what all have in common."""

import json
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.cluster.conftest import needed
from tests.cluster.pretend_kubectl import install
from tests.conftest import ROOT
from tests.copied_project import TRAINED, Project, lengthen
from tests.tracking.conftest import PATIENCE, wait_for

FOLDERS = ("profiles/default", "profiles/slurm", "profiles/kubernetes")
ON_KUBERNETES = ("snakemake", "--workflow-profile", "profiles/kubernetes")


def test_a_profile_has_what_the_one_has_that_it_replaces() -> None:
    default, *others = (
        yaml.safe_load((ROOT / folder / "config.yaml").read_text(encoding="utf-8")) for folder in FOLDERS
    )
    for profile in others:
        assert profile | default == profile


def test_the_container_has_the_locks_packages_and_a_python_that_they_are_for() -> None:
    lines = (ROOT / "Containerfile").read_text(encoding="utf-8")
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", lines, re.MULTILINE)[0].split()
    assert copied == ["requirements.lock", "requirements-cluster.lock"]
    for name in copied:
        assert f"-r /tmp/{name}" in lines
        assert (ROOT / name).exists()
    python = re.search(r"^FROM python:3\.(\d+)-", lines, re.MULTILINE)
    assert python
    assert 11 <= int(python[1]) < 14  # as pyproject.toml says
    version = re.search(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert version
    assert f"uv=={version[1]}" in lines


@pytest.mark.slow
def test_stages_run_as_pods_and_a_pod_that_is_deleted_comes_again_with_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed(None if find_spec("snakemake_executor_plugin_cluster_generic") else "needs `make cluster`")
    (tmp_path / "a project").mkdir()
    project = Project(tmp_path / "a project")
    lengthen(project)
    project.edit("params.yaml", "device: cpu", "device: auto")  # so that jobs ask for a GPU
    project.edit("params.yaml", "models:\n", "save_every: 0\nmodels:\n")
    for name, value in install(tmp_path).items():
        monkeypatch.setenv(name, value)
    running = project.start(*ON_KUBERNETES, "--seconds-between-status-checks", "5", TRAINED[0])
    wait_for(lambda: (project.folder / "states/gan-0.safetensors").exists())
    (training,) = (tmp_path / "pods").glob("*-bakeoff-train-gan-0-*")
    subprocess.run(["kubectl", "delete", f"job.batch/{training.name}"], check=True)
    assert running.wait(PATIENCE) == 0, (project.folder / "started.log").read_text(encoding="utf-8")
    assert "stopped; run the same command again to continue after step" in (training / "log").read_text(
        encoding="utf-8"
    )
    pods = [json.loads((pod / "job.json").read_text(encoding="utf-8")) for pod in sorted((tmp_path / "pods").iterdir())]
    (containers,) = zip(*(pod["spec"]["template"]["spec"]["containers"] for pod in pods), strict=True)
    assert [container["resources"]["limits"] for container in containers] == [
        {"memory": "2000M", "nvidia.com/gpu": 0},
        {"memory": "4000M", "nvidia.com/gpu": 1},
        {"memory": "8000M", "nvidia.com/gpu": 1},
    ]
    limits = [pod["spec"]["template"]["spec"]["activeDeadlineSeconds"] for pod in pods]
    assert limits == [60 * 60, 1440 * 60, 1440 * 60]
    assert {container["volumeMounts"][0]["mountPath"] for container in containers} == {str(project.folder)}
