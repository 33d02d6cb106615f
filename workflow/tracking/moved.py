"""MLflow's own store in a project's folder that has been moved or copied.

MLflow writes down where the files of an experiment and its runs lie by their full path, once. In another folder it
would go on writing into the old one.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlparse

# Tables with such paths; those of models that no longer exist in a version of MLflow are passed over.
PLACES = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"))


def follow(database: Path, artifacts: Path) -> None:
    """Let the database name this folder of artifacts where it names that of another folder of the project.

    database: the project's `mlflow.db`, which may not exist yet; a link is to another folder's, which is left alone.
    artifacts: its `mlartifacts`.
    """
    if not database.exists() or database.is_symlink():
        return
    here = artifacts.as_uri()
    with closing(sqlite3.connect(database)) as store, store:
        tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "experiments" not in tables:
            return
        found = store.execute("SELECT DISTINCT artifact_location FROM experiments WHERE artifact_location IS NOT NULL")
        for (old,) in found.fetchall():
            if old == here or not (old.startswith("file:") and old.endswith(f"/{artifacts.name}")):
                continue  # this one, or of no project's folder: MLflow's default experiment, a bucket
            for table, column in PLACES:
                if table in tables:
                    inside = f"substr({column} || '/', 1, ?) = ?"
                    store.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {inside}",
                        (here, len(old) + 1, len(old) + 1, f"{old}/"),
                    )


def lost(uri: str) -> bool:
    """Whether a run's files should lie in a folder of this machine and do not: the store has come without them."""
    place = urlparse(uri)
    return place.scheme == "file" and not Path(unquote(place.path)).exists()
