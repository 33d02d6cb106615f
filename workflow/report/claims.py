"""Claims of lectures and papers about the families, compared with the results: claim, metric, verdict."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from workflow.evaluation.columns import FINE_TUNED, MEASURED, OUT_OF_DISTRIBUTION, Column, named
from workflow.evaluation.comparison import SIGNIFICANT, Measurement, decides, orders
from workflow.evaluation.measurements import Measurements
from workflow.evaluation.statistics import Estimate, holm
from workflow.evaluation.stopping import as_correlation, difference, over_seeds
from workflow.evaluation.trust import COPIES
from workflow.report import budgets
from workflow.report.tables import DECODED, in_words, labels

Verdict = Literal["holds here", "does not hold here", "mixed", "not decided"]
MAYBE_IN = ("photographs", "upside down")  # in distribution if the data are photographs, or look the same upside down
COLUMNS = {column.key: column for column in MEASURED}
# By kind, the curve by which Arjovsky et al. 2017 (figures 3 and 4) follow a training, and the sign that makes it a
# distance: the critic's estimate of Wasserstein's, or of Jensen and Shannon's, log 2 minus half of the critic's loss.
ESTIMATES = {"wgan": ("critic_distance", 1), "gan": ("critic_loss", -1)}


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
        decoded: which other images than draws it is about, for models that have them (`tables.DECODED`).

    """

    says: str
    source: str
    who: tuple[str, ...]
    than: Literal["lower", "higher"]
    whom: tuple[str, ...]
    key: str
    decoded: str = ""


CLAIMS = (
    Claim(
        "Samples of a VAE are blurrier than those of a GAN.",
        "Goodfellow 2016, NIPS tutorial, section 2.3.3",
        ("variational",), "lower", ("adversarial",), "sharpness", decoded="mean",
    ),
    Claim(
        "Models with discrete codes draw sharper samples than those with Gaussian latents.",
        "van den Oord et al. 2017",
        ("vector-quantised",), "higher", ("variational",), "sharpness", decoded="mean",
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
        "Flow matching draws better samples than diffusion.",
        "Lipman et al. 2023",
        ("flow_matching",), "lower", ("ddpm",), "fid",
    ),
    Claim(
        "Consistency models draw better samples than VAEs and flows, which take one step without an adversary too.",
        "Song et al. 2023, table 1",
        ("consistency",), "lower", ("vae", "nice", "realnvp", "glow"), "fid",
    ),
    Claim(
        "An autoencoder with a mixture fitted to its latents draws better samples than a VAE.",
        "Ghosh et al. 2020",
        ("autoencoder",), "lower", ("variational",), "fid",
    ),
    Claim(
        "GANs miss parts of the data distribution that likelihood-based models cover.",
        "Metz et al. 2017",
        ("adversarial",), "lower",
        ("autoregressive", "flow", "variational", "vector-quantised", "diffusion"), "coverage",
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
        (
            "flow", "autoencoder", "variational", "vector-quantised", "adversarial", "diffusion", "energy-based",
            "generative stochastic network", "consistency",
        ), "passes_in_sequence",
    ),
    Claim(
        "Markov chains make samples more expensive than a GAN’s.",
        "Goodfellow 2016, NIPS tutorial, section 2.3",
        ("energy-based", "generative stochastic network"), "higher", ("adversarial",), "gflops_per_sample",
    ),
    Claim(
        "Diffusion models are slower to sample from than GANs.",
        "Song et al. 2021",
        ("diffusion",), "higher", ("adversarial",), "passes_in_sequence",
    ),
    Claim(
        "Transformers reach better likelihoods than convolutional networks.",
        "Parmar et al. 2018",
        ("pixeltransformer",), "lower", ("pixelcnn",), "bits_per_dim",
    ),
    Claim(
        "Filling in masks draws better samples than going through pixels in a fixed order.",
        "Chang et al. 2022",
        ("mask_diffusion",), "lower", ("autoregressive",), "fid",
    ),
    Claim(
        "On discrete pixels, diffusion by masks reaches better likelihoods than diffusion by Gaussian noise.",
        "Austin et al. 2021",
        ("mask_diffusion",), "lower", ("ddpm",), "bits_per_dim",
    ),
    Claim(
        "Variational diffusion reaches better likelihoods than autoregressive models.",
        "Kingma et al. 2021",
        ("vdm",), "lower", ("autoregressive",), "bits_per_dim",
    ),
    Claim(
        "Recurrent networks reach better likelihoods than convolutional ones.",
        "van den Oord et al. 2016, table 4",
        ("pixelrnn",), "lower", ("pixelcnn",), "bits_per_dim",
    ),
    Claim(
        "Convolutional and recurrent autoregressive networks reach better likelihoods than dense ones.",
        "van den Oord et al. 2016, table 4",
        ("pixelcnn", "pixelrnn"), "lower", ("made",), "bits_per_dim",
    ),
    Claim(
        "Affine couplings reach better likelihoods than NICE’s additive couplings.",
        "Dinh et al. 2017",
        ("realnvp", "glow"), "lower", ("nice",), "bits_per_dim",
    ),
    Claim(
        "Autoregressive flows reach better likelihoods than flows of affine couplings.",
        "Papamakarios et al. 2017, table 2",
        ("maf",), "lower", ("realnvp",), "bits_per_dim",
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
        differs: what else the two sides differ in.

    """

    says: str
    source: str
    metric: str
    evidence: tuple[str, ...]
    verdict: Verdict
    why: str
    differs: str = ""


def judge(summary: dict[str, Any], found: Measurements) -> list[Finding]:
    """All claims that the models here have numbers for."""
    compared = [(claim.key, _compare(claim, summary, found)) for claim in CLAIMS]
    findings = [
        *compared,
        ("fid", _likelihood_and_samples(summary, found)),
        ("fid", _budget_or_family(summary, found)),
        ("c_t", _memorised(summary, found)),
        ("fid", _followed(summary)),
        ("fine_tuned", _initialised(summary, found)),
        ("kept_by_density", _refused(summary, found)),
        (OUT_OF_DISTRIBUTION.key, _fooled(summary)),
    ]
    refused = summary["audit"]["unfit"]
    return [_unless_refused(finding, refused.get(key)) for key, finding in findings if finding]


def _unless_refused(finding: Finding, why: str | None) -> Finding:
    """The finding, or that nothing is decided by a measure that the audit refused; why: it did, None if it did not."""
    return replace(finding, verdict="not decided", why=f"the measure {why}") if why else finding


def _compare(claim: Claim, summary: dict[str, Any], found: Measurements) -> Finding | None:
    """Judge a claim by every pair of models, one from each side."""
    (column,), models, names = named([COLUMNS[claim.key]], summary), summary["models"], labels(summary["models"])
    sides = [list(_of(group, column, summary)) for group in (claim.who, claim.whom)]
    if not all(sides):
        return None
    measured = {name: _measurement(claim, models[name], found[column.key][name]) for side in sides for name in side}
    verdict, why = _verdict(_signs(column, [(measured[a], measured[b]) for a, b in product(*sides)], claim.than))
    evidence = (", ".join(f"{names[name]} {_value(claim, column, models[name])}" for name in side) for side in sides)
    return Finding(
        claim.says,
        claim.source,
        f"{column.title}: {claim.than}",
        tuple(evidence),
        verdict,
        why,
        _differs(sides, summary),
    )


def _measurement(claim: Claim, model: dict[str, Any], drawn: Measurement) -> Measurement:
    """The model's number: of other images than draws if the claim is about these and the model has them."""
    scores = model["decoded"].get(claim.decoded, {})
    return Measurement([[scores[claim.key]]]) if claim.key in scores else drawn


def _value(claim: Claim, column: Column, model: dict[str, Any]) -> str:
    """The same in words."""
    scores = model["decoded"].get(claim.decoded, {})
    if column.key in scores:
        return f"({DECODED[claim.decoded]}) {column.text(scores[column.key])}"
    return in_words(column, model, column.key)


def _of(group: tuple[str, ...], column: Column, summary: dict[str, Any]) -> Iterator[str]:
    for name, model in summary["models"].items():
        if column.ranks(model) and {model["family"], model["kind"]} & set(group):
            yield name


def _signs(column: Column, pairs: list[tuple[Measurement, Measurement]], than: str) -> list[int]:
    """Of each pair 1 if it is as claimed, -1 if it is the other way round, 0 if it is not decided."""
    return [order if than == "higher" else -order for order in orders(pairs, column.counted)]


def _verdict(signs: list[int]) -> tuple[Verdict, str]:
    """The verdict, and why."""
    right, wrong, open_pairs = (signs.count(sign) for sign in (1, -1, 0))
    why = f"in {right} of {len(signs)} pairs" if len(signs) > 1 else ""
    if open_pairs:
        undecided = (
            f"{open_pairs} undecided"
            if len(signs) > 1
            else "the difference may be due to chance, a bound or an estimate"
        )
        why = ", ".join(filter(None, (why, undecided)))
    if open_pairs == len(signs):
        return "not decided", why
    return "holds here" if right == len(signs) else "does not hold here" if wrong == len(signs) else "mixed", why


def _differs(sides: list[list[str]], summary: dict[str, Any]) -> str:
    """What else the two sides differ in: their sizes and what an image costs them."""
    parts = []
    for column in (COLUMNS["parameters"], COLUMNS["gflops_per_sample"]):
        ranges = []
        for side in sides:
            means = [summary["models"][name]["mean"].get(column.key) for name in side]
            known = [mean for mean in means if mean is not None]
            if not known:
                return ""
            low, high = column.text(min(known)), column.text(max(known))
            ranges.append(low if low == high else f"{low} to {high}")
        parts.append(f"{column.title} {ranges[0]} versus {ranges[1]}")
    return "; ".join(parts)


def _likelihood_and_samples(summary: dict[str, Any], found: Measurements) -> Finding | None:
    """A counterexample: of two models, one is better in bits/dim, beyond doubt, and worse in FID."""
    (bits, fid), names = named([COLUMNS["bits_per_dim"], COLUMNS["fid"]], summary), labels(summary["models"])
    quality = found["fid"]
    known = {name: one for name, one in found["bits_per_dim"].items() if name in quality}
    pairs = [(a, b) for a, b in product(known, known) if known[a].mean < known[b].mean and decides(known[a], known[b])]
    if not pairs:
        return None
    better = _signs(bits, [(known[a], known[b]) for a, b in pairs], "lower")
    worse = _signs(fid, [(quality[a], quality[b]) for a, b in pairs], "higher")
    against = {pair: min(signs) for pair, signs in zip(pairs, zip(better, worse, strict=True), strict=True)}
    shown = max(pairs, key=lambda p: (against[p], quality[p[0]].mean - quality[p[1]].mean))
    models = summary["models"]
    evidence = tuple(
        f"{names[n]}: {in_words(bits, models[n], bits.key)} bits/dim, FID {in_words(fid, models[n], fid.key)}"
        for n in shown
    )
    count, undecided = (list(against.values()).count(sign) for sign in (1, 0))
    return Finding(
        "A better likelihood does not mean better samples.",
        "Theis et al. 2016",
        f"lower {bits.title} with higher {fid.title}",
        evidence,
        "holds here" if count else "not decided" if undecided else "does not hold here",
        f"FID reverses the ranking of {count} of {len(pairs)} pairs whose bits/dim can be ranked",
    )


def _budget_or_family(summary: dict[str, Any], found: Measurements) -> Finding | None:
    """Which of the two FID depends on more, by every pair of families (or other curves) with two budgets in common."""
    (fid,), squares = named([COLUMNS["fid"]], summary), budgets.squares(summary)
    if not squares:
        return None
    text = {name: fid.text(model["mean"][fid.key]) for name, model in summary["models"].items()}
    compared = {label for pair in squares for label in pair}
    curves = {label: names for label, names in budgets.curves_of(summary).items() if label in compared}
    over = ", ".join(f"{label} {text[names[0]]} to {text[names[-1]]}" for label, names in curves.items())
    ends = zip(*((square.small, square.large) for square in squares.values()), strict=True)
    small, large = (
        sorted({name for pair in end for name in pair}, key=lambda name: found[fid.key][name].mean) for end in ends
    )
    verdict, why = _verdict(budgets.weigh(list(squares.values()), found[fid.key]))
    return Finding(
        "The computational budget decides more than the algorithm.",
        "Lucic et al. 2018",
        f"{fid.title} of two families at two budgets: differs more between the budgets than between the families",
        (
            f"between the smallest and the largest budget: {over}",
            f"between the best and the worst family: {text[small[0]]} to {text[small[-1]]} at the smallest budget, "
            f"{text[large[0]]} to {text[large[-1]]} at the largest",
        ),
        verdict,
        why,
    )


def _memorised(summary: dict[str, Any], found: Measurements) -> Finding | None:
    """Which models draw samples that are nearer to training images than test images are, beyond doubt."""
    column, names = COLUMNS["c_t"], labels(summary["models"])
    known = {name: estimate for name, one in found[column.key].items() if (estimate := one.estimate)}
    if len(known) < 2:
        return None
    unsure = holm({name: estimate.p_value for name, estimate in known.items()})
    copy = [name for name, estimate in known.items() if estimate.mean < 0 and unsure[name] < SIGNIFICANT]
    lowest = sorted(known, key=lambda name: known[name].mean)[:3]
    evidence = ", ".join(f"{names[n]} {in_words(column, summary['models'][n], column.key)}" for n in copy or lowest)
    verdict: Verdict = "holds here" if len(copy) == len(known) else "mixed" if copy else "does not hold here"
    why = f"{', '.join(names[name] for name in copy)}: {len(copy)} of {len(known)} models" if copy else "none does"
    if not summary["audit"]["notices"].get(column.key, {}).get(COPIES, {}).get("way"):
        verdict, why = "not decided", "the measure does not notice planted copies in these data"
    says = "Generative models memorise: their samples are nearer to training images than unseen images are."
    return Finding(says, "Meehan et al. 2020", f"{column.title} below 0", (evidence,), verdict, why)


def _followed(summary: dict[str, Any]) -> Finding | None:
    """Whether the estimate of each Wasserstein GAN follows FID over its training, and closer than a GAN's loss does."""
    names, sides = labels(summary["models"]), {kind: _estimates(kind, summary) for kind in ESTIMATES}
    wasserstein, standard = (sides[kind] for kind in ("wgan", "gan"))
    if not (wasserstein and standard):
        return None
    pairs = list(product(wasserstein, standard))
    above_0 = _beyond_chance([wasserstein[a] for a, _ in pairs])
    above_gan = _beyond_chance([difference(wasserstein[a], standard[b]) for a, b in pairs])
    verdict, why = _verdict([min(both) for both in zip(above_0, above_gan, strict=True)])
    evidence = (", ".join(f"{names[name]} {_rho(one)}" for name, one in side.items()) for side in sides.values())
    return Finding(
        "The critic’s estimate of the Wasserstein distance follows the quality of samples over the training; the loss "
        "of a standard GAN’s critic does not.",
        "Arjovsky et al. 2017, figures 3 and 4",
        "rank correlation of the critic’s estimate with FID over the training: above 0, and higher",
        tuple(evidence),
        verdict,
        why,
    )


def _initialised(summary: dict[str, Any], found: Measurements) -> Finding | None:
    """Whether networks classify better if they start as an encoder, by every encoder and number of labels."""
    models, names = summary["models"], labels(summary["models"])
    gains = {
        (name, column): estimate
        for column in FINE_TUNED
        if not column.better
        for name, one in found[column.key].items()
        if column.ranks(models[name]) and (estimate := one.estimate)
    }
    if not gains:
        return None
    unsure = holm({f"{name} {column.key}": estimate.p_value for (name, column), estimate in gains.items()})
    decided = {pair: unsure[f"{pair[0]} {pair[1].key}"] < SIGNIFICANT for pair in gains}
    verdict, why = _verdict([(1 if gains[pair].mean > 0 else -1) * decided[pair] for pair in gains])
    evidence = (f"{names[name]}: {column.title} {in_words(column, models[name], column.key)}" for name, column in gains)
    return Finding(
        "A network that starts from the weights of an autoencoder learns more from few labels than from scratch.",
        "Erhan et al. 2010",
        "test accuracy of the two, trained alike on the same labels: higher",
        tuple(evidence),
        verdict,
        why,
    )


def _estimates(kind: str, summary: dict[str, Any]) -> dict[str, Estimate]:
    """Fisher's z of the correlation of the critic's estimate with FID, of each model of a kind that was followed."""
    (curve, sign), found = ESTIMATES[kind], {}
    for name, model in summary["models"].items():
        if model["kind"] != kind or "over_training" not in model:
            continue
        trainings = model["over_training"]["trainings"]
        one = over_seeds([([sign * value for value in each["curves"][curve]], each["fid"]) for each in trainings])
        if one:
            found[name] = one
    return found


def _beyond_chance(found: list[Estimate]) -> list[int]:
    """The sign of each if it is beyond chance, else 0."""
    unsure = holm({str(place): one.p_value for place, one in enumerate(found)})
    return [int(math.copysign(unsure[str(n)] < SIGNIFICANT, one.mean)) for n, one in enumerate(found)]


def _rho(found: Estimate) -> str:
    rho, (low, high) = as_correlation(found)
    return f"{rho:+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "−")


def _refused(summary: dict[str, Any], found: Measurements) -> Finding | None:
    """Whether class-conditional densities err less often on the images that are left if those of low p(x) are not."""
    kept, every = (found[key] for key in ("kept_by_density", "bayes_accuracy"))
    models, names = summary["models"], labels(summary["models"])
    both = [name for name in kept if name in every]
    if not both:
        return None
    verdict, why = _verdict(orders([(kept[name], every[name]) for name in both]))
    evidence = (
        f"{names[name]}: {in_words(COLUMNS[key], models[name], key)} {says}"
        for name in both
        for key, says in (("bayes_accuracy", "on all images"), ("kept_by_density", "on those it keeps"))
    )
    return Finding(
        "A generative classifier can reject: it errs where p(x) is low.",
        "Bishop 2006, section 1.5.4",
        "accuracy on the images kept by p(x), over all shares kept: higher than on all images",
        tuple(evidence),
        verdict,
        why,
    )


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
