"""An MLflow server on PostgreSQL, its artifacts in S3, all on this machine."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.storage_server import StorageServer
from tests.conftest import ROOT
from tests.tracking.conftest import wait_for
from tests.tracking.test_use import answers

USER = "postgres"  # Debian's, for tests that root runs: PostgreSQL refuses root


@contextlib.contextmanager
def postgres(programs: Path) -> Iterator[str]:
    """A fresh PostgreSQL that can be reached by a socket in a folder of its own alone; yields the address of MLflow's
    database in it."""
    # Not in pytest's folder, which another user must not enter, and whose name is too long for a socket.
    folder, root = Path(tempfile.mkdtemp(prefix="pg")), os.geteuid() == 0
    as_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if root else []
    if root:
        shutil.chown(folder, USER, USER)

    def run(program: str, *arguments: str) -> None:
        command = [*as_user, str(programs / program), "-D", str(folder / "data"), *arguments]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 0, done.stderr.decode()

    try:
        run("initdb", "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        options = f"-k {folder} -c listen_addresses= -c fsync=off"  # `trust`: who can enter the folder
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg://{USER}@/{USER}?host={folder}"
        finally:
            run("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def mlflow_server(database: str, storage: StorageServer, folder: Path) -> Iterator[str]:
    """MLflow's server as compose.yaml starts it, begun but not waited for (see `wait_until_up`); yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    service = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]["mlflow"]
    command = list(service["command"])
    for theirs, ours in (("0.0.0.0", "127.0.0.1"), ("--port 5000", f"--port {port}"), ("--workers 2", "--workers 1")):
        assert command[-1].count(theirs) == 1
        command[-1] = command[-1].replace(theirs, ours)
    environment = {key: value for key, value in service["environment"].items() if "${" not in value}
    environment |= {"MLFLOW_BACKEND_STORE_URI": database, "MLFLOW_S3_ENDPOINT_URL": storage.address}
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **environment}, start_new_session=True
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # its workers are of its session
        server.wait()


def wait_until_up(address: str) -> None:
    wait_for(lambda: answers(f"{address}/health"))


def rows(database: str, question: str) -> list[tuple[Any, ...]]:
    """What PostgreSQL itself answers."""
    import psycopg

    with psycopg.connect(database.replace("+psycopg", "")) as connection:
        found: list[tuple[Any, ...]] = connection.execute(question).fetchall()
        return found
