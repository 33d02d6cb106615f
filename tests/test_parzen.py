"""Parzen windows: the density that they are, and why it says nothing."""

from pathlib import Path

import pytest
import torch
from scipy import stats
from sklearn.neighbors import KernelDensity
from torch import Tensor

from stages import parzen
from tests.conftest import ROOT
from workflow import params
from workflow.data.arrays import write_prepared
from workflow.data.tensors import ImageSet, write_tensors
from workflow.evaluation.metrics.parzen import ROWS, log_densities, log_likelihoods
from workflow.paths import PREPARED, RunFiles


def test_densities_are_those_of_another_library() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.rand(ROWS + 7, 5, generator=random, dtype=torch.float64)
    samples = torch.rand(40, 5, generator=random, dtype=torch.float64)
    found = log_densities(x, samples, [0.1, 0.7])
    for row, width in zip(found, (0.1, 0.7), strict=True):
        expected = KernelDensity(bandwidth=width).fit(samples.numpy()).score_samples(x.numpy())
        torch.testing.assert_close(row, torch.from_numpy(expected), rtol=1e-10, atol=1e-10)


def test_the_width_is_chosen_on_validation_images() -> None:
    samples = torch.zeros(1, 1, dtype=torch.float64)
    valid, test = (torch.tensor([[-a], [a]], dtype=torch.float64) for a in (0.3, 9.0))
    found, width = log_likelihoods(test, valid, samples, [0.1, 0.3, 9.0])  # the best one is the root of the mean square
    assert width == 0.3
    assert found.tolist() == pytest.approx(stats.norm(0, 0.3).logpdf([-9, 9]).tolist())


def test_the_table_has_k_means_above_the_true_images(
    digits: Tensor,
    digit_labels: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    smoke = params.load(ROOT / "presets/smoke.yaml")
    settings = smoke.model_copy(
        update={"models": {"vae": smoke.models["vae"]}, "sample": smoke.sample.model_copy(update={"count": 100})}
    )
    monkeypatch.setattr(params, "load", lambda: settings)
    parts = {"train": slice(0, 1200), "valid": slice(1200, 1400), "test": slice(1400, 1797)}
    sets = {split: ImageSet(digits[rows], digit_labels[rows]) for split, rows in parts.items()}
    about = {"name": "digits", "source": "", "licence": "", "split": "", "shape": (1, 8, 8), "levels": 17}
    write_prepared(PREPARED, sets, **about, classes=[])
    noise = torch.randint(17, (settings.evaluate.draws * 100, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    write_tensors(RunFiles("vae", 0).samples, {"images": noise.to(torch.uint8)})
    parzen.main()
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    count = settings.evaluate.draws * 100
    assert [row[0].strip() for row in rows] == [
        f"{count} training images",
        f"{count} samples of vae",
        f"{count} centres of k-means",
    ]
    true, drawn, means = (float(row[1]) for row in rows)
    assert drawn < true < means
