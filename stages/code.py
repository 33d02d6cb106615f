"""Record which code defines a model, so that editing it trains the models that are made of it, and no others.

DVC names a stage's dependencies before it looks at parameters, so the file of `models.<name>.kind`, and the layers that
it imports, cannot stand among the dependencies of `train@<name>-<seed>`; the hashes that this stage writes stand there
in their place.
"""

from pathlib import Path

from workflow.command import run
from workflow.files import sha256, write_json
from workflow.provenance import imported_files


def main(name: str, kind: str) -> None:
    """Write the hashes of the family's file and of what it imports."""
    files = sorted(imported_files(Path("workflow/models") / f"{kind}.py", Path()))
    hashes = {str(file): sha256(file) for file in files}
    write_json(Path("data/code") / f"{name}.json", {"kind": kind, "sha256": hashes})


if __name__ == "__main__":
    run(main, __doc__, "name", "kind")
