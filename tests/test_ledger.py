"""The ledger: a stage's page changes if and only if code that the stage is made of says something else."""

import contextlib
import shutil
from collections.abc import Callable
from functools import cache
from modulefinder import ModuleFinder
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.copied_project import DVC, MODELS, SNAKEMAKE, Project
from workflow import params
from workflow.engines.ledger import Code, bring_up_to_date, what_it_says
from workflow.engines.snakemake import Graph
from workflow.errors import BakeoffError
from workflow.files import read_json
from workflow.models import kinds
from workflow.paths import LEDGER, model_page, stage_page

FILES = sorted(
    file.relative_to(ROOT)
    for package in ("workflow", "stages")
    for file in (ROOT / package).rglob("*")
    if file.suffix in (".py", ".j2", ".css", ".js")
)
SCRIPTS = sorted(file.stem for file in (ROOT / "stages").glob("*.py") if file.stem != "__init__")
PARTS = 8  # of a long test, for as many processes
CHAIN = ("train", "sample", "evaluate")
SMALL = {name: name for name in MODELS}  # the models of the small project, and their kinds


@cache
def closure(module: str) -> frozenset[Path]:
    """The first-party files of a module by Python's own finder, which reads bytecode, and the templates beside them."""
    finder = ModuleFinder(path=[str(ROOT)])
    finder.import_hook(module)
    if module == "stages.check":  # which looks the families up by name
        for kind in SMALL.values():
            finder.import_hook(f"workflow.models.{kind}")
    files = (vars(module).get("__file__") for module in finder.modules.values())
    found = {Path(file).relative_to(ROOT) for file in files if file}
    folders = {file.parent / "templates" for file in found}
    beside = {file for file in FILES if file.suffix in (".j2", ".css", ".js") and file.parent in folders}
    return frozenset(found | beside)


def commented(file: Path, text: str) -> str:
    """The text with a comment, and another docstring where there is one."""
    if file.suffix == ".py":
        return text.replace('"""', '"""Reworded: ', 1) + "\n\n# A remark.\n"
    return text + "{# A remark. #}\n" if file.suffix == ".j2" else text


def extended(file: Path, text: str) -> str:
    """The text with a statement more."""
    return (
        text + {".py": "\n_new = 1\n", ".j2": "<!-- new -->\n", ".css": "i { top: 0 }\n", ".js": "f()\n"}[file.suffix]
    )


@pytest.mark.parametrize(
    "module", [*(f"stages.{name}" for name in SCRIPTS), *(f"workflow.models.{k}" for k in kinds())]
)
def test_a_page_names_all_that_python_would_load_and_the_templates(module: str) -> None:
    own = Code(ROOT).made_of(Path(*module.split(".")).with_suffix(".py"))
    if module == "stages.check":
        own |= {file for kind in SMALL.values() for file in Code(ROOT).made_of(Path(f"workflow/models/{kind}.py"))}
    assert own == closure(module)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_comment_says_nothing_and_a_statement_does(file: Path, tmp_path: Path) -> None:
    text, copy = (ROOT / file).read_text(encoding="utf-8"), tmp_path / file.name
    copy.write_text(text, encoding="utf-8")
    before = what_it_says(copy)
    copy.write_text(commented(file, text), encoding="utf-8")
    assert what_it_says(copy) == before
    copy.write_text(extended(file, text), encoding="utf-8")
    assert what_it_says(copy) != before


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("x = 1\n", "x = 1  # one\n", True),
        ("x = 1\n", "# é\n\n\nx = 1\n", True),
        ("def f():\n    return 1\n", 'def f():\n    """é "one".\n\n    Two.\n    """\n\n    return 1\n', True),
        ("class A:\n    x = 1\n", "class A:\n    'A.'; x = 1\n", False),  # another layout may count
        ('x = "#"\n', 'x = "# y"\n', False),
        ('x = """a\nb"""\n', 'x = """a\n\nb"""\n', False),  # a blank line in a string
        ('x = """a\nb"""\n', 'x = """a \nb"""\n', False),
        ('x = f"""a\n{1}b"""\n', 'x = f"""a\n\n{1}b"""\n', False),
        ("if x:\n    y()\nz()\n", "if x:\n    y()\n    z()\n", False),
        ('def f():\n    x = 1\n    """No docstring."""\n', "def f():\n    x = 1\n", False),
    ],
)
def test_what_counts(one: str, other: str, same: bool, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(one, encoding="utf-8")
    (tmp_path / "other.py").write_text(other, encoding="utf-8")
    assert (what_it_says(tmp_path / "one.py") == what_it_says(tmp_path / "other.py")) == same


def test_code_that_is_no_python_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = (\n", encoding="utf-8")
    with pytest.raises(BakeoffError, match=r"a\.py: line 1: not valid Python"):
        what_it_says(tmp_path / "a.py")


def test_pages_are_written_only_where_they_change_and_go_with_what_they_are_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("workflow", "stages"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    settings = params.load()
    bring_up_to_date(settings)
    before = {page: page.stat().st_mtime_ns for page in LEDGER.rglob("*.json")}
    assert {page.stem for page in before if page.parent.name == "models"} == set(settings.models)
    flow = tmp_path / "workflow/models/layers/flow.py"
    flow.write_text(extended(flow, flow.read_text(encoding="utf-8")), encoding="utf-8")
    models = {name: entry for name, entry in settings.models.items() if name != "gan"}
    bring_up_to_date(settings.model_copy(update={"models": models}))
    after = {page: page.stat().st_mtime_ns for page in LEDGER.rglob("*.json")}
    changed = {page for page in after if after[page] != before[page]}
    assert changed == {stage_page("check"), model_page("nice")}
    assert set(before) - set(after) == {model_page("gan")}


def expected(file: Path) -> set[str]:
    """The stages that are to run if this file says something else: by the closures above, and all behind them."""
    of_scripts = {name for name in SCRIPTS if file in closure(f"stages.{name}")}
    stages = of_scripts & {"check", "download", "prepare", "extractor", "reference", "audit", "track", "report"}
    for model, kind in SMALL.items():
        own = file in closure(f"workflow.models.{kind}")
        stages |= {f"{stage}@{model}-0" for stage in CHAIN if own or stage in of_scripts}
        stages |= {"track"} if own else set()  # which writes down what each model is made of
    for stage, behind in BEHIND:
        stages |= behind if stage in stages else set()
    return stages


BEHIND = [  # in the order of the graph, so that one pass suffices
    ("download", {"prepare"}),
    ("prepare", {"extractor", "reference", "audit", "track", "report", *(f"{s}@{m}-0" for m in SMALL for s in CHAIN)}),
    ("extractor", {"reference", "audit", "track", "report", *(f"evaluate@{m}-0" for m in SMALL)}),
    ("reference", {"report", *(f"evaluate@{m}-0" for m in SMALL)}),
    ("audit", {"track", "report"}),
    *((f"train@{m}-0", {f"sample@{m}-0", f"evaluate@{m}-0"}) for m in SMALL),
    *((f"sample@{m}-0", {f"evaluate@{m}-0"}) for m in SMALL),
    *((f"evaluate@{m}-0", {"track", "report"}) for m in SMALL),
]


def plan_of_dvc() -> set[str]:
    """What `dvc status` calls changed once the ledger is up to date, and what depends on that."""
    from dvc.repo import Repo

    repo = Repo()
    graph, status = repo.index.graph, repo.status()
    changed = {stage for stage in graph if stage.addressing in status and stage.addressing != "ledger"}
    behind = {stage for stage in changed if stage.addressing != "check"}  # which says the same again
    queue = list(behind)
    while queue:
        for stage in graph.predecessors(queue.pop()):
            if stage not in behind:
                behind.add(stage)
                queue.append(stage)
    return {stage.addressing for stage in changed | behind}


def plans(change: Callable[[Path, str], str], files: list[Path], project: Project) -> tuple[set[str], set[str]]:
    """What DVC and what Snakemake would run with a change in these files of the project; they are put back."""
    before = {file: (project.folder / file).read_bytes() for file in files}
    try:
        for file, content in before.items():
            (project.folder / file).write_text(change(file, content.decode()), encoding="utf-8")
        with contextlib.chdir(project.folder):
            planned = {stage.name for stage in Graph(params.load()).stages if stage.changed}
            return plan_of_dvc(), planned
    finally:
        for file, content in before.items():
            (project.folder / file).write_bytes(content)


@pytest.mark.slow
def test_both_engines_plan_nothing_for_comments_in_all_files(by_snakemake: Project) -> None:
    assert plans(commented, FILES, by_snakemake) == (set(), set())


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_both_engines_plan_alike_for_a_statement(part: int, by_snakemake: Project) -> None:
    """Of the files that stand on the same pages, one is changed: the engines see nothing of the code but the pages.

    That each page changes with each of its files is tested above.
    """
    groups: dict[frozenset[str], list[Path]] = {}
    pages = {str(page): read_json(page) for page in (by_snakemake.folder / LEDGER).rglob("*.json")}
    for file in FILES:
        groups.setdefault(frozenset(page for page in pages if str(file) in pages[page]), []).append(file)
    assert len(groups) > 2 * PARTS
    for files in list(groups.values())[part::PARTS]:
        planned = expected(files[0])
        assert all(expected(file) == planned for file in files)
        assert plans(extended, files[:1], by_snakemake) == (planned, planned), files


@pytest.mark.slow
def test_the_engines_themselves_with_a_comment_in_every_file_and_a_statement_in_one(
    by_snakemake: Project, tmp_path: Path
) -> None:
    project = by_snakemake.copy(tmp_path)
    for file in FILES:
        text = (ROOT / file).read_text(encoding="utf-8")
        (project.folder / file).write_text(commented(file, text), encoding="utf-8")
    project.assert_settled_for(SNAKEMAKE)
    assert project.ran(*DVC) == {"ledger"}
    flow = Path("workflow/models/layers/flow.py")
    project.edit(str(flow), "", "\n_new = 1\n")
    assert project.ran(*SNAKEMAKE, "-n") == expected(flow) == {
        "check", *(f"{stage}@nice-0" for stage in CHAIN), "track", "report",
    }  # fmt: skip
    assert project.ran(*DVC) == {"ledger", "check", "train@nice-0", "sample@nice-0", "evaluate@nice-0", "track"}
    project.assert_settled_for(SNAKEMAKE)
