"""Take every measure of samples of real images that were damaged by known amounts."""

from workflow import params
from workflow.device import prepare_torch
from workflow.engines.command import run
from workflow.evaluation.audit import audit
from workflow.evaluation.evaluator import read_evaluator
from workflow.files import write_json
from workflow.paths import AUDIT


def main() -> None:
    """Read the extractor and the real images; write what each measure says of them, damaged and not."""
    settings = params.load()
    write_json(AUDIT, audit(read_evaluator(settings, prepare_torch(settings.compute))))


if __name__ == "__main__":
    run(main, __doc__)
