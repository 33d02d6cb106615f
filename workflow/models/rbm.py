"""RBM: Smolensky 1986, Information Processing in Dynamical Systems: Foundations of Harmony Theory; trained as in Hinton
2002 (contrastive divergence) or Tieleman 2008 (persistent chains).
"""

import itertools
import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from workflow.models.base import Model
from workflow.models.layers.noise import uniform
from workflow.models.layers.pixels import categorical_draw

ENUMERATED = 20  # hidden units, at most, over whose states log Z is summed: a million of them
STATES = 2**13  # of the hidden units that are summed at once
INITIAL_STD = 0.01  # of the weights (Hinton 2012, A Practical Guide to Training RBMs, section 8)
QUICK = 10  # a validation takes this share of the intermediate distributions


class Rbm(Model):
    """Pixels and hidden units that depend on each other, but not among themselves.

    With x in [0, 1] and h in {0, 1}, p(x, h) ∝ exp(Σᵢ bᵢ(xᵢ) + c·h + h·Wx), where b has a number for each level of each
    pixel: an exponential family harmonium (Welling et al. 2004, Exponential Family Harmoniums with an Application to
    Information Retrieval). Given h, a pixel's distribution is its own histogram, tilted towards dark or bright.
    Binomial pixels (Teh & Hinton 2001) are those with b(l / n) = a l + log C(n, l). With two levels it is the binary
    RBM.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        hidden: number of hidden units. With 20 or fewer, log Z is computed, and the likelihood is exact.
        k: Gibbs steps before each gradient.
        chains: number of persistent chains that these steps continue (Tieleman 2008); 0 for contrastive divergence,
            which starts them at the training images (Hinton 2002).
        sampling_steps: Gibbs steps to draw an image, from independent pixels.
        ais_chains: independent runs of annealed importance sampling, from which log Z and its error are estimated.
        ais_steps: intermediate distributions of each run.
    """

    title = "RBM"
    paper = "Tieleman 2008, Training Restricted Boltzmann Machines using Approximations to the Likelihood Gradient"
    family = "energy-based"
    taxonomy = "explicit Markov chain"
    unranked = ("sampling_steps", "ais_chains", "ais_steps")  # unseen; the others belong to the estimate
    objective = "min 𝔼ₓ[ F(x) ] − 𝔼ₓ′[ F(x′) ],  F(x) = −Σᵢ bᵢ(xᵢ) − Σⱼ log(1 + exp(cⱼ + Wⱼ·x)),  x′ from a Gibbs chain"
    about = (
        "Hidden binary units and pixels have a joint energy, in which each pixel is linked to each hidden unit. The "
        "density is explicit up to its normalising constant Z, whose gradient needs samples from the model: a Gibbs "
        "chain provides them, either restarted at the data (contrastive divergence) or continued throughout training. "
        "Z itself is estimated by annealed importance sampling, or summed if there are few hidden units. Drawing "
        "an image takes many steps of the chain. Features are the probabilities of the hidden units."
    )
    base_bias: Tensor
    log_z: Tensor
    log_z_error: Tensor
    chain: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        hidden: Annotated[int, Field(ge=1)],
        k: Annotated[int, Field(ge=1)],
        chains: Annotated[int, Field(ge=0)],
        sampling_steps: Annotated[int, Field(ge=1)],
        ais_chains: Annotated[int, Field(ge=2)] = 100,
        ais_steps: Annotated[int, Field(ge=1)] = 1000,
    ) -> None:
        super().__init__(shape, levels)
        self.title = f"RBM ({'PCD' if chains else 'CD'}-{k})"
        self.likelihood = "exact" if hidden <= ENUMERATED else "estimate"
        self.k, self.sampling_steps = k, sampling_steps
        self.ais_chains, self.ais_steps = ais_chains, ais_steps
        d = math.prod(shape)
        self.weight = nn.Parameter(torch.randn(hidden, d) * INITIAL_STD)
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        # Of each pixel's levels above 0, whose bias is 0, pixel after pixel.
        self.pixel_bias = nn.Parameter(torch.zeros(d * (levels - 1)))
        self.register_buffer("base_bias", torch.zeros(d * (levels - 1)))
        for name in ("log_z", "log_z_error"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))
        self.register_buffer("chain", torch.zeros(chains, d, dtype=torch.uint8))
        self.log_z.copy_(self._base_log_z())

    @torch.no_grad()
    def initialise(self, x: Tensor, generator: Generator) -> None:
        """Begin with pixels distributed as in images x, uint8 (N, C, H, W), and independent of each other.

        Each level of a pixel counts as if it were seen once more. Persistent chains begin there as well.
        """
        logs = torch.stack([(x.flatten(1) == level).sum(0) + 1 for level in range(self.levels)], 1).double().log()
        self.base_bias.copy_((logs[:, 1:] - logs[:, :1]).flatten())
        self.pixel_bias.copy_(self.base_bias)
        self.log_z.copy_(self._base_log_z())
        self.chain.copy_(self._base_draw(len(self.chain), generator))

    def free_energy(self, x: Tensor) -> Tensor:
        """F(x), so that p(x) = exp(-F(x)) / Z, nats (N,). x: uint8 (N, D)."""
        return -F.softplus(self._to_hidden(x)).sum(1) - self._biases_at(x, self.pixel_bias)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """Mean free energy of images less that of the chain's, nats per image.

        Its gradient is that of contrastive divergence, an estimate of the gradient of -log p(x). Its value is no
        likelihood.
        """
        images = x.flatten(1)
        state = self.chain if len(self.chain) else images
        for _ in range(self.k):
            state = self.gibbs(state, generator)
        if len(self.chain) and self.training:
            self.chain.copy_(state)
        return {"loss": self.free_energy(images).mean() - self.free_energy(state).mean()}

    @torch.no_grad()
    def calibrate(self, x: Tensor, generator: Generator) -> None:
        """Compute log Z for a validation; if it is estimated, from fewer distributions than `finish` takes.

        Such an estimate is most likely too low, and validation losses with it: they serve to compare weights.
        """
        self._normalise(max(1, self.ais_steps // QUICK), generator)

    @torch.no_grad()
    def finish(self, x: Tensor, y: Tensor, generator: Generator) -> None:
        """Compute log Z and its standard error."""
        self._normalise(self.ais_steps, generator)

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Negative log-likelihood by the current log Z, nats per image."""
        return {"loss": -self.log_prob(x, generator).mean()}

    def log_prob(self, x: Tensor, generator: Generator) -> Tensor:
        """log p(x), nats, float64 (N,): exact with few hidden units, otherwise as exact as log Z."""
        return -self.free_energy(x.flatten(1)) - self.log_z

    @property
    def log_prob_error(self) -> float:
        """Standard error of `log_prob`, nats: that of log Z, over chains."""
        return float(self.log_z_error)

    @torch.no_grad()
    def exact_log_z(self) -> Tensor:
        """log Z, summed over the states of the hidden units, float64 ()."""
        states = torch.arange(2 ** len(self.hidden_bias), device=self.device).split(STATES)
        return torch.stack([self._log_weights(self._hidden(part)).logsumexp(0) for part in states]).logsumexp(0)

    @torch.no_grad()
    def draw_exactly(self, n: int, generator: Generator) -> Tensor:
        """Independent draws from p(x) itself, uint8 (n, C, H, W): of the hidden units from p(h), by enumeration, and of
        the pixels given these.
        """
        every = torch.arange(2 ** len(self.hidden_bias), device=self.device)
        weights = torch.cat([self._log_weights(self._hidden(part)) for part in every.split(STATES)])
        ends = weights.softmax(0).cumsum(0)
        marks = uniform((n,), generator, self.device, torch.float64) * ends[-1]
        h = self._hidden(torch.searchsorted(ends, marks, right=True).clamp(max=len(ends) - 1))
        return self._draw(self._to_pixels(h.to(self.weight.dtype)), self.pixel_bias, generator).view(n, *self.shape)

    def _hidden(self, states: Tensor) -> Tensor:
        """Hidden units, 0 or 1, float64 (N, hidden), of states by their numbers, int64 (N,)."""
        return (states[:, None] >> torch.arange(len(self.hidden_bias), device=self.device) & 1).double()

    def _log_weights(self, h: Tensor) -> Tensor:
        """log p(h) + log Z of hidden units, float64 (N, hidden): float64 (N,)."""
        weight, bias, pixel_bias = (p.double() for p in (self.weight, self.hidden_bias, self.pixel_bias))
        return h @ bias + self._logits(h @ weight, pixel_bias).logsumexp(2).sum(1)

    @torch.no_grad()
    def annealed_log_z(self, steps: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """An estimate of log Z by annealed importance sampling, and its standard error over chains, float64 () each.

        Salakhutdinov & Murray 2008, On the Quantitative Analysis of Deep Belief Networks, section 4.1: from independent
        pixels with the base biases, along a geometric path with evenly spaced inverse temperatures. The estimate of Z
        is unbiased; if the chains do not reach all modes, it is most likely too low, and its error as well.

        Args:
            steps: intermediate distributions of each chain.
            generator: on the model's device.
        """
        x = self._base_draw(self.ais_chains, generator)
        change, log_weight = self.pixel_bias - self.base_bias, torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for low, high in itertools.pairwise(i / steps for i in range(steps + 1)):
            inputs = self._to_hidden(x)
            rise = F.softplus(high * inputs) - F.softplus(low * inputs)
            log_weight += ((high - low) * self._biases_at(x, change) + rise.sum(1)).double()
            on = self._switch(high * inputs, generator)
            x = self._draw(high * self._to_pixels(on), self.base_bias + high * change, generator)
        total = log_weight.logsumexp(0)
        weights = (log_weight - total).exp() * len(x)  # of mean 1
        return self._base_log_z() + total - math.log(len(x)), weights.std() / math.sqrt(len(x))

    @property
    def passes_in_sequence(self) -> int:
        """Two per Gibbs step: the hidden units, then the pixels."""
        return 2 * self.sampling_steps

    @property
    def note(self) -> str:
        """How samples are drawn, and how log Z was found."""
        drawn = f"Samples are the last states of chains of {self.sampling_steps:,} Gibbs steps, one for each image."
        if self.likelihood == "exact":
            return f"{drawn} Log Z is a sum over all states of the hidden units, so the likelihood is exact."
        reach = 1.96 * self.log_prob_error
        return (
            f"{drawn} Log Z is {float(self.log_z):.2f} ± {reach:.2f} nats (95 % over {self.ais_chains} chains of "
            "annealed importance sampling); the interval of bits/dim includes this. If the chains miss modes of the "
            "model, its likelihood is overestimated."
        )

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Run a chain for each image from independent pixels, uint8 (n, C, H, W)."""
        state = self._base_draw(n, generator)
        for _ in range(self.sampling_steps):
            state = self.gibbs(state, generator)
        return state.view(n, *self.shape)

    @torch.no_grad()
    def complete(self, x: Tensor, rows: int, generator: Generator) -> Tensor:
        """Keep the first `rows` rows of x, uint8 (N, C, H, W), and run the chain of the other pixels."""
        known, state = x[:, :, :rows], self._base_draw(len(x), generator).view(x.shape)
        for _ in range(self.sampling_steps):
            state = torch.cat([known, state[:, :, rows:]], 2)
            state = self.gibbs(state.flatten(1), generator).view(x.shape)
        return torch.cat([known, state[:, :, rows:]], 2)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Probabilities of the hidden units, (N, hidden)."""
        return self._to_hidden(x.flatten(1)).sigmoid()

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean image given the probabilities of the hidden units, rounded, uint8 (N, C, H, W)."""
        probabilities = self._logits(self._to_pixels(self.encode(x)), self.pixel_bias).softmax(2)
        mean = probabilities @ torch.arange(self.levels, device=x.device, dtype=probabilities.dtype)
        return mean.round().to(torch.uint8).view(x.shape)

    @torch.no_grad()
    def gibbs(self, x: Tensor, generator: Generator) -> Tensor:
        """Draw the hidden units given pixels x, uint8 (N, D), and new pixels given these: uint8 (N, D)."""
        on = self._switch(self._to_hidden(x), generator)
        return self._draw(self._to_pixels(on), self.pixel_bias, generator)

    def _to_hidden(self, x: Tensor) -> Tensor:
        """Log-odds of the hidden units, (N, hidden), given pixels, uint8 (N, D)."""
        return _precise(F.linear(x.to(self.weight.dtype) / (self.levels - 1), self.weight, self.hidden_bias))

    def _to_pixels(self, h: Tensor) -> Tensor:
        """How far hidden units, (N, hidden), tilt each pixel towards bright: log-odds of white, (N, D)."""
        return _precise(F.linear(h, self.weight.t()))

    def _logits(self, tilt: Tensor, bias: Tensor) -> Tensor:
        """Of the levels of each pixel, (N, D, levels), given its tilt, (N, D), and the biases, (D (levels-1),)."""
        value = torch.arange(self.levels, device=tilt.device, dtype=tilt.dtype) / (self.levels - 1)
        return self._with_zero(bias) + tilt[..., None] * value

    def _biases_at(self, x: Tensor, bias: Tensor) -> Tensor:
        """Sum of the biases of the levels that pixels x have, (N,). x: uint8 (N, D)."""
        return self._with_zero(bias)[torch.arange(x.shape[1], device=x.device), x.long()].sum(1)

    def _with_zero(self, bias: Tensor) -> Tensor:
        """Biases of all levels, (D, levels): 0 for level 0."""
        return F.pad(bias.view(-1, self.levels - 1), (1, 0))

    def _switch(self, log_odds: Tensor, generator: Generator) -> Tensor:
        """A draw of the hidden units, 0 or 1, (N, hidden)."""
        noise = uniform(log_odds.shape, generator, log_odds.device, log_odds.dtype)
        return (noise < log_odds.sigmoid()).to(self.weight.dtype)

    def _draw(self, tilt: Tensor, bias: Tensor, generator: Generator) -> Tensor:
        """A draw of pixels, uint8 (N, D), given their tilts, (N, D), and the biases."""
        return categorical_draw(self._logits(tilt, bias).movedim(-1, 1), generator)

    def _base_draw(self, n: int, generator: Generator) -> Tensor:
        """n images of independent pixels with the base biases, uint8 (n, D)."""
        return self._draw(self.weight.new_zeros(n, self.weight.shape[1]), self.base_bias, generator)

    def _base_log_z(self) -> Tensor:
        """log Z without weights and hidden biases, and with the base biases, float64 ()."""
        return self._with_zero(self.base_bias.double()).logsumexp(1).sum() + len(self.hidden_bias) * math.log(2)

    def _normalise(self, steps: int, generator: Generator) -> None:
        exact = self.likelihood == "exact"
        found = (self.exact_log_z(), torch.zeros(())) if exact else self.annealed_log_z(steps, generator)
        self.log_z.copy_(found[0])
        self.log_z_error.copy_(found[1])


def _precise(numbers: Tensor) -> Tensor:
    """In single precision at least, whatever precision the product was computed in."""
    return numbers.to(torch.promote_types(numbers.dtype, torch.float32))


MODEL = Rbm
