"""What the page shows of each model: its charts and its images."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from workflow.data.arrays import Array, read_arrays
from workflow.data.pictures import PLANE_LEVELS, POINT, scatter
from workflow.paths import BITS, SPECTRUM
from workflow.report.budgets import series
from workflow.report.charts import bits_histograms, class_shares, precision_recall, spectrum
from workflow.report.curves import Panel, panels
from workflow.report.results import Results, Run
from workflow.report.strips import PLANE, Strip, over_training, sound, strip
from workflow.report.svg import Chart
from workflow.report.tables import labels

SHOWN = 24  # samples of each model that are shown, one row of them before a reader enlarges it
SHOWN_POINTS = 2500
WALKS = 3  # interpolations that are shown before a reader enlarges them


@dataclass(frozen=True)
class ModelView:
    """Everything that the page shows of one model.

    Args:
        name: its name in `params.yaml`.
        label: its name in print.
        series: number of its colour.
        facts: its part of the summary.
        samples: its first samples.
        sound: these to listen to, as a data URI, if they are signals; else "".
        panels: its learning curves.
        classes: histogram of the classes of its samples, if the data have classes.
        prd: its precision-recall curve, next to those of real images and of independent pixels.
        ood: histograms of the bits/dim of test images and out-of-distribution inputs, if it has a density.
        training: samples over training; None for images made elsewhere.
        training_steps: the training steps of these samples.
        pictures: what only some models can show, by kind: reconstructions, interpolations and so on.
        remarks: on these and on the prompts, by kind.
        prompted: prompts and images of each, if it was trained with captions.
        spectrum: the lengths of the axes of its latent space next to those of a PCA, if it has such axes.

    """

    name: str
    label: str
    series: int
    facts: dict[str, Any]
    samples: Strip
    sound: str
    panels: list[Panel]
    classes: Chart | None
    prd: Chart
    ood: Chart | None
    training: Strip | None
    training_steps: list[int]
    pictures: dict[str, Strip]
    remarks: dict[str, str]
    prompted: list[tuple[str, Strip]]
    spectrum: Chart | None


def model_views(summary: dict[str, Any], results: Results) -> Iterator[ModelView]:
    """Each model of the summary."""
    number, names = series(summary), labels(summary["models"])
    levels, top = results.card.levels, _greatest_share(results)
    for name, runs in results.models.items():
        samples = read_arrays(runs[0].folder / "samples.safetensors")
        pictures = read_arrays(runs[0].folder / "pictures.safetensors")
        snapshots = read_arrays(runs[0].folder / "snapshots.safetensors")
        label = names[name]
        yield ModelView(
            name=name,
            label=label,
            series=number[name],
            facts=summary["models"][name],
            samples=first_images(samples["images"], levels),
            sound=sound(samples["images"], levels, results.card.rate),
            panels=panels(runs, label, number[name]),
            classes=_classes(runs, label, results.card.classes, number[name], 1.1 * top),
            prd=_precision_recall(runs, label, number[name], results.reference),
            ood=_out_of_distribution(pictures, label, number[name]),
            training=over_training(snapshots["images"], levels) if len(snapshots["steps"]) else None,
            training_steps=snapshots["steps"].tolist(),
            pictures=dict(_strips(pictures, levels)),
            remarks=dict(_remarks(pictures, runs[0].metrics)),
            prompted=list(_prompted(pictures, runs[0].metrics, levels)),
            spectrum=_spectrum(pictures, label, number[name]),
        )


def first_images(images: Array, levels: int) -> Strip:
    """The first images, uint8 (N, C, H, W); points are all in one plane."""
    if images.shape[1:] == POINT:
        return strip([scatter(images[:SHOWN_POINTS], levels, 2 * PLANE)], PLANE_LEVELS, 1, fit=2 * PLANE)
    return strip([images[:SHOWN]], levels, rows=1)


def _greatest_share(results: Results) -> float:
    """The greatest share of any class, so that all class histograms have the same axis."""
    modes = [found for run in results.runs if (found := run.metrics["modes"])]
    return max((share for one in modes for share in (*one["histogram"], *one["test_histogram"])), default=1.0)


def _classes(runs: list[Run], label: str, classes: tuple[str, ...], series: int, top: float) -> Chart | None:
    """The class histogram; None for data without classes that the extractor knows."""
    modes = [run.metrics["modes"] for run in runs]
    if not modes[0]:
        return None
    text = f"{label}: share of each class among the samples and among the test images"
    shares = [one["histogram"] for one in modes]
    return class_shares(text, shares, modes[0]["test_histogram"], classes, series, top)


def _precision_recall(runs: list[Run], label: str, series: int, reference: dict[str, Any]) -> Chart:
    """The curve of the model, a mean over its seeds at each place, and those of the references that have one."""
    beside = {"real": reference["real"], "pixels": reference["histogram_model"]}
    measured = {"model": [run.metrics for run in runs]} | {name: [one] for name, one in beside.items() if "prd" in one}

    def mean(scores: list[dict[str, Any]], what: str) -> list[float]:
        return [fmean(place) for place in zip(*(one["prd"]["curve"][what] for one in scores), strict=True)]

    curves = {name: (mean(scores, "recall"), mean(scores, "precision")) for name, scores in measured.items()}
    text = f"{label}: precision over recall, next to real images and independent pixels"
    return precision_recall(text, curves, series)


def _out_of_distribution(pictures: dict[str, Array], label: str, series: int) -> Chart | None:
    """Histograms of the bits/dim of test images and out-of-distribution inputs; None for a model without a density."""
    bits = {name.removeprefix(BITS): found.tolist() for name, found in pictures.items() if name.startswith(BITS)}
    kinds = sorted(bits, key=lambda kind: (kind != "test images", kind))
    text = f"{label}: histograms of the bits/dim of test images and of out-of-distribution inputs"
    return bits_histograms(text, {kind: bits[kind] for kind in kinds}, series) if bits else None


def _spectrum(pictures: dict[str, Array], label: str, series: int) -> Chart | None:
    """The lengths of the axes of the model, in its colour, and of a PCA; None for a model without such axes."""
    lengths = {key.removeprefix(SPECTRUM): one.tolist() for key, one in pictures.items() if key.startswith(SPECTRUM)}
    if not lengths:
        return None
    named = {label: lengths.pop("scales"), **lengths}
    return spectrum(f"{label}: its spectrum of scales, next to that of a PCA", named, series)


def _remarks(pictures: dict[str, Array], metrics: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "latent_shares" in pictures:
        across, up = (f"{100 * share:.0f}\N{NO-BREAK SPACE}%" for share in pictures["latent_shares"].tolist())
        yield "latent_map", f"{across} of the variance across, {up} up"
    if "prompts" in metrics:
        yield "prompts", _of_prompts(metrics["prompts"], metrics["counts"]["samples"])


def _of_prompts(prompts: dict[str, Any], count: int) -> str:
    """How often the classifier finds what the prompts name; "" if they name no class."""
    if "kept_out" not in prompts:
        return ""
    learned, kept_out = (
        "{:.1f}\N{NO-BREAK SPACE}% ({:.1f} to {:.1f})".format(
            *(100 * number for number in (prompts[kind]["share"], *prompts[kind]["interval"]))
        )
        for kind in ("learned", "kept_out")
    )
    return (
        f"the classifier finds the class that was named in {learned} of {count:,} images of wordings that it learned, "
        f"and in {kept_out} of as many of those kept out, with 95\N{NO-BREAK SPACE}% intervals"
    )


def _prompted(pictures: dict[str, Array], metrics: dict[str, Any], levels: int) -> Iterator[tuple[str, Strip]]:
    """Each prompt in quotes, marked * if it was kept out of training, and its images side by side."""
    if "prompt_grid" not in pictures:
        return
    for (text, kept_out), images in zip(
        metrics["prompts"]["shown"], pictures["prompt_grid"].swapaxes(0, 1), strict=True
    ):
        yield f"“{text}”{'*' if kept_out else ''}", strip([images], levels, len(images))


def _strips(pictures: dict[str, Array], levels: int) -> Iterator[tuple[str, Strip]]:
    """Pairs one above the other, interpolations with a row each, a column per class; those that the model has."""
    if pictures["neighbours_samples"].shape[1:] == POINT:
        return
    pairs = {
        "reconstructions": ("reconstruct_originals", "reconstructions"),
        "completions": ("completions_originals", "completions"),
        "neighbours": ("neighbours_samples", "neighbours_train", "neighbours_by_features"),
    }
    for kind, names in pairs.items():
        if all(name in pictures for name in names):
            yield kind, strip([pictures[name] for name in names], levels, rows=1)
    if "interpolations" in pictures:
        walks = pictures["interpolations"]
        yield "interpolations", strip([walks.reshape(-1, *walks.shape[2:])], levels, walks.shape[1], WALKS)
    if "latent_map" in pictures:
        plane = pictures["latent_map"]
        yield "latent_map", strip([plane.reshape(-1, *plane.shape[2:])], levels, plane.shape[1])
    if "class_grid" in pictures:
        rows = pictures["class_grid"]
        yield "class_grid", strip(rows, levels, rows.shape[1])
