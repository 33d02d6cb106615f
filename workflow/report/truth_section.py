"""Which measures of samples agree with the truth about the models: of data drawn from a model with a known density."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workflow.evaluation.columns import DASH, GENERATION, UNDERSTANDING, Column, named
from workflow.evaluation.comparison import SIGNIFICANT
from workflow.report.trust_section import Seen

BITS = next(column for column in UNDERSTANDING if column.key == "bits_per_dim")
TRUTHS = {  # by its key in the summary, in the head of the table
    "kl": "KL(data ‖ model)",
    "samples": "bits/dim of samples",
}


@dataclass(frozen=True)
class Truth:
    """What is said where the truth is known.

    Args:
        entropy: of the data, bits/dim, and its interval, as printed.
        training: bits/dim of training images under the truth, as printed.
        heads: of the columns of the table, and the number of models that each rests on.
        rows: measures, and how each agrees with both truths.

    """

    entropy: str
    training: str
    heads: list[tuple[str, int]]
    rows: list[tuple[Column, list[Seen]]]


def truth(summary: Mapping[str, Any]) -> Truth | None:
    """The section; None of data whose density is not known."""
    if not (found := summary.get("truth")):
        return None
    teacher, real = summary["reference"]["teacher"], summary["reference"]["real"]
    low, high = map(BITS.text, teacher["interval"])
    known = [found[key]["measures"] for key in TRUTHS]
    return Truth(
        entropy=f"{BITS.text(teacher['bits_per_dim'])} [{low}, {high}]",
        training=BITS.text(real["true_bits"]),
        heads=[(head, found[key]["models"]) for key, head in TRUTHS.items()],
        rows=[
            (column, [_seen(of.get(column.key)) for of in known])
            for column in named(GENERATION, summary)
            if any(column.key in of for of in known)
        ],
    )


def _seen(one: Mapping[str, Any] | None) -> Seen:
    if not one or one["correlation"] is None:
        return Seen(DASH, "blind", "")
    text = f"{one['correlation']:+.2f}".replace("-", "−")
    p = one["p_value"]
    small = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    if p >= SIGNIFICANT:
        return Seen(text, "blind", small)
    return Seen(text, "notices" if one["correlation"] > 0 else "praises", small)
