"""`python -m benchmarks gpu`: jobs in order, in time, whatever one of them does; and a rehearsal without a GPU."""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import torch

from benchmarks.gpu import command, training
from benchmarks.gpu.cases import Case
from benchmarks.gpu.command import Step
from benchmarks.gpu.data import Images
from benchmarks.gpu.graphs import whole_step
from benchmarks.gpu.machine import traffic
from benchmarks.gpu.papers import PAPERS, verdict
from benchmarks.gpu.task import Task
from tests.cards import card
from tests.conftest import ROOT
from tests.same_noise import SameNoise
from workflow import params
from workflow.data.tensors import ImageSet

CPU = torch.device("cpu")
JOB = """
import json, os, pathlib, signal, subprocess, sys, time
name, out = sys.argv[1], pathlib.Path(sys.argv[2])
with (out / "order").open("a") as file:
    file.write(f"{name} {time.time()}\\n")
(out / f"{name}.json").write_text(json.dumps({"line": f"{name} | found"}))
if name == "broken":
    sys.exit("it is broken")
if name == "stubborn":  # and so is what it starts
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    (out / "child").write_text(str(child.pid))
    time.sleep(60)
if name == "large":
    for n, size in enumerate((10_000, 30_000, 20_000)):
        (out / f"large-{n}.npz").write_bytes(b"0" * size)
    (out / "large.txt").write_text("0" * 1000)
"""


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that take no time, but for one."""
    monkeypatch.setattr(command, "arguments", lambda task: [sys.executable, "-S", "-c", JOB, task.name, str(task.out)])
    monkeypatch.setattr(command, "GRACE", 0.4)


def _run(steps: list[Step], out: Path, seconds: float) -> dict[str, str]:
    """Runs them; how each ended."""
    with tempfile.TemporaryDirectory() as scratch:
        outcomes = command.run(steps, out, Path(scratch), time.time() + seconds, tiny=True)
    return {outcome.job: outcome.state for outcome in outcomes}


def test_a_job_that_fails_or_does_not_end_stops_no_other(pretended: None, tmp_path: Path) -> None:
    steps = [Step(("first",), 1), Step(("broken",), 1), Step(("stubborn",), 1), Step(("last",), 3)]
    start = time.time()
    ended = _run(steps, tmp_path, 8.0)
    assert time.time() - start < 8.0
    assert ended == {
        "first": "done",
        "broken": "failed (1): it is broken",
        "stubborn": command.LATE,
        "last": "done",
    }
    assert [line.split()[0] for line in (tmp_path / "order").read_text().splitlines()] == list(ended)
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(int((tmp_path / "child").read_text()), 0)
            time.sleep(0.05)
    table = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "| failed (1): it is broken | broken / found |" in table
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert [job["found"] for job in summary["jobs"]] == [f"{name} | found" for name in ended]


def test_time_that_is_left_over_goes_to_later_jobs(
    pretended: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, float]] = []

    def note(step: Step, out: Path, scratch: Path, until: float, *, tiny: bool) -> list[command.Outcome]:
        asked.append((step.jobs[0], until - time.time()))
        return []

    monkeypatch.setattr(command, "together", note)
    monkeypatch.setattr(command, "summarise", lambda *_: None)
    steps = [Step(("a",), 25), Step(("b",), 25), Step(("c",), 50)]
    command.run(steps, tmp_path, tmp_path, time.time() + 10_000, tiny=True)
    assert [name for name, _ in asked] == ["a", "b", "c"]
    assert [seconds for _, seconds in asked] == pytest.approx([2_500, 10_000 / 3, 10_000], rel=0.01)


def test_the_folder_stays_small_without_losing_a_figure(
    pretended: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "LIMIT", 100_000)
    whole, smaller = tmp_path / "whole", tmp_path / "smaller"
    assert _run([Step(("large",), 1)], whole, 10.0) == {"large": "done"}
    assert [(whole / f"large-{n}.npz").exists() for n in range(3)] == [True, True, True]
    monkeypatch.setattr(command, "LIMIT", 40_000)
    assert _run([Step(("large",), 1)], smaller, 10.0) == {"large": "done"}
    assert [(smaller / f"large-{n}.npz").exists() for n in range(3)] == [True, False, True]
    assert (smaller / "large.txt").stat().st_size == 1000
    assert "large-1.npz" in (smaller / "summary.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("place", ["folder", "folder/work.py"])
def test_what_was_there_before_is_never_deleted(
    pretended: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/work.py").write_bytes(b"0" * 1000)
    monkeypatch.setattr(command, "LIMIT", 100)
    with pytest.raises(SystemExit, match=f"error: --out .*{place}: not an empty folder"):
        command.main(["--rehearse", "--parts", "speed", "--out", str(tmp_path / place)])
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["work.py"]
    assert (tmp_path / "folder/work.py").stat().st_size == 1000


def test_every_job_is_run_once_and_most_important_first() -> None:
    jobs = [job for part in command.PARTS.values() for step in part for job in step.jobs]
    assert len(set(jobs)) == len(jobs)
    assert list(command.PARTS) == ["tests", "speed", "families"]
    step = Step(tuple("abcdefg"), 70)
    assert [turn.jobs for turn in command.in_turns(step, 8)] == [tuple("abcd"), tuple("efg")]
    assert [turn.share for turn in command.in_turns(step, 8)] == [40, 30]
    assert command.in_turns(step, 16) == [step]


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="error: no GPU"):
        command.main(["--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_the_clock_starts_with_the_process() -> None:
    assert command._begun() == pytest.approx(psutil.Process().create_time(), abs=1.1)  # it knows whole seconds


def test_bytes_are_counted_of_what_is_read_and_written_but_not_of_views() -> None:
    x, y = torch.ones(3, 4), torch.ones(4, 5)
    assert traffic(lambda: x.t() @ torch.ones(3, 2)) == 4 * (6 + 12 + 6 + 8)  # the ones are written, then read
    assert traffic(lambda: x.view(12)[2:].unsqueeze(0)) == 0
    assert traffic(lambda: x @ y) == 4 * (12 + 20 + 15)
    assert traffic(lambda: y.add_(1)) == 4 * (20 + 20)


@pytest.mark.parametrize(
    ("name", "ours", "expected"),
    [
        ("nice", 1980.6, "met"),
        ("nice", 1942.0, "within 2 %"),
        ("nice", 1940.0, "not met"),
        ("pixelcnn", 81.3, "met"),
        ("pixelcnn", 82.9, "within 2 %"),
        ("pixelcnn", 83.0, "not met"),
    ],
)
def test_verdicts(name: str, ours: float, expected: str) -> None:
    assert verdict(PAPERS[name], ours) == expected


def test_random_numbers_are_those_of_the_cpu_and_their_generator_stands_still() -> None:
    own, expected = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    before = own.get_state()

    def draws(random: torch.Generator) -> list[torch.Tensor]:
        weights = torch.tensor([0.2, 0.5, 0.3])
        return [
            torch.randn(4, generator=random),
            torch.rand(2, 3, generator=random, device=CPU, dtype=torch.float64),
            torch.randint(9, (5,), generator=random),
            torch.empty(6).uniform_(generator=random),
            torch.multinomial(weights, 20, replacement=True, generator=random),
            torch.bernoulli(weights, generator=random),
        ]

    with SameNoise("cpu"):
        found = draws(own)
    for one, other in zip(found, draws(expected), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(own.get_state(), before)


@pytest.mark.parametrize("name", ["vae", "gan"])
def test_the_steps_that_ours_are_compared_with_train_every_player(name: str) -> None:
    entry = params.load(ROOT / "presets/smoke.yaml").models[name]
    case = Case(entry.kind, "8x8", (1, 8, 8), 17, entry)
    model, images = case.build(CPU).train(), case.images(16, CPU)
    before = {name: value.clone() for name, value in model.named_parameters()}
    step = whole_step(case, model, images.images, images.labels, torch.Generator().manual_seed(0))
    step()
    step()  # a zero at first can hide others from their gradients
    assert not [name for name, value in model.named_parameters() if torch.equal(value, before[name])]


def test_training_stops_in_time_with_the_best_weights_so_far(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images = ImageSet(torch.randint(17, (64, 1, 8, 8), dtype=torch.uint8), torch.arange(64) % 10)
    task = Task("families:vae", tmp_path, tmp_path, math.inf, True, 1)
    entry = params.load(ROOT / "presets/smoke.yaml").models["vae"]
    endless = entry.model_copy(update={"train": entry.training.model_copy(update={"epochs": 10**6})})
    monkeypatch.setattr(training, "_affordable", lambda *_: 10**6)
    start = time.monotonic()
    found = training.train(task, endless, Images(card((1, 8, 8), 17, 10), images, images, images), CPU, 0.5)
    assert time.monotonic() - start < 10
    assert 0 < found.facts["epochs"] < found.facts["epochs_of_the_entry"] == 10**6
    best = min(found.curve, key=lambda record: record["valid_loss"])
    assert found.facts["selected_step"] == best["step"]
    assert not found.model.training


# What the default installation has and this command must do without, beside what nothing imports by this name.
REFUSED = [
    *("boto3", "constriction", "dvc", "jinja2", "matplotlib", "mlflow", "optuna", "pandas", "pooch", "psutil", "rich"),
    *("snakemake", "torch_fidelity", "torchvision", "fontTools", "hypothesis", "torchmetrics", "xdist"),
]
REFUSAL = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {refused} else super().find_spec(name, path, target)

sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""


@pytest.mark.slow
def test_the_whole_command_is_rehearsed_without_what_it_must_not_need(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(REFUSAL.format(refused=REFUSED), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    refused = subprocess.run([sys.executable, "-c", "import mlflow"], env=environment, capture_output=True, check=False)
    assert b"No module named 'mlflow'" in refused.stderr
    out = tmp_path / "out"
    told = ["gpu", "--rehearse", "--minutes", "120", "--out", str(out)]
    done = subprocess.run([sys.executable, "-m", "benchmarks", *told], cwd=ROOT, env=environment, check=False)
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert {job["job"]: job["state"] for job in summary["jobs"]} == {
        job: "done" for part in command.PARTS.values() for step in part for job in step.jobs
    }
    assert done.returncode == 0
    assert not (out / "tests.json").read_text(encoding="utf-8").count('"failed"')
    for name in command.FAMILIES:
        found = json.loads((out / f"families-{name}.json").read_text(encoding="utf-8"))
        assert math.isfinite(found["metrics"]["fid"])
        assert found["metrics"]["passes_in_sequence"] >= 1  # of all measures, the last
        assert (out / f"families-{name}-samples.png").exists()
    kinds = {row["what"] for row in json.loads((out / "speed.json").read_text(encoding="utf-8"))["rows"]}
    assert kinds == {"ours", "ours, bf16", "usual loop", "drawing"}
    assert sum(path.stat().st_size for path in out.iterdir()) < command.LIMIT
