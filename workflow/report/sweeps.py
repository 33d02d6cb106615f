"""The page's section on sweeps: the trials and their validation losses."""

import statistics
from dataclasses import dataclass
from typing import Any

from workflow.report.budgets import series
from workflow.report.charts import Tried, trials_over
from workflow.report.results import Results, Trial
from workflow.report.svg import Chart
from workflow.sweeps.trials import in_print

LONG = 20  # trials shown, the best ones; the others are folded away


@dataclass(frozen=True)
class Row:
    """A trial as the table prints it; small: the spread over seeds; first: the sweep started from it."""

    name: str
    values: tuple[str, ...]
    loss: str
    small: str
    best: bool
    first: bool


@dataclass(frozen=True)
class Sweep:
    """A sweep as the page shows it.

    Args:
        base: name of the model that it started from.
        varied: keys of the parameters that it varies.
        best: name of the best trial.
        chosen: the best trial's values of these parameters, in words.
        count: number of trials.
        failed: number of trials whose training failed.
        unit: of the validation loss; "" if it has none.
        rows: from the best trial to the worst, then those without a loss.
        folded: the rows after the first ones.
        charts: one for each parameter.

    """

    base: str
    varied: tuple[str, ...]
    best: str
    chosen: str
    count: int
    failed: int
    unit: str
    rows: tuple[Row, ...]
    folded: tuple[Row, ...]
    charts: tuple[tuple[str, Chart], ...]


def shown(summary: dict[str, Any], results: Results) -> list[Sweep]:
    """Each sweep in which some trial has results."""
    number, found = series(summary), []
    for base, top in results.best.items():
        told, trials = summary["sweeps"][base], results.sweeps[base]
        with_loss = [trial for trial in trials if trial.losses]
        ranked = sorted(with_loss, key=lambda trial: statistics.fmean(trial.losses))
        rows = [_row(one, told, base) for one in (*ranked, *(trial for trial in trials if not trial.losses))]
        chosen = next(trial for trial in trials if trial.name == top)
        implicit = results.models[top][0].metrics["likelihood"] == "implicit"
        loss = "validation loss" if implicit else "validation loss, nats per image"
        titles = [(key, f"{base}: validation loss against {key}") for key in told["varied"]]
        found.append(
            Sweep(
                base=base,
                varied=tuple(told["varied"]),
                best=top,
                chosen=in_words(chosen.values),
                count=len(trials),
                failed=sum(trial.failed for trial in trials),
                unit="" if implicit else "nats per image",
                rows=tuple(rows[:LONG]),
                folded=tuple(rows[LONG:]),
                charts=tuple(
                    (key, trials_over(title, _tried(key, with_loss, top), number[top], (key, loss)))
                    for key, title in titles
                ),
            )
        )
    return found


def in_words(values: dict[str, Any]) -> str:
    """The values in words: "latents 8, train.lr 0.001"."""
    return ", ".join(f"{key} {in_print(value)}" for key, value in values.items())


def _row(trial: Trial, told: dict[str, Any], base: str) -> Row:
    numbers = told["trials"][trial.name]
    loss, deviation = numbers["mean"], numbers["std"]
    return Row(
        name=trial.name,
        values=tuple(in_print(trial.values.get(key)) for key in told["varied"]),
        loss=f"{loss:.5g}" if loss is not None else "training failed" if trial.failed else "no results yet",
        small=f"± {deviation:.2g}" if deviation else "",
        best=trial.name == told["best"],
        first=trial.name == base,
    )


def _tried(key: str, trials: list[Trial], top: str) -> list[Tried]:
    return [Tried(trial.values.get(key), trial.losses, trial.name == top) for trial in trials]
