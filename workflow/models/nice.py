"""NICE: Dinh, Krueger & Bengio 2015, NICE: Non-linear Independent Components Estimation."""

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from workflow.models.layers.flow import Equalise, LayeredFlow, Step, fit_histograms, logits
from workflow.models.layers.noise import normal, uniform

Prior = Literal["logistic", "gaussian"]
PRIOR_STD = {"logistic": math.pi / math.sqrt(3), "gaussian": 1.0}


class Nice(LayeredFlow):
    """Additive coupling layers, a diagonal scaling, and a factorised prior.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        prior: distribution of each latent component (section 3.4).
        couplings: their number; they alternate in which half of the pixels they shift.
        width: features of a hidden layer of a coupling's network.
        depth: hidden layers of a coupling's network.
        dropout: in these layers, during training.
        alpha: keeps pixels away from 0 and 1 before a logit, as in RealNVP; 0 for raw pixels, as in the paper.
        dequantisation_samples: K draws of noise in `log_prob`: a tighter bound at K times the cost.
        equalise: whether each pixel first passes through its cumulative histogram, learned. A scale for each pixel
            cannot follow a pixel that is black in most images and bright in some.
    """

    title = "NICE"
    paper = "Dinh, Krueger & Bengio 2015, NICE: Non-linear Independent Components Estimation"
    objective = "max 𝔼ᵤ[ log p(h) + log |det ∂h/∂y| ] − D log levels,  h = s ⊙ f(y),  y = (x + u) / levels"
    about = (
        "An invertible network maps images to independent latents. Its additive couplings preserve volume, so the "
        "change of variables gives the density exactly, in one pass. This is the density of pixels dequantised by "
        "noise, which gives a lower bound for the discrete image. Samples take one pass of the inverse. The latents "
        "serve as features, but there are as many as pixels: nothing is compressed, and every image is restored "
        "exactly, so there are no reconstructions to judge."
    )

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        prior: Prior,
        couplings: Annotated[int, Field(ge=2)],
        width: Annotated[int, Field(ge=1)],
        depth: Annotated[int, Field(ge=1)],
        dropout: Annotated[float, Field(ge=0, lt=1)],
        dequantisation_samples: Annotated[int, Field(ge=1)],
        alpha: Annotated[float, Field(ge=0, lt=0.5)] = 0.0,
        equalise: bool = False,
    ) -> None:
        super().__init__(shape, levels)
        self.prior: Prior = prior
        self.dequantisation_samples = dequantisation_samples
        self.first = nn.ModuleList([*([Equalise(shape, levels)] if equalise else []), *logits(alpha)])
        d = math.prod(shape)
        self.couplings = nn.ModuleList(Coupling(d, i % 2, width, depth, dropout) for i in range(couplings))
        self.log_scale = nn.Parameter(torch.zeros(d))

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Latents h (N, D) of pixels y (N, D), and log |det dh/dy|: (N,), or a scalar without the logit.

        Additive couplings have determinant 1.
        """
        log_determinant = self.log_scale.sum()
        for step in self.first:
            y, change = step(y)
            log_determinant = log_determinant + change
        for coupling in self.couplings:
            y = coupling(y)
        return y * self.log_scale.exp(), log_determinant

    def inverse(self, h: Tensor) -> Tensor:
        """Pixels y (N, D) from latents h (N, D): the inverse of `forward`."""
        y = h * (-self.log_scale).exp()
        for coupling in reversed(self.couplings):
            assert isinstance(coupling, Coupling)
            y = coupling.inverse(y)
        for step in reversed(cast(Sequence[Step], self.first)):
            y = step.inverse(y)
        return y

    def latent_log_prob(self, h: Tensor) -> Tensor:
        """Log-density of each component of h, of any shape, under the prior."""
        return prior_log_prob(self.prior, h)

    def draw_latents(self, n: int, generator: Generator) -> Tensor:
        """n draws from the prior, float32 (n, D)."""
        return draw_prior(self.prior, (n, math.prod(self.shape)), generator, self.device)

    @torch.no_grad()
    def scales(self) -> Tensor:
        """The prior's standard deviation over the scale of each latent, (D,): σ of section 5.5.3 in its unit."""
        return PRIOR_STD[self.prior] * (-self.log_scale).exp()

    @torch.no_grad()
    def inputs(self, x: Tensor, generator: Generator) -> Tensor:
        """Dequantised pixels of x, uint8 (N, C, H, W), or their logits: (N, D)."""
        y = self.dequantised(x, generator)
        for step in self.first:
            y, _ = step(y)
        return y

    @torch.no_grad()
    def initialise(self, x: Tensor, generator: Generator) -> None:
        """Equalise, then scale each latent to the prior's standard deviation on images x, uint8 (N, C, H, W)."""
        fit_histograms(self, x)
        h, _ = self(self.dequantised(x, generator))
        self.log_scale.add_(math.log(PRIOR_STD[self.prior]) - h.std(0).log())


class Coupling(nn.Module):
    """Shifts every other component by a function of the components in between (eq. 5 to 8).

    Args:
        d: number of components.
        parity: the first component that is shifted, 0 or 1.
        width: features of a hidden layer.
        depth: hidden layers.
        dropout: during training.
    """

    def __init__(self, d: int, parity: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.parity = parity
        moved = len(range(parity, d, 2))
        sizes = [d - moved, *[width] * depth]
        hidden = [
            layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout))
        ]
        self.shift = nn.Sequential(*hidden, nn.Linear(width, moved))

    def forward(self, y: Tensor) -> Tensor:
        """Shift the components parity, parity + 2, … of y, (N, d)."""
        out = y.clone()
        out[:, self.parity :: 2] += self.shift(y[:, 1 - self.parity :: 2])
        return out

    def inverse(self, y: Tensor) -> Tensor:
        """Undo `forward`."""
        out = y.clone()
        out[:, self.parity :: 2] -= self.shift(y[:, 1 - self.parity :: 2])
        return out


def prior_log_prob(prior: Prior, h: Tensor) -> Tensor:
    """Log-density of each component of h, of any shape, under the standard logistic or normal distribution."""
    if prior == "logistic":
        return F.logsigmoid(h) + F.logsigmoid(-h)
    return -0.5 * (h.square() + math.log(2 * math.pi))


def draw_prior(prior: Prior, size: tuple[int, ...], generator: Generator, device: torch.device) -> Tensor:
    """Independent draws from the standard logistic or normal distribution, float32."""
    if prior == "gaussian":
        return normal(size, generator, device)
    u = uniform(size, generator, device, torch.float64)  # float32 would draw 0 now and then
    return torch.logit(u, eps=1e-12).float()


MODEL = Nice
