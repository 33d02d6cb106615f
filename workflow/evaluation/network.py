"""A network from a file as feature extractor: a program of TorchScript (`.pt`) or of `torch.export` (`.pt2`).

It takes float32 images (N, 3, H, W), pixels in [0, 1] and of the data's own size, grey in three equal channels, for any
N, and gives features (N, d). What else it needs, such as another size or other means, is a part of the program.

Such a file is a program, so it is not safe to load one from people whose programs one would not run. TorchScript's own
reader makes no Python objects; that of `torch.export` falls back on pickle, which can run anything.
"""

import hashlib
import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from workflow.data.tensors import read_part, write_tensors
from workflow.errors import BakeoffError
from workflow.evaluation.batching import in_batches
from workflow.evaluation.classifier import Outputs
from workflow.files import read_json
from workflow.paths import own, stage_page

TRIED = 3  # images that show whether it is fit: an exported program may insist on the number of its example
CHANNELS = 3


class Network(nn.Module):
    """The program of a file.

    Args:
        content: of the file.
        kind: `.pt` or `.pt2`.
        levels: pixel values are 0..levels-1.
    """

    def __init__(self, content: bytes, kind: str, levels: int) -> None:
        super().__init__()
        self.program, self.levels = READERS[kind](io.BytesIO(content)), levels
        self.register_buffer("place", torch.empty(0), persistent=False)  # on its device, which a program need not tell
        self.place: Tensor

    @torch.no_grad()
    def outputs(self, x: Tensor, batch_size: int) -> Outputs:
        """As in `FeatureExtractor`: features (N, d), without logits or classes."""

        def read(rows: range, _: Generator) -> Tensor:
            return self._features(x[rows.start : rows.stop].to(self.place.device)).float().cpu()

        return Outputs(torch.cat(in_batches(read, len(x), batch_size)))

    def _features(self, x: Tensor) -> Tensor:
        """Whatever the program gives for images x, uint8 (N, 1 or 3, H, W)."""
        pictures = (x.float() / (self.levels - 1)).expand(-1, CHANNELS, -1, -1).contiguous()
        try:
            # Unoptimised: TorchScript compiles what it has run twice, and would then give other last bits.
            with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                return cast(Tensor, self.program(pictures))
        except RuntimeError as error:
            if "out of memory" in str(error):  # TorchScript forgets of which kind an error was
                raise torch.OutOfMemoryError(str(error)) from error
            raise


def _scripted(file: io.BytesIO) -> nn.Module:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.load`", FutureWarning)  # the files are there, whatever comes
        program: nn.Module = torch.jit.load(file, map_location="cpu")
    return program.eval()


def _exported(file: io.BytesIO) -> nn.Module:
    with zipfile.ZipFile(file) as archive:
        if not any(name.endswith("/archive_format") for name in archive.namelist()):
            raise ValueError("it has no exported program in it")
    file.seek(0)
    return torch.export.load(file).module()


READERS: dict[str, Callable[[io.BytesIO], nn.Module]] = {".pt": _scripted, ".pt2": _exported}


def try_network(place: Path, shape: tuple[int, int, int]) -> tuple[bytes, int]:
    """The content of a network's file, and how many features an image has.

    Raises BakeoffError, one line that names the file and what to do, if it cannot be read or is not fit for the data.

    Args:
        place: of the file.
        shape: of an image, (C, H, W).
    """
    if shape[0] not in (1, CHANNELS):
        raise BakeoffError(
            f"{place}: it takes 3 channels, but the data have {shape[0]}; set evaluate.extractor: trained"
        )
    try:
        content = own(place).read_bytes()
    except OSError as error:
        raise BakeoffError(f"{place}: {error.strerror}; put it there, or change evaluate.extractor") from None
    try:
        network = Network(content, place.suffix, 256)
    except Exception as error:  # its reader may raise anything on another file
        what = {".pt": "TorchScript (torch.jit.save)", ".pt2": "torch.export (torch.export.save)"}[place.suffix]
        raise BakeoffError(f"{place}: not a program of {what}: {_reason(error)}; write it again") from None
    images = torch.randint(256, (TRIED, *shape), dtype=torch.uint8, generator=Generator().manual_seed(0))
    size = (CHANNELS, *shape[1:])
    try:
        with torch.no_grad():
            found: Any = network._features(images)
    except Exception as error:
        raise BakeoffError(
            f"{place}: fails on {TRIED} images {size}: {_reason(error)}; let it take any number of images of this size"
        ) from None
    if not (isinstance(found, Tensor) and found.is_floating_point() and found.dim() == 2 and len(found) == TRIED):
        given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise BakeoffError(f"{place}: gives {given} for {TRIED} images {size}; let it give floats ({TRIED}, features)")
    if not found.isfinite().all():
        raise BakeoffError(f"{place}: gives features that are not finite; check what it does with pixels from 0 to 1")
    return content, found.shape[1]


def _reason(error: Exception) -> str:
    """The last line of a message: TorchScript puts the line of the program, of many, before what is wrong with it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("RuntimeError: ").rstrip(".") if lines else type(error).__name__


def take_network(place: Path, shape: tuple[int, int, int], levels: int, path: Path) -> dict[str, Any]:
    """Write the program to `path` and return facts about it.

    Raises BakeoffError as `try_network` does, or if the file is not the one that the ledger has seen.
    """
    content, features = try_network(place, shape)
    digest = hashlib.sha256(content).hexdigest()
    if read_json(stage_page("extractor")).get(str(place)) != digest:
        raise BakeoffError(f"{place}: has changed since the run began; run again")
    about = json.dumps({"kind": place.suffix, "levels": levels})
    write_tensors(path, {"program": torch.frombuffer(bytearray(content), dtype=torch.uint8)}, about)
    return {
        "name": place.stem,
        "about": f"the network in {place}",
        "comparable": "figures from elsewhere only if they are of the same network, number of samples and real images",
        "features": features,
        "sha256": digest,
    }


def load_network(path: Path, part: int | None = None) -> Network:
    """Read what `take_network` wrote, on the CPU; raises BakeoffError if it is damaged or something else."""
    tensors, metadata = read_part(path, part)
    try:
        about = json.loads(metadata)
        return Network(tensors["program"].numpy().tobytes(), about["kind"], about["levels"])
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BakeoffError(f"{path}: not a network's program ({_reason(error)}); run `dvc repro extractor`") from None
