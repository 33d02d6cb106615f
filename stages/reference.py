"""Measure real images by themselves, against real ones, and the baseline of independent pixels."""

from workflow import params
from workflow.device import prepare_torch
from workflow.engines.command import run
from workflow.evaluation.evaluator import read_judge, reference, write_real
from workflow.files import write_json
from workflow.paths import REFERENCE


def main() -> None:
    """Read the judge; write what there is to know of the real images."""
    settings = params.load()
    judge = read_judge(settings, prepare_torch(settings.compute))
    write_real(judge.real)
    write_json(REFERENCE, reference(judge, settings.sample.count))


if __name__ == "__main__":
    run(main, __doc__)
