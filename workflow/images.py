"""Images as tensors: what a training sees of the files (see `workflow.stored`), and pictures of them for people."""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from workflow.errors import BakeoffError
from workflow.files import sha256
from workflow.stored import PREPARED, Arrays, read_card, read_metadata, reading, write_arrays

POINT = (1, 1, 2)  # the shape of a point of a plane, stored as an image of two pixels
PLANE_LEVELS = 256


@dataclass(frozen=True)
class ImageSet:
    """Images with their classes.

    images: uint8 (N, C, H, W), values 0..levels-1. labels: int64 (N,).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "ImageSet":
        """The same on another device."""
        return ImageSet(self.images.to(device), self.labels.to(device))

    def pieces(self) -> Iterator[Arrays]:
        """All of it, at once; with `__len__` what `write_images` asks for."""
        yield Arrays(self.images.numpy(), self.labels.numpy())

    def split(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels in batches of up to `size`, in order."""
        return zip(self.images.split(size), self.labels.split(size), strict=True)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: str = "") -> None:
    """Write tensors as `write_arrays` does: atomically and sealed, the same bytes each time."""
    write_arrays(path, {name: t.detach().cpu().contiguous().numpy() for name, t in tensors.items()}, metadata)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read what `write_tensors` wrote: the tensors, on the CPU, in the file's memory map, and the metadata.

    Raises BakeoffError, naming the file, if it is missing or damaged, be it in a single bit.
    """
    with reading(path, "pt") as file:
        names = file.keys()  # no dictionary: it cannot be iterated over
        return {name: file.get_tensor(name) for name in names}, read_metadata(path, file)


def read_split(split: str, folder: Path = PREPARED) -> ImageSet:
    """Read one split; raises BakeoffError if its bytes are not those that the card recorded."""
    path, expected = folder / f"{split}.safetensors", read_card(folder).sha256[split]
    if not path.exists():
        raise BakeoffError(f"{path}: missing; run `dvc repro prepare`")
    if (found := sha256(path)) != expected:
        raise BakeoffError(
            f"{path}: SHA-256 {found[:12]}… is not the recorded {expected[:12]}…; "
            f"the file was changed or damaged: delete it and run `dvc repro prepare`"
        )
    with reading(path, "pt") as file:
        return ImageSet(file.get_tensor("images"), file.get_tensor("labels"))


def grid(images: Tensor, levels: int, columns: int, scale: int | None = None, gap: int = 1) -> Image.Image:
    """Lay images out in rows of `columns`, on white, each pixel drawn `scale` wide (default: about 48 an image).

    images: uint8 (N, C, H, W), values 0..levels-1, C 1 or 3.
    """
    n, channels, height, width = images.shape
    scale = scale or max(1, round(48 / width))
    rows = math.ceil(n / columns)
    bright = (images.float() * (255 / (levels - 1))).round().to(torch.uint8)
    bright = bright.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    step_y, step_x = height * scale + gap, width * scale + gap
    canvas = torch.full((channels, rows * step_y - gap, columns * step_x - gap), 255, dtype=torch.uint8)
    for i, image in enumerate(bright):
        top, left = (i // columns) * step_y, (i % columns) * step_x
        canvas[:, top : top + height * scale, left : left + width * scale] = image
    array = canvas.permute(1, 2, 0).numpy()
    return Image.fromarray(array.squeeze(2) if channels == 1 else array)


def scatter(points: Tensor, levels: int, side: int) -> Tensor:
    """Points of a plane, uint8 (N, 1, 1, 2), x to the right and y upwards, as one picture, dark where they are.

    uint8 (1, 1, side, side) of PLANE_LEVELS, with a thin frame.
    """
    x, y = points.view(-1, 2).long().unbind(1)
    place = (levels - 1 - y) * side // levels * side + x * side // levels
    counts = place.bincount(minlength=side * side).view(1, 1, side, side).float()
    spread = F.max_pool2d(counts, 3, 1, 1)  # a point is three pixels wide
    plane = (PLANE_LEVELS - 1) * (1 - 0.35 * spread.sqrt()).clamp(min=0)
    inner = plane[:, :, 1:-1, 1:-1]
    return F.pad(inner, (1, 1, 1, 1), value=0.8 * PLANE_LEVELS).to(torch.uint8)


def overview(images: Tensor, levels: int) -> Image.Image:
    """The first hundred images as one picture; of points, all of them in one plane."""
    if images.shape[1:] == POINT:
        return grid(scatter(images, levels, 3 * levels // 2), PLANE_LEVELS, columns=1, scale=1)
    return grid(images[:100], levels, columns=10)


def png(image: Image.Image) -> bytes:
    """The picture as PNG bytes, with nothing in them but the pixels."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
