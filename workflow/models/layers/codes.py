"""Codebooks, and a transformer over codes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workflow.models.layers.common import draw_at
from workflow.models.layers.noise import uniform

HEAD = 16  # features of a transformer's attention head
DEAD = 0.05  # a code chosen by fewer latents than this, on average over recent batches, is re-initialised
TRIAL = 0.1  # the average with which it restarts; it stays on trial until its average exceeds this


class Codebook(nn.Module):
    """Vectors that move towards the latents that choose them.

    Van den Oord et al. 2017, Neural Discrete Representation Learning, appendix A.1. `counts` and `sums` are moving
    averages over batches of the number and the sum of the latents that chose each code; a code is their ratio. All are
    buffers, not parameters: no gradient reaches them.

    Args:
        codes: number of vectors.
        size: numbers in each.
        decay: of the moving averages, γ.
    """

    vectors: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, codes: int, size: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("vectors", torch.randn(codes, size))
        self.register_buffer("counts", torch.ones(codes))
        self.register_buffer("sums", self.vectors.clone())

    @property
    def available(self) -> Tensor:
        """Which codes may be chosen and drawn, bool (codes,): in evaluation mode only those that are not on trial."""
        return self.counts > (0 if self.training else TRIAL)

    def nearest(self, z: Tensor) -> Tensor:
        """Index of the available code nearest to each latent z, (N, size, h, w): int64 (N, h, w)."""
        distance = torch.cdist(z.movedim(1, -1), self.vectors)
        return distance.masked_fill(~self.available, torch.inf).argmin(-1)

    def lookup(self, indices: Tensor) -> Tensor:
        """The vectors of codes, int64 (N, h, w): (N, size, h, w)."""
        return F.embedding(indices, self.vectors).movedim(-1, 1)

    def quantise(self, z: Tensor, indices: Tensor) -> Tensor:
        """The vectors of codes, int64 (N, h, w), with the gradient of the latents z: (N, size, h, w)."""
        return straight_through(z, self.lookup(indices))

    @torch.no_grad()
    def update(self, z: Tensor, indices: Tensor, generator: Generator) -> None:
        """Move the codes towards the latents that chose them; re-initialise dead codes at random latents of the batch.

        Args:
            z: latents, (N, size, h, w).
            indices: their nearest codes, int64 (N, h, w).
            generator: draws the latents.
        """
        flat = z.movedim(1, -1).flatten(0, -2)
        chosen = F.one_hot(indices.flatten(), len(self.counts)).to(flat.dtype)
        self.counts.lerp_(chosen.sum(0), 1 - self.decay)
        with torch.autocast(flat.device.type, enabled=False):  # sums of many small terms need full precision
            self.sums.lerp_(chosen.T @ flat, 1 - self.decay)
        dead = self.counts < DEAD
        drawn = flat[torch.randint(len(flat), dead.shape, generator=generator, device=flat.device)]
        self.counts.masked_fill_(dead, TRIAL)
        self.sums.copy_(torch.where(dead[:, None], TRIAL * drawn, self.sums))
        self.vectors.copy_(self.sums / self.counts[:, None])

    def perplexity(self, indices: Tensor) -> Tensor:
        """Effective number of codes in use among indices, int64 (N, h, w)."""
        return perplexity(indices, len(self.counts))


def perplexity(indices: Tensor, codes: int) -> Tensor:
    """exp of the entropy of the frequencies of so many codes in indices, int64 of any shape: ()."""
    share = indices.flatten().bincount(minlength=codes).float() / indices.numel()
    entropy: Tensor = torch.special.entr(share).sum()
    return entropy.exp()


def straight_through(z: Tensor, quantised: Tensor) -> Tensor:
    """Straight-through estimator: value of `quantised`, gradient of z (van den Oord et al. 2017, section 3.2)."""
    return z + (quantised - z).detach()


class TransformerLayer(nn.Module):
    """Causal self-attention and a two-layer network, each with layer normalisation before and a residual connection.

    Vaswani et al. 2017, Attention Is All You Need, section 3, with the normalisation first, as in GPT-2.

    Args:
        width: number of features.
        heads: of the attention.
        dropout: during training.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_network = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_all = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        """Features (N, length, width) to features of the same shape."""
        query, key, value = self.project(h)
        return self.combine(h, F.scaled_dot_product_attention(query, key, value, is_causal=True))

    def project(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of features (N, length, width), each (N, heads, length, width / heads)."""
        query, key, value = (
            self.to_all(self.before_attention(h)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        return query, key, value

    def combine(self, h: Tensor, attended: Tensor) -> Tensor:
        """The layer's output, (N, length, width), from its input and the heads' output, (N, heads, length, ·)."""
        h = h + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        out: Tensor = h + self.dropout(self.network(self.before_network(h)))
        return out


class _LayerStep:
    """A `TransformerLayer`, without dropout, for n sequences whose positions come one after another.

    A step has so little to compute that each call counts; of a long sequence, reading the keys and values of all
    positions takes most of the time. Both are linear in a position's normalised features, so these are kept in their
    place, half as many numbers. The matrix of the keys is applied to the query, q·(K x) = (Kᵀ q)·x, and that of the
    values after attention, Σ w (V x) = V Σ w x, so that both can be multiplied by their neighbours beforehand (cf.
    DeepSeek-AI 2024, DeepSeek-V2, section 2.1.2). The bias of the keys adds the same to all scores and drops out. A
    head then works on all features of a position, not on HEAD of them: from eight heads on, this costs more than it
    saves.

    Args:
        layer: the layer.
        n: number of sequences.
        length: positions in each.
    """

    def __init__(self, layer: TransformerLayer, n: int, length: int) -> None:
        width, heads = layer.out.in_features, (layer.heads, HEAD)
        to_query, to_key, to_value = layer.to_all.weight.view(3, *heads, width)
        query_bias, _, value_bias = layer.to_all.bias.view(3, *heads)
        from_value = layer.out.weight.view(width, *heads).transpose(0, 1)
        scaled = HEAD**-0.5 * to_key
        self.to_query = (to_query.mT @ scaled).transpose(0, 1).flatten(1)  # of all heads, (width, heads · width)
        self.query_bias = (query_bias.unsqueeze(1) @ scaled).flatten()
        self.out = (from_value @ to_value).mT.flatten(0, 1)  # (heads · width, width)
        self.out_bias = layer.out.bias + layer.out.weight @ value_bias.flatten()
        self.before_attention, self.before_network = _bare(layer.before_attention), _bare(layer.before_network)
        self.widen, self.narrow = _bare(layer.network[0]), _bare(layer.network[2])
        self.known = self.out.new_zeros(n, length, width)
        self.places = self.known.unbind(1)
        self.query_size, self.attended_size = (n, layer.heads, width), (n, layer.heads * width)

    def take(self, h: Tensor, i: int) -> Tensor:
        """Features of position i, (n, width), to features of the same shape."""
        x = self.before_attention(h)
        self.places[i].copy_(x)
        query, known = torch.addmm(self.query_bias, x, self.to_query).view(self.query_size), self.known[:, : i + 1]
        attended = torch.bmm(torch.bmm(query, known.mT).softmax(-1), known)
        h = torch.addmm(self.out_bias, attended.view(self.attended_size), self.out).add_(h)
        return self.narrow(F.gelu(self.widen(self.before_network(h)))).add_(h)


def _bare(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """What a layer computes for (n, ·), without calling a module, which takes longer than so little arithmetic."""
    if isinstance(layer, nn.LayerNorm):
        size, weight, bias, eps = layer.normalized_shape, layer.weight, layer.bias, layer.eps
        return partial(torch.layer_norm, normalized_shape=size, weight=weight, bias=bias, eps=eps)
    assert isinstance(layer, nn.Linear)
    return partial(torch.addmm, layer.bias, mat2=layer.weight.T)


class CausalTransformer(nn.Module):
    """An autoregressive model of sequences of codes (Ramesh et al. 2021, DALL-E, section 2.2).

    Args:
        length: codes in a sequence.
        codes: size of the vocabulary.
        width: features per position, rounded up to a multiple of HEAD, the size of an attention head.
        layers: their number.
        dropout: during training.
    """

    def __init__(self, length: int, codes: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        heads = -(-width // HEAD)
        self.length, self.width = length, heads * HEAD
        self.start = nn.Parameter(0.02 * torch.randn(self.width))  # precedes the first code
        self.positions = nn.Parameter(0.02 * torch.randn(length, self.width))
        self.embedding = nn.Embedding(codes, self.width)
        self.layers = nn.ModuleList([TransformerLayer(self.width, heads, dropout) for _ in range(layers)])
        self.head = nn.Sequential(nn.LayerNorm(self.width), nn.Linear(self.width, codes))

    def forward(self, indices: Tensor) -> Tensor:
        """Logits of each code given those before it, (N, codes, length). indices: int64 (N, length)."""
        logits: Tensor = self.head(self.hidden(indices, len(self.layers)))
        return logits.transpose(1, 2)

    def hidden(self, indices: Tensor, depth: int) -> Tensor:
        """Features after the first `depth` layers, (N, i, width), each of the codes before it.

        indices: int64 (N, i), of which the last code is not looked at.
        """
        h = self.embedded(indices)
        for layer in self.layers[:depth]:
            h = layer(h)
        return h

    def embedded(self, indices: Tensor) -> Tensor:
        """The input of the first layer, (N, i, width); arguments as of `hidden`."""
        start = self.start.expand(len(indices), 1, -1)
        return torch.cat([start, self.embedding(indices[:, :-1])], 1) + self.positions[: indices.shape[1]]

    @property
    def typed_layers(self) -> Sequence[TransformerLayer]:
        """The layers, with their type."""
        return cast(Sequence[TransformerLayer], self.layers)

    @property
    def passes_in_sequence(self) -> int:
        """As in `Model`, to draw a sequence: one per code."""
        return self.length

    @torch.no_grad()
    def sample(self, n: int, generator: Generator, allowed: Tensor, given: Tensor | None = None) -> Tensor:
        """Draw n sequences, int64 (n, length).

        Args:
            n: number of sequences.
            generator: on the device of `allowed`.
            allowed: codes that may be drawn at each position, bool (codes, length).
            given: the codes that the sequences begin with, int64 (n, i).
        """
        start = 0 if given is None else given.shape[1]
        drawn = torch.zeros(n, self.length, dtype=torch.long, device=allowed.device)
        steps = CodeByCode(self, n, allowed)
        if given is not None and start:
            drawn[:, :start] = given
            steps.read(given)
        marks = uniform((self.length - start, n), generator, allowed.device, torch.float32, dim=1)
        for i, mark in enumerate(marks, start):
            drawn[:, i] = draw_at(mark, steps.step(drawn[:, :i]))
        return drawn


class CodeByCode:
    """A `CausalTransformer` that is given n sequences one code after another.

    Args:
        transformer: in evaluation mode.
        n: number of sequences.
        allowed: codes that may come at each position, bool (codes, length); the logits of others are -inf.
    """

    def __init__(self, transformer: CausalTransformer, n: int, allowed: Tensor) -> None:
        self.transformer, self.embedding = transformer, transformer.embedding.weight
        self.start, self.positions = transformer.start.expand(n, -1), transformer.positions.unbind()
        self.layers = [_LayerStep(layer, n, transformer.length) for layer in transformer.typed_layers]
        head = cast(nn.Linear, transformer.head[1])
        self.normalise, self.head = _bare(transformer.head[0]), head.weight.T
        self.head_bias = head.bias.masked_fill(~allowed.T, -torch.inf).unbind()

    def read(self, given: Tensor) -> None:
        """Take all steps that draw `given`, int64 (n, i), i > 0, at once; no step may have been taken."""
        h = self.transformer.embedded(given)
        for layer, step in zip(self.transformer.typed_layers, self.layers, strict=True):
            step.known[:, : given.shape[1]] = layer.before_attention(h)
            h = layer(h)

    def step(self, drawn: Tensor) -> Tensor:
        """Logits of the next code, (n, codes), equal to those of the transformer.

        drawn: the codes so far, int64 (n, i), of which all but the last have been seen.
        """
        i = drawn.shape[1]
        h = (F.embedding(drawn[:, -1], self.embedding) if i else self.start) + self.positions[i]
        for layer in self.layers:
            h = layer.take(h, i)
        return torch.addmm(self.head_bias[i], self.normalise(h), self.head)
