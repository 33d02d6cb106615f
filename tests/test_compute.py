"""Which stage has which GPU: real processes, and GPUs of which only the names exist."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import ROOT
from workflow.device import prepare_torch
from workflow.engines.ledger import Code
from workflow.engines.snakemake import visible_gpus
from workflow.params import Compute

STAGE = """
import sys, types, torch
from workflow.device import prepare_torch, take_gpu
from workflow.params import Compute
names, compute = sys.argv[1].split(","), Compute(device="auto", threads=1)
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: len(names)
torch.cuda.get_device_properties = lambda number: types.SimpleNamespace(uuid=names[number])
torch.cuda.set_device = lambda device: None
device = prepare_torch(compute)
assert prepare_torch(compute) == device
print(names[device.index], flush=True)
for _ in sys.stdin:
    print(take_gpu(), flush=True)
"""
Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a stage that finds GPUs of these names, says which is its own, and lives until its input ends."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    started: list[subprocess.Popen[str]] = []

    def start(names: str) -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", STAGE, names]
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, bufsize=1))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_each_stage_has_a_gpu_of_its_own_and_leaves_it_however_it_ends(start: Start) -> None:
    first = start("a,b")
    assert _line(first) == "a"
    second = start("b,a")  # as another CUDA_VISIBLE_DEVICES numbers them
    assert _line(second) == "b"
    third = start("a,b")
    assert third.stderr
    assert third.stderr.readline() == "waiting: all GPUs (2) are in use by other stages\n"
    first.kill()
    assert _line(third) == "a"


def test_a_stage_takes_another_gpu_only_if_one_is_left(start: Start) -> None:
    first = start("a,b")
    assert first.stdin
    assert _line(first) == "a"
    first.stdin.write("\n")
    assert _line(first) == "1"
    first.stdin.write("\n")
    assert _line(first) == "None"


def test_convolutions_on_a_gpu_have_all_their_bits() -> None:
    prepare_torch(Compute(device="cpu", threads=1))
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("named", "listed", "count"),
    [
        ("0,1", "", 2),
        ("", "GPU 0: x", 0),
        ("-1", "", 0),
        (None, "GPU 0: x\\n  MIG 1g: y\\nGPU 1: x", 2),
        (None, None, 0),
    ],
)
def test_gpus_are_counted_without_torch(
    named: str | None, listed: str | None, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if listed is not None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f'#!/bin/sh\n[ "$1" = --list-gpus ] && printf "{listed}\\n"\n')
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if listed is not None else str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == count


def test_stages_that_compute_ask_for_one_gpu() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    bodies = {name: stage.get("do", stage) for name, stage in stages.items()}
    code = Code(ROOT)
    computing = {name for name in bodies if Path("workflow/device.py") in code.made_of(Path(f"stages/{name}.py"))}
    assert {name for name, body in bodies.items() if body["meta"].get("gpu") == 1} == computing - {"check"}


STEPS = """
import resource
from workflow import instructions
instructions.limit("avx2")
import torch
from workflow.device import prepare_torch
from workflow.params import Compute
prepare_torch(Compute(device="cpu", threads=1))
layer, x = torch.nn.Linear(4096, 4096), torch.ones(8, 4096)  # a gradient of 64 MiB: more than glibc keeps by itself
for step in range(16):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    layer.weight.grad = None
    layer(x).square().mean().backward()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_steps_use_the_memory_that_earlier_ones_have_freed() -> None:
    script = [sys.executable, "-c", STEPS]
    missing = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    gradient = 2**26 // os.sysconf("SC_PAGESIZE")
    assert sum(map(int, missing[8:])) < 4 * gradient  # eight times as many if each step asked for its memory anew
