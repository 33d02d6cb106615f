"""Tiny models that several test files ask the same questions of."""

from typing import Literal

import torch

from workflow.models.ddpm import Ddpm, Target
from workflow.models.layers.diffusion import Schedule
from workflow.models.layers.pixels import Decoder
from workflow.models.layers.reverse import Variances
from workflow.models.vae import Kind, Vae


def tiny_vae(
    decoder: Decoder = "categorical",
    *,
    latents: int = 1,
    levels: int = 2,
    beta: float = 1.0,
    k: int = 4,
    classes: int = 0,
    network: Kind = "convolutional",
    training_samples: int = 1,
    components: int = 0,
) -> Vae:
    """A model whose decoder listens to its latents and to the class, and whose encoder knows nothing of either."""
    torch.manual_seed(1)
    model = Vae(
        (1, 4, 4), levels, latents=latents, channels=2, dropout=0.2, beta=beta, decoder=decoder, importance_samples=k,
        classes=classes, network=network, training_samples=training_samples, components=components,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.decode_layers.parameters():
            parameter.mul_(3)
    return model.eval()


def tiny_ddpm(
    steps: int = 25,
    schedule: Schedule = "linear",
    *,
    sampling_steps: int | None = None,
    eta: float = 1.0,
    levels: int = 17,
    shape: tuple[int, int, int] = (1, 4, 4),
    classes: int = 0,
    variances: Variances = "fixed",
    bound_terms: int = 0,
    decoder: Literal["gaussian", "histogram"] = "gaussian",
    min_snr: float = 0.0,
    prediction: Target = "noise",
) -> Ddpm:
    """A model with an untrained network, all of it in double precision."""
    torch.manual_seed(1)
    model = Ddpm(
        shape, levels, steps=steps, schedule=schedule, sampling_steps=sampling_steps or steps, eta=eta,
        channels=8, dropout=0.1, classes=classes, variances=variances, bound_terms=bound_terms, decoder=decoder,
        min_snr=min_snr, prediction=prediction,
    )  # fmt: skip
    return model.double().eval()
