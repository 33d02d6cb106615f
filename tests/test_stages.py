"""What holds for every stage's process, whatever its work."""

import subprocess
import sys

import pytest


def test_the_compilers_module_has_nothing_to_complain_of_at_the_end() -> None:
    """It does, at length, if what is unused by then is not found as garbage."""
    pytest.importorskip("triton")
    ended = subprocess.run(
        [sys.executable, "-c", "import stages, triton._C.libtriton"], capture_output=True, text=True, check=True
    )
    assert ended.stderr == ""
