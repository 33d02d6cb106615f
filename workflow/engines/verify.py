"""Whether the outputs here are byte for byte the published ones: `python -m workflow.engines.verify`.

Published are those that the committed `dvc.lock` records, for the committed `params.yaml`.
"""

import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from workflow import params
from workflow.errors import BakeoffError
from workflow.paths import DVC_LOCK

REQUIREMENTS = Path("requirements.lock")
CODE = ("stages", "workflow", "dvc.yaml")
COMPUTING = ("numpy", "scipy", "scikit-learn", "torch", "torchvision", "pillow", "matplotlib")  # decide the bytes
PUBLISHED_WITH = "3.11"  # of Python: other packages are locked for others
AT_MOST = 10  # names in one message


def verify() -> str:
    """One line that says that all outputs are the published ones.

    Raises BakeoffError, naming those that are not and the likely cause.
    """
    if _committed(params.PATH) != params.PATH.read_bytes():
        raise BakeoffError(
            f"{params.PATH}: not the committed one, whose results are published: nothing to compare with"
        )
    here, declared = _outputs()
    published = {path: digest for path, digest in _recorded(_committed(DVC_LOCK)).items() if path in declared}
    different = [name for name, digest in published.items() if here.get(name) != digest]
    if not different:
        return f"{len(published)} of {len(published)} outputs are byte for byte the published ones"
    named = ", ".join(different[:AT_MOST]) + (f" and {rest} more" if (rest := len(different) - AT_MOST) > 0 else "")
    raise BakeoffError(
        f"{len(different)} of {len(published)} outputs are not byte for byte the published ones: {named}; "
        f"{_likely_cause([name for name in different if name not in here])}"
    )


def _committed(path: Path) -> bytes:
    try:
        shown = subprocess.run(["git", "show", f"HEAD:./{path}"], capture_output=True, check=False)
    except OSError as error:
        raise BakeoffError(f"git: {error.strerror}; it knows the published {path}") from None
    if shown.returncode:
        said = " ".join(shown.stderr.decode(errors="replace").split())
        raise BakeoffError(f"git does not show the committed {path} ({said}); verify in a clone")
    return shown.stdout


def _recorded(lock: bytes) -> dict[str, str]:
    """The hash of every output in a `dvc.lock`, by path."""
    stages: dict[str, Any] = yaml.load(lock, yaml.CSafeLoader)["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def _outputs() -> tuple[dict[str, str], set[str]]:
    """The hash of every output that is there, by path, as DVC computes it; and the paths of all that there should be.

    DVC leaves stages in `dvc.lock` that are no longer in `dvc.yaml`.
    """
    from dvc.repo import Repo

    with (repo := Repo()).lock:
        outs = list(repo.index.outs)
        return {out.def_path: out.get_hash().value for out in outs if out.exists}, {out.def_path for out in outs}


def _likely_cause(missing: list[str]) -> str:
    """The first cause that is found, from the plainest to the least."""
    compute = params.load().compute
    if missing:
        return f"{len(missing)} of them are not there: run `make repro` first"
    if subprocess.run(["git", "diff", "--quiet", "HEAD", "--", *CODE], check=False).returncode:
        return f"the code is not the committed one: see `git diff {' '.join(CODE)}`"
    if others := _other_versions():
        return f"packages are not those of {REQUIREMENTS}: {', '.join(others)}; `make clean repro` in a fresh clone"
    if (python := ".".join(platform.python_version_tuple()[:2])) != PUBLISHED_WITH:
        return f"computed with the packages that are locked for Python {python}, not those for {PUBLISHED_WITH}"
    if compute.device != "cpu" and _on_gpu():
        return "they were computed on a GPU, the published ones on a CPU"
    if not _has_avx2():
        return f"this processor ({platform.machine()}) has no AVX2, which the published ones were computed with"
    return "no cause that this command knows; please report it, with the processor's name"


def _other_versions() -> list[str]:
    """What is installed in other versions than the lock file asks for, of all that decides the bytes."""
    from packaging.requirements import Requirement

    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line.rstrip(" \\")) for line in lines if re.match(r"[\w.-]+==", line)]
    asked = {one.name: str(one.specifier) for one in pinned if not one.marker or one.marker.evaluate()}
    return [f"{name} {version(name)} (asked for: {asked[name]})" for name in COMPUTING if not _fits(name, asked[name])]


def _fits(name: str, specifier: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return version(name) in SpecifierSet(specifier)


def _on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _has_avx2() -> bool:
    import torch

    return torch.backends.cpu.get_cpu_capability().startswith("AVX")  # AVX512 where torch may use all there is


if __name__ == "__main__":
    try:
        print(verify())
    except BakeoffError as difference:  # no error of this command: what it is asked for
        print(difference)
        sys.exit(1)
