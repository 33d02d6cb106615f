"""The pictures and the example of the docs: small, named in the docs, and the example is the published run's page."""

import json
import re
from pathlib import Path

import pytest

from stages import pictures, report
from tests.conftest import ROOT
from tests.invented_project import make_project, small_sets
from workflow.report.summary import fingerprint

SHOWN = sorted((ROOT / "docs/pictures").iterdir())
DOCUMENTS = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))


def test_the_command_draws_samples_and_quality_and_copies_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_project(tmp_path, small_sets(), 5, ["a", "b", "c"], [0])
    monkeypatch.chdir(tmp_path)
    report.build()
    capsys.readouterr()
    pictures.main(example=True)
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.suffix for path in written] == [".png", ".svg", ".html"]
    assert all(path.stat().st_size for path in written)
    assert (tmp_path / "docs/example/index.html").read_bytes() == (tmp_path / "report/index.html").read_bytes()


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.name)
def test_each_picture_is_small_and_shown(path: Path) -> None:
    assert path.stat().st_size < 300_000
    assert re.search(rf"!\[[^\]]+\]\((docs/)?pictures/{path.name}\)", DOCUMENTS)


def test_the_example_is_the_page_of_the_published_run() -> None:
    summary = json.loads((ROOT / "report/summary.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs/example/index.html").read_text(encoding="utf-8")
    assert fingerprint(summary) in page, "docs/example: an older page; run `python -m stages.pictures --example`"
