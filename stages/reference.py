"""Measure real images by themselves, against real ones, and the baseline of independent pixels."""

from pathlib import Path

from workflow import params
from workflow.compute import prepare_torch
from workflow.errors import one_line
from workflow.evaluation import read_judge, reference, write_real
from workflow.files import write_json
from workflow.turn import alone

if __name__ == "__main__":
    with one_line(), alone():
        settings = params.load()
        judge = read_judge(settings, prepare_torch(settings.compute))
        write_real(judge.real)
        write_json(Path("data/reference/reference.json"), reference(judge, settings.sample.count))
