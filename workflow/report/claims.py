"""What lecture notes and papers say of the families, against what was measured here: claim, measure, verdict."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from workflow.report.columns import MEASURED, TIMES, Column
from workflow.report.tables import labels

Verdict = Literal["holds here", "does not hold here", "mixed", "not decided"]
COLUMNS = {column.key: column for column in (*MEASURED, *TIMES)}


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
        ("autoregressive",), "less",
        ("flow", "autoencoder", "variational", "vector-quantised", "adversarial", "diffusion"), "images_per_second",
    ),
    Claim(
        "Diffusion models are slower to draw from than GANs.",
        "Song et al. 2021",
        ("diffusion",), "less", ("adversarial",), "images_per_second",
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
    """All claims that the models here have numbers for; summary: with times, if they are comparable."""
    compared = (_compare(claim, summary) for claim in CLAIMS)
    return [finding for finding in (*compared, _likelihood_and_samples(summary), _fooled(summary)) if finding]


def _compare(claim: Claim, summary: dict[str, Any]) -> Finding | None:
    """Judge by every pair of a model of the one group and one of the other."""
    column, names = COLUMNS[claim.key], labels(summary["models"])
    sides = [dict(_of(group, column, summary)) for group in (claim.who, claim.whom)]
    if not all(sides):
        return None
    models = summary["models"]
    pairs = list(product(*sides))
    comparable = [(a, b) for a, b in pairs if models[a].get(column.within) == models[b].get(column.within)]
    right = [sides[0][a] < sides[1][b] if claim.than == "less" else sides[0][a] > sides[1][b] for a, b in comparable]
    verdict: Verdict = "holds here" if all(right) else "mixed" if any(right) else "does not hold here"
    why = f"in {sum(right)} of {len(right)} pairs" if len(right) > 1 else ""
    if not comparable:
        verdict, why = "not decided", "an upper bound cannot be ranked against an exact value"
    evidence = (", ".join(f"{names[name]} {column.text(value)}" for name, value in side.items()) for side in sides)
    return Finding(claim.says, claim.source, f"{column.title}: {claim.than}", tuple(evidence), verdict, why)


def _of(group: tuple[str, ...], column: Column, summary: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, model in summary["models"].items():
        if column.ranks(model) and {model["family"], model["kind"]} & set(group):
            yield name, model["mean"][column.key]


def _likelihood_and_samples(summary: dict[str, Any]) -> Finding | None:
    """A counterexample: two models of one kind of likelihood, one ahead in bits/dim and behind in FID."""
    bits, fid, names = COLUMNS["bits_per_dim"], COLUMNS["fid"], labels(summary["models"])
    known = {n: m for n, m in summary["models"].items() if m["mean"]["bits_per_dim"] is not None}
    pairs = [
        (a, b)
        for a, b in product(known, known)
        if known[a][bits.within] == known[b][bits.within]
        and known[a]["mean"]["bits_per_dim"] < known[b]["mean"]["bits_per_dim"]
    ]
    if not pairs:
        return None
    gaps = {(a, b): known[a]["mean"]["fid"] - known[b]["mean"]["fid"] for a, b in pairs}
    against = [pair for pair, gap in gaps.items() if gap > 0]
    shown = max(pairs, key=lambda pair: gaps[pair])
    evidence = tuple(
        f"{names[n]}: {bits.text(known[n]['mean']['bits_per_dim'])} bits/dim, FID {fid.text(known[n]['mean']['fid'])}"
        for n in shown
    )
    return Finding(
        "A better likelihood does not mean better samples.",
        "Theis et al. 2016",
        "bits/dim (less) and classifier FID (more)",
        evidence,
        "holds here" if against else "does not hold here",
        f"{len(against)} of {len(pairs)} pairs with the same kind of likelihood are ranked the other way by FID",
    )


def _fooled(summary: dict[str, Any]) -> Finding | None:
    """The odd inputs that some model finds likelier than the data."""
    names = labels(summary["models"])
    scores = [(value, name, kind) for name, m in summary["models"].items() for kind, value in m["oddity"].items()]
    if not scores:
        return None
    value, name, kind = min(scores)
    return Finding(
        "Likelihoods can be fooled: a model may find odd inputs likelier than the data it learned.",
        "Nalisnick et al. 2019",
        "AUROC of log p(x), below 0.5",
        (f"{names[name]} on {kind}: {value:.3f}",),
        "holds here" if value < 0.5 else "does not hold here",
        f"{sum(score < 0.5 for score, *_ in scores)} of {len(scores)} pairs of model and odd input are below 0.5",
    )
