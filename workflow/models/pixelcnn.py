"""PixelCNN, ungated and gated: van den Oord et al. 2016, Pixel Recurrent Neural Networks; Conditional Image Generation
with PixelCNN Decoders.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from workflow.models.base import Choose, Model
from workflow.models.layers import context
from workflow.models.layers.common import (
    categorical_log_prob,
    draw_categorical,
    draw_classes,
    for_each_class,
    log_frequencies,
    over_classes,
)
from workflow.models.layers.gated import GatedPixelCNN
from workflow.models.layers.masked import MaskedConv2d, MaskedNetwork, PixelLayer, Seen, Step, Wave

Stack = Literal["gated", "masked"]


class MaskedBlock(PixelLayer):
    """A residual block of the ungated PixelCNN (van den Oord et al. 2016a, figure 5, left): 1x1, masked 3x3, 1x1.

    The receptive field grows by only one column per row: a cone that opens upwards. Pixels to its right are never seen,
    the blind spot (van den Oord et al. 2016b, figure 1).

    Args:
        channels: within the block; twice as many outside.
        groups: blocks that features come in, one per colour channel.
        dropout: during training.
    """

    def __init__(self, channels: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.narrow = MaskedConv2d(2 * channels, channels, groups)
        self.middle = MaskedConv2d(channels, channels, groups, up=1, aside=1)
        self.widen = MaskedConv2d(channels, 2 * channels, groups)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, 2 channels, H, W) to the same shape."""
        h = self.middle(F.relu(self.narrow(F.relu(x))))
        out: Tensor = self.widen(self.dropout(F.relu(h)))
        return out + x

    def context(self, seen: Tensor) -> Tensor:
        """As `PixelLayer.context`."""
        return self.middle.context(seen) | seen

    def by_waves(self, n: int, height: int, width: int) -> Step:
        """As `PixelLayer.by_waves`; caches the input of the 3x3 convolution."""
        narrow, seen, widen = self.narrow.of_pixels(), Seen(self.middle, n, height, width), self.widen.of_pixels()

        def step(x: Tensor, wave: Wave) -> Tensor:
            seen.enter_positive(narrow(x.relu()), wave)
            return widen(seen.convolved(wave).relu_()).add_(x)

        return step


class PixelCNN(Model):
    """p(x) or p(x|y) as a product over pixels in raster order, and over R, G, B within a pixel, by convolutions.

    A pixel is given the earlier ones within the receptive field, which grows with the number of layers. Only if it
    covers the image (`context_share` is 1) is this the chain rule of an arbitrary distribution.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        channels: features of each gated stack; the masked network has as many within its blocks and twice as many
            between them.
        layers: their number; the first has mask A.
        dropout: during training.
        stack: the gated network of van den Oord et al. 2016b, or the masked one of 2016a.
        classes: number of classes of p(x|y); 0 for p(x).
        dilations: of the gated layers after the first, which take them in turn: with [1, 2, 4], seven layers see as far
            as sixteen do without. The masked network has none.
        positions: whether the gated network knows where in the image it is, by a bias of its own for each position (van
            den Oord et al. 2016b, section 2.3, where it comes from a location-dependent condition).
    """

    title = "PixelCNN"
    paper = "van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders"
    family = "autoregressive"
    taxonomy = "explicit tractable"
    likelihood = "exact"
    unranked = ("classes",)  # p(x|y) and p(x) cannot be compared
    objective = "max Σᵢ log p(xᵢ | x₁, …, xᵢ₋₁)"
    about = (
        "The density of an image is a product of conditional densities, one per pixel, each given the earlier pixels "
        "in the receptive field. Masked convolutions compute all factors in parallel. The likelihood is exact and "
        "training is stable, but sampling is slow, as it takes one step per pixel. There is no latent code: features "
        "are hidden activations, and the model can complete an image from its upper rows, but it cannot reconstruct or "
        "interpolate."
    )

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        channels: Annotated[int, Field(ge=1)],
        layers: Annotated[int, Field(ge=1)],
        dropout: Annotated[float, Field(ge=0, lt=1)],
        stack: Stack = "gated",
        classes: Annotated[int, Field(ge=0)] = 0,
        dilations: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] | None = None,
        positions: bool = False,
    ) -> None:
        super().__init__(shape, levels)
        if stack == "masked" and (dilations or positions):
            raise ValueError("dilations and positions are for the gated stack; the masked one has none")
        self.classes = classes
        self.network: GatedPixelCNN | MaskedNetwork
        if stack == "gated":
            self.network = GatedPixelCNN(
                shape,
                levels,
                channels,
                layers,
                dropout,
                ordered=True,
                classes=classes,
                dilations=dilations or (1,),
                positions=positions,
            )
        else:
            colours = shape[0]
            channels = -(-channels // colours) * colours
            blocks = [MaskedBlock(channels, colours, dropout) for _ in range(layers - 1)]
            self.network = MaskedNetwork(shape, levels, 2 * channels, blocks, classes)

    @torch.no_grad()
    def initialise(self, x: Tensor, generator: Generator) -> None:
        """Begin with the frequencies of the levels in images x, uint8 (N, C, H, W), as logits."""
        bias = self.network.to_logits.bias
        assert bias is not None
        bias.copy_(log_frequencies(x, self.levels).flatten())

    def loss(self, x: Tensor, y: Tensor, player: str, generator: Generator) -> dict[str, Tensor]:
        """Negative log-likelihood, nats per image; of p(x|y) if there are classes."""
        return {"loss": -self.log_prob_given(x, y).mean()}

    def log_prob(self, x: Tensor, generator: Generator) -> Tensor:
        """Exact log p(x), nats (N,). x: uint8 (N, C, H, W)."""
        if not self.classes:
            return self.log_prob_given(x, None)
        return over_classes(lambda y: self.log_prob_given(x, y), len(x), self.classes, x.device)

    def log_prob_by_class(self, x: Tensor, generator: Generator) -> Tensor:
        """Exact log p(x|y) for each class y, nats (N, classes). x: uint8 (N, C, H, W)."""
        return for_each_class(lambda y: self.log_prob_given(x, y), len(x), self.classes, x.device).T

    def log_prob_given(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Exact log p(x|y), nats (N,). x: uint8 (N, C, H, W). y: int64 (N,), ignored if there are no classes."""
        return categorical_log_prob(self.network(x, y), x)

    @property
    def passes_in_sequence(self) -> int:
        """As many as its network takes."""
        return self.network.passes_in_sequence

    @property
    def context_share(self) -> float:
        """The share of all pairs of a pixel and an earlier one in which the later may depend on the earlier."""
        return context.share_of_pairs(self.network.context())

    @property
    def note(self) -> str:
        """The share of earlier pixels within the receptive field, unless it is all."""
        return context.note_on(self.network.context())

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw images pixel by pixel, uint8 (n, C, H, W); if there are classes, draw those first."""
        y = draw_classes(n, self.classes, generator, self.device) if self.classes else None
        blank = torch.zeros(n, *self.shape, dtype=torch.long, device=self.device)
        return self.network.sample(blank, 0, generator, y=y).to(torch.uint8)

    @torch.no_grad()
    def sample_given(self, y: Tensor, generator: Generator) -> Tensor:
        """Draw one image of each class y, int64 (N,), pixel by pixel: uint8 (N, C, H, W)."""
        blank = torch.zeros(len(y), *self.shape, dtype=torch.long, device=self.device)
        return self.network.sample(blank, 0, generator, y=y).to(torch.uint8)

    @torch.no_grad()
    def in_order(self, n: int, choose: Choose) -> Tensor:
        """As in `HasOrder`."""
        blank = torch.zeros(n, *self.shape, dtype=torch.long, device=self.device)
        return self.network.in_order(blank, 0, choose).to(torch.uint8)

    @torch.no_grad()
    def complete(self, x: Tensor, rows: int, generator: Generator) -> Tensor:
        """Keep the first `rows` rows of x, uint8 (N, C, H, W), and draw the rest.

        If there are classes, each image's class is drawn first, from p(y|rows).
        """
        y = draw_categorical(self._for_each_class(x, rows)[1], generator) if self.classes else None
        return self.network.sample(x, rows, generator, y=y).to(torch.uint8)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Hidden activations averaged over each quarter of the image, (N, 4 channels); 8 channels of the masked stack.

        If there are classes, these are averaged over p(y|x).
        """
        if not self.classes:
            return F.adaptive_avg_pool2d(self.network.hidden(x), 2).flatten(1)
        features, log_prob = self._for_each_class(x, self.shape[1])
        return (features * log_prob.softmax(1)[..., None]).sum(1)

    def _for_each_class(self, x: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Features given each class, (N, classes, d), and the log-density of the first rows, (N, classes)."""
        features, log_prob = [], []
        for y in range(self.classes):
            hidden = self.network.hidden(x, torch.full((len(x),), y, device=x.device))
            features.append(F.adaptive_avg_pool2d(hidden, 2).flatten(1))
            log_prob.append(categorical_log_prob(self.network.logits(hidden)[..., :rows, :], x[:, :, :rows]))
        return torch.stack(features, 1), torch.stack(log_prob, 1)


MODEL = PixelCNN
