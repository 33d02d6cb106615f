"""Results shared through S3: what one machine has pushed, another pulls, and runs only what it has changed itself."""

import hashlib
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.cluster.storage_server import BUCKET, SECRETS, StorageServer
from tests.copied_project import SNAKEMAKE, Project
from tests.tracking.conftest import PATIENCE

pytestmark = pytest.mark.slow
FILES = ("runs/gan/0/model.safetensors", "runs/nice/0/model.safetensors")  # so much of the graph is enough here
STAGES = ("train@gan-0", "train@nice-0")
CHANGED = ("dvc", "repro", "--pull", "--allow-missing", "train@nice-0")
EDIT = ("params.yaml", "couplings: 2", "couplings: 3")
REFUSED = "Could not connect to the endpoint URL"

Clone = Callable[[str], Project]


def share(project: Project, storage: StorageServer, remote: str) -> None:
    """What docs/cluster.md tells to do, once for all and then on each machine."""
    project.run("dvc", "remote", "add", "-f", remote, f"s3://{BUCKET}/{remote}")
    project.run("dvc", "remote", "modify", remote, "verify", "true")
    here(project, storage, remote)


def here(project: Project, storage: StorageServer, remote: str = "store") -> None:
    project.run("dvc", "remote", "modify", "--local", remote, "endpointurl", storage.address)


def hashes(project: Project) -> dict[str, str]:
    """The MD5 by which DVC knows each output, by its path."""
    stages = yaml.safe_load((project.folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


def name_of(md5: str) -> str:
    return f"/files/md5/{md5[:2]}/{md5[2:]}"


def files(project: Project) -> dict[str, str]:
    """SHA-256 of what two machines are to have alike."""
    return {path: digest for path, digest in project.outputs().items() if path.startswith(("runs/", "data/prepared/"))}


@pytest.fixture(scope="module")
def origin(storage: StorageServer, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that Snakemake has run, and whose results are pushed and committed."""
    project = Project(tmp_path_factory.mktemp("origin"))
    project.run(*SNAKEMAKE, *FILES, "-q")
    share(project, storage, "store")
    project.run("dvc", "remote", "default", "store")
    project.run("dvc", "push", "-q", "--run-cache")
    project.run("git", "add", "-A")
    project.run("git", "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qm", "run")
    return project


@pytest.fixture(scope="module")
def clone(origin: Project, storage: StorageServer, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Makes a clone as on another machine: with an empty cache, and the server's address of its own."""

    def make(name: str) -> Project:
        project = Project.of(tmp_path_factory.mktemp(name))
        origin.run("git", "clone", "-q", ".", str(project.folder))
        here(project, storage)
        return project

    return make


def test_another_machine_has_nothing_to_do_after_dvc_pull(origin: Project, clone: Clone) -> None:
    there = clone("pulled")
    there.run("dvc", "pull", *STAGES, "--with-deps")
    assert "up to date" in there.run("dvc", "status", *STAGES, "--with-deps")
    assert "Nothing to be done" in there.run("snakemake", "-n", *FILES)
    assert files(there) == files(origin)


def test_a_clone_without_data_runs_what_it_changed_and_fetches_what_that_reads(
    origin: Project, clone: Clone, storage: StorageServer
) -> None:
    first = clone("first")
    first.edit(*EDIT)
    storage.requests.clear()
    assert first.ran(*CHANGED) == {"ledger", "check", "train@nice-0"}
    fetched = {request.path for request in storage.requests if request.method == "GET"}
    assert {path for path, md5 in hashes(origin).items() if f"/{BUCKET}/store{name_of(md5)}" in fetched} == {
        "data/prepared/train.safetensors", "data/prepared/valid.safetensors", "data/prepared/card.json",
    }  # fmt: skip
    first.run("dvc", "push", "-q", "--run-cache", "train@nice-0", "--with-deps")

    second = clone("second")  # which has not got the new dvc.lock, and changes the same
    second.edit(*EDIT)
    assert second.ran(*CHANGED, "--single-item") == set()  # without `check`, which always runs
    made = [path for path in hashes(first) if path.startswith("runs/nice/")]
    assert len(made) == 3
    assert all((first.folder / path).read_bytes() == (second.folder / path).read_bytes() for path in made)


def test_a_server_that_is_down_costs_an_error_and_nothing_else(
    origin: Project, clone: Clone, storage: StorageServer
) -> None:
    before, there = files(origin), clone("waiting")
    storage.stop()
    try:
        for project, command in ((origin, "push"), (there, "pull")):
            printed = project.run("dvc", command, good=False)
            assert printed.count(REFUSED) == 1
            assert storage.address in printed
            assert "Traceback" not in printed
    finally:
        storage.start()
    assert files(origin) == before
    assert "up to date" in origin.run("dvc", "push")
    there.run("dvc", "pull", "-q", "train@gan-0")
    assert (there.folder / FILES[0]).read_bytes() == (origin.folder / FILES[0]).read_bytes()


def test_a_push_that_was_killed_goes_on_where_it_was(origin: Project, storage: StorageServer) -> None:
    share(origin, storage, "other")
    storage.hold_after(5)
    pushing = origin.start("dvc", "push", "-r", "other")
    try:
        assert storage.held.wait(PATIENCE), (origin.folder / "started.log").read_text(encoding="utf-8")
        os.killpg(pushing.pid, signal.SIGKILL)
        pushing.wait()
    finally:
        storage.release()
    there = storage.objects("other")
    assert len(there) == 5
    for name, content in there.items():  # an object is there as a whole or not at all
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        assert name.removesuffix(".dir") == name_of(digest)
    whole = {name_of(md5) for md5 in hashes(origin).values()}
    printed = origin.run("dvc", "push", "-r", "other")
    after = storage.objects("other")
    assert whole <= set(after)
    assert re.findall(r"(\d+) files? pushed", printed) == [str(len(after) - 5)]


def test_an_object_that_is_not_what_it_was_is_refused_and_can_be_pushed_again(
    origin: Project, clone: Clone, storage: StorageServer
) -> None:
    client, key = storage.client(), f"store{name_of(hashes(origin)[FILES[0]])}"
    content = bytearray(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    content[len(content) // 2] ^= 1
    client.put_object(Bucket=BUCKET, Key=key, Body=bytes(content))
    pull, there = ("dvc", "pull", FILES[0]), clone("refusing")
    for _ in range(2):
        assert FILES[0] in there.run(*pull, good=False)
        assert not (there.folder / FILES[0]).exists()
    client.delete_object(Bucket=BUCKET, Key=key)  # what is there DVC does not push again
    assert "1 file pushed" in origin.run("dvc", "push")
    there.run(*pull)
    assert (there.folder / FILES[0]).read_bytes() == (origin.folder / FILES[0]).read_bytes()


def test_secrets_come_from_the_environment_and_stay_there(origin: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in (path for path in (origin.folder / ".dvc").rglob("*") if path.is_file()):
        assert SECRETS["AWS_SECRET_ACCESS_KEY"].encode() not in file.read_bytes()
    assert "config.local" in Path(origin.folder / ".dvc/.gitignore").read_text(encoding="utf-8")
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    assert "Unable to locate credentials" in origin.run("dvc", "push", good=False)
