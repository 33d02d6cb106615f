"""The page's section on when to stop: how well each training curve predicts the quality of samples."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workflow.evaluation.columns import GENERATION, named
from workflow.evaluation.stopping import STEP
from workflow.report.budgets import series
from workflow.report.charts import Curve, learning_curve
from workflow.report.svg import Chart
from workflow.report.tables import labels

CHOOSES = "valid_loss"  # the curve by which checkpoints are chosen
CURVES = {
    CHOOSES: "validation loss",
    "critic_distance": "the critic’s estimate",
    "valid_distance": "the critic’s estimate, validation",
    "critic_loss": "the critic’s loss",
    "generator_loss": "the generator’s loss",
    "loss": "training loss",
    STEP: "the training step itself",
}
KINDS = {"notices": "With FID", "praises": "Against FID", "blind": "Perhaps by chance"}
DRAWN = ((CHOOSES,), ("critic_distance", "critic_loss", "loss"))  # beside FID: the first of each that there is
Training = Mapping[str, Any]


@dataclass(frozen=True)
class Followed:
    """What the section shows of one model.

    Args:
        label: its name in print.
        series: number of its colour.
        snapshots: how many there are of each training.
        chart: FID and curves over the steps.
        says: which curves go with FID, and what stopping by the validation loss gives.
        rows: name of each curve, its rank correlation with FID, the interval, and how it is shaded.

    """

    label: str
    series: int
    snapshots: int
    chart: Chart
    says: str
    rows: list[tuple[str, str, str, str]]


@dataclass(frozen=True)
class Stopping:
    """The models, and of how many images each FID is."""

    models: list[Followed]
    counts: Mapping[str, int]


def stopping(summary: Mapping[str, Any]) -> Stopping | None:
    """The section; None if no model's samples were kept over training."""
    followed = list(_followed(summary))
    if not followed:
        return None
    kept = next(model["over_training"] for model in summary["models"].values() if "over_training" in model)
    return Stopping(followed, kept["trainings"][0]["counts"])


def _followed(summary: Mapping[str, Any]) -> Iterator[Followed]:
    models, number, names = summary["models"], series(summary), labels(summary["models"])
    (fid,) = named(GENERATION[:1], summary)
    for name, model in models.items():
        if not (found := model.get("over_training")):
            continue
        trainings, known = found["trainings"], found["correlations"]
        yield Followed(
            label=names[name],
            series=number[name],
            snapshots=len(trainings[0]["steps"]),
            chart=_chart(names[name], number[name], trainings, fid.title),
            says=" ".join(filter(None, (_in_words(known), _choice(trainings, fid.text)))),
            rows=[(readable(curve), *_cells(one)) for curve, one in known.items()],
        )


def readable(curve: str) -> str:
    """The name of a scalar of the history in print.

    >>> readable("valid_accuracy_real")
    'accuracy real, validation'
    """
    known = CURVES.get(curve)
    place = ", validation" if curve.startswith("valid_") else ""
    return known or curve.removeprefix("valid_").replace("_", " ") + place


def _cells(one: Mapping[str, Any]) -> tuple[str, str, str]:
    low, high = one["interval"]
    kind = "notices" if low > 0 else "praises" if high < 0 else "blind"
    return _signed(one["correlation"]), f"[{_signed(low)}, {_signed(high)}]", kind


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _in_words(known: Mapping[str, Mapping[str, Any]]) -> str:
    """Which curves go with FID, which against it, and of which that may be chance."""
    if not known:
        return "There are too few snapshots to compare curves with."
    found: dict[str, list[str]] = {}
    for curve in (curve for curve in CURVES if curve in known and curve != STEP):
        rho, ends, kind = _cells(known[curve])
        found.setdefault(kind, []).append(f"{CURVES[curve]} {rho} {ends}")
    return " ".join(f"{says}: {', '.join(found[kind])}." for kind, says in KINDS.items() if kind in found)


def _choice(trainings: Sequence[Training], text: Any) -> str:
    """What FID the lowest validation loss of the first training has, the lowest there is, and the last."""
    first = trainings[0]
    losses, fid, steps = first["curves"].get(CHOOSES), first["fid"], first["steps"]
    if not losses:
        return ""
    chosen, best = (min(range(len(fid)), key=values.__getitem__) for values in (losses, fid))
    return (
        f"FID is {text(fid[chosen])} where the validation loss is lowest (step {steps[chosen]:,}), "
        f"{text(fid[best])} at its best (step {steps[best]:,}) and {text(fid[-1])} at the end."
    )


def _chart(label: str, number: int, trainings: Sequence[Training], fid: str) -> Chart:
    """Each line between its least and greatest value; FID, in the model's colour, is the last."""
    there = trainings[0]["curves"]
    drawn = [next((curve for curve in choice if curve in there), None) for choice in DRAWN]
    curves = [
        [
            *(Curve(_short(curve), one["steps"], _scaled(one["curves"][curve])) for curve in drawn if curve),
            Curve("FID", one["steps"], _scaled(one["fid"])),
        ]
        for one in trainings
    ]
    beside = ", ".join(readable(curve) for curve in drawn if curve)
    return learning_curve(f"{label}: {fid}, {beside}, against training steps", curves, number, "least to greatest")


def _short(curve: str) -> str:
    return {CHOOSES: "validation", "critic_distance": "estimate", "critic_loss": "critic", "loss": "training"}[curve]


def _scaled(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / ((high - low) or 1.0) for value in values]
