"""Numbers drawn in any order, those that are hidden given those that are known: bounds of log p, and draws.

Noise masks the numbers (the absorbing state of Austin et al. 2021, Structured Denoising Diffusion Models in Discrete
State-Spaces) in random order, and a network draws them in the reverse order: an autoregressive model of no fixed order
(Hoogeboom et al. 2022, Autoregressive Diffusion Models).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from workflow.models.layers.common import draw_categorical
from workflow.models.layers.diffusion import spread_times
from workflow.models.layers.noise import uniform

Order = Literal["random", "confident"]

# A network: logits of each of D numbers given those that are not hidden, (N, levels, D). Its arguments are integers
# (N, D), of which the hidden ones may have any value, and which are hidden, bool (N, D).
Network = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class AnyOrder:
    """How D numbers are drawn: in groups, of which each is independent given the groups before it.

    Raises ValueError if a random order is given a temperature.

    Args:
        numbers: D.
        passes: number of groups, 1..D.
        order: "random", so that draws follow the distribution whose likelihood is bounded; or "confident": each pass
            draws all hidden numbers and keeps those to which it gave the highest probability (Chang et al. 2022,
            MaskGIT: Masked Generative Image Transformer, section 3.2).
        temperature: of Gumbel noise that is added to these log-probabilities and falls linearly to 0 in the last pass.
    """

    numbers: int
    passes: int
    order: Order = "random"
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if self.temperature and self.order == "random":
            raise ValueError('temperature is for the order "confident"; a random one has none')

    def mean_bound(self, network: Network, x: Tensor, generator: Generator) -> Tensor:
        """The lower bound of log p(x) at one number a pass, estimated without bias, a mean over the batch: nats, ().

        One of the D terms stands for all: that of a random number of known numbers, at random places (Hoogeboom et al.
        2022, eq. 4). x: integers (N, D).
        """
        known = spread_times(len(x), self.numbers, generator, x.device) - 1
        hidden = random_ranks(len(x), self.numbers, generator, x.device) >= known.view(-1, 1)
        one_each = hidden_log_prob(network, x, hidden) / (self.numbers - known)  # what the next number adds
        return self.numbers * one_each.mean()

    def log_prob(self, network: Network, x: Tensor, generator: Generator) -> Tensor:
        """Lower bound of log p(x), estimated without bias from one order for each row of x, integers (N, D): (N,)."""
        return self.log_prob_in_order(network, x, random_ranks(len(x), self.numbers, generator, x.device))

    def log_prob_in_order(self, network: Network, x: Tensor, ranks: Tensor) -> Tensor:
        """What an order contributes to the bound, whose mean over all orders it is, nats (N,).

        Any of the hidden numbers may be the next to be drawn, so each term is a mean over all of them. This makes it
        vary less between orders, and leaves the mean over orders as it is (Hoogeboom et al. 2022, eq. 4).

        Args:
            network: of the conditional distributions.
            x: integers (N, D).
            ranks: the place of each number in the order, int64 (N, D), 0..D-1.
        """
        terms = [
            (after - before) / (self.numbers - before) * hidden_log_prob(network, x, ranks >= before)
            for before, after in pairwise(group_ends(self.numbers, self.passes))
        ]
        return torch.stack(terms).sum(0)

    @torch.no_grad()
    def draw(self, network: Network, x: Tensor, hidden: Tensor, generator: Generator) -> Tensor:
        """Replace the hidden numbers of x by draws, group by group, in as many passes if it can: integers (N, D).

        Args:
            network: of the conditional distributions.
            x: integers (N, D).
            hidden: bool (N, D), equally many in each row.
            generator: source of randomness.
        """
        remaining = int(hidden[:1].sum())
        drawn, hidden = x.clone(), hidden.clone()
        ends = group_ends(remaining, min(self.passes, remaining))
        for passed, (before, after) in enumerate(pairwise(ends), 1):
            masked = hidden.nonzero()[:, 1].view(len(x), remaining - before)
            logits, left = network(drawn, hidden), 1 - passed / (len(ends) - 1)
            places, numbers = self._group(masked, logits, after - before, left, generator)
            drawn.scatter_(1, places, numbers.to(drawn.dtype))
            hidden.scatter_(1, places, False)
        return drawn

    def _group(
        self, masked: Tensor, logits: Tensor, size: int, left: float, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Where the next numbers are and what they are, int64 (N, size) each.

        Args:
            masked: the places that are not drawn yet, int64 (N, M).
            logits: of all numbers, (N, levels, D).
            size: how many to draw.
            left: share of passes that are left after this one.
            generator: source of randomness.
        """
        noise = uniform(masked.shape, generator, masked.device)
        if self.order == "random":
            places = masked.gather(1, noise.topk(size, 1).indices)
            return places, draw_categorical(_at(logits, places), generator)
        log_prob = _at(logits, masked).float().log_softmax(1)
        numbers = draw_categorical(log_prob, generator)
        gumbel = -(-noise.clamp(min=torch.finfo(noise.dtype).tiny).log()).log()
        surest = log_prob.gather(1, numbers.unsqueeze(1)).squeeze(1) + self.temperature * left * gumbel
        kept = surest.topk(size, 1).indices
        return masked.gather(1, kept), numbers.gather(1, kept)


def hidden_log_prob(network: Network, x: Tensor, hidden: Tensor) -> Tensor:
    """Sum of the log-probabilities of the hidden numbers, each given those that are known, nats (N,).

    Args:
        network: of the conditional distributions.
        x: integers (N, D).
        hidden: bool (N, D).
    """
    logits = network(x, hidden)
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_prob = -F.cross_entropy(precise, x.long(), reduction="none")
    return log_prob.masked_fill(~hidden, 0).sum(1)


def random_ranks(n: int, numbers: int, generator: Generator, device: torch.device) -> Tensor:
    """Random orders: the place of each number in one of n orders, int64 (n, numbers)."""
    return uniform((n, numbers), generator, device).argsort(1)


def group_ends(numbers: int, passes: int) -> list[int]:
    """How many of the numbers are drawn after each pass, from 0 to all, at least one more each time.

    All but cos(π/2 · j/k) of them after j of k passes (Chang et al. 2022, MaskGIT, section 3.3).
    """
    ends = [0]
    for j in range(1, passes + 1):
        share = 1 - math.cos(math.pi / 2 * j / passes)
        ends.append(max(ends[-1] + 1, min(round(numbers * share), numbers - (passes - j))))
    return ends


def _at(logits: Tensor, places: Tensor) -> Tensor:
    """The logits at places, int64 (N, M), of all, (N, levels, D): (N, levels, M)."""
    return logits.gather(2, places.unsqueeze(1).expand(-1, logits.shape[1], -1))
