"""Put a preset in place of `params.yaml`: `python -m stages.preset mnist`. No stage of the graph: `make` calls it."""

import subprocess
from pathlib import Path

from workflow import params
from workflow.engines.clone import in_git
from workflow.engines.command import reader
from workflow.errors import BakeoffError, one_line
from workflow.files import write_bytes

FOLDER = Path("presets")
NO_SUCH = 1  # exit status of `git rev-parse --verify`, if it works and there is no such thing


def use(name: str) -> None:
    """Copy `presets/<name>.yaml`; raises BakeoffError if there is none, or if `params.yaml` holds changes of one's own.

    What is nowhere else, neither in git nor among the presets, is not written over.
    """
    known = {str(file.relative_to(FOLDER).with_suffix("")): file for file in sorted(FOLDER.rglob("*.yaml"))}
    if name not in known:
        raise BakeoffError(f"PRESET: {name!r}: no such preset; known: {', '.join(known)}")
    if params.PATH.exists() and not _is_elsewhere(params.PATH.read_bytes(), [*known.values()]):
        keep = f"as a preset: mv {params.PATH} presets/mine.yaml"
        if not in_git():
            raise BakeoffError(
                f"{params.PATH}: preset {name!r} would replace it, and nothing else here has what it says: it is none "
                f"of the presets, and this folder no git clone; keep it {keep}"
            )
        raise BakeoffError(
            f"{params.PATH}: holds changes of your own, which preset {name!r} would replace; commit them, or keep them "
            f"{keep}"
        )
    write_bytes(params.PATH, known[name].read_bytes())


def _is_elsewhere(content: bytes, presets: list[Path]) -> bool:
    """Whether a preset, or the commit that is checked out, has this content for `params.yaml`.

    Raises BakeoffError with git's own words if that is for git to say, and git refuses to.
    """
    if content in [file.read_bytes() for file in presets]:
        return True
    if not in_git():
        return False
    keep = f"mend that, or keep {params.PATH} as a preset: mv {params.PATH} presets/mine.yaml"
    try:
        found = _git("rev-parse", "--quiet", "--verify", f"HEAD:./{params.PATH}")
        if found.returncode == NO_SUCH:
            return False
        if found.returncode == 0:
            found = _git("cat-file", "blob", found.stdout.decode().strip())
    except OSError as error:
        raise BakeoffError(f"git: {error.strerror}; {keep}") from None
    if found.returncode:
        said = " ".join(found.stderr.decode(errors="replace").split())
        raise BakeoffError(f"git cannot say whether {params.PATH} is as it was committed ({said}); {keep}")
    return found.stdout == content


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *arguments], capture_output=True, check=False)


if __name__ == "__main__":
    arguments = reader(__doc__)
    arguments.add_argument("preset", metavar="PRESET", help="a file of presets/, without its ending")
    with one_line():
        use(arguments.parse_args().preset)
