"""MADE: Germain, Gregor, Murray & Larochelle 2015, MADE: Masked Autoencoder for Distribution Estimation."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from workflow.models.base import Model
from workflow.models.layers.common import categorical_log_prob, draw_at, draw_categorical, log_mean_exp
from workflow.models.layers.dense import Degrees, DenseNetwork, random_degrees, raster_rank
from workflow.models.layers.noise import integers, uniform

Orders = Literal["raster", "random"]


class Made(Model):
    """A dense network whose weights are masked so that a pixel depends only on pixels before it in an order.

    With several masks, the network is trained with each in turn, step by step, and p(x) is the mean of their densities:
    a mixture with equal weights, of which sampling draws a mask for each image.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1; for two, a pixel has a single logit, otherwise one for each level.
        width: of a hidden layer.
        depth: hidden layers.
        dropout: in these layers, during training.
        masks: their number. Each draws the degrees of the hidden units anew (section 4.3, connectivity-agnostic).
        orders: "raster": every mask has the reading order, colours together; "random": each has an order of its own
            (section 4.2, order-agnostic; the authors' code has a random order even with a single mask).
        direct: whether pixels are also connected to the outputs directly.
    """

    title = "MADE"
    paper = "Germain et al. 2015, MADE: Masked Autoencoder for Distribution Estimation"
    family = "autoregressive"
    taxonomy = "explicit tractable"
    likelihood = "exact"
    objective = "max Σᵢ log p(xᵢ | x before i in the order of mask m),  m = 1 … M in turn;  p(x) = Σₘ pₘ(x) / M"
    about = (
        "A dense autoencoder becomes an autoregressive model by masks on its weights: no path leads from a pixel to "
        "its own output or to that of an earlier pixel. One pass gives all conditional probabilities, and the "
        "likelihood is exact. Nothing about images is built in, so that pixels may come in any order; several orders "
        "can share one network, and the mean of their densities is better than each. Sampling takes one pass per "
        "pixel. Features are hidden activations, and the model can complete images, but there is no latent code."
    )

    rank: Tensor
    hidden: Tensor
    turn: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        width: Annotated[int, Field(ge=1)],
        depth: Annotated[int, Field(ge=1)],
        dropout: Annotated[float, Field(ge=0, lt=1)],
        masks: Annotated[int, Field(ge=1)] = 1,
        orders: Orders = "raster",
        direct: bool = False,
    ) -> None:
        super().__init__(shape, levels)
        d, self.orders = math.prod(shape), orders
        raster = raster_rank(shape)
        ranks = [raster if orders == "raster" else torch.randperm(d) + 1 for _ in range(masks)]
        self.register_buffer("rank", torch.stack(ranks))
        self.register_buffer("hidden", torch.stack([random_degrees(d, width, depth) for _ in ranks]))
        self.register_buffer("turn", torch.zeros(1, dtype=torch.long))  # steps so far
        self.network = DenseNetwork(d, 1 if levels == 2 else levels, width, depth, dropout, direct=direct)

    @property
    def masks(self) -> list[Degrees]:
        """Order and hidden degrees of each mask."""
        return [Degrees(*mask) for mask in zip(self.rank, self.hidden, strict=True)]

    def forward(self, x: Tensor, mask: Degrees) -> Tensor:
        """Logits of each number given those before it, (N, levels, D). x: integers (N, D)."""
        return self._logits(self.network(self._embed(x), mask))

    def _embed(self, x: Tensor) -> Tensor:
        """Integers to [0, 1], as in the paper: what is masked looks like black."""
        return x.to(self.network.out.weight.dtype) / (self.levels - 1)

    def _logits(self, numbers: Tensor) -> Tensor:
        """Logits of all levels, (N, levels, …), from what the network returns, (N, outputs, …)."""
        if self.levels > 2:
            return numbers
        return torch.cat([torch.zeros_like(numbers), numbers], 1)

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """Negative log-likelihood of the mask whose turn it is, nats per image."""
        chosen = self.turn % len(self.rank)
        mask = Degrees(self.rank.index_select(0, chosen)[0], self.hidden.index_select(0, chosen)[0])
        self.turn += 1
        pixels = x.flatten(1)
        return {"loss": -categorical_log_prob(self(pixels, mask), pixels).mean()}

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Negative log p(x) of the mean over masks, nats per image."""
        return {"loss": -self.log_prob(x, generator).mean()}

    def log_prob(self, x: Tensor, generator: Generator) -> Tensor:
        """Exact log p(x), nats (N,). x: uint8 (N, C, H, W)."""
        pixels = x.flatten(1)
        return log_mean_exp(torch.stack([categorical_log_prob(self(pixels, mask), pixels) for mask in self.masks]))

    @property
    def passes_in_sequence(self) -> int:
        """One per pixel and colour."""
        return math.prod(self.shape)

    @property
    def context_share(self) -> float:
        """The share of all pairs of a number and an earlier one in which the later may depend on the earlier."""
        d = math.prod(self.shape)
        if self.network.direct is not None or d == 1:
            return 1.0
        pairs = len(self.rank) * d * (d - 1) // 2
        return sum(int(mask.reach.sum()) for mask in self.masks) / pairs

    @property
    def note(self) -> str:
        """What the masks leave out, and how completions come about if orders are random."""
        share, sentences = self.context_share, []
        if share < 1:
            sentences.append(
                f"Its hidden units connect {100 * share:.1f} % of all pairs of a pixel and an earlier one; given the "
                "pixels that it sees, a pixel is modelled as independent of the others."
            )
        if self.orders == "random":
            sentences.append(
                "To complete an image, the known pixels come first, in an order that it was not trained with."
            )
        return " ".join(sentences)

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw a mask for each image, and its pixels in the order of the mask: uint8 (n, C, H, W)."""
        chosen = integers(len(self.rank), n, generator, self.device)
        blank = torch.zeros(n, math.prod(self.shape), dtype=torch.long, device=self.device)
        return self._draw(blank, 0, self.masks, chosen, generator)

    @torch.no_grad()
    def complete(self, x: Tensor, rows: int, generator: Generator) -> Tensor:
        """Keep the first `rows` rows of x, uint8 (N, C, H, W), and draw the rest.

        A mask is drawn for each image, from p(mask|rows). Its order is changed so that the known pixels come first
        (section 4.2), which makes no difference to the reading order.
        """
        known = torch.zeros(self.shape, dtype=torch.bool, device=x.device)
        known[:, :rows] = True
        known, pixels = known.flatten(), x.flatten(1).long()
        masks = [_known_first(mask, known) for mask in self.masks]
        of_known = [categorical_log_prob(self(pixels, mask)[..., known], pixels[:, known]) for mask in masks]
        chosen = draw_categorical(torch.stack(of_known, 1), generator)
        return self._draw(pixels, int(known.sum()), masks, chosen, generator)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Activations of the last hidden layer, averaged over masks, (N, width). x: uint8 (N, C, H, W)."""
        pixels = self._embed(x.flatten(1))
        return torch.stack([self.network.activations(pixels, mask) for mask in self.masks]).mean(0)

    def _draw(
        self, given: Tensor, count: int, masks: Sequence[Degrees], chosen: Tensor, generator: Generator
    ) -> Tensor:
        """Draw all numbers but the first `count` of each order: uint8 (N, C, H, W).

        Args:
            given: integers, int64 (N, D), of which those are kept.
            count: how many.
            masks: to choose from.
            chosen: index of each image's mask, int64 (N,).
            generator: of the draws.
        """
        together = chosen.argsort(stable=True)  # images of the same mask side by side
        sizes = chosen.bincount(minlength=len(masks)).cpu().tolist()
        used = [(mask, size) for mask, size in zip(masks, sizes, strict=True) if size]
        parts = [size for _, size in used]
        networks = [self.network.in_order(size, mask) for mask, size in used]
        order = torch.cat([mask.rank.argsort().expand(size, -1) for mask, size in used])
        marks = uniform(given.shape, generator, given.device, torch.float32)[together].T.contiguous()
        found = given[together].gather(1, order).T.contiguous()
        seen = torch.zeros_like(given, dtype=self.network.out.weight.dtype)
        of_parts = list(zip(networks, seen.split(parts), strict=True))
        for rank, place in enumerate(order.T.unsqueeze(2).contiguous(), start=1):
            numbers = [network(rank, part) for network, part in of_parts]
            if rank > count:  # the known ones pass through the network, too
                found[rank - 1] = draw_at(marks[rank - 1], self._logits(torch.cat(numbers)))
            seen.scatter_(1, place, self._embed(found[rank - 1, :, None]))
        x = torch.empty_like(given).scatter_(1, order, found.T)
        return x[together.argsort()].view(-1, *self.shape).to(torch.uint8)


def _known_first(mask: Degrees, known: Tensor) -> Degrees:
    """The same mask with the known numbers, bool (D,), before the others; both keep the order among themselves."""
    return mask._replace(rank=(mask.rank + len(known) * ~known).argsort().argsort() + 1)


MODEL = Made
