"""What the tests of many machines need: without it they are skipped, or fail if CLUSTER_REQUIRED is 1."""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cluster.storage_server import SECRETS, StorageServer

PACKAGES = "`uv pip install --require-hashes -r requirements-cluster.lock -r tests/cluster/requirements.lock`"


def needed(missing: str | None) -> None:
    """End the test for this reason, if there is one: it is skipped, or fails if CLUSTER_REQUIRED is 1."""
    if missing:
        (pytest.fail if os.environ.get("CLUSTER_REQUIRED") == "1" else pytest.skip)(missing)


def missing(what: str, install: str) -> None:
    """End the test: it needs something that is not on this machine."""
    needed(f"needs {what}, which is not on this machine: {install}")


def need_packages(*modules: str) -> None:
    for module in modules:
        if not find_spec(module):
            missing(f"the package {module}", PACKAGES)


def need_program(name: str, install: str, folders: str = "") -> Path:
    """Where a program is: on the PATH, or in one of the folders that a pattern like `usr/lib/*/bin` names."""
    others = sorted(Path("/").glob(folders)) if folders else []
    if not (found := shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *map(str, others)]))):
        missing(name, install)
    return Path(str(found)).resolve()  # a link stands apart from its fellows


@pytest.fixture(scope="module")
def storage() -> Iterator[StorageServer]:
    """A server of S3 on this machine; its secrets are in the environment, as DVC, boto3 and MLflow look for them."""
    need_packages("moto", "boto3", "dvc_s3")
    with pytest.MonkeyPatch.context() as patch:
        for key, value in SECRETS.items():
            patch.setenv(key, value)
        server = StorageServer()
        yield server
        server.stop()
