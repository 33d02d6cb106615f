"""Every numerical library is at the instruction set that was asked for: each is asked itself."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from workflow.device import warn_of_other_instructions
from workflow.instructions import LIMITS, check, limit, requested
from workflow.params import Compute

# Sizes at which every library uses the widest registers that it may.
COMPUTE = """
import sys
from workflow import instructions
instructions.limit(sys.argv[1])
import hashlib, json
import numpy, scipy.linalg, torch
from threadpoolctl import threadpool_info
from numpy._core._multiarray_umath import __cpu_features__
torch.set_num_threads(1)
random = torch.Generator().manual_seed(0)
images, kernel = torch.randn(8, 16, 28, 28, generator=random), torch.randn(32, 16, 3, 3, generator=random)
square = torch.randn(300, 300, generator=random)
parts = [torch.conv2d(images, kernel), square @ square, images.exp().sum((2, 3)), images.softmax(1)]
numbers = square.double().numpy()
arrays = [*(part.numpy() for part in parts), numbers @ numbers, numpy.exp(numbers), scipy.linalg.eigvalsh(numbers)]
print("ASKED", json.dumps({
    "aten": torch.backends.cpu.get_cpu_capability(),
    "numpy": [name for name in ("X86_V4", "AVX512_ICL", "AVX512_SPR") if __cpu_features__.get(name)],
    "openblas": sorted({p["architecture"] for p in threadpool_info() if p["internal_api"] == "openblas"}),
    "bytes": hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest(),
}))
"""
WIDER = "avx512f" in Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else False


def _ask(instructions: str) -> tuple[dict[str, object], str]:
    """What the libraries of a process say of themselves, and all that oneDNN and MKL print."""
    known = {name for limits in LIMITS.values() for name in limits}
    environment = {name: value for name, value in os.environ.items() if name not in known}
    environment |= {"PYTHONPATH": str(ROOT), "ONEDNN_VERBOSE": "1", "MKL_VERBOSE": "1"}
    command = [sys.executable, "-c", COMPUTE, instructions]
    printed = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=True).stdout
    return json.loads(printed.rpartition("ASKED ")[2].splitlines()[0]), printed


def test_all_libraries_are_at_the_instruction_set_that_was_asked_for() -> None:
    asked, printed = _ask("avx2")
    assert asked["aten"] == "AVX2"
    assert asked["numpy"] == []
    assert asked["openblas"] == ["Haswell"]
    assert re.search(r"^onednn_verbose,.*isa:.*AVX2$", printed, re.MULTILINE)
    conditional = set(re.findall(r"^MKL_VERBOSE .* CNR:(\S+)", printed, re.MULTILINE))
    assert conditional
    assert conditional <= {"AVX2", "AUTO"}  # AUTO: on AMD, where MKL has this one code path; unset it says OFF


@pytest.mark.skipif(not WIDER, reason="this processor has nothing beyond AVX2")
def test_a_wider_processor_left_alone_comes_to_other_bytes() -> None:
    assert _ask("native")[0]["bytes"] != _ask("avx2")[0]["bytes"]


def test_a_process_that_was_not_limited_in_time_computes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATEN_CPU_CAPABILITY")
    limit("avx2")  # too late: torch is loaded
    with pytest.raises(RuntimeError, match="ATEN_CPU_CAPABILITY not set before torch was loaded"):
        check("avx2")
    check("native")


@pytest.mark.parametrize(("found", "warned"), [("AVX2", False), ("AVX512", False), ("NO AVX", True), ("DEFAULT", True)])
def test_a_processor_without_them_is_told_what_follows(
    found: str, warned: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: found)
    warn_of_other_instructions(Compute(device="cpu", threads=1))
    assert ("not byte for byte those of other machines" in capsys.readouterr().err) == warned
    warn_of_other_instructions(Compute(device="cpu", threads=1, instructions="native"))
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("compute: {instructions: native}", "native"),
        ("compute: {instructions: sse}", "avx2"),
        ("compute: {instructions: [native]}", "avx2"),
        ("compute: {device: cpu}", "avx2"),
        ("compute: 1", "avx2"),
        ("", "avx2"),
        ("compute: {", "avx2"),
        (None, "avx2"),
    ],
)
def test_the_parameters_are_asked_before_they_are_checked(text: str | None, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    assert requested(path) == expected
