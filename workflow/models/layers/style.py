"""The generator of StyleGAN2: Karras et al. 2020, Analyzing and Improving the Image Quality of StyleGAN."""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workflow.models.layers.adversarial import LEAK
from workflow.models.layers.common import quarter
from workflow.models.layers.noise import integers, normal, uniform

GAIN = math.sqrt(2)  # of every leaky ReLU, as in the paper's code: makes up for what it takes from the variance
MAPPING_RATE = 0.01  # learning rate of the mapping network, relative to the others'
EPSILON = 1e-8
CENTRE = 1000  # latents, always the same, whose mean style is the centre of truncation


class StyleGenerator(nn.Module):
    """Noise to a style, and styles to an image: each layer of the image's network is scaled by a style.

    A mapping network turns latents into a style vector. The image begins as a learned constant at a quarter of its
    size. Each convolution is modulated by the style, and noise is added to each of its feature maps. At each size the
    features add their colours to the image so far (figure 7, output skips). The sum passes through tanh, like the
    images of the other generators; the paper's does not.

    Args:
        shape: of an image, (C, H, W).
        latents: numbers in the noise vector and in a style.
        classes: of one-hot vectors that come with the noise; 0 for none.
        channels: of the convolutions at full size, twice as many at half and at a quarter of it.
        mapping_layers: of the mapping network.
        mixing: probability, in training, that an image has one style in its first layers and another from a random
            layer on (Karras et al. 2019, A Style-Based Generator Architecture for GANs, section 3.1).
        truncation: ψ, by which the distance of styles from their mean is multiplied, but not in training (appendix B of
            that paper); 1 leaves them as they are.
    """

    draws: Tensor
    filter: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        latents: int,
        classes: int,
        channels: int,
        *,
        mapping_layers: int,
        mixing: float,
        truncation: float,
    ) -> None:
        super().__init__()
        self.latents, self.classes, self.mixing, self.truncation = latents, classes, mixing, truncation
        height, width = quarter(shape)
        wide = 2 * channels
        sizes = [latents + classes, *[latents] * mapping_layers]
        self.mapping = nn.ModuleList(ScaledLinear(*pair, rate=MAPPING_RATE) for pair in itertools.pairwise(sizes))
        self.constant = nn.Parameter(torch.randn(1, wide, height, width))
        pairs = [(wide, wide), (wide, wide), (wide, wide), (wide, channels), (channels, channels)]
        self.convolutions = nn.ModuleList(StyledConvolution(*pair, latents) for pair in pairs)
        self.colours = nn.ModuleList(Colours(inputs, shape[0], latents) for inputs in (wide, wide, channels))
        self.sizes = [(height * k, width * k) for k in (1, 2, 2, 4, 4)]  # of the convolutions' outputs
        self.layers = 1 + len(pairs)  # that have a style; the last is that of the last colours
        fixed = torch.randn(CENTRE, latents, generator=Generator().manual_seed(0))
        self.register_buffer("draws", fixed, persistent=False)
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
        self.register_buffer("filter", torch.outer(taps, taps)[None, None], persistent=False)

    def forward(self, inputs: Tensor, generator: Generator) -> Tensor:
        """Images scaled to [-1, 1], (N, C, H, W).

        Args:
            inputs: standard normal noise, with one-hot classes after it if there are any, (N, latents + classes).
            generator: of the noise in the layers, and of mixing.
        """
        style = self.style(inputs)
        if self.training and self.mixing:
            styles = self.mixed(style, inputs, generator)
        else:
            style = style if self.training else self.truncated(style, inputs)
            styles = style.unsqueeze(1).expand(-1, self.layers, -1)
        noise = [normal((len(inputs), 1, *size), generator, inputs.device).to(inputs.dtype) for size in self.sizes]
        return self.image(styles, noise)

    def style(self, inputs: Tensor) -> Tensor:
        """The mapping network: inputs as of `forward` to styles, (N, latents). The noise is scaled to unit power."""
        z, given = inputs.split([self.latents, self.classes], 1)
        w = torch.cat([z * (z.square().mean(1, keepdim=True) + EPSILON).rsqrt(), given], 1)
        for layer in self.mapping:
            w = activated(layer(w))
        return w

    def truncated(self, style: Tensor, inputs: Tensor) -> Tensor:
        """Styles moved towards the mean style of their class, or of all if there are no classes: (N, latents)."""
        if self.truncation == 1:
            return style
        kinds = torch.eye(self.classes, device=inputs.device) if self.classes else self.draws.new_zeros(1, 0)
        pairs = [torch.cat([self.draws, kind.expand(CENTRE, -1)], 1).to(inputs.dtype) for kind in kinds]
        centres = torch.stack([self.style(pair).mean(0) for pair in pairs])
        centre = inputs[:, self.latents :] @ centres if self.classes else centres
        return torch.lerp(centre.expand_as(style), style, self.truncation)

    def mixed(self, style: Tensor, inputs: Tensor, generator: Generator) -> Tensor:
        """Styles of the layers, (N, layers, latents), some with a second style of the same class from a layer on."""
        n, device = len(inputs), inputs.device
        other = normal((n, self.latents), generator, device).to(inputs.dtype)
        second = self.style(torch.cat([other, inputs[:, self.latents :]], 1))
        chosen = uniform((n,), generator, device) < self.mixing
        first = torch.where(chosen, 1 + integers(self.layers - 1, n, generator, device), self.layers)
        return mix(style, second, first, self.layers)

    def image(self, styles: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """The synthesis network: images (N, C, H, W).

        The colours at a size have the style of the convolution that comes next.

        Args:
            styles: of the layers, (N, layers, latents).
            noise: for each convolution, (N, 1, h, w) with its size from `sizes`.
        """
        style = styles.unbind(1)
        x = self.convolutions[0](self.constant.repeat(len(styles), 1, 1, 1), style[0], noise[0])
        image: Tensor = self.colours[0](x, style[1])
        for colours, k in zip(list(self.colours)[1:], (1, 3), strict=True):
            x = self.convolutions[k](self._doubled(x), style[k], noise[k])
            x = self.convolutions[k + 1](x, style[k + 1], noise[k + 1])
            image = self._doubled(image) + colours(x, style[k + 2])
        return image.tanh()

    def _doubled(self, x: Tensor) -> Tensor:
        """Features (N, C, H, W) to (N, C, 2H, 2W), by the paper's filter [1, 3, 3, 1] in both directions."""
        weight = self.filter.to(x.dtype).expand(x.shape[1], -1, -1, -1)
        return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=x.shape[1])


class ScaledLinear(nn.Linear):
    """A linear layer whose weights are scaled when they are used, so that Adam moves all layers at the same pace.

    Its parameters begin with the same variance in all layers (Karras et al. 2018, Progressive Growing of GANs, section
    4.1).

    Args:
        inputs: numbers that come in.
        outputs: numbers that go out.
        bias: what the biases begin with.
        rate: learning rate relative to the others'.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__(inputs, outputs)
        self.rate = rate
        nn.init.normal_(self.weight, std=1 / rate)
        nn.init.constant_(self.bias, bias / rate)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, inputs). (N, outputs)."""
        return F.linear(x, self.weight * (self.rate / math.sqrt(self.in_features)), self.bias * self.rate)


class ModulatedConvolution(nn.Module):
    """A convolution that a style scales: (N, inputs, H, W) and styles (N, latents) to (N, outputs, H, W).

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        size: of the kernel, odd.
        latents: numbers in a style.
        demodulate: whether to divide by the expected standard deviation of the outputs.
    """

    def __init__(self, inputs: int, outputs: int, size: int, latents: int, *, demodulate: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.scale = 1 / math.sqrt(inputs * size**2)  # as in `ScaledLinear`
        self.modulation = ScaledLinear(latents, inputs, bias=1.0)
        self.demodulate = demodulate

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x: (N, inputs, H, W). style: (N, latents). (N, outputs, H, W)."""
        return modulated(x, self.weight * self.scale, self.modulation(style), demodulate=self.demodulate)


class StyledConvolution(nn.Module):
    """A modulated 3x3 convolution, noise with a learned strength, a bias, and a leaky ReLU (figure 2 d)."""

    def __init__(self, inputs: int, outputs: int, latents: int) -> None:
        super().__init__()
        self.convolution = ModulatedConvolution(inputs, outputs, 3, latents, demodulate=True)
        self.strength = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(outputs, 1, 1))

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        """x: (N, inputs, H, W). style: (N, latents). noise: (N, 1, H, W), for all channels. (N, outputs, H, W)."""
        return activated(self.convolution(x, style) + self.strength * noise + self.bias)


class Colours(nn.Module):
    """What features add to the image: a modulated 1x1 convolution, not demodulated, and a bias."""

    def __init__(self, inputs: int, colours: int, latents: int) -> None:
        super().__init__()
        self.convolution = ModulatedConvolution(inputs, colours, 1, latents, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(colours, 1, 1))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x: (N, inputs, H, W). style: (N, latents). (N, colours, H, W)."""
        out: Tensor = self.convolution(x, style) + self.bias
        return out


def activated(x: Tensor) -> Tensor:
    """A leaky ReLU that keeps the power of standard normal numbers, nearly."""
    return GAIN * F.leaky_relu(x, LEAK)


def modulated(x: Tensor, weight: Tensor, scale: Tensor, *, demodulate: bool) -> Tensor:
    """Convolve each image with weights of its own, w' = s w, divided by √(Σ w'² + ε) over inputs and taps (eq. 1, 3).

    To scale the channels before and after the convolution is the same, and all images share its weights.

    Args:
        x: (N, inputs, H, W).
        weight: w, (outputs, inputs, k, k) with k odd.
        scale: s, (N, inputs).
        demodulate: whether to divide.
    """
    out = F.conv2d(x * scale[:, :, None, None], weight, padding=weight.shape[-1] // 2)
    if not demodulate:
        return out
    power = scale.square() @ weight.square().sum((2, 3)).T
    return out * (power + EPSILON).rsqrt()[:, :, None, None]


def mix(first: Tensor, second: Tensor, crossover: Tensor, layers: int) -> Tensor:
    """A style for each layer, (N, layers, latents): the first one below the layer `crossover`, the second from it on.

    Args:
        first: (N, latents).
        second: (N, latents).
        crossover: int64 (N,).
        layers: their number.
    """
    below = torch.arange(layers, device=first.device) < crossover[:, None]
    return torch.where(below[:, :, None], first[:, None], second[:, None])
