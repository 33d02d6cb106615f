"""Which first-party files a piece of code is made of."""

import ast
from pathlib import Path

PACKAGES = ("workflow", "stages")


def imported_files(path: Path, root: Path) -> set[Path]:
    """The first-party files that `path` imports, transitively, and itself; relative to `root`.

    Looks at every import statement, also those inside functions. Packages' `__init__.py` hold nothing here that a
    result depends on and are left out; what is imported by name at run time (a family's file) does not show.
    """
    found: set[Path] = set()
    queue = [path]
    while queue:
        current = queue.pop()
        if current not in found:
            found.add(current)
            queue.extend(_direct_imports(current, root))
    return found


def _direct_imports(path: Path, root: Path) -> set[Path]:
    names: set[str] = set()
    for node in ast.walk(ast.parse((root / path).read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    files = {Path(*name.split(".")).with_suffix(".py") for name in names if name.split(".")[0] in PACKAGES}
    return {file for file in files if (root / file).is_file()}
