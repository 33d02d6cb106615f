"""The default hyper-parameters are those that did best on validation images, each family with the same chances."""

import re

import pytest

from tests.conftest import ROOT
from workflow import params
from workflow.params import Params
from workflow.sweeps.markdown import row
from workflow.sweeps.trials import members

PRESET = params.load(ROOT / "presets/tuning/digits.yaml")
DEFAULT = params.load(ROOT / "params.yaml")
TABLES = (ROOT / "docs/tuning.md").read_text(encoding="utf-8")


def _table(base: str) -> list[list[str]]:
    """The rows of a family's table, without bold print."""
    text = TABLES.partition(f"### {base}\n")[2].partition("###")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.replace("*", "").strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_family_had_as_many_trials_and_the_same_budget() -> None:
    assert set(PRESET.sweeps) == set(DEFAULT.models)
    assert {len(sweep.trials) + len(sweep.failed) for sweep in PRESET.sweeps.values()} == {11}
    assert {len(sweep.varied) for sweep in PRESET.sweeps.values()} == {5}
    assert {entry.training.gflops for entry in (*PRESET.models.values(), *DEFAULT.models.values())} == {300}


def test_the_trials_were_run_on_the_data_of_the_default_run() -> None:
    assert (PRESET.data, PRESET.compute, PRESET.seeds) == (DEFAULT.data, DEFAULT.compute, DEFAULT.seeds)


@pytest.mark.parametrize("base", list(PRESET.sweeps))
def test_the_tables_rows_are_the_presets_trials_and_the_default_is_the_first(base: str) -> None:
    rows = _table(base)
    assert sorted(found[:-1] for found in rows) == sorted(row(name, base, PRESET) for name in _tried(base, PRESET))
    losses = [float(found[-1]) for found in rows if found[-1] != "failed"]
    assert losses == sorted(losses)
    assert re.search(rf"\| \*\*{rows[0][0]}\*\* \|", TABLES)
    assert DEFAULT.models[base] == PRESET.models[rows[0][0]]


def _tried(base: str, settings: Params) -> tuple[str, ...]:
    return *members(base, settings), *settings.sweeps[base].failed
