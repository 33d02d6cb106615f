"""Data drawn from a model whose density is known: the images, the teachers, and what is said of other models, against
sums over all images of tiny domains.
"""

import hashlib
import itertools
import json
import lzma
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

from stages import report
from tests.cards import card
from tests.conftest import ROOT
from tests.evaluated import BRIEF, MEASURES, SETTINGS, Everything, Exact, OnlySamples, measure
from tests.invented_project import make_project, small_sets, write
from workflow import params
from workflow.data import catalogue, teacher
from workflow.data.arrays import as_card
from workflow.data.tensors import ImageSet
from workflow.errors import BakeoffError
from workflow.evaluation.agreement import agreement, chance
from workflow.evaluation.density import density
from workflow.evaluation.evaluator import Evaluator
from workflow.evaluation.reference import _of_teacher, reference
from workflow.evaluation.statistics import estimate
from workflow.models import registry
from workflow.models.base import HasLogProb, Model, bits_per_dim
from workflow.models.pixelcnn import PixelCNN
from workflow.params import Embedded
from workflow.paths import PER_IMAGE
from workflow.report.results import read_results
from workflow.report.summary import summarise
from workflow.report.tables import generation, understanding

SHAPE, LEVELS = (1, 2, 2), 3  # 81 images
DRAWN, AT_ONCE = 3000, SETTINGS.model_copy(update={"batch_size": 3000})


def settings(name: Any, seed: int = 0) -> Embedded:
    return Embedded(name=name, root=Path(), valid=0.1, test=0.25, seed=seed)


def generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def tiny_pixelcnn(seed: int, classes: int = 2) -> PixelCNN:
    """A model whose pixels depend strongly on each other."""
    torch.manual_seed(seed)
    model = PixelCNN(SHAPE, LEVELS, channels=4, layers=2, dropout=0.0, classes=classes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return model.eval()


def every_image() -> Tensor:
    return torch.tensor(list(itertools.product(range(LEVELS), repeat=4)), dtype=torch.uint8).view(-1, *SHAPE)


@torch.no_grad()
def log_p(model: Model, x: Tensor) -> Tensor:
    assert isinstance(model, HasLogProb)
    return model.log_prob(x, generator(0)).double()


def judged_by(truth: Model, drawn: int = DRAWN) -> Evaluator:
    """An evaluator of images that were drawn from a model, without extractors."""
    images = truth.sample(drawn, generator(1))
    test = ImageSet(images, torch.zeros(drawn, dtype=torch.int64))
    return Evaluator([], test, test, card(SHAPE, LEVELS, 1), AT_ONCE, BRIEF, teacher=truth)


@pytest.mark.parametrize(
    ("name", "levels", "classes", "digest"),
    [("teacher", 17, 10, "c5f30b6c7e76b286"), ("teacher_rbm", 2, 0, "ca7aa295a9cb8aee")],
)
def test_splits_are_the_published_draws(name: str, levels: int, classes: int, digest: str, tmp_path: Path) -> None:
    catalogue.download(settings(name), tmp_path)
    sets, about = catalogue.prepare(settings(name), tmp_path)
    found = as_card({**about, "counts": {}, "sha256": {}})
    assert (found.teacher, found.shape, found.levels, len(found.classes)) == (name, (1, 8, 8), levels, classes)
    assert {split: len(images) for split, images in sets.items()} == {"train": 5200, "valid": 800, "test": 2000}
    pieces = {split: next(iter(images.pieces())) for split, images in sets.items()}
    content = b"".join(part.images.tobytes() + part.labels.tobytes() for part in pieces.values())
    assert hashlib.sha256(content).hexdigest().startswith(digest)
    assert all(part.images.max() == levels - 1 and part.labels.max() == max(0, classes - 1) for part in pieces.values())
    other = next(iter(catalogue.prepare(settings(name, seed=1), tmp_path)[0]["test"].pieces()))
    assert not np.array_equal(other.images, pieces["test"].images)


def test_a_split_without_images_is_refused(tmp_path: Path) -> None:
    catalogue.download(settings("teacher"), tmp_path)
    empty = settings("teacher").model_copy(update={"valid": 1e-6})
    with pytest.raises(BakeoffError, match="the valid split of 8000 images would be empty"):
        catalogue.prepare(empty, tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("teacher.xz", None, "missing; get the file again with `git checkout "),
        ("teacher.xz", b"no archive", "damaged"),
        ("teacher.xz", b"another", "not the published images"),
        ("teacher.safetensors", None, "missing; get the file again with `git checkout "),
        ("teacher.safetensors", b"other", "not the published weights"),
    ],
)
def test_other_files_are_refused(
    file: str, content: bytes | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher, "FOLDER", tmp_path)
    if content:
        (tmp_path / file).write_bytes(lzma.compress(content) if content == b"another" else content)
    with pytest.raises(BakeoffError, match=f"{file}: {message}"):
        teacher.weights_of("teacher") if file.endswith("safetensors") else teacher.download_teacher("teacher", tmp_path)


@pytest.mark.parametrize(("name", "bits"), [("teacher", 1.751288), ("teacher_rbm", 0.440407)])
def test_the_density_of_a_teacher_is_what_it_was(name: str, bits: float, tmp_path: Path) -> None:
    """Its weights are frozen: a change of the model's code must not move the truth."""
    catalogue.download(settings(name), tmp_path)
    sets, _ = catalogue.prepare(settings(name), tmp_path)
    images = torch.from_numpy(next(iter(sets["test"].pieces())).images[:100])
    model = registry.load(teacher.weights_of(name)).model
    assert model.likelihood == "exact"
    assert bits_per_dim(log_p(model, images), model.shape).mean().item() == pytest.approx(bits, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(teacher.TEACHERS))
def test_the_published_weights_draw_the_published_images_again(name: str) -> None:
    """In a process of its own, which is limited to AVX2 before torch is loaded."""
    code = """if True:
        import hashlib, stages.teacher as made
        from workflow.data.teacher import TEACHERS, pack, weights_of
        from workflow.models import registry
        from workflow.params import Compute
        made.repeatable(Compute(device="cpu", threads=1, instructions="avx2"))
        images = made.draw(registry.load(weights_of(NAME)).model)
        assert hashlib.sha256(pack(images)).hexdigest() == TEACHERS[NAME].images
    """
    subprocess.run([sys.executable, "-c", code.replace("NAME", repr(name))], cwd=ROOT, check=True)


def test_a_tiny_teachers_own_draws_have_its_entropy() -> None:
    truth = tiny_pixelcnn(0)
    log_every = log_p(truth, every_image())
    assert log_every.exp().sum().item() == pytest.approx(1, abs=1e-5)
    entropy = bits_per_dim((log_every.exp() * log_every).sum(), SHAPE).item()
    found = _of_teacher(judged_by(truth).true_bits)
    low, high = found["interval"]
    assert low < entropy < high
    assert high - low < 0.05 < entropy


def test_divergence_from_a_tiny_truth_is_the_sum_over_all_images() -> None:
    truth, other = tiny_pixelcnn(0), tiny_pixelcnn(3)
    log_true, log_other = (log_p(model, every_image()) for model in (truth, other))
    expected = -bits_per_dim((log_true.exp() * (log_true - log_other)).sum(), SHAPE).item()
    metrics, pictures = density(other, judged_by(truth), 0)
    terms = pictures[f"{PER_IMAGE}true_kl"].double()
    found = estimate([[metrics["true_kl"]]], float(terms.var()) / len(terms))
    assert found
    assert found.interval[0] < expected < found.interval[1]
    assert found.error < expected / 10
    assert "bits_slack" not in metrics  # its density is exact


def test_the_truth_has_no_divergence_from_itself() -> None:
    metrics, pictures = density(truth := tiny_pixelcnn(0), judged_by(truth), 0)
    assert metrics["true_kl"] == pytest.approx(0, abs=1e-9)
    assert pictures[f"{PER_IMAGE}true_kl"].abs().max() < 1e-6


class Bounded(PixelCNN):
    """Its density times one weight, with a mean of 1: a bound, by Jensen's inequality, that more draws make tighter."""

    likelihood = "bound"  # type: ignore[assignment]
    tightens = True
    spread = 0.5

    def log_prob(self, x: Tensor, generator: Generator) -> Tensor:
        noise = torch.randn(len(x), generator=generator) * self.spread - self.spread**2 / 2
        return super().log_prob(x, generator) + noise


def test_slack_is_what_eight_times_as_many_draws_take_off_a_bound() -> None:
    truth = Bounded(SHAPE, LEVELS, channels=4, layers=2, dropout=0.0)
    truth.load_state_dict(tiny_pixelcnn(0, classes=0).state_dict())
    metrics, pictures = density(truth.eval(), judged_by(tiny_pixelcnn(0, classes=0)), 0)
    weights = np.random.default_rng(0).normal(-(0.5**2) / 2, 0.5, (200_000, 8))
    expected = np.log(np.exp(weights).mean(1)).mean() + 0.5**2 / 2  # what is left at eight draws is less
    per_image = pictures[f"{PER_IMAGE}bits_slack"]
    assert len(per_image) == 250
    assert per_image.min() >= 0
    assert metrics["bits_slack"] == pytest.approx(expected / (4 * math.log(2)), rel=0.1)
    assert metrics["true_kl"] == pytest.approx(0.5**2 / 2 / (4 * math.log(2)), rel=0.1)  # all of it slack


class Weighted(Bounded):
    """The same bound without noise, too low by a known amount, and the weights beside it."""

    def log_prob(self, x: Tensor, generator: Generator) -> Tensor:
        return PixelCNN.log_prob(self, x, generator) - 0.3

    def log_weight(self, x: Tensor, generator: Generator) -> Tensor:
        return Bounded.log_prob(self, x, generator)


def test_slack_of_other_bounds_is_what_weights_beside_them_take_off() -> None:
    truth = Weighted(SHAPE, LEVELS, channels=4, layers=2, dropout=0.0)
    truth.load_state_dict(tiny_pixelcnn(0, classes=0).state_dict())
    metrics, _ = density(truth.eval(), judged_by(tiny_pixelcnn(0, classes=0)), 0)
    left = math.expm1(0.5**2) / 64 / 2  # nats that a mean of 64 weights is too low by: half its variance
    error = math.sqrt(math.expm1(0.5**2) / 64 / 250)
    assert metrics["bits_slack"] * 4 * math.log(2) == pytest.approx(0.3 - left, abs=4 * error)


def test_measures_of_the_truth_are_there_only_if_it_is_known(evaluator: Evaluator, samples: Tensor) -> None:
    known = replace(evaluator, teacher=Exact())
    found, _ = measure(OnlySamples(), samples, known, 0)
    assert found.keys() == MEASURES | {"true_bits"}
    assert found["true_bits"] == pytest.approx(samples.float().mean().item(), rel=1e-6)
    assert found["repeats"]["true_bits"] == [[found["true_bits"]]]
    noisy = Everything()
    noisy.noise, noisy.tightens = 1.0, True
    assert measure(noisy, samples, known, 0)[0].keys() == MEASURES | {"true_bits", "true_kl", "bits_slack"}


def test_the_reference_knows_the_entropy_and_how_far_independent_pixels_are_from_it(evaluator: Evaluator) -> None:
    found, per_image = reference(replace(evaluator, teacher=Exact()), 40)
    bits = evaluator.test.images.double().flatten(1).mean(1)
    assert found["teacher"]["bits_per_dim"] == pytest.approx(bits.mean().item())
    reach = 1.959964 * bits.std().item() / math.sqrt(len(bits))
    assert found["teacher"]["interval"] == pytest.approx([bits.mean().item() - reach, bits.mean().item() + reach])
    independent = found["histogram_model"]
    assert independent["true_kl"] == pytest.approx(independent["bits_per_dim"] - bits.mean().item())
    assert f"histogram_model/{PER_IMAGE}true_kl" in per_image
    assert {"true_bits", "repeats"} <= found["real"].keys()


@pytest.mark.parametrize("n", [4, 6, 11])
def test_chance_is_that_of_scipy(n: int) -> None:
    random = np.random.default_rng(n)
    one, other = random.normal(size=n), random.normal(size=n).round(1)

    def rho(values: Any) -> float:
        return float(stats.spearmanr(values, other).statistic)

    expected = stats.spearmanr(one, other).pvalue
    if n <= 8:
        resampled = stats.permutation_test((one,), rho, permutation_type="pairings", n_resamples=math.inf)
        expected = np.mean(abs(resampled.null_distribution) >= abs(resampled.statistic) - 1e-9)
    assert chance(list(one), list(other)) == pytest.approx(expected, abs=1e-9)


def test_a_measure_agrees_if_its_order_is_the_true_one() -> None:
    models = {
        name: {
            "mean": {
                "true_kl": kl, "true_bits": 1.7 + bits, "fid": kl, "precision": kl, "recall": 0.5, "sharpness": kl
            }
        }
        for name, kl, bits in (
            ("a", 0.1, 0.0), ("b", 0.2, -0.1), ("c", 0.3, 0.2), ("d", 0.4, 0.3), ("e", 0.5, -0.4), ("gan", None, 0.5)
        )
    }  # fmt: skip
    models["gan"]["mean"]["fid"] = 9.0
    found = agreement(models, {"bits_per_dim": 1.7})
    kl, of_samples = found["kl"], found["samples"]
    assert (kl["models"], of_samples["models"]) == (5, 6)
    assert set(kl["measures"]) == {"fid", "precision", "recall"}  # sharpness ranks nobody
    assert kl["measures"]["fid"] == {"correlation": 1, "p_value": pytest.approx(2 * 2 / 120), "models": 5}
    assert kl["measures"]["precision"]["correlation"] == -1
    assert kl["measures"]["recall"] == {"correlation": None, "p_value": None, "models": 5}
    assert of_samples["measures"]["fid"]["correlation"] == 1
    assert of_samples["measures"]["fid"]["models"] == 6


def test_three_models_tell_nothing_of_agreement() -> None:
    models = {str(n): {"mean": {"true_kl": n, "true_bits": n, "fid": n}} for n in range(3)}
    assert all(one["measures"] == {} for one in agreement(models, {"bits_per_dim": 0.0}).values())


def test_the_report_has_the_truth_if_it_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path, small_sets(), 5, ["a", "b", "c"], [0])
    monkeypatch.chdir(tmp_path)
    plain = summarise(read_results(params.load()))
    columns = {column.key for table in (generation(plain), understanding(plain)) for column in table.columns}
    assert not {"true_kl", "bits_slack", "true_bits"} & columns
    assert "truth" not in plain

    place = Path("data/reference/reference.json")
    content = json.loads(place.read_text(encoding="utf-8"))
    content["real"]["true_bits"] = 1.62
    content["histogram_model"] |= {"true_bits": 3.4, "true_kl": 0.8}
    write(place, content | {"teacher": {"bits_per_dim": 1.61, "interval": [1.59, 1.63]}})
    for run in Path("runs").glob("*/0/metrics.json"):
        metrics = json.loads(run.read_text(encoding="utf-8"))
        bits = metrics["bits_per_dim"]
        known = {"true_kl": bits - 1.61, "bits_slack": 0.01} if bits else {}
        write(run, metrics | known | {"true_bits": 1.6 + metrics["fid"] / 10})
    report.build()
    page = Path("report/index.html").read_text(encoding="utf-8")
    titles = ("KL from the truth", "slack of the bound", "bits/dim under the truth", "agree with the truth?")
    assert all(title in page for title in titles)
    assert "1.610 [1.590, 1.630] bits/dim" in page
    assert "The truth" in page
    found = json.loads(Path("report/summary.json").read_text(encoding="utf-8"))
    assert found["truth"]["samples"]["measures"]["fid"]["correlation"] == 1
    assert found["models"]["nice"]["mean"]["true_kl"] == pytest.approx(2.65 - 1.61)


def test_the_presets_models_are_those_of_other_runs() -> None:
    preset, default = params.load(ROOT / "presets/teacher.yaml"), params.load(ROOT / "params.yaml")
    known = params.load(ROOT / "presets/lectures.yaml").models | default.models
    assert preset.models == {name: known[name] for name in preset.models}
    assert preset.data.name == "teacher"
    for section in ("compute", "seeds", "sample", "evaluate"):
        assert getattr(preset, section) == getattr(default, section)
