"""Learning curves from the lines of `history.jsonl`, by the names of the scalars only, the same for every family."""

from dataclasses import dataclass

from workflow.report.charts import Curve, learning_curve
from workflow.report.results import Run
from workflow.report.svg import Chart

History = list[dict[str, float]]


@dataclass(frozen=True)
class Panel:
    """A chart and its caption."""

    title: str
    chart: Chart


def panels(runs: list[Run], label: str, series: int) -> list[Panel]:
    """The charts of one model: losses, the validation loss if it is another quantity, accuracies, distances.

    A model with one player logs `loss`, and its `valid_loss` is comparable with it. With several players, each logs a
    loss of its own (`critic_loss`), and the checkpoint is chosen by another quantity.
    """
    histories = [run.history() for run in runs]
    keys = list(dict.fromkeys(key for line in histories[0] for key in line))
    losses = ["loss"] if "loss" in keys else [k for k in keys if k.endswith("_loss") and not k.startswith("valid_")]
    accuracies = [key for key in keys if "accuracy" in key and not key.startswith("valid_")]
    unit = "nats per image" if runs[0].metrics["likelihood"] != "implicit" else "no unit"
    wanted = []
    if losses == ["loss"]:
        wanted.append((f"loss, {unit}", f"loss, {unit}", ["loss", "valid_loss"], False))
    else:
        wanted.append(("losses of the players", "loss", losses, False))
        wanted.append(("validation loss", "validation loss", ["valid_loss"], False))
    wanted.append(("accuracy, with a line at 50 %", "accuracy", accuracies, True))
    distances = ["critic_distance", "valid_distance"]
    wanted.append(("the critic’s estimate of the Wasserstein distance", "distance", distances, False))

    found = []
    for title, up, names, share in wanted:
        seeds = [_curves(history, [name for name in names if name in keys]) for history in histories]
        if all(seeds):
            chosen = (
                [_selected(run, h) for run, h in zip(runs, histories, strict=True)] if "valid_loss" in names else []
            )
            chart = learning_curve(f"{label}: {title}, against training steps", seeds, series, up, chosen, share)
            found.append(Panel(title, chart))
    return found


def _curves(history: History, names: list[str]) -> list[Curve]:
    curves = []
    for name in names:
        points = [(line["step"], line[name]) for line in history if name in line]
        curves.append(Curve(_readable(name), [step for step, _ in points], [value for _, value in points]))
    return [curve for curve in curves if curve.steps]


def _readable(name: str) -> str:
    known = {"loss": "training", "critic_distance": "training"}
    known |= {"valid_loss": "validation", "valid_distance": "validation"}
    return known.get(name) or name.removesuffix("_loss").replace("_", " ")


def _selected(run: Run, history: History) -> float:
    """The step of the checkpoint: the one recorded with the run, or that of the lowest validation loss."""
    if run.metrics.get("selected_step") is not None:
        return float(run.metrics["selected_step"])
    judged = [line for line in history if "valid_loss" in line]
    return min(judged, key=lambda line: line["valid_loss"])["step"] if judged else -1
