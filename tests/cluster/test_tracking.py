"""One MLflow server for many machines: what sixteen writers log at once is all there, and each run once."""

import json
import multiprocessing
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import need_packages, need_program
from tests.cluster.storage_server import StorageServer
from tests.cluster.tracking_server import mlflow_server, postgres, rows, wait_until_up
from tests.tracking.conftest import PATIENCE, RECORDS, client, expected, make, only, points, runs
from workflow import params
from workflow.paths import RunFiles
from workflow.tracking.mirror import MIRRORED, digest_of
from workflow.tracking.pictures import FOLDER
from workflow.tracking.runs import run_of
from workflow.tracking.store import Store

pytestmark = pytest.mark.slow
WRITERS = range(16)
FORKS = multiprocessing.get_context("forkserver")  # not of this process, in which a server has threads
FILES = ("samples.png", "metrics.json", "history.jsonl")


@dataclass(frozen=True)
class Server:
    address: str
    database: str
    folder: Path  # of a project that logs to it


@pytest.fixture(scope="module")
def server(storage: StorageServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An MLflow server that is starting, and a project with a run for each writer."""
    need_packages("psycopg")
    initdb = need_program("initdb", "`apt-get install postgresql`", "usr/lib/postgresql/*/bin")
    folder = tmp_path_factory.mktemp("project")
    with postgres(initdb.parent) as database, mlflow_server(database, storage, folder) as address:
        make(folder)
        (folder / "runs/nice/0/history.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
        for seed in WRITERS[1:]:
            shutil.copytree(folder / "runs/nice/0", folder / f"runs/nice/{seed}")
        settings = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8")) | {"seeds": [*WRITERS]}
        (folder / "params.yaml").write_text(yaml.safe_dump(settings))
        yield Server(address, database, folder)


@pytest.fixture(autouse=True)
def _there(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(server.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)


def at_once(server: Server, target: Callable[..., None], each: list[tuple[Any, ...]]) -> None:
    """Run processes that begin together, as soon as the server is there."""
    FORKS.set_forkserver_preload(["tests.cluster.writers"])
    barrier = FORKS.Barrier(len(each) + 1)
    # Daemons: if this fails, they are not waited for.
    arguments = [(server.folder, *one, barrier, server.address) for one in each]
    processes = [FORKS.Process(target=target, args=some, daemon=True) for some in arguments]
    for process in processes:
        process.start()
    wait_until_up(server.address)
    barrier.wait(PATIENCE)
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0


@pytest.fixture(scope="module")
def written(server: Server) -> Server:
    """The server after sixteen trainings have logged to it at once."""
    from tests.cluster.writers import train_and_mirror

    at_once(server, train_and_mirror, [(seed, seed == 0) for seed in WRITERS])
    return server


def test_sixteen_writers_at_once_lose_nothing(written: Server, storage: StorageServer) -> None:
    assert [file.read_text(encoding="utf-8") for file in Path().glob("stderr-*")] == [""] * len(
        WRITERS
    )  # not a single warning
    found = {int(run.data.tags["seed"]): run for run in runs()}
    assert (len(runs()), {run.info.status for run in runs()}) == (len(WRITERS), {"FINISHED"})
    assert set(found) == set(WRITERS)
    entry = params.load().models["nice"].model_dump(mode="json")
    train = entry.pop("train")
    figures = json.loads(Path("runs/nice/0/metrics.json").read_text(encoding="utf-8"))
    for seed, run in found.items():
        parameters = {"seed": seed, **entry, **{f"train.{key}": value for key, value in train.items()}}
        assert run.data.params == {key: str(value) for key, value in parameters.items()}
        assert run.data.tags[MIRRORED] == digest_of(RunFiles("nice", seed))
        assert only(run.inputs.dataset_inputs).dataset.name == "digits"
        assert run.data.metrics["classifier/FID"] == figures["fid"]
        artifacts = storage.objects(f"{run.info.artifact_uri.replace('mlflow-artifacts:', 'mlflow')}/")
        assert len([file for file in artifacts if not file.startswith(FOLDER)]) == len(FILES) + 2
        assert len([file for file in artifacts if file.startswith(FOLDER)]) == 2 * 9  # at nine times in the training
        assert all(artifacts[file] == Path(f"runs/nice/{seed}/{file}").read_bytes() for file in FILES)
    assert expected(RECORDS) <= points(found[0])  # through the server
    model = only(only([found[0]]).outputs.model_outputs).model_id
    weights = storage.objects(f"mlflow/{found[0].info.experiment_id}/models/{model}/artifacts/artifacts/")
    assert list(weights.values()) == [Path("runs/nice/0/model.safetensors").read_bytes()]


def test_postgresql_has_each_point_once_in_one_experiment(written: Server) -> None:
    named = "select name from experiments where name <> 'Default'"
    assert rows(written.database, named) == [("generative-bakeoff/digits",)]
    curves = "select r.name, key, step, value from metrics m join runs r using (run_uuid) where key ~ '^(train|valid)/'"
    assert Counter(rows(written.database, curves)) == Counter(
        (f"nice-{seed}", *point) for seed in WRITERS for point in expected(RECORDS)
    )
    each = "select count(*) from {} group by run_uuid"
    assert {len(rows(written.database, each.format(table))) for table in ("params", "tags", "metrics")} == {
        len(WRITERS)
    }
    assert len({row for table in ("params", "metrics") for row in rows(written.database, each.format(table))}) == 2


def test_the_same_training_on_eight_machines_at_once_is_one_run(server: Server) -> None:
    from tests.cluster.writers import train_the_same

    at_once(server, train_the_same, [()] * 8)
    run = only([run for run in runs() if run.data.tags["model"] == "vae"])
    assert run_of(Store("digits"), "vae", 0, params.load()).info.run_id == run.info.run_id
    assert client().get_run(run.info.run_id).data.params["latents"] == "4"
