"""Mixtures of Gaussians with full covariances, fitted to latents."""

import math
import warnings
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from workflow.models.layers.noise import components, normal


class Mixture(NamedTuple):
    """Weights (K,), means (K, d), and lower Cholesky factors of the covariances (K, d, d)."""

    weights: Tensor
    means: Tensor
    factors: Tensor

    def draw(self, n: int, generator: Generator) -> Tensor:
        """n draws, (n, d)."""
        chosen = components(self.weights, n, generator)
        noise = normal((n, self.means.shape[1], 1), generator, self.means.device, self.means.dtype)
        return self.means[chosen] + (self.factors[chosen] @ noise).squeeze(2)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of z, (N, d): (N,)."""
        whitened = torch.linalg.solve_triangular(self.factors, (z - self.means[:, None]).transpose(1, 2), upper=False)
        determinants = self.factors.diagonal(dim1=1, dim2=2).log().sum(1)
        constants = self.weights.log() - determinants - 0.5 * z.shape[1] * math.log(2 * math.pi)
        return torch.logsumexp(constants[:, None] - 0.5 * whitened.square().sum(1), 0)


def standard_normal(count: int, d: int) -> Mixture:
    """`count` equal components, all standard normal in d dimensions."""
    return Mixture(torch.full((count,), 1 / count), torch.zeros(count, d), torch.eye(d).repeat(count, 1, 1))


def fit_mixture(mixture: Mixture, z: Tensor, generator: Generator) -> None:
    """Fit a mixture, in place, to points z, (N, d), by EM.

    If there are fewer points than components, the other components get no weight.

    Args:
        mixture: whose tensors are overwritten.
        z: on the generator's device.
        generator: draws the start.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    start = int(torch.randint(2**31, (), generator=generator, device=z.device))
    z = z.double().cpu()
    count = min(len(mixture.weights), len(z))
    fitted = GaussianMixture(count, random_state=start, reg_covar=1e-5 * float(z.var(0).mean()) + 1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the mixture is a density even before convergence
        fitted.fit(z.numpy())
    mixture.weights.zero_()[:count] = torch.from_numpy(fitted.weights_)
    mixture.means[:count] = torch.from_numpy(fitted.means_)
    mixture.factors[:count] = torch.linalg.cholesky(torch.from_numpy(fitted.covariances_))
