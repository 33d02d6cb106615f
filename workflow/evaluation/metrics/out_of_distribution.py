"""Out-of-distribution detection by p(x): whether inputs unlike the data get less density.

Nalisnick et al. 2019, Do Deep Generative Models Know What They Don't Know?
"""

from importlib.metadata import distribution

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from workflow.evaluation.metrics.baseline import PixelHistogram


def out_of_distribution_inputs(
    test: Tensor, train: Tensor, levels: int, count: int, generator: Generator
) -> dict[str, Tensor]:
    """Kinds of images that do not come from the data's distribution, by the name that the report prints.

    Images smaller than 3x3 pixels (points of a plane) get only the two kinds of noise.

    Args:
        test: images to turn upside down or invert, uint8 (N, C, H, W).
        train: images whose pixel histograms are drawn from, uint8 (M, C, H, W).
        levels: pixel values are 0..levels-1.
        count: images of each kind.
        generator: on the CPU.

    Returns:
        Images of each kind, uint8 (count, C, H, W).

    >>> images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    >>> list(out_of_distribution_inputs(images, images, levels=2, count=2, generator=torch.Generator()))
    ['noise', 'independent pixels', 'photographs', 'upside down', 'negatives', 'plain grey']
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
    """Random square crops of the two photographs that ship with scikit-learn, resized to the images' size."""
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
    """Paths of the two photographs. Importing `sklearn.datasets` would take longer than most evaluations."""
    folder, names = "sklearn/datasets/images", ("china.jpg", "flower.jpg")
    return [str(distribution("scikit-learn").locate_file(f"{folder}/{name}")) for name in names]


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Area under the ROC curve: the probability that an image of the data scores higher than one that is not.

    Ties count half (Hanley & McNeil 1982, The Meaning and Use of the Area under a ROC Curve).

    Args:
        inside: scores of images of the data, such as their log-density, (N,).
        outside: scores of out-of-distribution images, (M,).

    >>> auroc(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 2.0]))
    0.875
    """
    ordered, _ = outside.double().sort()
    inside = inside.double()
    below, upto = (torch.searchsorted(ordered, inside, right=right) for right in (False, True))
    return float((below + upto).double().mean()) / 2 / len(outside)
