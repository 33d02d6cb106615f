"""Every stage says what it is for and what it takes, and answers wrong arguments in one line before it does anything.

The stages are those that lie in the folder, so that a new one is tested by being there.
"""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

STAGES = sorted(file.stem for file in (ROOT / "stages").glob("*.py") if file.stem != "__init__")
OF_MODELS = ("train", "sample", "evaluate")


@pytest.fixture(autouse=True)
def _in_a_project_of_nothing_but_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_bytes((ROOT / "presets/smoke.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)


def _call(stage: str, *arguments: str) -> int | str | None:
    """Start a stage as `python -m` does, but in this process, which has loaded torch; its exit status."""
    before, sys.argv = sys.argv, [str(ROOT / f"stages/{stage}.py"), *arguments]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        return ended.code
    finally:
        sys.argv = before
    return 0


def _nothing_was_done() -> bool:
    return [file.name for file in Path().iterdir()] == ["params.yaml"]


@pytest.mark.parametrize("stage", STAGES)
def test_help_says_what_a_stage_does_and_takes(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _call(stage, "--help") in (0, None)
    said = capsys.readouterr().out
    first, docstring = said.splitlines()[0], (ROOT / f"stages/{stage}.py").read_text(encoding="utf-8").split('"""')[1]
    assert first.startswith(f"usage: python -m stages.{stage}")
    assert docstring.splitlines()[0] in said
    assert ("SEED" in first) == (stage in OF_MODELS)
    assert _nothing_was_done()


@pytest.mark.parametrize("stage", STAGES)
def test_wrong_arguments_get_a_line_and_the_usage(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _call(stage, "--such") == 2
    usage, *_, line = capsys.readouterr().err.splitlines()
    assert usage.startswith(f"usage: python -m stages.{stage}")
    assert line.startswith(f"python -m stages.{stage}: error: ")
    assert _nothing_was_done()


@pytest.mark.parametrize("stage", [*OF_MODELS, "preset", "sweep", "draw", "score"])
def test_missing_arguments_are_named(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _call(stage) == 2
    assert "error: the following arguments are required: " in capsys.readouterr().err.splitlines()[-1]
    assert _nothing_was_done()


@pytest.mark.parametrize("stage", OF_MODELS)
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("vea", "0"), "'vea': no such model in params.yaml; known: pixelcnn, vae, vqvae, gan, nice"),
        (("vae", "zero"), "'zero': not among the seeds in params.yaml; known: 0"),
        (("vae", "7"), "'7': not among the seeds in params.yaml; known: 0"),
        (("vae", "-1"), "'-1': not among the seeds in params.yaml; known: 0"),
        (("vae", ""), "'': not among the seeds in params.yaml; known: 0"),
    ],
)
def test_what_the_parameters_do_not_hold_is_named(
    stage: str, arguments: tuple[str, str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _call(stage, *arguments) == 2
    assert capsys.readouterr().err == f"error: {line}\n"
    assert _nothing_was_done()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("check", "--help"), 0, "usage: python -m stages.check [-h] [--data]"),
        (("preset",), 2, "usage: python -m stages.preset [-h] PRESET"),
        (("evaluate", "vae", "zero"), 2, "error: 'zero': not among the seeds in params.yaml; known: 0"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_as_users_start_them(arguments: tuple[str, ...], status: int, said: str) -> None:
    stage, *others = arguments
    command = [sys.executable, "-m", f"stages.{stage}", *others]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == status
    assert (done.stdout + done.stderr).splitlines()[0] == said
    assert _nothing_was_done()
