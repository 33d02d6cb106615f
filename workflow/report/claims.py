"""Claims of lectures and papers about the families, compared with the results: claim, metric, verdict."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from workflow.evaluation.columns import MEASURED, OUT_OF_DISTRIBUTION, Column, named
from workflow.report.tables import in_words, labels

Verdict = Literal["holds here", "does not hold here", "mixed", "not decided"]
MAYBE_IN = ("photographs", "upside down")  # in distribution if the data are photographs, or look the same upside down
COLUMNS = {column.key: column for column in MEASURED}


@dataclass(frozen=True)
class Claim:
    """That the models of one group have lower, or higher, values of a metric than those of another.

    Args:
        says: the claim, as a sentence.
        source: who makes it.
        who: families (`models/taxonomy.py`) or kinds of the one group.
        than: whether their values are lower or higher.
        whom: families or kinds of the other group.
        key: key of the metric's column.

    """

    says: str
    source: str
    who: tuple[str, ...]
    than: Literal["lower", "higher"]
    whom: tuple[str, ...]
    key: str


CLAIMS = (
    Claim(
        "Samples of a VAE are blurrier than those of a GAN.",
        "Goodfellow 2016, NIPS tutorial, section 2.3.3",
        ("variational",), "lower", ("adversarial",), "sharpness",
    ),
    Claim(
        "Models with discrete codes draw sharper samples than those with Gaussian latents.",
        "van den Oord et al. 2017",
        ("vector-quantised",), "higher", ("variational",), "sharpness",
    ),
    Claim(
        "GANs draw better samples than VAEs.",
        "Goodfellow 2016, NIPS tutorial, section 2.3",
        ("adversarial",), "lower", ("variational",), "fid",
    ),
    Claim(
        "Diffusion models draw better samples than GANs.",
        "Dhariwal & Nichol 2021",
        ("diffusion",), "lower", ("adversarial",), "fid",
    ),
    Claim(
        "An autoencoder is not a generative model: its samples are worse than those of a VAE.",
        "Kingma & Welling 2014",
        ("autoencoder",), "higher", ("variational",), "fid",
    ),
    Claim(
        "GANs miss parts of the data distribution that likelihood-based models cover.",
        "Metz et al. 2017",
        ("adversarial",), "lower", ("autoregressive", "flow", "variational", "vector-quantised", "diffusion"), "recall",
    ),
    Claim(
        "A GAN whose critic estimates the Wasserstein distance drops fewer modes than a standard GAN.",
        "Arjovsky et al. 2017",
        ("wgan",), "lower", ("gan",), "modes_kl",
    ),
    Claim(
        "Autoregressive models are the slowest to sample from.",
        "van den Oord et al. 2016",
        ("autoregressive",), "higher",
        ("flow", "autoencoder", "variational", "vector-quantised", "adversarial", "diffusion"), "passes_in_sequence",
    ),
    Claim(
        "Diffusion models are slower to sample from than GANs.",
        "Song et al. 2021",
        ("diffusion",), "higher", ("adversarial",), "passes_in_sequence",
    ),
    Claim(
        "Recurrent networks reach better likelihoods than convolutional ones.",
        "van den Oord et al. 2016, table 4",
        ("pixelrnn",), "lower", ("pixelcnn",), "bits_per_dim",
    ),
    Claim(
        "Affine couplings reach better likelihoods than NICE’s additive couplings.",
        "Dinh et al. 2017",
        ("realnvp", "glow"), "lower", ("nice",), "bits_per_dim",
    ),
    Claim(
        "Flows are exact but reach worse likelihoods than autoregressive models.",
        "Kingma & Dhariwal 2018",
        ("flow",), "higher", ("autoregressive",), "bits_per_dim",
    ),
    Claim(
        "Latent variables are better features than the activations of an autoregressive model.",
        "van den Oord et al. 2017",
        ("autoencoder", "variational", "vector-quantised"), "higher", ("autoregressive",), "probe_accuracy",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A claim and its verdict.

    Args:
        says: the claim.
        source: who makes it.
        metric: what decides it.
        evidence: the models of each side with their values.
        verdict: whether it holds here.
        why: the count of pairs or seeds behind the verdict.

    """

    says: str
    source: str
    metric: str
    evidence: tuple[str, ...]
    verdict: Verdict
    why: str


def judge(summary: dict[str, Any]) -> list[Finding]:
    """The verdicts on all claims for which the models here have values."""
    compared = (_compare(claim, summary) for claim in CLAIMS)
    return [finding for finding in (*compared, _likelihood_and_samples(summary), _fooled(summary)) if finding]


def _compare(claim: Claim, summary: dict[str, Any]) -> Finding | None:
    """Judge a claim by every pair of a model of the one group and one of the other, under every seed."""
    (column,), models, names = named([COLUMNS[claim.key]], summary), summary["models"], labels(summary["models"])
    sides = [list(_of(group, column, summary)) for group in (claim.who, claim.whom)]
    if not all(sides):
        return None
    comparable = [(a, b) for a, b in product(*sides) if models[a].get(column.within) == models[b].get(column.within)]
    agree = [_agree(models[a], models[b], column.key, claim.than) for a, b in comparable]
    verdict, why = _verdict(agree, len(models[sides[0][0]]["values"][column.key]))
    if not comparable:
        verdict, why = "not decided", "an upper bound and an exact value cannot be ranked"
    evidence = (", ".join(f"{names[name]} {in_words(column, models[name], column.key)}" for name in s) for s in sides)
    return Finding(claim.says, claim.source, f"{column.title}: {claim.than}", tuple(evidence), verdict, why)


def _of(group: tuple[str, ...], column: Column, summary: dict[str, Any]) -> Iterator[str]:
    for name, model in summary["models"].items():
        if column.ranks(model) and {model["family"], model["kind"]} & set(group):
            yield name


def _agree(one: dict[str, Any], other: dict[str, Any], key: str, than: str) -> int:
    """Under how many seeds the one has the lower, or higher, value."""
    both = zip(one["values"][key], other["values"][key], strict=True)
    return sum(a < b if than == "lower" else a > b for a, b in both)


def _verdict(agree: list[int], seeds: int) -> tuple[Verdict, str]:
    """The verdict, and why, from the number of seeds under which each pair is as claimed.

    A pair counts for or against a claim only if all seeds agree on it.
    """
    right, wrong = agree.count(seeds), agree.count(0)
    open_pairs = len(agree) - right - wrong
    always = " under every seed" if seeds > 1 else ""
    if len(agree) == 1:
        why = f"under {agree[0]} of {seeds} seeds" if seeds > 1 else ""
    else:
        why = f"in {right} of {len(agree)} pairs{always}" + (
            f", in {open_pairs} under some seeds only" if open_pairs else ""
        )
    if open_pairs == len(agree):
        return "not decided", why
    return "holds here" if right == len(agree) else "does not hold here" if wrong == len(agree) else "mixed", why


def _likelihood_and_samples(summary: dict[str, Any]) -> Finding | None:
    """A counterexample: of two models with the same kind of bits/dim, one is better in bits/dim and worse in FID."""
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
        f"lower {bits.title} with higher {fid.title}",
        evidence,
        "holds here" if always else "not decided" if any(against.values()) else "does not hold here",
        f"FID reverses the ranking of {always} of {len(pairs)} pairs with the same kind of bits/dim"
        + (" under every seed" if seeds > 1 else ""),
    )


def _against(one: dict[str, list[float]], other: dict[str, list[float]]) -> int:
    """Under how many seeds the one has fewer bits/dim and the higher FID."""
    runs = zip(one["bits_per_dim"], other["bits_per_dim"], one["fid"], other["fid"], strict=True)
    return sum(bits < other_bits and fid > other_fid for bits, other_bits, fid, other_fid in runs)


def _fooled(summary: dict[str, Any]) -> Finding | None:
    """Whether some model finds some out-of-distribution inputs more likely than the data, under every seed."""
    models, names = summary["models"], labels(summary["models"])
    scores = {
        (name, kind): found
        for name, m in models.items()
        for kind, found in m[OUT_OF_DISTRIBUTION.key]["values"].items()
        if kind not in MAYBE_IN
    }
    if not scores:
        return None
    seeds = len(next(iter(scores.values())))
    below = {pair: sum(score < 0.5 for score in found) for pair, found in scores.items()}
    always = sum(count == seeds for count in below.values())
    name, kind = max(scores, key=lambda pair: (below[pair], -models[pair[0]][OUT_OF_DISTRIBUTION.key]["mean"][pair[1]]))
    return Finding(
        "Likelihoods can be fooled: a model may find out-of-distribution inputs more likely than its own data.",
        "Nalisnick et al. 2019",
        "AUROC of log p(x) below 0.5",
        (f"{names[name]} on {kind}: {in_words(OUT_OF_DISTRIBUTION, models[name][OUT_OF_DISTRIBUTION.key], kind)}",),
        "holds here" if always else "not decided" if any(below.values()) else "does not hold here",
        f"below 0.5 in {always} of {len(scores)} pairs of a model and a kind of input"
        + (" under every seed" if seeds > 1 else ""),
    )
