"""How useful are features? The accuracy of a linear classifier on them (Alain & Bengio 2017)."""

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 1000  # at the most; it ends where the loss no longer falls


def probe_accuracy(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, regularisation: float
) -> float:
    """Test accuracy of multinomial logistic regression on standardised features.

    train, test: float (N, d), labels: int64 (N,). regularisation: the inverse strength C of its L2 penalty, so that the
    loss is the summed cross-entropy plus |weights|² / 2C, as in scikit-learn; the minimum is unique and found to 1e-6.
    """
    mean, scale = train.double().mean(0), train.double().std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1)
    train, test = ((x.double() - mean) / scale for x in (train, test))
    classes = int(train_labels.max()) + 1
    weights = train.new_zeros(classes, train.shape[1], requires_grad=True)
    bias = train.new_zeros(classes, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weights, bias], max_iter=STEPS, tolerance_grad=1e-6, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        penalty = weights.square().sum() / (2 * regularisation * len(train))
        value = F.cross_entropy(F.linear(train, weights, bias), train_labels) + penalty
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    with torch.no_grad():
        predicted = F.linear(test, weights, bias).argmax(1)
    return float((predicted == test_labels).double().mean())
