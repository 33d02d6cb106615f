"""Seconds to draw from a PixelCNN: with features kept, and by the textbook's whole forward pass for every pixel.

`python -m benchmarks.pixelcnn_sampling`; both draw the same images from the same random numbers.
"""

import time
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from workflow.models.layers.autoregressive import GatedPixelCNN
from workflow.models.layers.common import draw_categorical

N, CHANNELS, LAYERS, LEVELS = 64, 24, 5, 17
SHAPES = [(1, 8, 8), (1, 16, 16), (3, 16, 16)]


@torch.no_grad()
def by_forward_passes(model: GatedPixelCNN, n: int, generator: Generator) -> Tensor:
    """Images, int64 (n, C, H, W), each pixel's logits by a forward pass over the whole image."""
    x = torch.zeros(n, *model.shape, dtype=torch.long)
    colours, height, width = model.shape
    for i in range(height):
        for j in range(width):
            for colour in range(colours):
                x[:, colour, i, j] = draw_categorical(model(x)[:, :, colour, i, j], generator)
    return x


def with_features_kept(model: GatedPixelCNN, n: int, generator: Generator) -> Tensor:
    """The same, as the project draws them."""
    return model.sample(torch.zeros(n, *model.shape, dtype=torch.long), 0, generator)


def timed(
    draw: Callable[[GatedPixelCNN, int, Generator], Tensor], model: GatedPixelCNN, repeats: int = 3
) -> tuple[float, Tensor]:
    """Seconds of the fastest of some runs, and what was drawn."""
    best, images = float("inf"), torch.empty(0)
    for _ in range(repeats):
        start = time.perf_counter()
        images = draw(model, N, Generator().manual_seed(0))
        best = min(best, time.perf_counter() - start)
    return best, images


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"{N} images, {LAYERS} layers of {CHANNELS} features, {LEVELS} levels, one CPU thread")
    print(f"{'C x H x W':>12} {'forward':>10} {'kept':>10} {'ratio':>7} {'same pixels':>12}")
    for shape in SHAPES:
        torch.manual_seed(0)
        model = GatedPixelCNN(shape, LEVELS, CHANNELS, LAYERS, 0.0, ordered=True).eval()
        slow, one = timed(by_forward_passes, model)
        fast, two = timed(with_features_kept, model)
        same = (one == two).double().mean()  # rounding moves a draw now and then, and all that follows it
        name = "x".join(map(str, shape))
        print(f"{name:>12} {slow:>9.2f}s {fast:>9.2f}s {slow / fast:>6.1f}x {same:>12.1%}")
