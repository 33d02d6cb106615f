"""The index of the runs: for each model and seed of the present graph a file with the hashes of all that it left.

Who reads the runs of all models (the report, MLflow's mirror) depends on this folder, in place of `runs/`, where
anything may lie: what a renamed model has left, or what a file browser puts there.
"""

from pathlib import Path

from workflow.files import sha256, write_json
from workflow.params import Params
from workflow.paths import INDEX, RunFiles, index_entry

HIDDEN = "."  # begins the names of those that the present graph does not make; DVC does not look at them (.dvcignore)


def write_entry(name: str, seed: int) -> None:
    """Put a run whose files are all there into the index."""
    write_json(index_entry(name, seed), {file.name: sha256(file) for file in RunFiles(name, seed).all()})


def hide_others(settings: Params) -> None:
    """Hide the entries of models and seeds that are not among the parameters, and show again those that are."""
    known = {index_entry(name, seed) for name in settings.models for seed in settings.seeds}
    for entry in set(INDEX.glob("*.json")) - known:
        if not entry.name.startswith(HIDDEN):
            entry.replace(_hidden(entry))
    for entry in known:
        if not entry.exists() and _hidden(entry).exists():
            _hidden(entry).replace(entry)


def _hidden(entry: Path) -> Path:
    return entry.with_name(f"{HIDDEN}{entry.name}")
