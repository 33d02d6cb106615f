"""When to stop: made curves whose rank correlations with FID are known, and what is said of them."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from tests.conftest import ROOT
from tests.invented_project import make_project, small_sets
from workflow import params
from workflow.data.tensors import ImageSet
from workflow.evaluation.evaluator import Evaluator
from workflow.evaluation.over_training import over_training
from workflow.evaluation.statistics import Estimate
from workflow.evaluation.stopping import as_correlation, curves_at, difference, independent, of_one, over_seeds
from workflow.models import registry
from workflow.report import claims, stopping_section
from workflow.report.html import fill
from workflow.report.marks import swatch
from workflow.report.results import read_results
from workflow.report.summary import summarise
from workflow.training.checkpoint import Checkpoint, CheckpointFile
from workflow.training.loop import fit
from workflow.training.validation import FOLLOWED

Values = np.ndarray[Any, np.dtype[np.float64]]
# A published example of the interval of Bonett & Wright 2000, from the documentation of statpsych's ci.spear.
ONE = [21, 4, 9, 12, 35, 18, 10, 22, 24, 1, 6, 8, 13, 16, 19]
OTHER = [67, 28, 30, 28, 52, 40, 25, 37, 44, 10, 14, 20, 28, 40, 51]
PUBLISHED = 0.8699639, 0.5840951, 0.9638297


def _random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_error_is_the_published_one_if_snapshots_are_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflow.evaluation.stopping.independent", lambda *pair: float(len(pair[0])))
    found = of_one(ONE, OTHER)
    assert found
    z, reach = found.mean, stats.norm.ppf(0.975) * found.error
    assert [math.tanh(end) for end in (z, z - reach, z + reach)] == pytest.approx(PUBLISHED, abs=1e-6)
    rho, (low, high) = as_correlation(found)
    assert rho == pytest.approx(stats.spearmanr(ONE, OTHER).statistic)
    reach = stats.t.ppf(0.975, len(ONE) - 3) * found.error  # wider: Student's
    assert (math.atanh(low), math.atanh(high)) == pytest.approx((z - reach, z + reach))


def test_the_number_of_independent_snapshots_by_hand() -> None:
    """Ranks 1 to 10: the products at lag 1 add up to 57.75 of 82.5, at lag 2 to 34, and series alternate or rise."""
    rising, alternating = list(range(10)), [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    first, second = 10 / 9 * 57.75 / 82.5, 10 / 8 * 34 / 82.5
    assert independent(rising, [math.exp(v) for v in rising]) == pytest.approx(10 / (1 + 2 * (first**2 + second**2)))
    off = np.array(alternating) - 4.5
    own = [10 / (10 - lag) * sum(off[i] * off[i + lag] for i in range(10 - lag)) / 82.5 for lag in (1, 2)]
    expected = 10 / max(1, 1 + 2 * (first * own[0] + second * own[1]))
    assert independent(rising, alternating) == pytest.approx(expected)
    assert independent(alternating, alternating) < 10


def _slow(random: np.random.Generator, n: int, memory: float = 0.9) -> Values:
    """A stationary series in which neighbours are alike."""
    values = random.normal(size=n)
    values[0] /= math.sqrt(1 - memory**2)
    for i in range(1, n):
        values[i] += memory * values[i - 1]
    return values


def _drift(random: np.random.Generator, n: int) -> Values:
    return random.normal(size=n).cumsum()


def _fall(random: np.random.Generator, n: int) -> Values:
    falls: Values = np.exp(-np.arange(n) / 6) + 0.05 * random.normal(size=n)
    return falls


def _noise(random: np.random.Generator, n: int) -> Values:
    return random.normal(size=n)


def _follows(random: np.random.Generator, n: int) -> tuple[Values, Values]:
    curve = _slow(random, n, 0.8)
    return curve, curve + 0.5 * random.normal(size=n)


def _share_beyond_chance(make: Callable[[np.random.Generator], tuple[Values, Values]], trials: int = 200) -> float:
    random, hits = _random(0), 0
    for _ in range(trials):
        found = of_one(*(values.tolist() for values in make(random)))
        assert found
        hits += found.p_value < 0.05
    return hits / trials


@pytest.mark.parametrize("series", [_noise, _slow, _drift, _fall])
def test_two_unrelated_curves_agree_beyond_chance_in_at_most_one_training_of_twenty(
    series: Callable[[np.random.Generator, int], Values],
) -> None:
    """200 trials: with 5 %, more than 17 happen once in 100 times. Of drifts, 43 % pass if their memory is ignored."""
    assert _share_beyond_chance(lambda random: (series(random, 20), series(random, 20))) <= 17 / 200


def test_a_curve_that_follows_fid_is_found_out() -> None:
    assert _share_beyond_chance(lambda random: _follows(random, 30), 100) > 0.8


def test_two_curves_that_only_fall_are_no_evidence_in_one_training_but_are_in_three() -> None:
    random = _random(0)
    pairs = [(_fall(random, 20).tolist(), _fall(random, 20).tolist()) for _ in range(3)]
    one, three = over_seeds(pairs[:1]), over_seeds(pairs)
    assert one
    assert three
    assert as_correlation(one)[0] > 0.8
    assert as_correlation(one)[1][0] < 0 < as_correlation(three)[1][0]
    z = [math.atanh(stats.spearmanr(*pair).statistic) for pair in pairs]
    ends = stats.t.interval(0.95, 2, np.mean(z), stats.sem(z))
    assert three.interval == pytest.approx(ends)


def test_what_tells_nothing_has_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    rising = list(range(8))
    assert of_one(rising[:7], rising[:7]) is None
    assert of_one([1.0] * 8, rising) is None
    assert over_seeds([(rising, rising), ([1.0] * 8, rising)]) is None
    found = of_one(rising, rising)
    assert found
    rho, (low, _) = as_correlation(found)
    assert rho == pytest.approx(1 - 6 / (8**3 - 8))
    assert low < -0.9
    monkeypatch.setattr("workflow.evaluation.stopping.independent", lambda *_: 3.0)
    found = of_one(rising, rising)
    assert found
    assert as_correlation(found)[1] == (-1, 1)


def test_a_difference_has_the_error_of_both() -> None:
    found = difference(Estimate(1.0, 0.3, 2), Estimate(0.2, 0.4, math.inf))
    assert [found.mean, found.error] == pytest.approx([0.8, 0.5])
    assert found.freedom == pytest.approx(0.25**2 / (0.09**2 / 2))
    assert difference(Estimate(1.0, 0.3, 2), Estimate(0.2, math.inf, math.inf)).p_value == 1


def test_curves_are_read_at_the_steps_of_the_snapshots() -> None:
    history = [
        {"step": 1, "epoch": 0.5, "loss": 5.0},
        {"step": 2, "epoch": 1.0, "loss": 4.0},
        {"step": 2, "epoch": 1.0, "valid_loss": 4.5},
        {"step": 4, "epoch": 2.0, "loss": 3.0, "gradient_norm": 1.0},
        {"step": 4, "epoch": 2.0, "valid_loss": 3.5},
    ]
    assert curves_at([2, 4], history) == {"loss": [4.0, 3.0], "valid_loss": [4.5, 3.5], "step": [2, 4]}


class Mean:
    """An extractor whose only feature is an image's mean."""

    def __init__(self, times: float) -> None:
        self.times = times

    def outputs(self, images: torch.Tensor, batch_size: int) -> Any:
        class Found:
            features = self.times * images.float().mean((1, 2, 3))[:, None]

        return Found


def test_the_fid_of_each_snapshot_is_that_of_its_gaussian_against_validation_images() -> None:
    random = torch.Generator().manual_seed(0)
    samples = torch.randint(0, 17, (6, 50, 1, 2, 2), generator=random, dtype=torch.uint8)
    valid = torch.randint(0, 9, (40, 1, 2, 2), generator=random, dtype=torch.uint8)
    settings = params.load(ROOT / "presets/smoke.yaml")
    nothing: Any = None
    evaluator = Evaluator([Mean(1.0), Mean(2.0)], nothing, nothing, nothing, settings.evaluate, settings.extractor)
    history = [{"step": step, "epoch": step, "valid_loss": 1 / step} for step in range(1, 7)]
    found = over_training(samples, range(1, 7), history, valid, evaluator)
    real = valid.double().mean((1, 2, 3))
    for images, fid in zip(samples, found["fid"], strict=True):
        fake = images.double().mean((1, 2, 3))
        one = (fake.mean() - real.mean()) ** 2 + (fake.std() - real.std()) ** 2
        assert fid == pytest.approx(float(one * (1 + 4) / 2), rel=1e-4)
    assert found["counts"] == {"samples": 50, "valid": 40}
    assert found["steps"] == found["curves"]["step"] == [1, 2, 3, 4, 5, 6]


class Cut(CheckpointFile):
    """Writes one checkpoint, and then the training is killed."""

    written = 0

    def due(self) -> bool:
        return True

    def write(self, checkpoint: Checkpoint) -> None:
        super().write(checkpoint)
        self.written += 1
        if self.written == 11:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["gan", "vae"])
def test_following_changes_no_weight_and_survives_a_kill(name: str, digits: torch.Tensor, tmp_path: Path) -> None:
    entry = params.load(ROOT / "presets/smoke.yaml").models[name]
    if name == "vae":  # a mixture is fitted in the end, and samples are drawn from it
        entry = entry.model_copy(update={"components": 2})
    options = {"epochs": 6, "gflops": None, "batch_size": 16, "valid_every": 1, "ema": 0.9}
    plain = entry.training.model_copy(update=options)
    followed = plain.model_copy(update={"snapshots": 3})
    train, valid = (ImageSet(images, torch.zeros(len(images)).long()) for images in (digits[:64], digits[64:96]))

    def trained(settings: params.Train, file: CheckpointFile | None = None) -> Any:
        model = registry.build(entry.kind, (1, 8, 8), 17, entry.hyperparameters, seed=0)
        return fit(model, train, valid, settings, 0, lambda _: None, file=file)

    without, whole = trained(plain), trained(followed)
    assert without.sample_steps == ()
    assert [step / whole.steps for step in whole.sample_steps] == pytest.approx([1 / 3, 2 / 3, 1])
    assert whole.samples.shape == (3, FOLLOWED, 1, 8, 8)
    assert not torch.equal(whole.samples[0], whole.samples[2])
    assert all(torch.equal(without.state[key], whole.state[key]) for key in whole.state)
    assert without.records == whole.records
    file = Cut(tmp_path / "state", "key", math.inf)
    with pytest.raises(KeyboardInterrupt):
        trained(followed, file)
    again = trained(followed, file)
    assert torch.equal(again.samples, whole.samples)
    assert again.sample_steps == whole.sample_steps


def _followed(*runs: tuple[str, list[float], list[float]]) -> dict[str, Any]:
    """Part of a summary: of each training the curve's name, the curve and FID."""
    trainings = [
        {
            "counts": {"samples": 250, "valid": 180},
            "steps": list(range(10, 10 * len(fid) + 1, 10)),
            "fid": fid,
            "curves": {name: curve, "valid_loss": curve, "step": list(range(10, 10 * len(fid) + 1, 10))},
        }
        for name, curve, fid in runs
    ]
    return {"trainings": trainings}


@pytest.mark.parametrize(
    ("of_wgan", "of_gan", "verdict"),
    [
        (1.0, 0.0, "holds here"),  # the estimate follows FID, the loss does not
        (1.0, -1.0, "does not hold here"),  # the loss falls as FID rises, and so its estimate follows FID better
        (0.0, 0.0, "not decided"),
        (-1.0, 0.0, "does not hold here"),
    ],
)
def test_the_claim_of_arjovsky_et_al(of_wgan: float, of_gan: float, verdict: str) -> None:
    """Shares of FID in each curve; the less exact of the two when both follow it is the Wasserstein estimate."""
    random = _random(1)
    models: dict[str, Any] = {}
    noise = 0.9 if of_gan else 0.3
    for kind, curve, share, spoilt in (
        ("wgan", "critic_distance", of_wgan, noise),
        ("gan", "critic_loss", of_gan, 0.05),
    ):
        fids = [random.normal(size=40) for _ in range(3)]
        runs = [(curve, (share * fid + spoilt * random.normal(size=40)).tolist(), fid.tolist()) for fid in fids]
        models[kind] = {"kind": kind, "title": kind.upper(), "over_training": _followed(*runs)}
    found = claims._followed({"models": models})
    assert found
    assert found.verdict == verdict
    assert found.evidence[0].startswith("WGAN ")
    del models["gan"]["over_training"]
    assert claims._followed({"models": models}) is None


@pytest.mark.parametrize("kind", claims.ESTIMATES)
def test_every_model_that_the_claim_is_about_logs_the_curve(kind: str) -> None:
    curve, player = claims.ESTIMATES[kind][0], "critic"
    found = [one for one in params.load(ROOT / "presets/stopping.yaml").models.values() if one.kind == kind]
    assert len(found) == 2
    for entry in found:
        model = registry.build(kind, (1, 8, 8), 17, entry.hyperparameters)
        x, y = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
        assert curve in {f"{player}_{term}" for term in model.loss(x, y, player, torch.Generator())}


def test_the_page_says_which_curves_follow_and_where_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path, small_sets(), 5, ["a", "b", "c"], [0])
    monkeypatch.chdir(tmp_path)
    random, metrics = _random(2), tmp_path / "runs/gan/0/metrics.json"
    fid = [20.0, 12.0, 9.0, *(random.normal(10, 1, 17))]
    close = [value + 0.1 * random.normal() for value in fid]
    steps = list(range(3, 61, 3))
    curves = {"critic_loss": [-value for value in close], "valid_loss": close, "odd": [1.0] * 20, "step": steps}
    kept = {"counts": {"samples": 250, "valid": 180}, "steps": steps, "fid": fid, "curves": curves}
    content = json.loads(metrics.read_text(encoding="utf-8"))
    metrics.write_text(json.dumps(content | {"over_training": kept}), encoding="utf-8")
    summary = summarise(read_results(params.load()))
    found = stopping_section.stopping(summary)
    assert found
    text = fill("stopping.html.j2", stopping=found, several=False, swatch=swatch)
    (gan,) = found.models
    assert [(curve, kind) for curve, _, _, kind in gan.rows if curve != "the training step itself"] == [
        ("the critic’s loss", "praises"),
        ("validation loss", "notices"),
    ]
    rho = stats.spearmanr(close, fid).statistic
    assert gan.says.startswith(f"With FID: validation loss +{rho:.2f} [")
    assert "]. Against FID: the critic’s loss −" in gan.says
    best = min(range(20), key=fid.__getitem__)
    assert f"{fid[best]:.2f} at its best (step {steps[best]})" in gan.says
    assert f"{fid[-1]:.2f} at the end." in gan.says
    assert gan.says in text
    assert "about this training, not about the method" in text
    del summary["models"]["gan"]["over_training"]
    assert stopping_section.stopping(summary) is None
