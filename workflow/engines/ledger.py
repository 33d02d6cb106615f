"""The project's own code that each stage and each model consists of, with hashes.

DVC and Snakemake rerun a stage when its page of the ledger changes, so `dvc.yaml` lists no code. Hashes ignore
comments, docstrings and blank lines.
"""

import ast
import hashlib
import io
import json
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

from workflow.data.listing import digest
from workflow.engines.index import hide_others
from workflow.errors import BakeoffError
from workflow.files import write_text
from workflow.models import family_file
from workflow.params import Params
from workflow.paths import LEDGER, model_page, own, stage_page

PACKAGES = ("workflow", "stages")
TEMPLATES = (".j2", ".css", ".js")  # files that a module reads from the folder `templates` beside it
# Including the end of its line, like `trim_blocks` and `lstrip_blocks`.
JINJA_COMMENT = re.compile(r"^[ \t]*\{#.*?#\}\n?|\{#.*?#\}\n?", re.DOTALL | re.MULTILINE)
DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
Hashes = dict[str, str]  # SHA-256 in hex, by file


def bring_up_to_date(settings: Params) -> None:
    """Update the ledger, a page per stage and per model in the parameters, and the index of runs.

    The page of a model that holds images made elsewhere has their hash, too, and that of the stage `extractor` those of
    networks from files.
    Unchanged pages are not touched, and pages of stages and models that no longer exist are removed. Entries of the
    index that the present graph does not make are hidden.
    """
    hide_others(settings)
    modules = Code(Path())
    pages = {
        stage_page(script.stem): modules.hashes([script])
        for script in sorted(Path("stages").glob("*.py"))
        if script.name != "__init__.py"
    }
    families = {name: family_file(entry.kind, f"models.{name}.kind") for name, entry in settings.models.items()}
    pages[stage_page("check")] |= modules.hashes(families.values())  # it imports every family by name
    pages |= {model_page(name): modules.hashes([family]) for name, family in families.items()}
    for name, entry in settings.models.items():
        if entry.samples is not None:  # images that stand for a model's code: what they are decides its results
            held = {str(entry.samples): digest(own(entry.samples))}
            pages[model_page(name)] |= held
            pages[stage_page("check")] |= held
    for network in settings.evaluate.networks:
        held = {str(network): digest(own(network))}
        pages[stage_page("extractor")] |= held
        pages[stage_page("check")] |= held
    for path, page in pages.items():
        text = json.dumps(dict(sorted(page.items())), indent=2) + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
    for path in set(LEDGER.rglob("*.json")) - set(pages):
        path.unlink()


class Code:
    """The project's own code in a folder; each file is read once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._imports: dict[Path, set[Path]] = {}
        self._hashes: Hashes = {}

    def hashes(self, modules: Iterable[Path]) -> Hashes:
        """Hashes of all files that these modules consist of, by path relative to the root."""
        return {str(file): self._hash(file) for module in modules for file in self.made_of(module)}

    def made_of(self, module: Path) -> set[Path]:
        """A module and the files that it imports, transitively, relative to the root.

        All import statements count, even those inside functions, as do the packages that Python imports on the way and
        the templates beside a module. Modules imported by name at run time, such as families, are not found.
        """
        found: set[Path] = set()
        queue = [module]
        while queue:
            current = queue.pop()
            if current not in found:
                found.add(current)
                queue.extend(self._direct(current))
        return found

    def _direct(self, file: Path) -> set[Path]:
        if file not in self._imports:
            self._imports[file] = self._look_up(file) if file.suffix == ".py" else set()
        return self._imports[file]

    def _look_up(self, file: Path) -> set[Path]:
        names = set(_imported_names(_parse(self._root / file, file)))
        names.add(".".join(file.with_suffix("").parts))  # for the packages that contain it
        files = {found for name in names if name.split(".")[0] in PACKAGES for found in _files_of(name)}
        beside = (self._root / file.parent / "templates").glob("*")
        templates = {other.relative_to(self._root) for other in beside if other.suffix in TEMPLATES}
        return {found for found in files if (self._root / found).is_file()} | templates

    def _hash(self, file: Path) -> str:
        name = str(file)
        if name not in self._hashes:
            path = self._root / file
            self._hashes[name] = hashlib.sha256(what_it_says(path).encode()).hexdigest()
        return self._hashes[name]


def _imported_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files_of(name: str) -> Iterator[Path]:
    """Where Python looks for a dotted name and the packages on the way; not all of these files exist."""
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        yield Path(*parts[:i]).with_suffix(".py")
        yield Path(*parts[:i], "__init__.py")


def what_it_says(path: Path) -> str:
    """A file's text without everything that has no effect; the same under every version of Python.

    Modules lose comments, docstrings and blank lines; templates lose their comments; style sheets stay, as they are
    copied into the page. Raises BakeoffError, naming file and line, if a module is not valid Python.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".j2":
        return JINJA_COMMENT.sub("", text)
    return _code(_parse(path, path), text) if path.suffix == ".py" else text


def _code(tree: ast.Module, text: str) -> str:
    lines, in_strings = text.splitlines(keepends=True), _inside_strings(tree)
    dropped = sorted([*_docstrings(tree, lines), *_comments(lines)], reverse=True)
    for (row, column), (last_row, last_column) in dropped:
        in_strings.difference_update(range(row, last_row + 1))
        lines[row : last_row + 1] = [lines[row][:column] + lines[last_row][last_column:], *[""] * (last_row - row)]
    kept = (line if row in in_strings else line.rstrip() for row, line in enumerate(lines))
    return "\n".join(line for line in kept if line)


def _inside_strings(tree: ast.AST) -> set[int]:
    """Rows that end inside a string, where trailing blanks matter."""
    strings = (node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.Constant))
    return {row for node in strings for row in range(node.lineno - 1, (node.end_lineno or node.lineno) - 1)}


Span = tuple[tuple[int, int], tuple[int, int]]  # from one row and column of characters to another, from 0


def _docstrings(tree: ast.AST, lines: list[str]) -> Iterator[Span]:
    for node in ast.walk(tree):
        if not isinstance(node, DEFINITIONS) or not node.body or ast.get_docstring(node, clean=False) is None:
            continue
        text = node.body[0]
        assert text.end_lineno is not None
        assert text.end_col_offset is not None
        first, last = lines[text.lineno - 1], lines[text.end_lineno - 1]
        start = len(first.encode()[: text.col_offset].decode())  # ast counts bytes
        end = len(last.encode()[: text.end_col_offset].decode())
        yield (text.lineno - 1, start), (text.end_lineno - 1, end)


def _comments(lines: list[str]) -> Iterator[Span]:
    for token in tokenize.generate_tokens(io.StringIO("".join(lines)).readline):
        if token.type == tokenize.COMMENT:
            (row, column), (last_row, last_column) = token.start, token.end
            yield (row - 1, column), (last_row - 1, last_column)


def _parse(path: Path, named: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        where = f" line {error.lineno}:" if isinstance(error, SyntaxError) else ""
        raise BakeoffError(f"{named}:{where} not valid Python ({error}); fix it and run again") from None
