"""The training log: one record per line of `history.jsonl`."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from workflow.errors import BakeoffError
from workflow.params import Train
from workflow.training.checkpoint import Checkpoint

Record = dict[str, float | int]
PACKED = 32  # losses kept as separate tensors before they are concatenated: each pins the memory block it lies in


class History:
    """The records logged so far, and the losses since the last one.

    Args:
        log: called with each record.
        settings: for the advice when training diverges.
        device: of the losses.
    """

    def __init__(self, log: Callable[[Record], None], settings: Train, device: torch.device) -> None:
        self.records: list[Record] = []
        self._log, self._settings, self._device = log, settings, device
        self._losses: dict[str, list[Tensor]] = {}
        self._since = 0  # the step of the last means

    def add(self, terms: Iterable[tuple[str, Tensor]]) -> None:
        """Collect the terms of a step: name and scalar."""
        for term, value in terms:
            values = self._losses.setdefault(term, [])
            values.append(
                value.to(torch.promote_types(value.dtype, torch.float32)).view(1)
            )  # NumPy, which writes checkpoints, has no bf16
            if len(values) > PACKED:
                values[:] = [torch.cat(values)]

    def means(self, step: int) -> dict[str, float]:
        """Mean of each term over the steps since the last call.

        Raises BakeoffError, naming the first bad step, if one is not finite.
        """
        losses = {term: torch.cat(values) for term, values in self._losses.items()}
        means = {term: values.mean().item() for term, values in losses.items()}
        if not all(map(math.isfinite, means.values())):
            raise self._first_bad(losses, step)
        self._losses.clear()
        self._since = step
        return means

    def _first_bad(self, losses: dict[str, Tensor], step: int) -> BakeoffError:
        first: dict[str, tuple[int, float]] = {}
        for term, values in losses.items():
            if bad := (~values.isfinite()).nonzero().flatten().tolist():
                in_a_step = len(values) // (step - self._since)  # more than one if the player has several turns
                first[term] = self._since + 1 + bad[0] // in_a_step, float(values[bad[0]])
        if not first:  # all values are finite, but their sum overflows
            return diverged(next(iter(losses)), math.inf, step, self._settings)
        name, (when, what) = min(first.items(), key=lambda item: item[1][0])
        return diverged(name, what, when, self._settings)

    def write(self, record: Record) -> None:
        """Append a record and log it."""
        self.records.append(record)
        self._log(record)

    def save(self, checkpoint: Checkpoint) -> None:
        """Store everything in `checkpoint`."""
        checkpoint.put("losses", {term: torch.cat(values) for term, values in self._losses.items()})
        checkpoint.facts |= {"records": self.records, "since": self._since, "terms": list(self._losses)}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore what `save` stored, and log the records again."""
        losses = checkpoint.get("losses")
        self._losses = {term: [losses[term].to(self._device)] for term in checkpoint.facts["terms"]}
        self._since = checkpoint.facts["since"]
        for record in checkpoint.facts["records"]:
            self.write(record)


def diverged(term: str, value: float, step: int, settings: Train) -> BakeoffError:
    """The error for a term that is not finite.

    Args:
        term: its name.
        value: NaN or infinite.
        step: the first one at which it is not finite.
        settings: for the advice.
    """
    remedies = [f"train.lr below {settings.lr:g}"]
    if not settings.clip:
        remedies.append("train.clip: 1.0")
    if settings.bf16:
        remedies.append("train.bf16: false")
    return BakeoffError(f"training diverged: {term} is {value} at step {step}; try {' or '.join(remedies)}")
