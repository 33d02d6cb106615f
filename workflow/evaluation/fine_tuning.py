"""What an encoder is worth as a start: a network that begins with its weights against the same network from scratch.

Both are trained in the same way on the same few labelled images. Erhan, Bengio, Courville, Manzagol, Vincent & Bengio
2010, Why Does Unsupervised Pre-training Help Deep Learning?, section 6; Hinton & Salakhutdinov 2006, Reducing the
Dimensionality of Data with Neural Networks.
"""

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workflow.data.tensors import ImageSet
from workflow.evaluation.classifier import one_cycle
from workflow.evaluation.metrics.probe import fit_probe
from workflow.models.layers.common import to_unit
from workflow.training.optimizer import AdamW

STEPS, BATCH = 80, 32  # of training, and labelled images in each, at most
DRAWS = 3  # of the labels, and with them of the fresh weights
TESTED = 500  # test images, at most
CHUNK = 128  # test images classified at once
DECAY = 0.01  # of the weights, as for the classifier


class Tuned(nn.Module):
    """An encoder and a linear layer on its numbers, which are standardised as for the probe that the layer starts as.

    Args:
        encoder: from images, float (N, C, H, W), to numbers, (N, ...).
        x: the labelled images, float (N, C, H, W).
        y: their classes, int64 (N,).
        regularisation: of the probe, as of `probe_hits`.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, encoder: nn.Module, x: Tensor, y: Tensor, regularisation: float) -> None:
        super().__init__()
        self.encoder = encoder.eval()
        with torch.no_grad():
            probe = fit_probe(encoder(x).flatten(1).cpu(), y.cpu(), regularisation)
            weights = probe.turn @ probe.weights[:-1]
            self.register_buffer("mean", probe.mean.float())
            self.register_buffer("scale", probe.scale.float())
            self.head = nn.Linear(*weights.shape)
            self.head.weight.copy_(weights.T)
            self.head.bias.copy_(probe.weights[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes). x: float (N, C, H, W)."""
        logits: Tensor = self.head((self.encoder(x).flatten(1) - self.mean) / self.scale)
        return logits


def hits_by_start(
    encoder: nn.Module, train: ImageSet, test: ImageSet, levels: int, regularisation: float, lr: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Which test images are put into their class after training from the encoder's weights, and from fresh ones.

    First the linear layer alone is trained, which is the linear probe, and then all weights: a random layer would spoil
    an encoder before it has learned anything (Kumar et al. 2022, Fine-Tuning Can Distort Pretrained Features). Random
    numbers of others, and the encoder, are left as they are.

    Args:
        encoder: as of `HasEncoder`.
        train: labelled images, to train on.
        test: M real images.
        levels: pixel values are 0..levels-1.
        regularisation: of the probe, as of `probe_hits`.
        lr: the highest learning rate.
        seed: of the fresh weights, the order of the images and the dropout.

    Returns:
        bool (M,) each.
    """
    device = next(encoder.parameters()).device
    with torch.enable_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        starts = copy.deepcopy(encoder), with_fresh_weights(encoder)
        models = []
        for start in starts:
            torch.manual_seed(seed)
            x, y = to_unit(train.images.to(device), levels), train.labels.to(device)
            models.append(_trained(Tuned(start, x, y, regularisation).to(device), x, y, lr))
    pretrained, scratch = (_predicted(model, test, levels, device) == test.labels for model in models)
    return pretrained, scratch


def with_fresh_weights(network: nn.Module) -> nn.Module:
    """The same network, all of its layers initialised anew by torch's own generator."""
    fresh = copy.deepcopy(network)
    for layer in fresh.modules():
        if reset := getattr(layer, "reset_parameters", None):
            reset()
    return fresh


def _trained(model: Tuned, x: Tensor, y: Tensor, lr: float) -> Tuned:
    model.train()
    optimiser = AdamW(model.parameters())
    for rows, (rate, beta) in zip(_batches(len(x)), one_cycle(lr, STEPS), strict=True):
        batch = rows.to(x.device)
        loss = F.cross_entropy(model(x[batch]), y[batch])
        optimiser.forget_gradients()
        loss.backward()
        optimiser.step(rate, (beta, 0.999), weight_decay=DECAY)
    return model.eval()


@torch.no_grad()
def _predicted(model: Tuned, test: ImageSet, levels: int, device: torch.device) -> Tensor:
    """The likeliest class of each image, int64 (M,)."""
    parts = test.images.split(CHUNK)
    return torch.cat([model(to_unit(part.to(device), levels)).argmax(1).cpu() for part in parts])


def _batches(count: int) -> Iterator[Tensor]:
    """Index of the images of each step, in random order, each image as often as any other but for one time."""
    size, order = min(count, BATCH), torch.empty(0, dtype=torch.long)
    for _ in range(STEPS):
        if len(order) < size:
            order = torch.cat([order, torch.randperm(count)])
        rows, order = order[:size], order[size:]
        yield rows
