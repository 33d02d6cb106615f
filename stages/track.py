"""Mirror all runs to MLflow; run by hand, it also rebuilds a lost store."""

from pathlib import Path

from workflow import params, tracking
from workflow.errors import one_line
from workflow.files import write_json
from workflow.turn import alone

if __name__ == "__main__":
    with one_line(), alone():
        write_json(Path("data/tracked.json"), tracking.mirror(params.load()))
