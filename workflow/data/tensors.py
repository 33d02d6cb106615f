"""Images as tensors, for training and evaluation; their files are those of `workflow.data.arrays`."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from workflow.data.arrays import Arrays, read_card, read_metadata, reading, write_arrays
from workflow.errors import BakeoffError
from workflow.files import sha256
from workflow.paths import PREPARED


@dataclass(frozen=True)
class ImageSet:
    """Images with their classes.

    images: uint8 (N, C, H, W), values 0..levels-1. labels: int64 (N,).
    brightness: uint8 (N, C, H, W), 255 times the probability that a pixel is white, if training draws them anew.
    captions: int16 (N, K, length), K of each image as numbers of words (`workflow.data.captions`), if they have any.
    """

    images: Tensor
    labels: Tensor
    brightness: Tensor | None = None
    captions: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "ImageSet":
        """The same on another device."""
        moved = (None if one is None else one.to(device) for one in (self.brightness, self.captions))
        return ImageSet(self.images.to(device), self.labels.to(device), *moved)

    def to_device_if_it_fits(self, device: torch.device) -> "ImageSet":
        """On the device if that takes at most half of its free memory; otherwise unchanged, perhaps memory-mapped."""
        size = self.images.nbytes * (1 if self.brightness is None else 2)
        return self.to(device) if size <= free_memory(device) / 2 else self

    def pieces(self) -> Iterator[Arrays]:
        """Everything in one piece; makes this a `Pieces`."""
        yield Arrays(self.images.numpy(), self.labels.numpy())

    def split(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels in batches of up to `size`, in order."""
        return zip(self.images.split(size), self.labels.split(size), strict=True)


def free_memory(device: torch.device) -> float:
    """Bytes that are free on a GPU; infinite on the CPU, where data are anyway."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: str = "") -> None:
    """Write tensors as `write_arrays` does: atomically and sealed, with the same bytes each time."""
    write_arrays(path, {name: t.detach().cpu().contiguous().numpy() for name, t in tensors.items()}, metadata)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read what `write_tensors` wrote: tensors, memory-mapped on the CPU, and metadata.

    Raises BakeoffError, naming the file, if it is missing or even a single bit is damaged.
    """
    with reading(path, "pt") as file:
        names = file.keys()  # not a dictionary, so it cannot be iterated over
        return {name: file.get_tensor(name) for name in names}, read_metadata(path, file)


def join(parts: Sequence[Path], path: Path) -> None:
    """Write what several files of `write_tensors` hold into one, from which `read_part` reads each by its place."""
    found = [read_tensors(part) for part in parts]
    tensors = {f"{place}/{name}": tensor for place, (held, _) in enumerate(found) for name, tensor in held.items()}
    write_tensors(path, tensors, json.dumps([metadata for _, metadata in found]))


def read_part(path: Path, part: int | None) -> tuple[dict[str, Tensor], str]:
    """One part of what `join` wrote, by its place, or all of a file that was not joined.

    Raises BakeoffError as `read_tensors` does, or if there is no such part.
    """
    tensors, metadata = read_tensors(path)
    if part is None:
        return tensors, metadata
    prefix = f"{part}/"
    try:
        about: str = json.loads(metadata)[part]
    except (ValueError, LookupError, TypeError):
        raise BakeoffError(f"{path}: has no part {part}; run `dvc repro extractor`") from None
    return {name.removeprefix(prefix): held for name, held in tensors.items() if name.startswith(prefix)}, about


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
        found = file.keys()
        more = (file.get_tensor(name) if name in found else None for name in ("brightness", "captions"))
        return ImageSet(file.get_tensor("images"), file.get_tensor("labels"), *more)
