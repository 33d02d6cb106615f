"""The standard Inception network of FID, KID and the Inception Score, in torch-fidelity's implementation.

Its weights were converted from TensorFlow's file of 2015-12-05, with which papers compute their figures (Heusel et al.
2017, Salimans et al. 2016). It knows the classes of ImageNet, not those of the data.
"""

import hashlib
import io
import json
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from workflow.data.arrays import Card
from workflow.data.download import fetch
from workflow.data.tensors import read_part, write_tensors
from workflow.errors import BakeoffError
from workflow.evaluation.batching import in_batches
from workflow.evaluation.classifier import Outputs
from workflow.paths import FETCHED

WEIGHTS = FETCHED / "weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
FEATURES = 2048
FACTS = {
    "name": "Inception",
    "about": "the standard Inception network, as torch-fidelity has it",
    "comparable": "figures from elsewhere only if they are of as many samples and of the same real images",
    "features": FEATURES,
    "sha256": SHA256,
}


class Inception(nn.Module):
    """Features before the last layer, and that layer's output without its bias, as in torch-fidelity.

    Args:
        tensors: of the network, by name.
        levels: pixel values are 0..levels-1; they are stretched to 0..255.
    """

    def __init__(self, tensors: dict[str, Tensor], levels: int) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        file = io.BytesIO()  # the only way to load weights into it
        torch.save(tensors, file)
        file.seek(0)
        self.network = FeatureExtractorInceptionV3("inception", [str(FEATURES), "logits_unbiased"], file)
        self.levels = levels

    @torch.no_grad()
    def outputs(self, x: Tensor, batch_size: int) -> Outputs:
        """As in `FeatureExtractor`: features (N, 2048) and logits (N, 1008), without classes of the data."""
        device = self.network.fc.weight.device

        def read(rows: range, _: Generator) -> tuple[Tensor, Tensor]:
            features, logits = self.network(self._pictures(x[rows.start : rows.stop].to(device)))
            return features.cpu(), logits.cpu()

        features, logits = map(torch.cat, zip(*in_batches(read, len(x), batch_size), strict=True))
        return Outputs(features, logits)

    def _pictures(self, x: Tensor) -> Tensor:
        """The network's input for images uint8 (N, 1 or 3, H, W): three channels, 256 levels, resized by itself."""
        bright = (x.float() * (255 / (self.levels - 1))).round().to(torch.uint8)
        return bright.expand(-1, 3, -1, -1)


def take_inception(given: str | None, card: Card, path: Path) -> None:
    """Check the weights and write the network.

    Raises BakeoffError if there are no weights, if their SHA-256 is wrong, or if the data are points instead of images.

    Args:
        given: file of the weights; if None, `WEIGHTS`, which is downloaded if it is missing.
        card: of the data.
        path: to write to.
    """
    if card.mixture:
        raise BakeoffError("params.yaml: evaluate.extractor: 'inception': the data are points; set it to trained")
    tensors = _read_weights(Path(given) if given else _fetched())
    write_tensors(path, tensors, json.dumps({"levels": card.levels}))


def load_inception(path: Path, part: int | None = None) -> Inception:
    """Read what `take_inception` wrote, on the CPU; raises BakeoffError if it is damaged or another network.

    part: its place, if the file was joined with others.
    """
    tensors, metadata = read_part(path, part)
    try:
        return Inception(tensors, json.loads(metadata)["levels"])
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise BakeoffError(f"{path}: not the Inception network ({reason}); run `dvc repro extractor`") from None


def _read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of torch's file, which is not parsed unless its SHA-256 is right."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BakeoffError(f"params.yaml: evaluate.inception_weights: {path}: {error.strerror}") from None
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise BakeoffError(
            f"{path}: SHA-256 {found[:12]}… is not the known {SHA256[:12]}… of Inception's weights; delete it, or name "
            "the right file in evaluate.inception_weights"
        )
    tensors: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return tensors


def _fetched() -> Path:
    """`WEIGHTS`, downloaded from torch-fidelity if missing."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    fetch([URL_INCEPTION_V3], WEIGHTS, f"sha256:{SHA256}")
    return WEIGHTS
