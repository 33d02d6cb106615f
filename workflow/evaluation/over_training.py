"""The quality of samples in the course of a training."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from workflow.evaluation.evaluator import Evaluator
from workflow.evaluation.metrics.frechet import fit_gaussian, frechet_distance
from workflow.evaluation.scores import mean_of
from workflow.evaluation.stopping import curves_at


def over_training(
    samples: Tensor, steps: Sequence[int], history: Sequence[Mapping[str, float]], valid: Tensor, evaluator: Evaluator
) -> dict[str, Any]:
    """FID of the samples of each snapshot against validation images, a mean over extractors, and all training curves.

    Validation images, because the FID says where one should have stopped, which test images must not decide. It is
    higher than that of the final samples, as there are fewer of both.

    Args:
        samples: uint8 (K, N, C, H, W).
        steps: when they were drawn, (K,).
        history: the records of the training.
        valid: validation images, uint8 (M, C, H, W).
        evaluator: with the extractors.

    """
    real = [fit_gaussian(found.features) for found in evaluator.outputs(valid)]
    fids = []
    for images in samples:
        fakes = [fit_gaussian(found.features) for found in evaluator.outputs(images)]
        fids.append(mean_of([frechet_distance(*pair) for pair in zip(fakes, real, strict=True)]))
    counts = {"samples": samples.shape[1], "valid": len(valid)}
    return {"counts": counts, "steps": list(steps), "fid": fids, "curves": curves_at(steps, history)}
