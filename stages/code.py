"""Record which code defines a model, so that editing a family's file trains the models of that kind alone.

DVC names a stage's dependencies before it looks at parameters, so the file of `models.<name>.kind` cannot stand among
the dependencies of `train@<name>-<seed>`; the hash that this stage writes stands there in its place.
"""

import sys
from pathlib import Path

from workflow.files import sha256, write_json

if __name__ == "__main__":
    name, kind = sys.argv[1:]
    file = Path("workflow/models") / f"{kind}.py"
    write_json(Path("data/code") / f"{name}.json", {"kind": kind, "file": str(file), "sha256": sha256(file)})
