"""The model families: the contract in `base.py`, one file per family, and what several share in `layers/`."""

import pkgutil
from pathlib import Path

from workflow.errors import BakeoffError

NOT_FAMILIES = {"base", "layers", "registry", "taxonomy"}


def kinds() -> list[str]:
    """The known families: the files in `workflow/models/` that define one."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - NOT_FAMILIES)


def family_file(kind: str, key: str) -> Path:
    """The file of a family, relative to the project; raises BakeoffError, listing the known ones, if there is none.

    Args:
        kind: name of the family.
        key: of the parameter that names it, for the error (`models.vae.kind`).
    """
    if kind not in kinds():
        raise BakeoffError(f"params.yaml: {key}: {kind!r}: unknown model kind; known: {', '.join(kinds())}")
    return Path("workflow/models") / f"{kind}.py"
