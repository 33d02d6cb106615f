"""The results page: `report/index.html`, a single file that needs no other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from workflow import params
from workflow.data.arrays import read_images
from workflow.evaluation.columns import COST, GENERATION, MEASURED, OUT_OF_DISTRIBUTION
from workflow.models.taxonomy import TAXONOMY
from workflow.params import Entry, Params
from workflow.paths import PREPARED
from workflow.report import claims, sweeps, tables
from workflow.report.answers import answers
from workflow.report.bayes_section import Bayes
from workflow.report.budget_section import Budgets
from workflow.report.charts import MANY
from workflow.report.few_labels import FewLabels
from workflow.report.html import fill
from workflow.report.marks import COLOURS, swatch
from workflow.report.model_views import ModelView, first_images
from workflow.report.other_features import others
from workflow.report.results import Results
from workflow.report.stopping_section import stopping
from workflow.report.strips import sound
from workflow.report.summary import fingerprint
from workflow.report.svg import Chart
from workflow.report.trade_off import CROWD
from workflow.report.trust_section import trust
from workflow.report.truth_section import truth

ABILITIES = (  # key, heading and caption of what only some models can show
    (
        "latent_map",
        "Map of the latent space",
        "Images decoded on a plane: through the mean of the latents of training images, along the two axes on which "
        "they vary most, from −2 to +2 standard deviations.",
    ),
    ("reconstructions", "Reconstructions", "Top: a test image. Bottom: the same image after encoding and decoding."),
    (
        "interpolations",
        "Interpolations",
        "Each row is a path through the latent space, from near one test image on the left to near another.",
    ),
    (
        "class_grid",
        "Class-conditional samples",
        "One column per class: samples of a class-conditional model, p(x|y), for that class, not cherry-picked.",
    ),
    (
        "completions",
        "Completions",
        "Top: a test image. Bottom: its upper half, with the lower half drawn by the model given the upper one.",
    ),
)


@dataclass(frozen=True)
class Card:
    """A kind of model, represented by its first entry, and how the other entries of that kind differ from it."""

    first: ModelView
    variants: list[tuple[ModelView, str]]


def render(
    summary: dict[str, Any],
    results: Results,
    shown: list[ModelView],
    costs: Mapping[str, Chart],
    spent: Budgets | None,
    few: FewLabels | None,
    bayes: Bayes | None,
) -> str:
    """The page as HTML, the same for the same results on every machine; images and charts are part of it.

    costs: charts of quality against cost, by name. spent: what is said of training budgets, if models differ in them.
    few: what is said of few labels, bayes: of class-conditional densities as classifiers; None if there is nothing.
    """
    ood = OUT_OF_DISTRIBUTION
    real = read_images(PREPARED / "test.safetensors").images
    return fill(
        "page.html.j2",
        fingerprint=fingerprint(summary),
        colours=COLOURS,
        swatch=swatch,
        many=MANY,
        card=results.card,
        extractor=results.extractor,
        settings=results.settings,
        reference=results.reference,
        summary=summary,
        models=shown,
        places=_places(shown),
        cards=_cards(shown, results.settings),
        covers=tables.covers(summary),
        above_real=tables.above_real(summary, GENERATION),
        answers=answers(summary),
        class_shares=any(view.classes for view in shown),
        omitted=_omitted(results),
        generation=tables.generation(summary),
        understanding=tables.understanding(summary),
        cost=tables.Table(COST, tuple(tables.model_groups(summary, COST))),
        real=first_images(real, results.card.levels),
        real_sound=sound(real, results.card.levels, results.card.rate),
        stability=tables.stability(summary, MEASURED),
        columns={column.key: column for column in (*MEASURED, ood)},
        over_seeds=tables.over_seeds,
        sweeps=sweeps.shown(summary, results),
        in_words=tables.in_words,
        parts=tables.parts,
        claims=claims.judge(summary, results.measurements),
        trust=trust(summary, results.audit),
        truth=truth(summary),
        other_features=others(summary),
        ood_key=ood.key,
        ood_kinds=next((kinds for view in shown if (kinds := list(view.facts[ood.key]["mean"]))), []),
        trade_offs=list(costs.values()),
        crowded=len(shown) > CROWD,
        budgets=spent,
        stopping=stopping(summary),
        few=few,
        bayes=bayes,
        abilities=_abilities(shown),
        parameters=_parameters(),
    )


def _abilities(shown: list[ModelView]) -> list[tuple[str, str, str, list[ModelView]]]:
    """Key, heading and caption of what some model can show, and the models that can."""
    able = ((key, head, text, [view for view in shown if key in view.pictures]) for key, head, text in ABILITIES)
    return [entry for entry in able if entry[3]]


def _places(shown: list[ModelView]) -> list[tuple[str, list[ModelView]]]:
    """The leaves of the taxonomy, each with its models."""
    return [(place, [view for view in shown if view.facts["taxonomy"] == place]) for place in TAXONOMY]


def _cards(shown: list[ModelView], settings: Params) -> list[Card]:
    """A card for each kind of model, which is explained once, with the differences of its other entries."""
    by_kind: dict[str, list[ModelView]] = {}
    for view in shown:
        by_kind.setdefault(view.facts["kind"], []).append(view)
    return [
        Card(first, [(other, _changed(other, first, settings)) for other in others])
        for first, *others in by_kind.values()
    ]


def _changed(other: ModelView, first: ModelView, settings: Params) -> str:
    """The hyper-parameters in which an entry differs from the first one of its kind: "depth 2"."""
    reference, own = (_options(settings.models[view.name]) for view in (first, other))
    keys = sorted(key for key in {**reference, **own} if own.get(key) != reference.get(key))
    return ", ".join(f"{key} {own.get(key, 'off')}" for key in keys) or "different training"


def _options(entry: Entry) -> dict[str, Any]:
    """The hyper-parameters of an entry, and where its images are if they were made elsewhere."""
    return {**entry.hyperparameters, **({} if entry.samples is None else {"samples": entry.samples})}


def _parameters() -> str:
    """The content of `params.yaml` without comments, in canonical order and form: all that DVC compares."""
    content = params.load().model_dump(mode="json", exclude_unset=True)
    return yaml.safe_dump(content, default_flow_style=None, allow_unicode=True, width=100)


def _omitted(results: Results) -> str:
    """Which metrics are missing because they need classes, and why, as a sentence; "" if none is."""
    real, metrics = results.reference["real"], ["modes", "class shares"]
    why = "the network whose features are used does not know the classes of these images"
    if not results.card.classes:
        metrics, why = [*metrics, "linear probe"], "they need classes, and these images have none"
    if real["inception_score"] is None:
        metrics = ["Inception Score", *metrics]
    text = f"{', '.join(metrics[:-1])} and {metrics[-1]}: {why}."
    return text[0].upper() + text[1:] if real["modes"] is None else ""
