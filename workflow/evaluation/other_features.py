"""Other extractors than the main one: the measures that hold samples against test images, on the features of each.

Stein et al. 2023 (Exposing flaws of generative model evaluation metrics) found that ranks change with the extractor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from workflow.evaluation.classifier import FeatureExtractor
from workflow.evaluation.scores import (
    Points,
    Scores,
    combine,
    fit_points,
    near,
    of_all_draws,
    points_of,
    read_numbered,
    tensors_of,
)
from workflow.params import Evaluate
from workflow.paths import OTHER_FEATURES


@dataclass(frozen=True)
class OtherFeatures:
    """One of them, and the test images as it sees them.

    name: of the extractor. extractors: its networks. test: images, uint8 (N, C, H, W). settings: the section
    `evaluate` of the parameters. measured: the value of `real`, if it is known already.
    """

    name: str
    extractors: Sequence[FeatureExtractor]
    test: Tensor
    settings: Evaluate
    measured: Sequence[Points] | None = None

    @cached_property
    def real(self) -> Sequence[Points]:
        """Of the test images, by each network."""
        if self.measured:
            return self.measured
        found = [one.outputs(self.test, self.settings.batch_size) for one in self.extractors]
        return [fit_points(one.features, self.settings.neighbours) for one in found]

    def scores(self, draws: Sequence[Tensor]) -> Scores:
        """FID, FID∞, KID, precision, recall, density and coverage of samples, uint8 (N, C, H, W) a draw."""
        columns, together = [], []
        for extractor, real in zip(self.extractors, self.real, strict=True):
            fakes = [extractor.outputs(draw, self.settings.batch_size) for draw in draws]
            columns.append([near(fake, real, self.settings) for fake in fakes])
            together.append(of_all_draws(fakes, real))
        return combine(list(zip(*columns, strict=True))) | combine([together])

    @property
    def prefix(self) -> str:
        """What stands before the names of its tensors in a file."""
        return f"{OTHER_FEATURES}{self.name}/"

    @property
    def tensors(self) -> dict[str, Tensor]:
        """`real`, as it is written for `read_measured`."""
        return {
            f"{self.prefix}{place}/{name}": tensor
            for place, real in enumerate(self.real)
            for name, tensor in tensors_of(real).items()
        }

    def read_measured(self) -> "OtherFeatures":
        """The same, with what the stage `reference` has written of the test images."""
        measured = [points_of(tensors) for tensors in read_numbered(self.prefix)]
        return OtherFeatures(self.name, self.extractors, self.test, self.settings, measured)


def of_each(others: Sequence[OtherFeatures], draws: Sequence[Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What each says of draws, by its name as `metrics.json` has it, and how far each test image moves that."""
    found = [(one, one.scores(draws)) for one in others]
    metrics = {one.name: {**scores.means, "repeats": scores.repeats} for one, scores in found}
    pictures = {f"{one.prefix}{key}": held for one, scores in found for key, held in scores.pictures.items()}
    return {"other_features": metrics} if metrics else {}, pictures
