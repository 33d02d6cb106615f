"""`python -m benchmarks [part …]`: measure these parts (default: all); the other parts keep their last results.

Writes `benchmarks/results.json` and, for people, `benchmarks/RESULTS.md`, after each part.

`python -m benchmarks gpu --out DIR` measures what needs a GPU, and writes into a folder of its own: `--help` tells.
"""

import ast
import datetime
import importlib
import sys
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from benchmarks.compare import Row
from benchmarks.gpu import command
from workflow.device import keep_memory
from workflow.engines.timing import host
from workflow.files import read_json, write_json, write_text

PARTS = ("sampling", "training", "metrics", "stages", "growth", "run")  # modules with a docstring and `measure()`
RESULTS, TABLES = Path("benchmarks/results.json"), Path("benchmarks/RESULTS.md")


def main(names: list[str]) -> None:
    """Measure, part after part."""
    if unknown := set(names) - set(PARTS):
        sys.exit(f"error: no such part: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    torch.set_num_threads(1)  # as in a stage, and for all other libraries
    threadpool_limits(1)
    keep_memory()
    for name in names or PARTS:
        rows: list[Row] = []
        for row in importlib.import_module(f"benchmarks.{name}").measure():
            rows.append(row)
            print(name, *(f"{key}={_cell(value)}" for key, value in row.items()), sep="  ", flush=True)
        results = read_json(RESULTS) if RESULTS.exists() else {}
        results[name] = {
            "measured": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "host": host(torch.device("cpu")),
            "rows": rows,
        }
        results = {part: results[part] for part in PARTS if part in results}
        write_json(RESULTS, results)
        write_text(TABLES, _tables(results))


def _tables(results: dict[str, dict[str, object]]) -> str:
    """Markdown, one section per part: its module's docstring, the machine, the rows."""
    parts = ["# Results of `make bench`", "Written by `python -m benchmarks`; NOTES.md explains them."]
    for name, part in results.items():
        host_facts, rows = part["host"], part["rows"]
        assert isinstance(host_facts, dict)
        assert isinstance(rows, list)
        about = ast.get_docstring(ast.parse(Path(f"benchmarks/{name}.py").read_text(encoding="utf-8"))) or ""
        packages = host_facts["packages"]
        where = (
            f"{part['measured']}, {host_facts['processor']}, {host_facts['cores']} cores, Python "
            f"{host_facts['python']}, torch {packages['torch']}"
        )
        columns = list(rows[0])
        table = [columns, ["---"] * len(columns), *([_cell(row[column]) for column in columns] for row in rows)]
        lines = "\n".join("| " + " | ".join(line) + " |" for line in table)
        parts += [f"## {name.capitalize()}", about.strip(), f"*{where}.*", lines]
    return "\n\n".join(parts) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


if __name__ == "__main__":
    if sys.argv[1:2] == ["gpu"]:
        command.main(sys.argv[2:])
    else:
        main(sys.argv[1:])
