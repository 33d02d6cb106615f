"""Compute reference scores: of real images, and of the baseline of independent pixels."""

from workflow import params
from workflow.device import prepare_torch
from workflow.engines.command import run
from workflow.evaluation.evaluator import read_evaluator
from workflow.evaluation.reference import reference
from workflow.evaluation.scores import write_real
from workflow.files import write_json
from workflow.paths import REFERENCE


def main() -> None:
    """Read the extractor and the real images; write their statistics, features and reference scores."""
    settings = params.load()
    evaluator = read_evaluator(settings, prepare_torch(settings.compute))
    scores, per_image = reference(evaluator, settings.sample.count)
    write_real(evaluator.real, per_image)
    write_json(REFERENCE, scores)


if __name__ == "__main__":
    run(main, __doc__)
