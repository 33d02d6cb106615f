"""The same graph on a cluster: a real Slurm with two nodes on loopback, driven through the profile as users have it."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.cluster.conftest import needed
from tests.cluster.slurm import GPUS, Job, jobs, slurm, table, why_not
from tests.copied_project import DVC, SNAKEMAKE, TRAINED, Project, lengthen, trained, untrained
from tests.tracking.conftest import PATIENCE, wait_for

pytestmark = pytest.mark.slow
ASKS_AFTER = "--slurm-init-seconds-before-status-checks"  # and again after ten seconds more, until a job has ended
ON_SLURM = ("snakemake", "--workflow-profile", "profiles/slurm", ASKS_AFTER, "1")
STATE = "states/gan-0.safetensors"


@pytest.fixture(scope="module", autouse=True)
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    needed(why_not())
    with slurm(tmp_path_factory.mktemp("slurm")):
        yield


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory, _cluster: None) -> tuple[Project, Project, list[Job]]:
    """A project with two trainings that has run here, the same that has run on the cluster, and the jobs of that."""
    here, there = (Project(tmp_path_factory.mktemp(name), ("gan",)) for name in ("here", "there"))
    for project in (here, there):
        project.edit("params.yaml", "device: cpu", "device: auto")  # so that jobs ask for a GPU, where there are any
        project.edit("params.yaml", "\n- 0\n", "\n- 0\n- 1\n")
        lengthen(project)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda project, engine: project.run(*engine), (here, there), ((*SNAKEMAKE, "-q"), ON_SLURM)))
    of_the_run = jobs()
    print(table(of_the_run))
    return here, there, of_the_run


def test_same_bytes_as_here_and_nothing_left_to_do(projects: tuple[Project, Project, list[Job]]) -> None:
    here, there, _ = projects
    assert there.outputs() == here.outputs()
    assert (there.folder / "dvc.lock").read_bytes() == (here.folder / "dvc.lock").read_bytes()
    for engine in (DVC, SNAKEMAKE):
        there.assert_settled_for(engine)
    assert list((there.folder / "states").iterdir()) == []


def test_each_stage_was_a_job_with_what_its_meta_asks_for(projects: tuple[Project, Project, list[Job]]) -> None:
    ran = projects[2]
    chains = {f"{stage}_gan_{seed}" for stage in ("train", "sample", "evaluate") for seed in (0, 1)}
    assert {job.rule for job in ran} == {"prepare", "extractor", "reference", "audit", "track", "report", *chains}
    assert {job.state for job in ran} == {"COMPLETED"}
    assert {job.mem_mb for job in ran if job.rule in chains} == {4000}
    assert {job.gpus for job in ran if job.rule in chains} == {1}
    assert {job.gpus for job in ran if job.rule in ("prepare", "track", "report")} == {0}
    assert {job.node for job in ran} == {"node1", "node2"}


def test_no_more_jobs_at_a_time_than_gpus(projects: tuple[Project, Project, list[Job]]) -> None:
    on_gpu = [job for job in projects[2] if job.gpus]
    at_once = [sum(other.started <= job.started < other.ended for other in on_gpu) for job in on_gpu]
    assert max(at_once) == GPUS


def test_a_job_that_is_killed_comes_again_with_more_memory_and_one_out_of_time_goes_on(
    projects: tuple[Project, Project, list[Job]], tmp_path: Path
) -> None:
    project, before = untrained(projects[1], tmp_path), len(jobs())
    running = project.start(*ON_SLURM, "--slurm-keep-successful-logs", TRAINED[0])
    killed = _training(project)
    os.kill(killed, signal.SIGKILL)  # as the kernel does when memory is out
    wait_for(lambda: not psutil.pid_exists(killed))  # what it was writing is written
    state = (project.folder / STATE).stat().st_mtime_ns
    stopped = _training(project, other_than=killed, since=state)
    os.kill(stopped, signal.SIGSTOP)  # else it might be over too soon
    subprocess.run(["scontrol", "update", f"JobId={jobs()[-1].number}", "EndTime=now"], check=True)
    assert running.wait(PATIENCE) == 0
    ran = jobs()[before:]
    assert [(job.state, job.mem_mb) for job in ran] == [("FAILED", 4000), ("TIMEOUT", 8000), ("COMPLETED", 12000)]
    assert "stopped; run the same command again to continue after step" in _log(project, ran[1])
    assert trained(project) == trained(projects[1])


def test_ctrl_c_ends_the_jobs_and_a_cancelled_job_is_reported(
    projects: tuple[Project, Project, list[Job]], tmp_path: Path
) -> None:
    project = untrained(projects[1], tmp_path)
    running = project.start(*ON_SLURM, ASKS_AFTER, "60", TRAINED[0])
    _training(project)  # before Snakemake asks for its job, which while it asks it would forget to cancel
    running.send_signal(signal.SIGINT)
    assert running.wait(PATIENCE) != 0
    wait_for(lambda: jobs()[-1].state == "CANCELLED")
    assert "stopped; run the same command again to continue after step" in _log(project, jobs()[-1])
    running = project.start(*ON_SLURM, "--retries", "0", TRAINED[0])
    _training(project)
    subprocess.run(["scancel", str(jobs()[-1].number)], check=True)
    assert running.wait(PATIENCE) != 0
    printed = (project.folder / "started.log").read_text(encoding="utf-8")
    assert re.search(r"Error in rule train_gan_0:\n.*SLURM status is: 'CANCELLED'", printed, re.DOTALL)
    assert (project.folder / STATE).exists()


def _training(project: Project, other_than: int = 0, since: int = 0) -> int:
    """The process that trains the GAN, another one than this, once a state is there that was kept after this moment."""
    command = ["python", "-m", "stages.train", "gan", "0"]

    def found() -> list[int]:
        return [
            process.pid
            for process in psutil.process_iter(["cmdline", "cwd"])
            if process.info["cmdline"] == command
            and process.info["cwd"] == str(project.folder)
            and process.pid != other_than
        ]

    def kept() -> bool:
        return (project.folder / STATE).exists() and (project.folder / STATE).stat().st_mtime_ns > since

    wait_for(lambda: kept() and found())
    return found()[0]


def _log(project: Project, job: Job) -> str:
    return (project.folder / f".snakemake/slurm_logs/rule_{job.rule}/{job.number}.log").read_text(encoding="utf-8")
