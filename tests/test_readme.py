"""The figures in the README are those of the default run that git keeps."""

import json

import pytest

from stages import report
from tests.conftest import ROOT
from workflow.report.markdown import table


def test_the_table_of_results_is_that_of_the_published_run() -> None:
    summary = json.loads((ROOT / "report/summary.json").read_text(encoding="utf-8"))
    shown = table(summary) in (ROOT / "README.md").read_text(encoding="utf-8")
    assert shown, "README.md: not the published results; put the output of `python -m stages.report --markdown` there"


def test_the_command_prints_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    report.print_markdown()
    assert capsys.readouterr().out == table(json.loads((ROOT / "report/summary.json").read_text(encoding="utf-8")))
