"""p(x) as a judge: whether a model finds odd inputs less likely than images like those that it has learned from."""

from importlib.metadata import distribution

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from workflow.evaluation.metrics.baseline import PixelHistogram


def odd_inputs(test: Tensor, train: Tensor, levels: int, count: int, generator: Generator) -> dict[str, Tensor]:
    """Kinds of images that the data do not hold, each uint8 (count, C, H, W), by their name in print.

    test, train: uint8 (N, C, H, W). Turned and foreign pictures make sense from 3x3 pixels on; points have only noise.
    """
    shape = tuple(test.shape[1:])
    some = test[torch.randperm(len(test), generator=generator)[:count]]
    inputs = {
        "noise": torch.randint(0, levels, (count, *shape), dtype=torch.uint8, generator=generator),
        "independent pixels": PixelHistogram(train, levels).sample(count, generator),
    }
    if min(shape[1:]) < 3:
        return inputs
    grey = torch.randint(0, levels, (count, 1, 1, 1), dtype=torch.uint8, generator=generator)
    return {
        **inputs,
        "photographs": _photographs(shape, levels, count, generator),
        "upside down": some.flip(2),
        "negatives": levels - 1 - some,
        "plain grey": grey.expand(count, *shape).contiguous(),
    }


def _photographs(shape: tuple[int, ...], levels: int, count: int, generator: Generator) -> Tensor:
    """Square parts of the two photographs that come with scikit-learn, of random size, shrunk to the images' size."""
    colours, height, width = shape
    pictures = [torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() for file in _photograph_files()]
    parts = []
    for i in range(count):
        picture = pictures[i % len(pictures)]
        if colours == 1:
            picture = picture.mean(0, keepdim=True)
        widest = min(picture.shape[1:])
        side = int(torch.randint(min(4 * max(height, width), widest // 2), widest, (), generator=generator))
        top, left = (int(torch.randint(0, n - side, (), generator=generator)) for n in picture.shape[1:])
        part = picture[None, :, top : top + side, left : left + side]
        parts.append(F.interpolate(part, (height, width), mode="area"))
    return (torch.cat(parts) * levels / 256).floor().to(torch.uint8)


def _photograph_files() -> list[str]:
    """Where scikit-learn keeps them. Asking `sklearn.datasets` for them takes longer than most evaluations."""
    folder, names = "sklearn/datasets/images", ("china.jpg", "flower.jpg")
    return [str(distribution("scikit-learn").locate_file(f"{folder}/{name}")) for name in names]


def auroc(usual: Tensor, odd: Tensor) -> float:
    """Probability that a usual image scores higher than an odd one, ties counted half. (N,), (M,)."""
    ordered, _ = odd.double().sort()
    usual = usual.double()
    below, upto = (torch.searchsorted(ordered, usual, right=right) for right in (False, True))
    return float((below + upto).double().mean()) / 2 / len(odd)
