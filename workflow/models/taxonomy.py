"""The words that sort the models, each set of them written down once. Loads without torch, as the report needs it."""

from typing import Literal, get_args

Family = Literal[
    "autoregressive",
    "flow",
    "autoencoder",
    "variational",
    "vector-quantised",
    "adversarial",
    "diffusion",
    "energy-based",
    "generative stochastic network",
    "consistency",
    "external",
]
Likelihood = Literal["exact", "bound", "estimate", "implicit"]  # what `log_prob` gives
# Goodfellow's tree, and what has no place there: images whose model is unknown.
Taxonomy = Literal[
    "explicit tractable",
    "explicit approximate",
    "explicit Markov chain",
    "implicit",
    "implicit Markov chain",
    "external",
]
BitsKind = Literal["exact", "upper bound", "estimate"]  # of bits/dim

TAXONOMY: tuple[Taxonomy, ...] = get_args(Taxonomy)  # in the order in which the report shows the models
BITS_KINDS: dict[Likelihood, BitsKind | None] = {
    "exact": "exact",
    "bound": "upper bound",
    "estimate": "estimate",
    "implicit": None,
}
BITS_MARKS: dict[str, str] = {"upper bound": "≤ ", "estimate": "≈ "}  # in print, before a value of that kind
