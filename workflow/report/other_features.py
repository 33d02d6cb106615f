"""The part of the summary and of the page on other extractors: which ranks change with the features."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from workflow.evaluation.columns import DASH, EXTRACTOR_NAME, GENERATION, Column
from workflow.evaluation.comparison import Measurement
from workflow.evaluation.measurements import Measurements, verdicts
from workflow.evaluation.ranks import Order, order, ranks, reversed_pairs
from workflow.evaluation.trust import apart, correlation, unfit
from workflow.report.budgets import series
from workflow.report.results import Results
from workflow.report.seeds import spread
from workflow.report.tables import SCALE, Table, in_words, labels, model_groups, reference_rows

FID = next(column for column in GENERATION if column.key == "fid")
KEYS = ("fid", "kid", "precision", "recall", "density", "coverage", "fid_infinity")
COLUMNS = tuple(  # of distances in any unit, which may be a tiny one
    replace(column, form="significant") if column.scaled else column for column in GENERATION if column.key in KEYS
)
BLIND = "cannot tell independent pixels from real images"


def other_features(results: Results) -> dict[str, Any]:
    """What each extractor after the main one says, and whether the models then rank otherwise by FID.

    Returns:
        extractors: of each other one, by what it is called in files: facts, the models' measures and their verdicts,
            and the values of real images and independent pixels.
        ranks: by FID, of each extractor, the main one first: the best and the worst rank that each model may have.
        refused: the extractors whose FID ranks nobody, and why.
        pairs: the number of pairs of models.
        changes: of each other one, how many pairs the main one decides (`before`), it decides (`now`), both decide
            alike (`alike`), which they decide the other way round (`reversed`, first the model that is ahead by the
            main one), and the rank correlation of the two FIDs. None where either ranks nobody.
    """
    main = Path(results.settings.evaluate.extractors[0]).stem
    fids = {main: results.measurements["fid"], **{k: found["fid"] for k, found in results.other_measurements.items()}}
    orders = {name: order(models, "lower") for name, models in fids.items()}
    facts = dict(zip(results.other_measurements, results.extractor["others"], strict=True))
    found = {name: _extractor(name, results, facts[name]) for name in results.other_measurements}
    refused = {name: BLIND for name, one in found.items() if _is_blind(one)}
    for name in refused:
        found[name]["verdicts"] = {}
    if reason := unfit(results.audit).get("fid"):
        refused[main] = reason
    return {
        "extractors": found,
        "ranks": {name: {k: list(v) for k, v in ranks(fids[name], one).items()} for name, one in orders.items()},
        "refused": refused,
        "pairs": len(orders[main]),
        "changes": {
            name: None if {main, name} & refused.keys() else _change(fids[main], fids[name], orders[main], orders[name])
            for name in found
        },
    }


def _extractor(name: str, results: Results, facts: Mapping[str, Any]) -> dict[str, Any]:
    measured = results.other_measurements[name]
    models = {
        model: _numbers([run.seen_by(name) for run in runs], measured, model) for model, runs in results.models.items()
    }
    reference = {row: results.reference[row]["other_features"][name] for row in ("real", "histogram_model")}
    judged = verdicts(measured, COLUMNS, set())
    return {
        **{key: facts[key] for key in ("name", "about", "features", "sha256")},
        "models": models,
        "verdicts": {key: asdict(one) for key, one in judged.items()},
        **reference,
    }


def _numbers(runs: list[Mapping[str, Any]], measured: Measurements, model: str) -> dict[str, Any]:
    """A model's measures over seeds, with intervals that cover all that was varied."""
    over_seeds = spread({column.key: [column.read(run) for run in runs] for column in COLUMNS})
    for column in COLUMNS:
        if found := measured[column.key][model].estimate:
            off = over_seeds["mean"][column.key] - found.mean
            over_seeds["interval"][column.key] = column.within_limits([end + off for end in found.interval])
    return over_seeds


def _is_blind(found: Mapping[str, Any]) -> bool:
    real, noise = (found[row]["repeats"]["fid"] for row in ("real", "histogram_model"))
    return apart(real, noise) != 1


def _change(
    before: Mapping[str, Measurement], now: Mapping[str, Measurement], one: Order, other: Order
) -> dict[str, Any]:
    return {
        "before": sum(map(bool, one.values())),
        "now": sum(map(bool, other.values())),
        "alike": sum(way == other[pair] != 0 for pair, way in one.items()),
        "reversed": [list(pair) for pair in reversed_pairs(one, other)],
        "correlation": correlation([m.mean for m in before.values()], [now[name].mean for name in before]),
    }


@dataclass(frozen=True)
class Ranked:
    """A row of the table of ranks; cells: of each extractor, the FID, what is in small print below it, and the rank."""

    label: str
    series: int | None
    cells: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Others:
    """What is said of other extractors.

    Args:
        heads: names of all extractors in print, the main one first.
        rows: models, by their FID on the main one's features, then real images and independent pixels.
        words: a sentence each on what changes.
        tables: of each other extractor, its name, what it is, and all measures on its features.

    """

    heads: list[str]
    rows: list[Ranked]
    words: list[str]
    tables: list[tuple[str, str, Table]]


def others(summary: Mapping[str, Any]) -> Others | None:
    """The part of the page; None if there is one extractor alone."""
    if not (found := summary.get("other_features")):
        return None
    shadows = {name: _shadow(summary, one) for name, one in found["extractors"].items()}
    heads = [summary["extractor"]["name"], *(one["name"] for one in found["extractors"].values())]
    seen = dict(zip(found["ranks"], [(FID, summary), *((COLUMNS[0], one) for one in shadows.values())], strict=True))
    titles, number = labels(summary["models"]), series(summary)
    models = sorted(summary["models"], key=lambda name: float(summary["models"][name]["mean"]["fid"]))
    rows = [
        Ranked(titles[name], number[name], [_ranked(fid, name, of, by, found) for by, (fid, of) in seen.items()])
        for name in models
    ]
    for label, key in (("Real images", "real"), ("Independent pixels", "histogram_model")):
        values = [fid.text(fid.read(of["reference"][key])) for fid, of in seen.values()]
        rows.append(Ranked(label, None, [(value, "", "") for value in values]))
    words = [
        sentence
        for (name, change), head in zip(found["changes"].items(), heads[1:], strict=True)
        for sentence in _in_words(change, found, name, heads[0], head, titles)
    ]
    made = [
        (one["name"], f"{one['about']}, {one['features']:,} features, SHA-256 {one['sha256']}", _table(shadows[name]))
        for name, one in found["extractors"].items()
    ]
    return Others(heads, rows, words, made)


def _shadow(summary: Mapping[str, Any], one: Mapping[str, Any]) -> dict[str, Any]:
    """The summary as if this were the main extractor, as far as the tables need it."""
    models = {name: {**model, **one["models"][name], "decoded": {}} for name, model in summary["models"].items()}
    reference = {**summary["reference"], "real": one["real"], "histogram_model": one["histogram_model"]}
    reference["histogram_model"] = {"bits_per_dim": None, **reference["histogram_model"]}
    return {**summary, "models": models, "reference": reference, "verdicts": one["verdicts"], "extractor": one}


def _table(shadow: dict[str, Any]) -> Table:
    columns = tuple(replace(c, title=c.title.replace(EXTRACTOR_NAME, shadow["extractor"]["name"])) for c in COLUMNS)
    return Table(columns, (*model_groups(shadow, columns), (SCALE, tuple(reference_rows(shadow, columns)))))


def _ranked(fid: Column, name: str, of: Mapping[str, Any], by: str, found: Mapping[str, Any]) -> tuple[str, str, str]:
    """A model's cell; of: the summary by this extractor. by: what it is called in files."""
    value, _, small = in_words(fid, of["models"][name], fid.key).partition(" ")
    low, high = found["ranks"][by][name]
    rank = f"{low}" if low == high else f"{low}–{high}"
    return value, small, DASH if by in found["refused"] else rank


def _in_words(
    change: Mapping[str, Any] | None,
    found: Mapping[str, Any],
    name: str,
    main: str,
    other: str,
    titles: Mapping[str, str],
) -> list[str]:
    """What becomes of the order of the models; the extractors' names are as they are printed."""
    if change is None:
        reasons = [f"by {head} features {found['refused'][by]}" for by, head in _refused(found, name, main, other)]
        return [f"FID {' and '.join(reasons)}, so it ranks nobody there."]
    pairs, rho = found["pairs"], change["correlation"]
    told = f"{other}: of {pairs} pair{'s' * (pairs > 1)} of models, {main} features decide {change['before']}, "
    told += f"{other} features {change['now']}; {change['alike']} alike, {len(change['reversed'])} the other way round"
    told += "." if rho is None else f". Rank correlation of the two FIDs: {rho:+.2f}.".replace("-", "−")
    places = [
        f"{titles[first]} and {titles[second]} change places: {titles[first]} is ahead by {main} features, "
        f"{titles[second]} by {other} features."
        for first, second in change["reversed"]
    ]
    return [told, *places] if places else [f"{told} No pair changes places."]


def _refused(found: Mapping[str, Any], name: str, main: str, other: str) -> list[tuple[str, str]]:
    first = next(iter(found["ranks"]))
    return [(by, head) for by, head in ((first, main), (name, other)) if by in found["refused"]]
