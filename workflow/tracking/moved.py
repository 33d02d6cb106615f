"""A project's own MLflow store after the project's folder has been moved or copied.

MLflow records once, as full paths, where the files of an experiment, its runs and its models are. In another folder it
would go on writing to the old one.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlparse

# Tables and columns with such paths; not every version of MLflow has all of them.
PLACES = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"))


def follow(database: Path, artifacts: Path) -> None:
    """Make the database refer to this folder of artifacts wherever it refers to the one in the project's old folder.

    database: the project's `mlflow.db`, which may not exist yet; a symbolic link is to another project's store, which
    is left alone. artifacts: its `mlartifacts`.
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
                continue  # already right, or not in a project's folder: MLflow's default experiment, a bucket
            for table, column in PLACES:
                if table in tables:
                    inside = f"substr({column} || '/', 1, ?) = ?"
                    store.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {inside}",
                        (here, len(old) + 1, len(old) + 1, f"{old}/"),
                    )


def is_local(uri: str) -> bool:
    """Whether files at this address are in a folder of this machine."""
    return urlparse(uri).scheme == "file"


def lost(uri: str) -> bool:
    """Whether files at this address should be in a folder of this machine and are not: the store came without them."""
    return is_local(uri) and not Path(unquote(urlparse(uri).path)).exists()
