"""Data-copying: are samples nearer to training images than unseen images are? Nearest neighbours in feature space."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

ROWS = 1024  # of queries and of points compared at once
KEPT, NUMBERS = 50_000, 2**25  # training images whose features are kept, at most, and numbers in these: 128 MB
PER_CELL, MOST_CELLS = 50, 50  # test images to a cell, as far as there are no more cells than this
ENOUGH = 20  # samples in a cell that counts; Meehan et al. use as many
ROUNDS = 20  # of k-means


@dataclass(frozen=True)
class Training:
    """Features of training images.

    points: float (N, d). apart: float64 (N,), the distance of each to the nearest other one.
    """

    points: Tensor
    apart: Tensor


@dataclass(frozen=True)
class Memory:
    """What samples are held against.

    training: the images that they may be copies of. centres: float64 (K, d), of the cells that space is divided into.
    distances: float64 (M,), of the test images to the nearest training image. cells: int64 (M,), that each is in.
    """

    training: Training
    centres: Tensor
    distances: Tensor
    cells: Tensor


def most_kept(images: int, features: int) -> int:
    """How many training images' features are searched: as many as `KEPT` and `NUMBERS` allow, at least one."""
    return max(1, min(images, KEPT, NUMBERS // features))


def fit_training(points: Tensor) -> Training:
    """Features of training images, float (N, d), with how far they are apart.

    >>> fit_training(torch.tensor([[0.0], [1.0], [3.0]])).apart.tolist()
    [1.0, 1.0, 2.0]
    """
    return Training(points, nearest_points(points, points, others=True)[0])


def fit_memory(training: Training, test: Tensor) -> Memory:
    """Divide space by k-means on the training images, a cell to `PER_CELL` test images, float (M, d)."""
    count = min(max(1, len(test) // PER_CELL), MOST_CELLS, len(training.points))
    points = training.points.double().numpy()
    centres, _ = kmeans2(points, count, iter=ROUNDS, minit="++", missing="warn", rng=np.random.default_rng(0))
    cells = torch.from_numpy(centres)
    return Memory(training, cells, nearest_points(test, training.points)[0], nearest_points(test, cells)[1])


def nearest_points(queries: Tensor, points: Tensor, others: bool = False) -> tuple[Tensor, Tensor]:
    """Euclidean distance of each query to the nearest point, float64 (M,), and the index of that point, int64 (M,).

    Args:
        queries: float (M, d).
        points: float (N, d).
        others: the queries are the points themselves; of each the nearest other one is looked for.

    >>> nearest_points(torch.tensor([[0.4]]), torch.tensor([[0.0], [1.0]]))
    (tensor([0.4000], dtype=torch.float64), tensor([0]))
    """
    centre = points.double().mean(0)  # relative to it squares are small, and so are rounding errors
    distances, indices = [], []
    for start in range(0, len(queries), ROWS):
        q = queries[start : start + ROWS].double() - centre
        least, index = q.new_full((len(q),), torch.inf), torch.zeros(len(q), dtype=torch.long)
        for place in range(0, len(points), ROWS):
            p = points[place : place + ROWS].double() - centre
            squares = torch.addmm(p.square().sum(1), q, p.T, alpha=-2)  # but for |q|²
            if others and place == start:
                squares.fill_diagonal_(torch.inf)
            found, where = squares.min(1)
            nearer = found < least
            least, index = torch.where(nearer, found, least), torch.where(nearer, where + place, index)
        distances.append((q - (points[index].double() - centre)).norm(dim=1))  # of equal points exactly 0
        indices.append(index)
    return torch.cat(distances), torch.cat(indices)


def mann_whitney(samples: Tensor, test: Tensor) -> tuple[float, Tensor]:
    """The z-score of Mann and Whitney's U, negative where samples have the lower values; and what test values add.

    Of equal values half a pair counts, and they narrow the distribution of U (Lehmann 1975, Nonparametrics, section
    1.4). 0 if all are equal. The second result says how far each test value moves z, to first order: the variance of
    these values, divided by their number, is that of z over the choice of test values.

    Args:
        samples: float (m,).
        test: float (n,).

    >>> z, _ = mann_whitney(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0]))
    >>> round(z, 4)
    -1.5492
    """
    m, n = len(samples), len(test)
    _, ties = torch.cat([samples, test]).unique(return_counts=True)
    lost = float((ties.double() ** 3 - ties).sum()) / max(1, (m + n) * (m + n - 1))
    deviation = math.sqrt(m * n / 12 * (m + n + 1 - lost))
    if not deviation:
        return 0.0, torch.zeros(n, dtype=torch.float64)
    ordered = samples.sort().values
    below = torch.searchsorted(ordered, test) + torch.searchsorted(ordered, test, right=True)
    above = m - below.double() / 2  # pairs that each test value is the lower one of
    return float(above.sum() - m * n / 2) / deviation, (above - above.mean()) * n / deviation


def copying(samples: Tensor, memory: Memory) -> tuple[dict[str, float], Tensor]:
    """Two measures of copying, and how far each test image moves the first, float64 (M,).

    c_t: C_T of Meehan, Chaudhuri & Dasgupta 2020, A Non-Parametric Test to Detect Data-Copying in Generative Models,
    definition 2: Mann and Whitney's z of the distances to the nearest training image, samples against test images, in
    each cell; the mean over cells, weighted by their shares of the test images. Far below 0: samples are nearer to
    training images than unseen images are; far above 0: further away. Cells with fewer than `ENOUGH` samples are left
    out; if all are, space is one cell.

    authentic: AuthPct of Alaa, van Breugel, Saveliev & van der Schaar 2022, How Faithful is Your Synthetic Data?,
    section 2.3: share of samples that are not nearer to a training image than that is to any other.

    Args:
        samples: features, float (m, d).
        memory: of the training and test images.
    """
    distance, index = nearest_points(samples, memory.training.points)
    authentic = float((memory.training.apart[index] < distance).double().mean())
    cells = nearest_points(samples, memory.centres)[1]
    value, influence = _weighted(distance, cells, memory)
    return {"c_t": value, "authentic": authentic}, influence


def _weighted(distance: Tensor, cells: Tensor, memory: Memory) -> tuple[float, Tensor]:
    """C_T of samples with these distances and cells, (m,) each, and how far each test image moves it."""
    drawn, real = (found.bincount(minlength=len(memory.centres)) for found in (cells, memory.cells))
    counted = ((drawn >= ENOUGH) & (real > 0)).nonzero().flatten().tolist()
    if not counted:
        return mann_whitney(distance, memory.distances)
    number, inside = len(memory.cells), int(real[counted].sum())
    scores = {}
    influence = torch.zeros(number, dtype=torch.float64)
    for cell in counted:
        rows = memory.cells == cell
        scores[cell], moves = mann_whitney(distance[cells == cell], memory.distances[rows])
        influence[rows] = moves * number / inside  # a cell's weight times the share of the images that it is the z of
    value = sum(int(real[cell]) * score for cell, score in scores.items()) / inside
    for cell, score in scores.items():
        influence[memory.cells == cell] += (score - value) * number / inside
    return value, influence
