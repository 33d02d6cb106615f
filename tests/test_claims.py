"""The verdicts on what is said of the families, from summaries in which the right one is known."""

from typing import Any, get_args

import pytest

from workflow.models import kinds
from workflow.models.taxonomy import Family
from workflow.report.claims import CLAIMS, COLUMNS, Finding, judge
from workflow.report.seeds import spread
from workflow.report.speed import TIMES


def _summary(**models: dict[str, Any]) -> dict[str, Any]:
    """Models named kind or kind_something, each with the numbers given: one, or a list of one a seed."""
    families = {"vae": "variational", "gan": "adversarial", "pixelcnn": "autoregressive", "nice": "flow"}
    families |= {"ddpm": "diffusion"}
    kinds_of_bits = {"vae": "upper bound", "gan": None, "pixelcnn": "exact", "nice": "upper bound"}
    return {
        "extractor": {"name": "classifier"},
        "models": {
            name: {
                "kind": (kind := name.split("_")[0]),
                "family": families[kind],
                "title": kind.upper(),
                "bits_per_dim_kind": kinds_of_bits.get(kind),
                "oddity": _spread(numbers.get("oddity", {})),
                "told_classes": False,
                **_spread({column: numbers.get(column) for column in COLUMNS}),
            }
            for name, numbers in models.items()
        },
    }


def _spread(numbers: dict[str, Any]) -> dict[str, Any]:
    return spread({key: found if isinstance(found, list) else [found] for key, found in numbers.items()})


def _finding(summary: dict[str, Any], says: str) -> Finding:
    (found,) = [finding for finding in judge(summary) if says in finding.says]
    return found


def test_claims_name_families_kinds_and_columns_that_exist() -> None:
    known = {*get_args(Family), *kinds()}
    for claim in CLAIMS:
        assert {*claim.who, *claim.whom} <= known
        assert claim.key in COLUMNS
    assert len({claim.says for claim in CLAIMS}) == len(CLAIMS)


def test_who_is_slow_to_draw_from_is_judged_by_what_no_machine_changes() -> None:
    assert not {column.key for column in TIMES} & set(COLUMNS)
    numbers = {"pixelcnn": 64, "ddpm": 50, "gan": 1}
    summary = _summary(**{name: {"passes_in_sequence": passes} for name, passes in numbers.items()})
    slowest, slower = _finding(summary, "slowest to sample"), _finding(summary, "slower to sample")
    assert (slowest.verdict, slowest.why) == ("holds here", "in 2 of 2 pairs")
    assert (slower.verdict, slower.evidence) == ("holds here", ("DDPM 50", "GAN 1"))
    summary = _summary(pixelcnn={"passes_in_sequence": 64}, ddpm={"passes_in_sequence": 1000})
    assert _finding(summary, "slowest to sample").verdict == "does not hold here"


@pytest.mark.parametrize(
    ("vaes", "gans", "verdict", "why"),
    [
        ([0.5], [0.9], "holds here", ""),
        ([0.9], [0.5], "does not hold here", ""),
        ([0.5], [0.5], "does not hold here", ""),
        ([0.5, 0.6], [0.9, 0.7], "holds here", "in 4 of 4 pairs"),
        ([0.5, 0.8], [0.9, 0.7], "mixed", "in 3 of 4 pairs"),
    ],
)
def test_a_claim_is_judged_by_every_pair(vaes: list[float], gans: list[float], verdict: str, why: str) -> None:
    models = {f"vae_{i}": {"sharpness": v} for i, v in enumerate(vaes)}
    models |= {f"gan_{i}": {"sharpness": v} for i, v in enumerate(gans)}
    found = _finding(_summary(**models), "blurrier")
    assert (found.verdict, found.why) == (verdict, why)
    assert len(found.evidence) == 2
    assert all(f"{value:.2f}" in found.evidence[0] for value in vaes)


def test_a_claim_needs_both_sides() -> None:
    assert judge(_summary(vae={"sharpness": 0.5})) == []
    assert judge(_summary(vae={"sharpness": 0.5}, gan={})) == []


def test_bounds_are_not_held_against_exact_values() -> None:
    found = _finding(_summary(nice={"bits_per_dim": 2.6}, pixelcnn={"bits_per_dim": 1.8}), "worse likelihoods")
    assert found.verdict == "not decided"
    assert "upper bound" in found.why


def test_a_counterexample_shows_that_likelihood_is_not_quality() -> None:
    better, worse = {"bits_per_dim": 1.8, "fid": 9.0}, {"bits_per_dim": 1.9, "fid": 3.0}
    found = _finding(_summary(vae=better, nice=worse), "likelihood does not mean")
    assert (found.verdict, found.evidence[0]) == ("holds here", "VAE: 1.800 bits/dim, FID 9.00")
    agree = _finding(_summary(vae=better | {"fid": 1.0}, nice=worse), "likelihood does not mean")
    assert agree.verdict == "does not hold here"
    across = judge(_summary(pixelcnn=better, vae=worse))  # exact and bound: no pair
    assert not [finding for finding in across if "likelihood does not mean" in finding.says]


def test_the_most_fooled_model_is_named() -> None:
    summary = _summary(vae={"oddity": {"noise": 1.0, "plain grey": 0.2}}, nice={"oddity": {"noise": 0.9}})
    found = _finding(summary, "fooled")
    assert (found.verdict, found.evidence) == ("holds here", ("VAE on plain grey: 0.200",))
    assert "1 of 3" in found.why
    known = _summary(vae={"oddity": {"noise": 1.0, "photographs": 0.1, "upside down": 0.2}})
    assert _finding(known, "fooled").verdict == "does not hold here"  # the data may be photographs


@pytest.mark.parametrize(
    ("vae", "gan", "verdict", "why"),
    [
        ([0.5, 0.6, 0.4], [0.9, 0.7, 0.8], "holds here", "under 3 of 3 seeds"),
        ([0.5, 0.75, 0.4], [0.9, 0.7, 0.8], "not decided", "under 2 of 3 seeds"),  # though the mean is far below
        ([0.9, 0.75, 0.9], [0.9, 0.7, 0.8], "does not hold here", "under 0 of 3 seeds"),  # equal is not less
    ],
)
def test_a_claim_must_hold_under_every_seed(vae: list[float], gan: list[float], verdict: str, why: str) -> None:
    found = _finding(_summary(vae={"sharpness": vae}, gan={"sharpness": gan}), "blurrier")
    assert (found.verdict, found.why) == (verdict, why)


@pytest.mark.parametrize(
    ("second", "verdict", "why"),
    [
        ([0.1, 0.2], "holds here", "in 2 of 2 pairs under every seed"),
        ([0.1, 0.9], "mixed", "in 1 of 2 pairs under every seed, in 1 under some seeds only"),
        ([0.9, 0.9], "mixed", "in 1 of 2 pairs under every seed"),
    ],
)
def test_a_pair_on_which_seeds_disagree_counts_neither_way(second: list[float], verdict: str, why: str) -> None:
    models = {"vae": {"sharpness": [0.2, 0.1]}, "vae_other": {"sharpness": second}, "gan": {"sharpness": [0.8, 0.8]}}
    found = _finding(_summary(**models), "blurrier")
    assert (found.verdict, found.why) == (verdict, why)
    assert found.evidence[0].startswith("VAE 0.15 ± 0.07 [0.10,")


def test_a_counterexample_counts_if_it_is_one_under_every_seed() -> None:
    worse = {"bits_per_dim": [1.9, 1.9], "fid": [3.0, 3.0]}
    for fids, verdict, count in (([9.0, 8.0], "holds here", 1), ([9.0, 2.0], "not decided", 0)):
        summary = _summary(vae={"bits_per_dim": [1.8, 1.7], "fid": fids}, nice=worse)
        found = _finding(summary, "likelihood does not mean")
        assert (found.verdict, f" {count} of 1 pairs " in found.why) == (verdict, True)
    changing = _summary(vae={"bits_per_dim": [1.5, 2.0], "fid": [9.0, 9.0]}, nice=worse)
    assert _finding(changing, "likelihood does not mean").verdict == "not decided"


def test_a_model_is_fooled_if_it_is_under_every_seed() -> None:
    for scores, verdict in (
        ([0.4, 0.3], "holds here"),
        ([0.1, 0.6], "not decided"),
        ([0.5, 0.6], "does not hold here"),
    ):
        summary = _summary(vae={"oddity": {"noise": [1.0, 1.0], "plain grey": scores}})
        found = _finding(summary, "fooled")
        assert found.verdict == verdict
        assert found.evidence[0].startswith("VAE on plain grey: 0.")
