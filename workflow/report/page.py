"""The page: `report/index.html`, one file that needs nothing but itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from markupsafe import Markup

from workflow import params
from workflow.data.arrays import Array, read_arrays, read_images
from workflow.data.pictures import PLANE_LEVELS, POINT, scatter
from workflow.evaluation.columns import COST, GENERATION, MEASURED, OUT_OF_DISTRIBUTION, UNDERSTANDING, Column, named
from workflow.models.taxonomy import TAXONOMY
from workflow.params import Params
from workflow.paths import PREPARED
from workflow.report import charts, claims, sweeps, tables
from workflow.report.curves import Panel, panels
from workflow.report.html import fill
from workflow.report.ranking import best, comparable, doubt
from workflow.report.results import Results
from workflow.report.strips import PLANE, Strip, over_training, strip
from workflow.report.summary import fingerprint
from workflow.report.trade_off import CROWD, quality_against

WALL = 20  # pictures a family on the wall of samples
WALL_POINTS = 2500
BITS = "bits of "  # begins the names of the bits/dim among the pictures


@dataclass(frozen=True)
class Family:
    """Everything that the page shows of one model."""

    name: str
    label: str
    series: int
    facts: dict[str, Any]
    wall: Strip
    panels: list[Panel]
    classes: Markup | None
    odd: Markup | None
    training: Strip
    training_steps: list[int]
    pictures: dict[str, Strip]


@dataclass(frozen=True)
class Card:
    """A kind of model, by its first entry, and how the other entries of that kind differ from it."""

    family: Family
    variants: list[tuple[Family, str]]


@dataclass(frozen=True)
class Answer:
    """A question of the comparison, and who answers it best, with what number."""

    question: str
    lines: list[tuple[str, str]]


def render(summary: dict[str, Any], results: Results) -> str:
    """The page as HTML, the same for the same results wherever they are; images and charts stand in it."""
    real = read_images(PREPARED / "test.safetensors")
    families = list(_families(summary, results))
    return fill(
        "page.html.j2",
        fingerprint=fingerprint(summary),
        colours=charts.COLOURS,
        many=charts.MANY,
        card=results.card,
        extractor=results.extractor,
        settings=results.settings,
        reference=results.reference,
        summary=summary,
        families=families,
        places=_places(families),
        cards=_cards(families, results.settings),
        answers=_answers(summary),
        class_shares=any(family.classes for family in families),
        left_out=_left_out(results),
        generation=tables.generation(summary),
        understanding=tables.understanding(summary),
        cost=tables.Table(COST, tuple(tables.model_groups(summary, COST))),
        wall=_wall(real.images, results.card.levels),
        stability=tables.stability(summary, MEASURED),
        columns={column.key: column for column in (*MEASURED, OUT_OF_DISTRIBUTION)},
        over_seeds=tables.over_seeds,
        sweeps=sweeps.shown(summary, results),
        in_words=tables.in_words,
        claims=claims.judge(summary),
        odd_kinds=next((kinds for f in families if (kinds := list(f.facts["oddity"]["mean"]))), []),
        trade_offs=[chart for column in COST if column.better and (chart := quality_against(column, summary))],
        crowded=len(families) > CROWD,
        kinds_of_picture=_kinds_of_picture(families),
        parameters=_parameters(),
    )


def _families(summary: dict[str, Any], results: Results) -> Iterator[Family]:
    names, levels = tables.labels(summary["models"]), results.card.levels
    modes = {name: [run.metrics["modes"] for run in runs] for name, runs in results.models.items()}
    every = [one for of_model in modes.values() for one in of_model if one]
    top = 1.1 * max((s for one in every for s in (*one["histogram"], *one["test_histogram"])), default=1.0)
    for series, (name, runs) in enumerate(results.models.items()):
        samples = read_arrays(runs[0].folder / "samples.safetensors")
        pictures = read_arrays(runs[0].folder / "pictures.safetensors")
        snapshots = read_arrays(runs[0].folder / "snapshots.safetensors")
        label = names[name]
        shares = modes[name][0] and charts.class_shares(
            f"{label}: share of each class among the samples, beside that in the test images",
            [one["histogram"] for one in modes[name]], modes[name][0]["test_histogram"], results.card.classes,
            series, top,
        )  # fmt: skip
        yield Family(
            name=name,
            label=label,
            series=series,
            facts=summary["models"][name],
            wall=_wall(samples["images"], levels),
            panels=panels(runs, label, series),
            classes=shares,
            odd=_odd(pictures, label, series),
            training=over_training(snapshots["images"], levels),
            training_steps=snapshots["steps"].tolist(),
            pictures=dict(_strips(pictures, levels)),
        )


def _strips(pictures: dict[str, Array], levels: int) -> Iterator[tuple[str, Strip]]:
    """Pairs one above the other, walks of one row each, a column a class, as far as the model has them."""
    if pictures["neighbours_samples"].shape[1:] == POINT:
        return
    pairs = {
        "reconstructions": ("reconstruct_originals", "reconstructions"),
        "completions": ("completions_originals", "completions"),
        "neighbours": ("neighbours_samples", "neighbours_train"),
    }
    for kind, names in pairs.items():
        if all(name in pictures for name in names):
            yield kind, strip([pictures[name] for name in names], levels, 16, 8)
    if "interpolations" in pictures:
        walks = pictures["interpolations"]
        yield "interpolations", strip([walks.reshape(-1, *walks.shape[2:])], levels, walks.shape[1], walks.shape[1])
    if "class_grid" in pictures:
        rows = pictures["class_grid"]
        yield "class_grid", strip(rows, levels, rows.shape[1], rows.shape[1])


def _odd(pictures: dict[str, Array], label: str, series: int) -> Markup | None:
    """Histograms of the bits/dim of test images and odd inputs; None for a model without a density."""
    bits = {name.removeprefix(BITS): found.tolist() for name, found in pictures.items() if name.startswith(BITS)}
    kinds = sorted(bits, key=lambda kind: (kind != "test images", kind))
    text = f"{label}: histograms of the bits/dim of test images and of odd inputs"
    return charts.odd_inputs(text, {kind: bits[kind] for kind in kinds}, series) if bits else None


def _wall(images: Array, levels: int) -> Strip:
    """The first images; of points, all in one plane."""
    if images.shape[1:] == POINT:
        return strip([scatter(images[:WALL_POINTS], levels, 2 * PLANE)], PLANE_LEVELS, 1, 1, fit=2 * PLANE)
    return strip([images[:WALL]], levels, WALL, WALL // 2)


def _kinds_of_picture(families: list[Family]) -> list[tuple[str, str, str, list[Family]]]:
    """Key, heading, caption and families of what only some models can show."""
    about = (
        ("reconstructions", "Reconstructions", "Above: a test image. Below: the same image encoded and decoded again."),
        (
            "interpolations",
            "Interpolations",
            "Each row walks through the latent space from near one test image, on the left, to near another.",
        ),
        (
            "class_grid",
            "Asked for a class",
            "One column a class: images that a model of p(x|y) drew when asked for it, not chosen.",
        ),
        (
            "completions",
            "Completions",
            "Above: a test image. Below: its upper half kept, its lower half drawn by the model given the upper one.",
        ),
    )
    shown = ((key, head, text, [f for f in families if key in f.pictures]) for key, head, text in about)
    return [entry for entry in shown if entry[3]]


def _places(families: list[Family]) -> list[tuple[str, list[Family]]]:
    """The leaves of the taxonomy with the families that stand there."""
    return [(place, [f for f in families if f.facts["taxonomy"] == place]) for place in TAXONOMY]


def _cards(families: list[Family], settings: Params) -> list[Card]:
    """A card for each kind of model: it is explained once, with what sets its further entries apart."""
    by_kind: dict[str, list[Family]] = {}
    for family in families:
        by_kind.setdefault(family.facts["kind"], []).append(family)
    cards = []
    for same in by_kind.values():
        first = settings.models[same[0].name].hyperparameters
        variants = []
        for other in same[1:]:
            own = settings.models[other.name].hyperparameters
            other_keys = sorted(key for key in {**first, **own} if own.get(key) != first.get(key))
            changed = [f"{key} {own.get(key, 'off')}" for key in other_keys]
            variants.append((other, ", ".join(changed) or "another training"))
        cards.append(Card(same[0], variants))
    return cards


def _parameters() -> str:
    """What `params.yaml` says, without comments, in an order and a form of its own: DVC looks at no more than that."""
    content = params.load().model_dump(mode="json", exclude_unset=True)
    return yaml.safe_dump(content, default_flow_style=None, allow_unicode=True, width=100)


def _left_out(results: Results) -> str:
    """Which measures are missing for want of classes, and why, as a sentence; empty if none is."""
    real, measures = results.reference["real"], ["modes", "class shares"]
    why = "the network whose features are used does not know the classes of these images"
    if not results.card.classes:
        measures, why = [*measures, "linear probe"], "they need classes, and these images have none"
    if real["inception_score"] is None:
        measures = ["Inception Score", *measures]
    text = f"{', '.join(measures[:-1])} and {measures[-1]}: {why}."
    return text[0].upper() + text[1:] if real["modes"] is None else ""


def _answers(summary: dict[str, Any]) -> list[Answer]:
    """The comparison in a few lines, from the same marks as the tables."""
    models, reference, names = summary["models"], summary["reference"], tables.labels(summary["models"])

    def leaders(column: Column) -> list[tuple[str, str, str, str]]:
        """Name, value and kind of each model that is best in the column, alone in its kind included, and any doubt."""
        found = []
        top = best(models, column)
        for kind, same in sorted(comparable(models, column).items(), key=lambda group: str(group[0])):
            for name in [name for name in same if name in top] or same:
                open_to = doubt(summary, column.key, name)
                value = tables.in_words(column, models[name], column.key)
                found.append((names[name], value, str(kind), f"; {open_to}" if open_to else ""))
        return found

    fid, bits, probe, flops = named([GENERATION[0], UNDERSTANDING[0], UNDERSTANDING[2], COST[1]], summary)
    floor, raw = fid.text(reference["real"]["fid"]), probe.text(reference["pixel_probe_accuracy"])
    drawn = [(who, f"{fid.title} {value}{but}; real images {floor}") for who, value, _, but in leaders(fid)]
    known = [(who, f"{value} bits/dim, {kind}{but}") for who, value, kind, but in leaders(bits)]
    seen = [(who, f"linear probe {value}{but}; on raw pixels {raw}") for who, value, _, but in leaders(probe)]
    cheap = [(who, f"{value} GFLOP per image{but}") for who, value, _, but in leaders(flops)]
    answers = [
        Answer("Whose samples are nearest to the data?", drawn),
        Answer("Who predicts unseen images best?", known or [("", "no model here has a density")]),
        Answer("Whose features tell classes apart?", seen or [("", "no model here has features")]),
        Answer("Who draws with the least work?", cheap),
    ]
    return answers if reference["pixel_probe_accuracy"] is not None else [answers[0], answers[1], answers[3]]
