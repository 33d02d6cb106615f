"""The verdicts on what is said of the families, from summaries in which the right one is known."""

from itertools import product
from typing import Any, get_args

import pytest

from workflow.evaluation.comparison import Measurement
from workflow.evaluation.measurements import Measurements
from workflow.evaluation.trust import COPIES
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
        "audit": {"unfit": {}, "notices": {"c_t": {COPIES: {"way": -1}}}},
        "models": {
            name: {
                "kind": (kind := name.split("_")[0]),
                "family": families[kind],
                "title": kind.upper(),
                "bits_per_dim_kind": kinds_of_bits.get(kind),
                "oddity": _spread(numbers.get("oddity", {})),
                "told_classes": False,
                "decoded": numbers.get("decoded", {}),
                **_spread({column: numbers.get(column) for column in COLUMNS}),
            }
            for name, numbers in models.items()
        },
    }


def _spread(numbers: dict[str, Any]) -> dict[str, Any]:
    return spread({key: found if isinstance(found, list) else [found] for key, found in numbers.items()})


def _judged(summary: dict[str, Any]) -> list[Finding]:
    """The verdicts; all that is known of a number is its value under each seed."""
    found: Measurements = {key: {} for key in COLUMNS}
    for (name, model), key in product(summary["models"].items(), COLUMNS):
        values = model["values"][key]
        if None not in values:
            kind = model["bits_per_dim_kind"] if COLUMNS[key].within else None
            found[key][name] = Measurement([[value] for value in values], kind=kind)
    return judge(summary, found)


def _finding(summary: dict[str, Any], says: str) -> Finding:
    (found,) = [finding for finding in _judged(summary) if says in finding.says]
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


SURE = [-0.001, 0.0, 0.001]  # what three seeds scatter by, far less than the differences below
OFF = [0.0003, -0.0002, 0.0001]  # so that no difference is the same under every seed


def _about(value: float) -> list[float]:
    return [value + off for off in SURE]


@pytest.mark.parametrize(
    ("vaes", "gans", "verdict", "why"),
    [
        ([0.5], [0.9], "holds here", ""),
        ([0.9], [0.5], "does not hold here", ""),
        ([0.5], [0.5], "not decided", "the difference may be due to chance, a bound or an estimate"),
        ([0.5, 0.6], [0.9, 0.7], "holds here", "in 4 of 4 pairs"),
        ([0.5, 0.8], [0.9, 0.7], "mixed", "in 3 of 4 pairs"),
        ([0.5, 0.7], [0.9, 0.7], "mixed", "in 3 of 4 pairs, 1 undecided"),
    ],
)
def test_a_claim_is_judged_by_every_pair(vaes: list[float], gans: list[float], verdict: str, why: str) -> None:
    models = {
        f"vae_{i}": {"sharpness": [a + b for a, b in zip(_about(v), OFF, strict=True)]} for i, v in enumerate(vaes)
    }
    models |= {f"gan_{i}": {"sharpness": _about(v)} for i, v in enumerate(gans)}
    found = _finding(_summary(**models), "blurrier")
    assert (found.verdict, found.why) == (verdict, why)
    assert len(found.evidence) == 2
    assert all(f"{value:.2f}" in found.evidence[0] for value in vaes)


def test_blur_is_judged_on_the_mean_image() -> None:
    vae, gan = {"sharpness": _about(1.1), "decoded": {"mean": {"sharpness": 0.65}}}, {"sharpness": _about(0.9)}
    found = _finding(_summary(vae=vae, gan=gan), "blurrier")
    assert found.verdict == "holds here"  # though noise makes its draws sharper than the GAN's
    assert found.evidence[0] == "VAE (mean image) 0.65"


def test_a_claim_needs_both_sides() -> None:
    assert _judged(_summary(vae={"sharpness": 0.5})) == []
    assert _judged(_summary(vae={"sharpness": 0.5}, gan={})) == []


def test_numbers_that_were_measured_once_decide_nothing() -> None:
    assert _finding(_summary(vae={"sharpness": 0.5}, gan={"sharpness": 0.9}), "blurrier").verdict == "not decided"


@pytest.mark.parametrize(
    ("nice", "pixelcnn", "verdict"),
    [(2.6, 1.8, "not decided"), (1.5, 1.8, "does not hold here")],  # a bound says that less is true, never that more is
)
def test_a_bound_decides_only_below_an_exact_value(nice: float, pixelcnn: float, verdict: str) -> None:
    models = {"nice": {"bits_per_dim": _about(nice)}, "pixelcnn": {"bits_per_dim": _about(pixelcnn)}}
    models["nice"]["bits_per_dim"][0] += 0.01
    assert _finding(_summary(**models), "worse likelihoods").verdict == verdict


def test_a_claim_says_what_else_differs() -> None:
    vae = {"sharpness": 0.5, "parameters": 1000, "gflops_per_sample": 0.5}
    gan = {"sharpness": 0.9, "parameters": 3000, "gflops_per_sample": 0.25}
    found = _finding(_summary(vae=vae, vae_big=vae | {"parameters": 2000}, gan=gan), "blurrier")
    assert found.differs == "parameters 1,000 to 2,000 versus 3,000; GFLOPs per image 0.5 versus 0.25"


@pytest.mark.parametrize(
    ("fid_of_the_better", "verdict"), [(9.0, "holds here"), (1.0, "does not hold here"), (3.0, "not decided")]
)
def test_a_counterexample_shows_that_likelihood_is_not_quality(fid_of_the_better: float, verdict: str) -> None:
    better = {"bits_per_dim": _about(1.8), "fid": [f + o for f, o in zip(_about(fid_of_the_better), OFF, strict=True)]}
    worse = {"bits_per_dim": [2.0, 1.9, 1.95], "fid": _about(3.0)}
    found = _finding(_summary(vae=better, pixelcnn=worse), "likelihood does not mean")
    assert found.verdict == verdict
    assert found.evidence[0].startswith("VAE: 1.800")
    bounds = _judged(_summary(vae=better, nice=worse))  # of which neither says how far it is from the truth
    assert not [finding for finding in bounds if "likelihood does not mean" in finding.says]


@pytest.mark.parametrize(
    ("gans", "verdict", "why"),
    [
        ((8.0, 2.0), "holds here", "in 3 of 3 pairs"),
        ((2.0, 1.0), "mixed", "in 1 of 3 pairs"),
        ((2.0, 3.0), "mixed", "in 1 of 3 pairs, 2 undecided"),  # what the GAN loses, the others gain
    ],
)
def test_budgets_are_weighed_against_families(gans: tuple[float, float], verdict: str, why: str) -> None:
    fids = {"vae": (9.0, 3.0), "nice": (9.5, 2.5), "gan": gans}
    names = {kind: [f"{kind}_{gflops}" for gflops in (10, 20)] for kind in fids}
    models: dict[str, dict[str, Any]] = {
        name: {"fid": [fid + off for off in OFF[n:] + OFF[:n]], "training_gflops": [gflops] * 3}
        for n, kind in enumerate(fids)
        for name, fid, gflops in zip(names[kind], fids[kind], (10, 20), strict=True)
    }
    models["nice_10"]["fid"][0] += 0.01
    summary = _summary(**models)
    assert not [finding for finding in _judged(summary) if "budget" in finding.says]
    summary["budgets"] = {kind.upper(): names[kind] for kind in fids}
    found = _finding(summary, "budget decides more")
    assert (found.verdict, found.why) == (verdict, why)
    low, high = (sorted(fid[end] for fid in fids.values()) for end in (0, 1))
    assert "VAE 9.00 to 3.00, NICE 9.50 to 2.50, GAN" in found.evidence[0]
    assert found.evidence[1] == (
        f"between the best and the worst family: {low[0]:.2f} to {low[-1]:.2f} at the smallest budget, "
        f"{high[0]:.2f} to {high[-1]:.2f} at the largest"
    )


@pytest.mark.parametrize(
    ("vae", "gan", "verdict", "why"),
    [
        (-5.0, -4.0, "holds here", "VAE, GAN: 2 of 2 models"),
        (-5.0, 3.0, "mixed", "VAE: 1 of 2 models"),
        (0.0, 3.0, "does not hold here", "none does"),
    ],
)
def test_who_memorises_is_named(vae: float, gan: float, verdict: str, why: str) -> None:
    summary = _summary(vae={"c_t": _about(vae)}, gan={"c_t": _about(gan)})
    found = _finding(summary, "memorise")
    assert (found.verdict, found.why) == (verdict, why)
    assert found.evidence[0].startswith(f"VAE {vae:.2f}".replace("-", "−"))
    summary["audit"]["notices"] = {"c_t": {COPIES: {"way": 0}}}
    assert _finding(summary, "memorise").verdict == "not decided"


@pytest.mark.parametrize(
    ("few", "many", "verdict", "why"),
    [
        (0.2, 0.1, "holds here", "in 2 of 2 pairs"),
        (0.2, 0.0, "mixed", "in 1 of 2 pairs, 1 undecided"),
        (-0.2, -0.1, "does not hold here", "in 0 of 2 pairs"),
        (0.0, 0.0, "not decided", "in 0 of 2 pairs, 2 undecided"),
    ],
)
def test_an_autoencoder_is_a_good_start_if_the_gain_is_beyond_chance(
    few: float, many: float, verdict: str, why: str
) -> None:
    gains = {"fine_tuning_gain_1": _near(few), "fine_tuning_gain_100": _near(many)}
    found = _finding(_summary(vae=gains, gan={}), "starts from the weights")
    assert (found.verdict, found.why) == (verdict, why)
    assert found.evidence[0].startswith(
        f"VAE: gain over scratch from 1 label a class {100 * few:.1f}".replace("-", "−")
    )
    told = _summary(vae=gains)
    told["models"]["vae"]["told_classes"] = True
    assert _judged(told) == []


def _near(value: float) -> list[float]:
    return [value - 0.002, value, value + 0.002]


@pytest.mark.parametrize(("kept", "verdict"), [(0.95, "holds here"), (0.9, "not decided"), (0.8, "does not hold here")])
def test_rejection_must_pay_beyond_chance(kept: float, verdict: str) -> None:
    model = {"bayes_accuracy": [0.9, 0.902, 0.898], "kept_by_density": [kept, kept, kept]}
    assert _finding(_summary(vae=model), "can reject").verdict == verdict
    assert not any("can reject" in one.says for one in _judged(_summary(vae={"bayes_accuracy": 0.9})))


def test_a_measure_that_the_audit_refused_decides_nothing() -> None:
    summary = _summary(vae={"fid": _about(5.0)}, gan={"fid": _about(2.0)})
    assert _finding(summary, "GANs draw better").verdict == "holds here"
    summary["audit"]["unfit"] = {"fid": "cannot tell noise from real images"}
    found = _finding(summary, "GANs draw better")
    assert (found.verdict, found.why) == ("not decided", "the measure cannot tell noise from real images")


def test_the_most_fooled_model_is_named() -> None:
    summary = _summary(vae={"oddity": {"noise": 1.0, "plain grey": 0.2}}, nice={"oddity": {"noise": 0.9}})
    found = _finding(summary, "fooled")
    assert (found.verdict, found.evidence) == ("holds here", ("VAE on plain grey: 0.200",))
    assert "1 of 3" in found.why
    known = _summary(vae={"oddity": {"noise": 1.0, "photographs": 0.1, "upside down": 0.2}})
    assert _finding(known, "fooled").verdict == "does not hold here"  # the data may be photographs


@pytest.mark.parametrize(
    ("vae", "gan", "verdict"),
    [
        ([0.5, 0.6, 0.4], [0.9, 0.97, 0.8], "holds here"),
        ([0.5, 0.75, 0.4], [0.9, 0.7, 0.8], "not decided"),  # though the mean is far below
        ([0.9, 0.95, 1.0], [0.5, 0.6, 0.61], "does not hold here"),
    ],
)
def test_a_difference_must_be_beyond_chance(vae: list[float], gan: list[float], verdict: str) -> None:
    assert _finding(_summary(vae={"sharpness": vae}, gan={"sharpness": gan}), "blurrier").verdict == verdict


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
