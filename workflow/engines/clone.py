"""Whether this folder is a git clone, and DVC's setting for one that is not: `python -m workflow.engines.clone`.

DVC takes a project that git does not know, as an unpacked archive is, only if its configuration says so.
"""

import re
import subprocess
from pathlib import Path

from workflow.errors import BakeoffError, one_line

CONFIG = Path(".dvc/config.local")  # of this copy alone: git ignores it


def in_git() -> bool:
    """Whether this folder, or one that it is in, is a clone or work tree, be it one that git refuses to look into."""
    here = Path.cwd()
    return any((folder / ".git").exists() for folder in (here, *here.parents))


def tell_dvc() -> None:
    """Let DVC do without git where there is none, and take it back where there is one by now."""
    told = CONFIG.exists() and re.search(r"^\s*no_scm\s*=", CONFIG.read_text(encoding="utf-8"), re.MULTILINE)
    if bool(told) != in_git():
        return
    change = ["--unset", "core.no_scm"] if told else ["core.no_scm", "true"]
    done = subprocess.run(["dvc", "config", "--local", *change], capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise BakeoffError(f"{CONFIG}: DVC did not change core.no_scm there ({' '.join(done.stderr.split())})")


if __name__ == "__main__":
    with one_line():
        tell_dvc()
