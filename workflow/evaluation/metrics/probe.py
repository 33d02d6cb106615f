"""Linear probe: the accuracy of a linear classifier on features (Alain & Bengio 2017)."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

STEPS = 1000  # at most; it ends when the loss no longer falls
CHUNK = 4096  # test images classified at once


@dataclass(frozen=True)
class Probe:
    """A linear classifier of standardised features.

    mean, scale: by which they are, float64 (d,). turn: to the coordinates it was fitted in, float64 (d, k). weights:
    in these, and a bias in the last row, float64 (k + 1, classes).
    """

    mean: Tensor
    scale: Tensor
    turn: Tensor
    weights: Tensor

    def logits(self, x: Tensor) -> Tensor:
        """float64 (N, classes), up to a constant for each row. x: features, float or uint8 (N, d)."""
        return F.pad(((x.double() - self.mean) / self.scale) @ self.turn, (0, 1), value=1.0) @ self.weights


def probe_hits(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, regularisation: float) -> Tensor:
    """Which test images multinomial logistic regression on standardised features puts in their class, bool (N,).

    The loss is the summed cross-entropy plus |weights|² / 2C, as in scikit-learn. Its minimum is unique and found to
    1e-5.

    Args:
        train: features, float or uint8 (N, d).
        train_labels: int64 (N,).
        test: features, likewise (M, d).
        test_labels: int64 (M,).
        regularisation: C, the inverse strength of the L2 penalty.

    >>> train, test = torch.tensor([[0.0], [1.0], [8.0], [9.0]]), torch.tensor([[2.0], [7.0], [6.0], [3.0]])
    >>> probe_hits(train, torch.tensor([0, 0, 1, 1]), test, torch.tensor([0, 1, 1, 1]), regularisation=1.0)
    tensor([ True,  True,  True, False])
    """
    probe = fit_probe(train, train_labels, regularisation)
    return torch.cat([probe.logits(part).argmax(1) for part in test.split(CHUNK)]) == test_labels


def fit_probe(train: Tensor, train_labels: Tensor, regularisation: float) -> Probe:
    """The probe of `probe_hits`, fitted to features and labels as there."""
    train = train.double()
    mean, scale = train.mean(0), train.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1)
    train = (train - mean).div_(scale)
    # The same minimum in coordinates with about the same curvature in all directions, so that many images converge.
    ridge = 1 / (regularisation * len(train))
    spread, axes = _principal(train)
    steepness = spread + ridge
    turn = axes / steepness.sqrt()
    train = F.pad(train @ turn, (0, 1), value=1.0)  # a constant feature for the bias, which is not penalised
    strength = F.pad(ridge / steepness, (0, 1))
    wanted = F.one_hot(train_labels).double()
    shape = (wanted.shape[1], train.shape[1])

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        """The mean loss and its gradient. flat: float64 (classes * (d + 1),)."""
        weights = torch.from_numpy(flat).view(shape)
        log_p = (train @ weights.T).log_softmax(1)
        value = -(wanted * log_p).sum(1).mean() + (strength * weights.square()).sum() / 2
        gradient = (log_p.exp() - wanted).T @ train / len(train) + strength * weights
        return float(value), gradient.flatten().numpy()

    options = {"maxiter": STEPS, "maxfun": 2 * STEPS, "gtol": 1e-5, "ftol": 1e-14}
    found = minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options=options)
    return Probe(mean, scale, turn, torch.from_numpy(found.x).view(shape).T)


def _principal(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squares along the principal axes of rows x, (N, d), and these axes, (d, k), which span all rows."""
    if len(x) < x.shape[1]:  # a penalised minimum lies in their span, so that other axes would only cost time
        _, lengths, axes = torch.linalg.svd(x, full_matrices=False)
        return lengths.square() / len(x), axes.T
    spread, axes = torch.linalg.eigh(x.T @ x / len(x))
    return spread.clamp(min=0), axes


def accuracy(hits: Tensor) -> float:
    """The share of hits, bool (parts, N), as a mean over parts."""
    return sum(map(float, hits.double().mean(1))) / len(hits)
