"""The trials of each sweep as a Markdown table, for a document that says how hyper-parameters were chosen."""

import statistics
from collections.abc import Sequence

from workflow.params import Params
from workflow.sweeps.trials import best_of, in_print, members, read_losses, varied


def tables(settings: Params) -> str:
    """A heading and a table per sweep: its trials by their lowest validation loss, averaged over seeds, the best bold.

    Trials that have not been trained, or whose training failed, come last. Raises BakeoffError if a history is damaged.
    """
    return "\n".join(_table(base, settings) for base in settings.sweeps)


def row(name: str, base: str, settings: Params) -> list[str]:
    """A trial's name and its values of what the sweep varies, as the table prints them."""
    sweep = settings.sweeps[base]
    values = varied(name, base, settings) if name in settings.models else sweep.failed[name]
    return [name, *(in_print(values.get(key)) for key in sweep.varied)]


def _table(base: str, settings: Params) -> str:
    sweep = settings.sweeps[base]
    losses = {name: read_losses(name, settings) for name in members(base, settings)}
    means = {name: statistics.fmean(found) for name, found in losses.items() if found}
    ends = {name: f"{loss:.5g}" for name, loss in sorted(means.items(), key=lambda item: item[1])}
    ends |= {name: "not trained" for name in losses if name not in means} | dict.fromkeys(sweep.failed, "failed")
    rows = {name: [*row(name, base, settings), end] for name, end in ends.items()}
    if best := best_of(losses):
        rows[best] = [f"**{cell}**" for cell in rows[best]]
    head = ["trial", *sweep.varied, "validation loss"]
    return f"### {base}\n\n" + "".join(map(_line, [head, ["---"] * len(head), *rows.values()]))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"
