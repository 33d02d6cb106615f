"""The feature extractor that is trained on the same images: a classifier p(y|x).

On images without classes it learns to predict rotations (Gidaris, Singh & Komodakis 2018, Unsupervised Representation
Learning by Predicting Image Rotations), which requires features of their content.

Distances on its features can be compared between the models of one report, but not with figures of papers, which use
Inception. It is discriminative, so the contract of the generative models does not apply to it.
"""

import copy
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workflow.data.tensors import ImageSet, read_part, write_tensors
from workflow.errors import BakeoffError
from workflow.evaluation.batching import in_batches
from workflow.params import Extractor
from workflow.random_streams import Stream, make_generator
from workflow.training.optimizer import AdamW


@dataclass(frozen=True)
class Outputs:
    """The output of an extractor, on the CPU.

    features: float32 (N, d). logits: of any classes, for the Inception Score, float32 (N, K); None if it has none.
    classes: the likeliest of the classes of the data, int64 (N,); None if it does not know those.
    """

    features: Tensor
    logits: Tensor | None = None
    classes: Tensor | None = None


class FeatureExtractor(Protocol):
    """A network that the evaluation can use."""

    def outputs(self, x: Tensor, batch_size: int) -> Outputs:
        """The output for images x, uint8 (N, C, H, W), on any device, computed `batch_size` at a time."""


class Classifier(nn.Module):
    """Three convolutions and a hidden layer, whose activations are the features.

    Args:
        shape: of an image, (C, H, W).
        levels: pixel values are 0..levels-1.
        classes: of the data; 0 if there are none, then it learns rotations.
        channels: of the first convolution; twice as many of the others.
        features: size of the hidden layer.
        dropout: during training.
        channelwise: whether the same network reads each colour channel as an image of its own. The class of the whole
            is the number that the classes of the channels spell, and their features are concatenated.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        classes: int,
        channels: int,
        features: int,
        dropout: float,
        channelwise: bool = False,
    ) -> None:
        super().__init__()
        self.levels, self.shape, self.channelwise = levels, shape, channelwise
        sizes = {"classes": classes, "channels": channels, "features": features}
        self.arguments = {**sizes, "dropout": dropout, "channelwise": channelwise}
        self.sees_classes = classes > 0
        colours, height, width = shape
        self.turns = (0, 1, 2, 3) if height == width else (0, 2)  # quarter turns that keep the shape
        if channelwise:
            classes = round(classes ** (1 / colours))
            colours = 1
        self.body = nn.Sequential(
            nn.Conv2d(colours, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
            nn.Conv2d(2 * channels, 2 * channels, 3, stride=2, padding=1),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(2 * channels * -(-height // 4) * -(-width // 4), features),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(features, classes or len(self.turns)))
        self.to(memory_format=torch.channels_last)  # as models are, and for the same reason

    @property
    def facts(self) -> dict[str, str]:
        """Its name, a description, and what its distances can be compared with, for the report."""
        kind = ("classifier", "a small classifier trained on the same images, not the Inception network")
        if not self.sees_classes:
            about = "a small network trained to tell by how far each of these images, which have no classes, was turned"
            kind = ("rotation network", about)
        return {"name": kind[0], "about": kind[1], "comparable": "nothing outside this page"}

    def features(self, x: Tensor) -> Tensor:
        """Activations of the hidden layer for images x, uint8 (N, C, H, W): float (N, features or C · features)."""
        pictures = x.float() / (self.levels - 1)
        if self.channelwise:
            pictures = pictures.flatten(0, 1).unsqueeze(1)
        hidden: Tensor = self.body(pictures)
        return hidden.view(len(x), -1)

    def task(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The training task: images with their classes, or images in each of T rotations with its index.

        Args:
            x: images, uint8 (N, C, H, W).
            labels: their classes, int64 (N,).

        Returns:
            Images and targets, of the same shapes; T times as many for rotations.
        """
        if self.sees_classes:
            return x, labels
        turned = torch.cat([x.rot90(quarters, (2, 3)) for quarters in self.turns])
        return turned, torch.arange(len(self.turns), device=x.device).repeat_interleave(len(x))

    def logits(self, features: Tensor) -> Tensor:
        """Logits of classes or rotations, (N, K), from what `features` returns."""
        if not self.channelwise:
            logits: Tensor = self.head(features)
            return logits
        # The probability of a number is the product of those of its digits; each digit has its own dimension.
        parts: Tensor = self.head(features.unflatten(1, (self.shape[0], -1))).log_softmax(-1)
        total = parts[:, 0]
        for part in parts.unbind(1)[1:]:
            total = (total.unsqueeze(-1) + part.unsqueeze(1)).flatten(1)
        return total

    def forward(self, x: Tensor) -> Tensor:
        """Logits of classes or rotations, float (N, K), for images x, uint8 (N, C, H, W)."""
        return self.logits(self.features(x))

    @torch.no_grad()
    def outputs(self, x: Tensor, batch_size: int) -> Outputs:
        """As in `FeatureExtractor`."""
        device = next(self.parameters()).device

        def read(rows: range, _: Generator) -> tuple[Tensor, Tensor]:
            features = self.features(x[rows.start : rows.stop].to(device))
            return features.cpu(), self.logits(features).cpu()

        features, logits = map(torch.cat, zip(*in_batches(read, len(x), batch_size), strict=True))
        return Outputs(features, logits, logits.argmax(1)) if self.sees_classes else Outputs(features)

    @torch.no_grad()
    def answers(self, images: ImageSet, batch_size: int) -> tuple[Tensor, Tensor]:
        """Logits of its task on images, float32 (M, K), and the targets, int64 (M,), on the CPU."""
        device = next(self.parameters()).device
        tasks = (self.task(x.to(device), labels) for x, labels in images.split(batch_size))
        logits, right = zip(*((self(x).cpu(), wanted.cpu()) for x, wanted in tasks), strict=True)
        return torch.cat(logits), torch.cat(right)


def fit_classifier(
    train: ImageSet,
    valid: ImageSet,
    levels: int,
    classes: int,
    settings: Extractor,
    device: torch.device,
    *,
    seed: int,
    channelwise: bool = False,
) -> Classifier:
    """Train a classifier and keep the weights that did best on the validation images.

    Args:
        train: images to train on.
        valid: images to choose the best weights by.
        levels: pixel values are 0..levels-1.
        classes: of the data; 0 if there are none.
        settings: the section `extractor` of the parameters.
        device: to train on.
        seed: one of the settings' seeds.
        channelwise: whether each colour channel has a class of its own.

    Returns:
        The classifier, in evaluation mode on `device`.
    """
    torch.manual_seed(seed)
    shape = tuple(train.images.shape[1:])
    assert len(shape) == 3
    model = Classifier(
        shape,
        levels,
        classes=classes,
        channels=settings.channels,
        features=settings.features,
        dropout=settings.dropout,
        channelwise=channelwise,
    ).to(device)
    train = train.to_device_if_it_fits(device)
    generator = make_generator(torch.device("cpu"), seed, Stream.CLASSIFIER)
    steps = max(1, len(train) // settings.batch_size)
    optimiser, schedule = AdamW(model.parameters()), one_cycle(settings.lr, steps * settings.epochs)
    best, best_score = copy.deepcopy(model.state_dict()), (-1.0, 0.0)
    for _ in range(settings.epochs):
        model.train()
        order = torch.randperm(len(train), generator=generator).to(train.images.device)
        for batch in order[: steps * settings.batch_size].chunk(steps):
            x, wanted = model.task(train.images[batch].to(device), train.labels[batch].to(device))
            loss = F.cross_entropy(model(x), wanted)
            optimiser.forget_gradients()
            loss.backward()
            lr, beta = next(schedule)
            optimiser.step(lr, (beta, 0.999), weight_decay=0.01)
        model.eval()
        answers = model.answers(valid, settings.batch_size)
        score = (accuracy(*answers), -F.cross_entropy(*answers).item())
        if score > best_score:
            best, best_score = copy.deepcopy(model.state_dict()), score
    model.load_state_dict(best)
    return model.eval()


def one_cycle(lr: float, steps: int) -> Iterator[tuple[float, float]]:
    """Learning rate and first beta of each step: up to `lr` in the first 30 %, then down to almost zero.

    As torch's OneCycleLR, which requires torch's own optimiser (Smith & Topin 2018, Super-Convergence).
    """

    def between(start: float, end: float, share: float) -> float:
        return end + (start - end) / 2 * (math.cos(math.pi * share) + 1)

    peak = 0.3 * steps - 1
    for step in range(steps):
        if step <= peak:
            yield between(lr / 25, lr, step / peak), between(0.95, 0.85, step / peak)
        else:
            share = (step - peak) / (steps - 1 - peak)
            yield between(lr, lr / 25 / 1e4, share), between(0.85, 0.95, share)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of images whose likeliest class is right. logits: (N, K), labels: int64 (N,)."""
    return float((logits.argmax(1) == labels).double().mean())


def save_classifiers(models: Sequence[Classifier], path: Path) -> None:
    """Write the weights of classifiers that differ in nothing else, and what is needed to build them again."""
    first = models[0]
    about = {"shape": first.shape, "levels": first.levels, "arguments": first.arguments, "classifiers": len(models)}
    tensors = {f"{place}.{name}": tensor for place, m in enumerate(models) for name, tensor in m.state_dict().items()}
    write_tensors(path, tensors, json.dumps(about, sort_keys=True))


def load_classifiers(path: Path, part: int | None = None) -> list[Classifier]:
    """Read what `save_classifiers` wrote, in evaluation mode on the CPU; raises BakeoffError if it is damaged.

    part: its place, if the file was joined with others.
    """
    tensors, metadata = read_part(path, part)
    try:
        about = json.loads(metadata)
        shape, levels, arguments = tuple(about["shape"]), about["levels"], about["arguments"]
        models = [Classifier(shape, levels, **arguments) for _ in range(about["classifiers"])]
        nn.ModuleList(models).load_state_dict(tensors)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BakeoffError(f"{path}: not a classifier ({str(error).splitlines()[0]}); train it again") from None
    return [model.eval() for model in models]
