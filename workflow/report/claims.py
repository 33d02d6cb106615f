"""What lecture notes and papers say of the families, against what was measured here: claim, measure, verdict."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from workflow.evaluation.columns import MEASURED, OUT_OF_DISTRIBUTION, Column, named
from workflow.report.tables import in_words, labels

Verdict = Literal["holds here", "does not hold here", "mixed", "not decided"]
ODD_TO_SOME = ("photographs", "upside down")  # not odd where the data are photographs, or look the same turned
COLUMNS = {column.key: column for column in MEASURED}


@dataclass(frozen=True)
class Claim:
    """That models of one group have less, or more, of something than those of another.

    who, whom: families (`models/base.py`) or kinds. key: of the column that measures it.
    """

    says: str
    source: str
    who: tuple[str, ...]
    than: Literal["less", "more"]
    whom: tuple[str, ...]
    key: str


CLAIMS = (
    Claim(
        "Samples of a VAE are blurrier than those of a GAN.",
        "Goodfellow 2016, NIPS tutorial, section 2.3.3",
        ("variational",), "less", ("adversarial",), "sharpness",
    ),
    Claim(
        "Discrete codes make sharper samples than a Gaussian latent.",
        "van den Oord et al. 2017",
        ("vector-quantised",), "more", ("variational",), "sharpness",
    ),
    Claim(
        "GANs draw better samples than VAEs.",
        "Goodfellow 2016, NIPS tutorial, section 2.3",
        ("adversarial",), "less", ("variational",), "fid",
    ),
    Claim(
        "Diffusion models draw better samples than GANs.",
        "Dhariwal & Nichol 2021",
        ("diffusion",), "less", ("adversarial",), "fid",
    ),
    Claim(
        "An autoencoder is no generative model: what it draws is worse than what a VAE draws.",
        "Kingma & Welling 2014",
        ("autoencoder",), "more", ("variational",), "fid",
    ),
    Claim(
        "GANs miss parts of the data that models with a likelihood cover.",
        "Metz et al. 2017",
        ("adversarial",), "less", ("autoregressive", "flow", "variational", "vector-quantised", "diffusion"), "recall",
    ),
    Claim(
        "A critic that estimates the Wasserstein distance loses fewer modes than a classifier.",
        "Arjovsky et al. 2017",
        ("wgan",), "less", ("gan",), "modes_kl",
    ),
    Claim(
        "Autoregressive models are the slowest to draw from.",
        "van den Oord et al. 2016",
        ("autoregressive",), "more",
        ("flow", "autoencoder", "variational", "vector-quantised", "adversarial", "diffusion"), "passes_in_sequence",
    ),
    Claim(
        "Diffusion models are slower to draw from than GANs.",
        "Song et al. 2021",
        ("diffusion",), "more", ("adversarial",), "passes_in_sequence",
    ),
    Claim(
        "Recurrent networks know the density better than convolutions.",
        "van den Oord et al. 2016, table 4",
        ("pixelrnn",), "less", ("pixelcnn",), "bits_per_dim",
    ),
    Claim(
        "Affine couplings know the density better than NICE’s additive ones.",
        "Dinh et al. 2017",
        ("realnvp", "glow"), "less", ("nice",), "bits_per_dim",
    ),
    Claim(
        "Flows are exact but weaker than autoregressive models.",
        "Kingma & Dhariwal 2018",
        ("flow",), "more", ("autoregressive",), "bits_per_dim",
    ),
    Claim(
        "Latent variables make better features than an autoregressive model’s activations.",
        "van den Oord et al. 2017",
        ("autoencoder", "variational", "vector-quantised"), "more", ("autoregressive",), "probe_accuracy",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A claim as judged: what measures it, each side's models with their values, and how it turned out."""

    says: str
    source: str
    measure: str
    evidence: tuple[str, ...]
    verdict: Verdict
    why: str


def judge(summary: dict[str, Any]) -> list[Finding]:
    """All claims that the models here have numbers for."""
    compared = (_compare(claim, summary) for claim in CLAIMS)
    return [finding for finding in (*compared, _likelihood_and_samples(summary), _fooled(summary)) if finding]


def _compare(claim: Claim, summary: dict[str, Any]) -> Finding | None:
    """Judge by every pair of a model of the one group and one of the other, under every seed."""
    (column,), models, names = named([COLUMNS[claim.key]], summary), summary["models"], labels(summary["models"])
    sides = [list(_of(group, column, summary)) for group in (claim.who, claim.whom)]
    if not all(sides):
        return None
    comparable = [(a, b) for a, b in product(*sides) if models[a].get(column.within) == models[b].get(column.within)]
    agree = [_agree(models[a], models[b], column.key, claim.than) for a, b in comparable]
    verdict, why = _verdict(agree, len(models[sides[0][0]]["values"][column.key]))
    if not comparable:
        verdict, why = "not decided", "an upper bound cannot be ranked against an exact value"
    evidence = (", ".join(f"{names[name]} {in_words(column, models[name], column.key)}" for name in s) for s in sides)
    return Finding(claim.says, claim.source, f"{column.title}: {claim.than}", tuple(evidence), verdict, why)


def _of(group: tuple[str, ...], column: Column, summary: dict[str, Any]) -> Iterator[str]:
    for name, model in summary["models"].items():
        if column.ranks(model) and {model["family"], model["kind"]} & set(group):
            yield name


def _agree(one: dict[str, Any], other: dict[str, Any], key: str, than: str) -> int:
    """Under how many seeds the one has less, or more, than the other."""
    both = zip(one["values"][key], other["values"][key], strict=True)
    return sum(a < b if than == "less" else a > b for a, b in both)


def _verdict(agree: list[int], seeds: int) -> tuple[Verdict, str]:
    """What follows from the number of seeds under which each pair is as claimed, and why.

    A pair counts for or against a claim if all seeds agree on it.
    """
    right, wrong = agree.count(seeds), agree.count(0)
    open_pairs = len(agree) - right - wrong
    always = " under every seed" if seeds > 1 else ""
    if len(agree) == 1:
        why = f"under {agree[0]} of {seeds} seeds" if seeds > 1 else ""
    else:
        why = f"in {right} of {len(agree)} pairs{always}" + (f", in {open_pairs} under some" if open_pairs else "")
    if open_pairs == len(agree):
        return "not decided", why
    return "holds here" if right == len(agree) else "does not hold here" if wrong == len(agree) else "mixed", why


def _likelihood_and_samples(summary: dict[str, Any]) -> Finding | None:
    """A counterexample: two models of one kind of likelihood, one ahead in bits/dim and behind in FID."""
    (bits, fid), names = named([COLUMNS["bits_per_dim"], COLUMNS["fid"]], summary), labels(summary["models"])
    known = {n: m for n, m in summary["models"].items() if m["mean"]["bits_per_dim"] is not None}
    pairs = [
        (a, b)
        for a, b in product(known, known)
        if known[a][bits.within] == known[b][bits.within]
        and known[a]["mean"]["bits_per_dim"] < known[b]["mean"]["bits_per_dim"]
    ]
    if not pairs:
        return None
    against = {(a, b): _against(known[a]["values"], known[b]["values"]) for a, b in pairs}
    seeds = len(known[pairs[0][0]]["values"]["fid"])
    always = sum(count == seeds for count in against.values())
    shown = max(pairs, key=lambda p: (against[p], known[p[0]]["mean"]["fid"] - known[p[1]]["mean"]["fid"]))
    evidence = tuple(
        f"{names[n]}: {in_words(bits, known[n], bits.key)} bits/dim, FID {in_words(fid, known[n], fid.key)}"
        for n in shown
    )
    return Finding(
        "A better likelihood does not mean better samples.",
        "Theis et al. 2016",
        f"{bits.title} (less) and {fid.title} (more)",
        evidence,
        "holds here" if always else "not decided" if any(against.values()) else "does not hold here",
        f"{always} of {len(pairs)} pairs with the same kind of likelihood are ranked the other way by FID"
        + (" under every seed" if seeds > 1 else ""),
    )


def _against(one: dict[str, list[float]], other: dict[str, list[float]]) -> int:
    """Under how many seeds the one has fewer bits/dim and the greater FID."""
    runs = zip(one["bits_per_dim"], other["bits_per_dim"], one["fid"], other["fid"], strict=True)
    return sum(bits < other_bits and fid > other_fid for bits, other_bits, fid, other_fid in runs)


def _fooled(summary: dict[str, Any]) -> Finding | None:
    """The odd inputs that some model finds likelier than the data, under every seed."""
    models, names = summary["models"], labels(summary["models"])
    scores = {
        (name, kind): found
        for name, m in models.items()
        for kind, found in m["oddity"]["values"].items()
        if kind not in ODD_TO_SOME
    }
    if not scores:
        return None
    seeds = len(next(iter(scores.values())))
    below = {pair: sum(score < 0.5 for score in found) for pair, found in scores.items()}
    always = sum(count == seeds for count in below.values())
    name, kind = max(scores, key=lambda pair: (below[pair], -models[pair[0]]["oddity"]["mean"][pair[1]]))
    return Finding(
        "Likelihoods can be fooled: a model may find odd inputs likelier than the data it learned.",
        "Nalisnick et al. 2019",
        "AUROC of log p(x), below 0.5",
        (f"{names[name]} on {kind}: {in_words(OUT_OF_DISTRIBUTION, models[name]['oddity'], kind)}",),
        "holds here" if always else "not decided" if any(below.values()) else "does not hold here",
        f"{always} of {len(scores)} pairs of model and odd input are below 0.5"
        + (" under every seed" if seeds > 1 else ""),
    )
