"""The trials of each sweep as a Markdown table, for a document that says how hyper-parameters were chosen."""

import statistics
from collections.abc import Sequence
from typing import Any

from workflow.params import Params
from workflow.sweeps.trials import best_of, members, read_losses, varied


def tables(settings: Params) -> str:
    """A heading and a table per sweep: its trials by their lowest validation loss, averaged over seeds, the best bold.

    Trials that have not been trained, or whose training failed, come last. Raises BakeoffError if a history is damaged.
    """
    return "\n".join(_table(base, settings) for base in settings.sweeps)


def _table(base: str, settings: Params) -> str:
    sweep = settings.sweeps[base]
    losses = {name: read_losses(name, settings) for name in members(base, settings)}
    means = {name: statistics.fmean(found) for name, found in losses.items() if found}
    ranked = [*sorted(means, key=lambda name: means[name]), *(name for name in losses if name not in means)]
    rows = []
    for name in ranked:
        loss = f"{means[name]:.5g}" if name in means else "not trained"
        cells = [name, *map(_text, varied(name, base, settings).values()), loss]
        rows.append([f"**{cell}**" for cell in cells] if name == best_of(losses) else cells)
    failed = [[name, *(_text(told.get(key)) for key in sweep.varied), "failed"] for name, told in sweep.failed.items()]
    head = ["trial", *sweep.varied, "validation loss"]
    lines = [head, ["---"] * len(head), *rows, *failed]
    return f"### {base}\n\n" + "".join(_line(cells) for cells in lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "–" if value is None else str(value)
