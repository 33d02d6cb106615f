"""Parzen windows: the log-likelihood of a Gaussian around each sample (Breuleux et al. 2011, Quickly Generating
Representative Samples from an RBM-Derived Process; Goodfellow et al. 2014, Generative Adversarial Networks, table 1).

Theis et al. 2016, A note on the evaluation of generative models, section 3.2, show why it measures no density: centres
found by k-means score higher than images of the true distribution.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

ROWS = 500  # images whose distances from all samples are in memory at once


def log_densities(x: Tensor, samples: Tensor, widths: Sequence[float]) -> Tensor:
    """log of the mean over samples of a normal density around each, at each image x, nats: float64 (widths, N).

    Args:
        x: pixels in [0, 1], float64 (N, D).
        samples: likewise, (M, D).
        widths: standard deviations of the normal densities.

    >>> x = torch.zeros(1, 2, dtype=torch.float64)
    >>> round(float(log_densities(x, x, [1.0])), 4)  # -log 2π
    -1.8379
    """
    found, lengths = [], samples.square().sum(1)
    for part in x.split(ROWS):
        squares = part.square().sum(1, keepdim=True) + lengths - 2 * part @ samples.T
        found.append(torch.stack([torch.logsumexp(squares / (-2 * width**2), 1) for width in widths]))
    constants = [math.log(len(samples)) + x.shape[1] * math.log(width * math.sqrt(2 * math.pi)) for width in widths]
    return torch.cat(found, 1) - torch.tensor(constants, dtype=torch.float64).unsqueeze(1)


def log_likelihoods(test: Tensor, valid: Tensor, samples: Tensor, widths: Sequence[float]) -> tuple[Tensor, float]:
    """Log-densities of test images, nats, float64 (N,), with the width that suits validation images best; this width.

    Args:
        test: pixels in [0, 1], float64 (N, D).
        valid: likewise.
        samples: likewise.
        widths: to choose from.
    """
    best = widths[int(log_densities(valid, samples, widths).mean(1).argmax())]
    return log_densities(test, samples, [best])[0], best
