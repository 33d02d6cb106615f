"""Replace `params.yaml` by a preset: `python -m stages.preset mnist`. Not a stage of the graph: `make` calls it."""

import subprocess
from pathlib import Path

from workflow import params
from workflow.engines.clone import in_git
from workflow.engines.command import reader
from workflow.errors import BakeoffError, one_line
from workflow.files import write_bytes

FOLDER = Path("presets")
NO_SUCH = 1  # exit status of `git rev-parse --verify` if the object does not exist


def use(name: str) -> None:
    """Copy `presets/<name>.yaml`; raises BakeoffError if there is none, or if `params.yaml` has unsaved changes.

    Content that exists nowhere else, neither in git nor among the presets, is never overwritten.
    """
    known = {str(file.relative_to(FOLDER).with_suffix("")): file for file in sorted(FOLDER.rglob("*.yaml"))}
    if name not in known:
        raise BakeoffError(f"PRESET: {name!r}: no such preset; known: {', '.join(known)}")
    if params.PATH.exists() and not _is_elsewhere(params.PATH.read_bytes(), [*known.values()]):
        keep = f"as a preset: mv {params.PATH} presets/mine.yaml"
        if not in_git():
            raise BakeoffError(
                f"{params.PATH}: preset {name!r} would replace it, and its content is saved nowhere else: it is none "
                f"of the presets, and this folder is no git clone; keep it {keep}"
            )
        raise BakeoffError(
            f"{params.PATH}: has changes of your own, which preset {name!r} would replace; commit them, or keep them "
            f"{keep}"
        )
    write_bytes(params.PATH, known[name].read_bytes())


def _is_elsewhere(content: bytes, presets: list[Path]) -> bool:
    """Whether a preset, or `params.yaml` in the checked-out commit, has this content.

    Raises BakeoffError with git's message if git cannot tell.
    """
    if content in [file.read_bytes() for file in presets]:
        return True
    if not in_git():
        return False
    keep = f"fix that, or keep {params.PATH} as a preset: mv {params.PATH} presets/mine.yaml"
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
        raise BakeoffError(f"git cannot tell whether {params.PATH} is committed ({said}); {keep}")
    return found.stdout == content


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *arguments], capture_output=True, check=False)


if __name__ == "__main__":
    arguments = reader(__doc__)
    arguments.add_argument("preset", metavar="PRESET", help="a file in presets/, without its extension")
    with one_line():
        use(arguments.parse_args().preset)
