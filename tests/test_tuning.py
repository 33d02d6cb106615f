"""Hyper-parameters are those that did best on validation images, each family with the same chances."""

import re
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from workflow import params
from workflow.params import Entry, Params
from workflow.sweeps.markdown import row
from workflow.sweeps.trials import members

TEXT = (ROOT / "docs/tuning.md").read_text(encoding="utf-8")


def _read(path: str) -> Params:
    return params.load(ROOT / path)


@dataclass(frozen=True)
class Round:
    """A preset of trials and the heading of their tables in docs/tuning.md.

    per_family: trials. gflops: the budget of each.
    """

    trials: Params
    heading: str
    per_family: int
    gflops: float

    def table(self, base: str) -> list[list[str]]:
        """The rows of a family's table, without bold print."""
        section = TEXT.partition(f"## {self.heading}\n")[2].partition("\n## ")[0]
        text = section.partition(f"### {base}\n")[2].partition("###")[0]
        lines = [line for line in text.splitlines() if line.startswith("| ")]
        return [[cell.replace("*", "").strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


DIGITS = Round(_read("presets/tuning/digits.yaml"), "Trials on the digits", 12, 300)
FIRST = Round(_read("presets/tuning/mnist.yaml"), "Trials on MNIST", 8, 1200)
SECOND = Round(_read("presets/tuning/mnist-second.yaml"), "Second round on MNIST", 3, 3600)
DEFAULT, MNIST, GLYPHS = (_read(path) for path in ("params.yaml", "presets/mnist-cpu.yaml", "presets/glyphs.yaml"))
CHOSEN = {DIGITS.heading: DEFAULT, FIRST.heading: MNIST, SECOND.heading: MNIST}

each = pytest.mark.parametrize("tuning", [DIGITS, FIRST, SECOND], ids=lambda tuning: tuning.heading)
each_family = pytest.mark.parametrize(
    ("tuning", "base"),
    [
        pytest.param(tuning, base, id=f"{tuning.heading}-{base}")
        for tuning in (DIGITS, FIRST, SECOND)
        for base in tuning.trials.sweeps
    ],
)


@each
def test_every_family_had_as_many_trials_and_the_same_budget(tuning: Round) -> None:
    chosen = CHOSEN[tuning.heading]
    assert set(tuning.trials.sweeps) >= set(chosen.models)  # families that are compared elsewhere have trials, too
    sweeps = tuning.trials.sweeps.values()
    assert {1 + len(sweep.trials) + len(sweep.failed) for sweep in sweeps} == {tuning.per_family}
    assert len({len(sweep.varied) for sweep in sweeps}) == 1
    assert {entry.training.gflops for entry in tuning.trials.models.values()} == {tuning.gflops}
    assert len({entry.training.gflops for entry in chosen.models.values()}) == 1


@each
def test_the_trials_were_run_on_the_data_of_what_was_chosen_by_them(tuning: Round) -> None:
    trials, chosen = tuning.trials, CHOSEN[tuning.heading]
    assert (trials.data, trials.compute, trials.seeds) == (chosen.data, chosen.compute, chosen.seeds)


@each_family
def test_the_tables_rows_are_the_presets_trials_in_the_order_of_their_losses(tuning: Round, base: str) -> None:
    rows, trials = tuning.table(base), tuning.trials
    tried = (*members(base, trials), *trials.sweeps[base].failed)
    assert sorted(found[:-1] for found in rows) == sorted(row(name, base, trials) for name in tried)
    losses = [float(found[-1]) for found in rows if found[-1] != "failed"]
    assert losses == sorted(losses)
    assert re.search(rf"\| \*\*{rows[0][0]}\*\* \|", TEXT)


@pytest.mark.parametrize("base", list(DEFAULT.models))
def test_the_default_is_the_best_of_the_digits(base: str) -> None:
    assert DEFAULT.models[base] == DIGITS.trials.models[DIGITS.table(base)[0][0]]


@pytest.mark.parametrize("base", list(MNIST.models))
def test_the_second_round_has_the_middle_and_the_first_rounds_best(base: str) -> None:
    best = [found[0] for found in FIRST.table(base) if found[0] != base]
    assert set(members(base, SECOND.trials)) == {base, *best[: SECOND.per_family - 1]}
    for name in members(base, SECOND.trials):
        assert _without_length(SECOND.trials.models[name]) == _without_length(FIRST.trials.models[name])


@pytest.mark.parametrize("base", list(MNIST.models))
def test_the_models_of_mnist_are_the_best_of_the_second_round_and_what_was_tried_after_it(base: str) -> None:
    best = SECOND.trials.models[SECOND.table(base)[0][0]].model_dump()
    for key, value in _tried_after().get(base, {}).items():
        section, _, last = key.rpartition(".")
        (best[section] if section else best)[last] = value
    assert _without_length(MNIST.models[base]) == _without_length(Entry.model_validate(best))


def _tried_after() -> dict[str, dict[str, Any]]:
    """What was changed after the second round, each because it lowered the validation loss: new values by key."""
    text = TEXT.partition("| model | changed |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    assert all(float(after) < float(before) for _, _, before, after in rows)
    return {base: yaml.safe_load("\n".join(re.findall("`(.*?)`", changed))) for base, changed, _, _ in rows}


@pytest.mark.parametrize("base", list(MNIST.models))
def test_the_printed_digits_have_the_models_of_mnist(base: str) -> None:
    assert _without_validation(GLYPHS.models[base]) == _without_validation(MNIST.models[base])


def _without_length(entry: Entry) -> Entry:
    """But for how long it trains, and how often it is validated meanwhile."""
    return _with(_without_validation(entry), gflops=1.0)


def _without_validation(entry: Entry) -> Entry:
    return _with(entry, valid_every=1)


def _with(entry: Entry, **changes: float) -> Entry:
    return entry.model_copy(update={"train": entry.training.model_copy(update=changes)})
