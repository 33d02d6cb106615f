"""Few labels: the accuracy of a linear probe that learns from a few labelled images of each class.

What features learned without labels are worth: Kingma, Rezende, Mohamed & Welling 2014, Semi-supervised Learning with
Deep Generative Models, section 3.1, where a classifier is fitted to the latents of a VAE (their model M1).
"""

import torch
from torch import Tensor

from workflow.evaluation.metrics.probe import probe_hits

COUNTS = (1, 5, 20, 100)  # labels a class
DRAWS = 5  # of the images that are labelled
MOST = 5_000  # labels of all classes together


def affordable(labels: Tensor) -> list[int]:
    """Those of `COUNTS` of which each class has as many, and all classes together no more than `MOST`.

    labels: int64 (N,).
    """
    _, each = labels.unique(return_counts=True)
    return [count for count in COUNTS if count <= int(each.min()) and count * len(each) <= MOST]


def labelled(labels: Tensor, count: int, order: Tensor) -> Tensor:
    """Index of the first `count` images of each class, by class, int64 (classes · count,).

    Args:
        labels: int64 (N,).
        count: no more than there are of any class.
        order: the images in random order, a permutation, int64 (N,). With the same one, more labels are the fewer ones
            and others.

    >>> labelled(torch.tensor([1, 0, 1, 0]), 1, torch.tensor([2, 0, 3, 1]))
    tensor([3, 2])
    """
    shuffled = labels[order]
    return order[torch.cat([(shuffled == one).nonzero().flatten()[:count] for one in labels.unique()])]


def few_label_hits(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    regularisation: float,
    order: Tensor,
) -> dict[int, Tensor]:
    """Which test images the probe gets right, bool (M,), by the number of labels a class; of one draw of the labels.

    Args:
        train: features, float or uint8 (N, d).
        train_labels: int64 (N,).
        test: features, likewise (M, d).
        test_labels: int64 (M,).
        regularisation: as of `probe_hits`.
        order: of the training images, as of `labelled`.
    """
    found = {}
    for count in affordable(train_labels):
        rows = labelled(train_labels, count, order)
        found[count] = probe_hits(train[rows], train_labels[rows], test, test_labels, regularisation)
    return found
