"""The U-Net of diffusion models and of flow matching."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 4  # of channels that are normalised together


class UNet(nn.Module):
    """Predicts an image from an image and a time, such as the noise in it, at three resolutions.

    After appendix B of Ho et al. 2020, but smaller: one block each way at each resolution.

    Args:
        colours: channels of an image.
        channels: at full resolution; twice as many at half and quarter resolution.
        dropout: during training.
        classes: their number; 0 for an unconditional model.
        patch: side of the squares of pixels that are read, and predicted, as one position with more channels (Luhman &
            Luhman 2022, Improving Diffusion Model Efficiency Through Patching): 1 or 2. With 2, there are no blocks at
            full resolution.
        outputs: channels of what is predicted; 0 for as many as an image has.
    """

    frequencies: Tensor

    def __init__(
        self, colours: int, channels: int, dropout: float, classes: int, patch: int = 1, outputs: int = 0
    ) -> None:
        super().__init__()
        self.patch = patch
        wide, embedding = 2 * channels, 4 * channels
        sizes, inputs, outputs = (channels, wide)[patch - 1 :], colours * patch**2, (outputs or colours) * patch**2
        self.embed_time = nn.Sequential(nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.embed_class = nn.Embedding(classes, embedding) if classes else None
        frequencies = torch.exp(-math.log(1e4) * torch.arange(channels // 2) / (channels // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.first = nn.Conv2d(inputs, sizes[0], 3, padding=1)
        self.down = nn.ModuleList(Block(c, c, embedding, dropout) for c in sizes)
        self.halve = nn.ModuleList(nn.Conv2d(c, wide, 3, stride=2, padding=1) for c in sizes)
        self.middle = nn.ModuleList(Block(wide, wide, embedding, dropout) for _ in range(2))
        self.attention = Attention(wide)
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(wide, c, 4, stride=2, padding=1) for c in sizes)
        self.up = nn.ModuleList(Block(2 * c, c, embedding, dropout) for c in sizes)
        self.last = nn.Sequential(nn.GroupNorm(GROUPS, sizes[0]), nn.SiLU(), nn.Conv2d(sizes[0], outputs, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """What is predicted for x_t, such as the noise in it, (N, C, H, W).

        Args:
            x: x_t, (N, C, H, W).
            t: times, (N,); sinusoids of wavelengths from 2π to nearly 20,000π tell them apart.
            y: classes, int64 (N,); None for the average of their embeddings.
        """
        embedding = self.embed(t, y)
        h, passed = self.inward(x, embedding)
        for i in reversed(range(len(passed))):
            h = self.up[i](torch.cat([self.enlarge[i](h), passed[i]], 1), embedding)
        return F.pixel_shuffle(self.last(h), self.patch)

    def embed(self, t: Tensor, y: Tensor | None) -> Tensor:
        """Embedding of time and class for all blocks, (N, 4 channels)."""
        embedding: Tensor = self.embed_time(self.sinusoids(t))
        if self.embed_class is not None:
            embedding = embedding + (self.embed_class.weight.mean(0) if y is None else self.embed_class(y))
        return F.silu(embedding)

    def sinusoids(self, t: Tensor) -> Tensor:
        """Sinusoidal embedding of times t, (N,): (N, channels) (Vaswani et al. 2017, section 3.5)."""
        angles = t[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], 1)

    def inward(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Activations at quarter resolution, (N, 2 channels, H/4, W/4), and those of the skip connections."""
        h, passed = self.first(F.pixel_unshuffle(x, self.patch)), []
        for block, halve in zip(self.down, self.halve, strict=True):
            passed.append(block(h, embedding))
            h = halve(passed[-1])
        return self.middle[1](self.attention(self.middle[0](h, embedding)), embedding), passed


class Block(nn.Module):
    """Two convolutions with a residual connection; between them, the embedding is added at every pixel.

    Args:
        inputs: number of input features.
        outputs: number of output features.
        embedding: size of the embedding.
        dropout: during training.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.GroupNorm(GROUPS, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.hear = nn.Linear(embedding, outputs)
        self.after = nn.Sequential(
            nn.GroupNorm(GROUPS, outputs), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Features (N, inputs, H, W) and an embedding (N, embedding) to features (N, outputs, H, W)."""
        heard = self.before(x) + self.hear(embedding)[..., None, None]
        out: Tensor = self.shortcut(x) + self.after(heard)
        return out


class Attention(nn.Module):
    """Self-attention over all pixels, one head, with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.GroupNorm(GROUPS, channels), nn.Conv2d(channels, 3 * channels, 1))
        self.after = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, channels, H, W) to the same shape."""
        query, key, value = self.before(x).flatten(2).chunk(3, dim=1)
        share = (query.transpose(1, 2) @ key / math.sqrt(x.shape[1])).softmax(-1)
        seen: Tensor = self.after((value @ share.transpose(1, 2)).view_as(x))
        return x + seen
