"""How useful are features? The accuracy of a linear classifier on them (Alain & Bengio 2017)."""

from torch import Tensor


def probe_accuracy(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, regularisation: float
) -> float:
    """Test accuracy of multinomial logistic regression on standardised features.

    train, test: float (N, d), labels: int64 (N,). regularisation: the inverse strength C of its L2 penalty.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=regularisation, max_iter=300))
    probe.fit(train.double().cpu().numpy(), train_labels.cpu().numpy())
    return float(probe.score(test.double().cpu().numpy(), test_labels.cpu().numpy()))
