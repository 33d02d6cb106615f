"""Each metric on features, ours next to the same metric in torch-fidelity, torchmetrics, SciPy and `prdc`.

Features are correlated and rectified, like those of a network. Every side gets them in float64, because only then are
the others exact; ours compute in float64 in any case. In every row the results agree up to the relative difference
`differ`. `MB` is the peak memory of our side beyond what it held before (Linux's VmHWM); one matrix of 50,000 x 50,000
distances would take 20,000. `prdc` holds three of them, and so does torch-fidelity unless it is told to save memory, as
it is here with 50,000 points. There it is timed on part of the points and the time is scaled to all: the seconds of
that row are not all measured.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from benchmarks.compare import Row, compare
from workflow.evaluation.metrics.frechet import Gaussian, fit_gaussian, frechet_distance
from workflow.evaluation.metrics.inception import inception_score
from workflow.evaluation.metrics.kernel import kernel_distance
from workflow.evaluation.metrics.manifold import fit_manifold, manifold_scores, overlap

K, SUBSETS, SUBSET_SIZE, CLASSES = 5, 5, 1000, 1008
SIZES = ((10_000, 64), (50_000, 64), (10_000, 512), (50_000, 512), (10_000, 2048), (50_000, 2048))
SOME = 2000  # of 50,000 points whose distances from all are computed in the others' way, which takes too long for all
Work = Callable[[], Any]


def measure() -> Iterator[Row]:
    """Fréchet distance at every size, the others where their cost is another."""
    for n, d in SIZES:
        samples, real = features(n, d, 1), features(n, d, 2)
        yield from _frechet(samples, real)
        if n > 10_000:
            yield from _kernel(samples, real)
    for classes in (10, CLASSES):
        yield from _score(3 * features(50_000, classes, 1))
    for d in (64, 512, 2048):
        yield from _manifold(features(10_000, d, 1), features(10_000, d, 2))
    yield _radii(features(50_000, 64, 1))


def features(n: int, d: int, seed: int) -> Tensor:
    """Correlated, rectified and not quite alike from seed to seed: float64 (n, d)."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(d, d, generator=generator) / d**0.5
    x: Tensor = torch.randn(n, d, generator=generator.manual_seed(seed)) @ mix + 0.2 + 0.1 * seed
    return x.relu().double()


def _frechet(samples: Tensor, real: Tensor) -> Iterator[Row]:
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
    from torchmetrics.image.fid import FrechetInceptionDistance

    def fidelity() -> float:
        statistics = (fid_features_to_statistics(x) for x in (samples, real))
        return float(fid_statistics_to_metric(*statistics, False)[KEY_METRIC_FID])

    def metrics() -> float:
        identity = torch.nn.Flatten()
        identity.num_features = samples.shape[1]  # type: ignore[assignment]  # else it would try an image first
        metric = FrechetInceptionDistance(feature=identity).set_dtype(torch.float64)
        metric.update(real, real=True)
        metric.update(samples, real=False)
        return float(metric.compute())

    def ours() -> float:
        return frechet_distance(fit_gaussian(samples), fit_gaussian(real))

    what = f"FID, {len(samples):,} x {samples.shape[1]}"
    pairs = 1 if samples.shape[1] > 1000 else 5
    yield _row(what, "torch-fidelity", ours, fidelity, pairs)
    yield _row(what, "torchmetrics", ours, metrics, pairs)
    if len(samples) == 10_000:
        fitted = fit_gaussian(samples), fit_gaussian(real)
        known = [_moments(gaussian) for gaussian in fitted]
        what = f"FID of known Gaussians, {samples.shape[1]}"
        yield _row(what, "scipy's sqrtm", lambda: frechet_distance(*fitted), lambda: _by_root(*known), pairs)


def _moments(gaussian: Gaussian) -> tuple[Any, Any]:
    covariance = gaussian.factor.T @ gaussian.factor / (gaussian.count - 1)
    return gaussian.mean.numpy(), covariance.numpy()


def _by_root(a: tuple[Any, Any], b: tuple[Any, Any]) -> float:
    """The formula as papers have it."""
    root = scipy.linalg.sqrtm(a[1] @ b[1]).real
    return float(np.square(a[0] - b[0]).sum() + np.trace(a[1] + b[1] - 2 * root))


def _kernel(samples: Tensor, real: Tensor) -> Iterator[Row]:
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
    from torchmetrics.image.kid import poly_mmd

    def fidelity() -> float:
        sizes = {"kid_subsets": SUBSETS, "kid_subset_size": SUBSET_SIZE, "rng_seed": 0}
        return float(kid_features_to_metric(samples, real, verbose=False, **sizes)[KEY_METRIC_KID_MEAN])

    def metrics() -> float:
        """Its own measure of a pair of subsets, of those that the others draw."""
        rng, found = np.random.RandomState(0), []
        for _ in range(SUBSETS):
            x, y = (z[torch.from_numpy(rng.choice(len(z), SUBSET_SIZE, replace=False))] for z in (samples, real))
            found.append(float(poly_mmd(x, y)))
        return float(np.mean(found))

    def ours() -> float:
        return kernel_distance(samples, real, SUBSETS, SUBSET_SIZE)[0]

    what = f"KID, {SUBSETS} x {SUBSET_SIZE:,} of {len(samples):,} x {samples.shape[1]}"
    yield _row(what, "torch-fidelity", ours, fidelity, 3)
    yield _row(what, "torchmetrics", ours, metrics, 3)


def _score(logits: Tensor) -> Iterator[Row]:
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
    from torchmetrics.image.inception import InceptionScore

    def fidelity() -> float:
        return float(isc_features_to_metric(logits, 10, rng_seed=0)[KEY_METRIC_ISC_MEAN])

    def metrics() -> float:
        metric = InceptionScore(feature=torch.nn.Identity(), splits=1)  # of more, each its own random parts
        metric.update(logits)
        return float(metric.compute()[0])

    what = f"Inception Score, {len(logits):,} x {logits.shape[1]}"
    yield _row(what, "torch-fidelity", lambda: inception_score(logits, 10)[0], fidelity, 3)
    yield _row(what, "torchmetrics", lambda: inception_score(logits, 1)[0], metrics, 3)


def _manifold(samples: Tensor, real: Tensor) -> Iterator[Row]:
    from torch_fidelity.metric_prc import prc_features_to_metric

    def fidelity() -> list[float]:
        found = prc_features_to_metric(samples, real, prc_neighborhood=K, verbose=False)
        return [found["precision"], found["recall"]]

    def ours() -> list[float]:
        return list(manifold_scores(overlap(fit_manifold(samples, K), fit_manifold(real, K)), K).values())

    size = f"{len(samples):,} x {samples.shape[1]}"
    yield _row(f"precision, recall, {size}", "torch-fidelity", lambda: ours()[:2], fidelity, 1)
    yield _row(f"PRDC, {size}", "prdc", ours, lambda: _prdc(real.numpy(), samples.numpy()), 1)


def _radii(points: Tensor) -> Row:
    """The neighbours of all points; theirs of some of them, their time scaled to all."""
    from torch_fidelity.metric_prc import calc_cdist_part

    def ours() -> Tensor:
        return fit_manifold(points, K).squared_radii[:SOME].sqrt()

    def theirs() -> Tensor:
        values: Tensor = calc_cdist_part(points[:SOME], points).kthvalue(K + 1).values
        return values

    what = f"PRDC's neighbours, {len(points):,} x {points.shape[1]}"
    row = _row(what, f"torch-fidelity, of {SOME:,}, scaled", ours, theirs, 1)
    scale = len(points) / SOME
    return {**row, **{key: float(row[key]) * scale for key in ("theirs", "ratio", "lowest", "highest")}}


def _prdc(real: Any, fake: Any) -> list[float]:
    """`compute_prdc` of github.com/clovaai/generative-evaluation-prdc, in one thread, its lines in their order."""
    from sklearn.metrics import pairwise_distances

    def radii(x: Any) -> Any:
        distances = pairwise_distances(x, metric="euclidean", n_jobs=1)
        indices = np.argpartition(distances, K + 1, axis=-1)[..., : K + 1]
        return np.take_along_axis(distances, indices, axis=-1).max(axis=-1)

    real_radii, fake_radii = radii(real), radii(fake)
    distances = pairwise_distances(real, fake, metric="euclidean", n_jobs=1)
    precision = (distances < np.expand_dims(real_radii, axis=1)).any(axis=0).mean()
    recall = (distances < np.expand_dims(fake_radii, axis=0)).any(axis=1).mean()
    density = (1.0 / float(K)) * (distances < np.expand_dims(real_radii, axis=1)).sum(axis=0).mean()
    coverage = (distances.min(axis=1) < real_radii).mean()
    return [float(value) for value in (precision, recall, density, coverage)]


def _row(what: str, alternative: str, ours: Work, theirs: Work, pairs: int) -> Row:
    """Compare, and what both found; raises AssertionError if it is not the same."""
    found: dict[Work, Any] = {}
    peaks = []

    def kept(work: Work) -> Work:
        def run() -> None:
            found[work] = work()

        return run

    def measured() -> None:
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # begin the peak anew
        kept(ours)()
        peaks.append(_memory("VmHWM") - before)

    row = compare(what, alternative, measured, kept(theirs), pairs, warm=pairs > 1)
    mine, other = np.array(found[ours]), np.array(found[theirs])
    differ = float((np.abs(mine - other) / np.maximum(np.abs(other), 1e-12)).max())
    assert differ < 1e-6, (what, alternative, mine, other)
    return {**row, "differ": differ, "MB": max(peaks)}


def _memory(key: str) -> float:
    """A line of this process's memory, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(key))
