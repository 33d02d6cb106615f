"""Put a preset in place of `params.yaml`: `python -m stages.preset mnist`. No stage of the graph: `make` calls it."""

import subprocess
from pathlib import Path

from workflow import params
from workflow.command import reader
from workflow.errors import BakeoffError, one_line
from workflow.files import write_bytes

FOLDER = Path("presets")


def use(name: str) -> None:
    """Copy `presets/<name>.yaml`; raises BakeoffError if there is none, or if `params.yaml` holds changes of one's own.

    What is nowhere else, neither in git nor among the presets, is not written over.
    """
    known = {str(file.relative_to(FOLDER).with_suffix("")): file for file in sorted(FOLDER.rglob("*.yaml"))}
    if name not in known:
        raise BakeoffError(f"PRESET: {name!r}: no such preset; known: {', '.join(known)}")
    asked = subprocess.run(["git", "show", f"HEAD:{params.PATH}"], capture_output=True, check=False)
    elsewhere = [asked.stdout, *(file.read_bytes() for file in known.values())]
    if params.PATH.exists() and params.PATH.read_bytes() not in elsewhere:
        raise BakeoffError(
            f"{params.PATH}: holds changes of your own, which preset {name!r} would replace; commit them, or keep them "
            f"as a preset: mv {params.PATH} presets/mine.yaml"
        )
    write_bytes(params.PATH, known[name].read_bytes())


if __name__ == "__main__":
    arguments = reader(__doc__)
    arguments.add_argument("preset", metavar="PRESET", help="a file of presets/, without its ending")
    with one_line():
        use(arguments.parse_args().preset)
