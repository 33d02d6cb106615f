"""DVC's setting for a folder that is not a git clone: `python -m workflow.engines.clone`.

DVC accepts a project outside git, such as an unpacked archive, only if its configuration says so.
"""

import re
import subprocess
from pathlib import Path

from workflow.errors import BakeoffError, one_line

CONFIG = Path(".dvc/config.local")  # of this copy only: git ignores it


def in_git() -> bool:
    """Whether this folder or a parent is a clone or work tree, even one that git refuses to read."""
    here = Path.cwd()
    return any((folder / ".git").exists() for folder in (here, *here.parents))


def tell_dvc() -> None:
    """Tell DVC to do without git if there is no clone, and undo this once there is one."""
    told = CONFIG.exists() and re.search(r"^\s*no_scm\s*=", CONFIG.read_text(encoding="utf-8"), re.MULTILINE)
    if bool(told) != in_git():
        return
    change = ["--unset", "core.no_scm"] if told else ["core.no_scm", "true"]
    done = subprocess.run(["dvc", "config", "--local", *change], capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise BakeoffError(f"{CONFIG}: DVC could not change core.no_scm in it ({' '.join(done.stderr.split())})")


if __name__ == "__main__":
    with one_line():
        tell_dvc()
