"""The index of runs: one file per model and seed of the present graph, with the hashes of the run's files.

Stages that read the runs of all models (the report, the mirror to MLflow) depend on this folder instead of `runs/`,
which may contain other files, from a renamed model or a file browser.
"""

from pathlib import Path

from workflow.files import sha256, write_json
from workflow.params import Params
from workflow.paths import INDEX, RunFiles, index_entry

HIDDEN = "."  # prefix of entries that the present graph does not make; DVC ignores them (.dvcignore)


def write_entry(name: str, seed: int) -> None:
    """Add a complete run to the index."""
    write_json(index_entry(name, seed), {file.name: sha256(file) for file in RunFiles(name, seed).all()})


def hide_others(settings: Params) -> None:
    """Hide the entries of models and seeds that are not in the parameters, and restore those that are."""
    known = {index_entry(name, seed) for name in settings.models for seed in settings.seeds}
    for entry in set(INDEX.glob("*.json")) - known:
        if not entry.name.startswith(HIDDEN):
            entry.replace(_hidden(entry))
    for entry in known:
        if not entry.exists() and _hidden(entry).exists():
            _hidden(entry).replace(entry)


def _hidden(entry: Path) -> Path:
    return entry.with_name(f"{HIDDEN}{entry.name}")
