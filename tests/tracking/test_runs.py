"""MLflow mirrors the runs' files: each run once, each point once, what decides a result decides the run."""

import json
import math
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.invented_project import FAMILIES
from tests.tracking.conftest import (
    MODELS,
    RECORDS,
    Settings,
    client,
    curves,
    edit,
    expected,
    history,
    only,
    points,
    runs,
    snapshot,
    wait_for,
)
from workflow import params
from workflow.tracking.identity import content_tag
from workflow.tracking.live import live
from workflow.tracking.mirror import MIRRORED, mirror
from workflow.training.history import Record


def test_each_run_is_there_once_with_all_that_belongs_to_it(mirrored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mirrored)
    assert {run.info.run_name: run.info.status for run in runs()} == {f"{name}-0": "FINISHED" for name in MODELS}
    for run in runs():
        name, tags = run.data.tags["model"], run.data.tags
        assert curves(run) == expected(history(name))
        assert run.info.end_time - run.info.start_time == 12_500  # the training's duration
        data = only(run.inputs.dataset_inputs)
        assert (data.dataset.name, data.tags[0].value, json.loads(data.dataset.profile)["train"]) == (
            "digits", "training", 40,
        )  # fmt: skip
        assert tags["mlflow.note.content"].startswith("**")
        assert tags["likelihood"] in ("exact", "bound", "implicit")
        assert (tags["family"], tags["data"]) == (FAMILIES[name], "digits")
        files = {file.path for file in client().list_artifacts(run.info.run_id)}
        assert {"samples.png", "metrics.json", "history.jsonl", "neighbours_samples.png"} <= files
        assert ("interpolations.png" in files) == (name in ("vae", "vqvae"))
    by_name = {run.data.tags["model"]: run.data for run in runs()}
    assert by_name["nice"].params["couplings"] == "2"
    assert by_name["nice"].params["train.lr"] == "0.002"
    assert by_name["gan"].params["train.betas"] == "[0.5, 0.99]"


def test_figures_have_the_same_names_for_all_and_those_on_features_name_the_extractor(
    mirrored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mirrored)
    figures = {
        run.data.tags["model"]: {k: v for k, v in run.data.metrics.items() if not k.startswith(("train/", "valid/"))}
        for run in runs()
    }
    on_features = {"FID", "KID", "KID std", "Inception Score", "Inception Score std", "FID infinity"}
    on_features |= {"precision", "recall", "density", "coverage", "Vendi score", "RKE", "PRD precision", "PRD recall"}
    on_features |= {"C_T", "authentic", "FLD gap"}
    for name, found in figures.items():
        assert {f"classifier/{key}" for key in on_features} <= set(found)
        assert not on_features & set(found)
        theory = {"bits per dim", "bits per dim sem", "overfitting in bits per dim"}
        theory |= {"linear probe accuracy", "reconstruction MSE"}
        theory |= {"Bayes accuracy", "accuracy kept by confidence", "accuracy kept by density"}
        theory |= {f"probe from {labels} a class" for labels in ("1 label", "5 labels", "20 labels")}
        few = ("1 label", "5 labels")
        theory |= {
            title for n in few for title in (f"fine-tuned on {n} a class", f"gain over scratch from {n} a class")
        }
        assert set(found) - theory == set(figures["gan"])
        on_disk = json.loads(Path(f"runs/{name}/0/metrics.json").read_text(encoding="utf-8"))
        assert found["classifier/FID"] == on_disk["fid"]
        assert found.get("bits per dim") == on_disk["bits_per_dim"]
        assert found["GFLOPs per image"] == on_disk["gflops_per_sample"]
        assert found["modes found"] == on_disk["modes"]["found"]
        assert found["nearest neighbour/test"] == (test := on_disk["nearest_neighbour"]["test"])
        assert found["neighbour ratio"] == on_disk["nearest_neighbour"]["samples"] / test
        assert found["time/train seconds"] == 12.5
    assert "seed" not in figures["gan"]


def test_mirroring_again_changes_nothing_even_after_one_cut_off(project: Settings) -> None:
    tags = mirror(project)
    before = snapshot()
    assert set(tags["runs"]) == {f"{name}/0" for name in MODELS}
    assert mirror(project) == tags
    assert snapshot() == before
    for run in before:
        client().delete_tag(run, MIRRORED)  # as if the last thing it does had not been done
    mirror(project)
    assert snapshot() == before


def test_another_evaluation_changes_its_figures_in_the_same_run(project: Settings) -> None:
    mirror(project)
    before = snapshot()
    edit(Path("runs/vae/0/metrics.json"), sharpness=1.25)  # in which no model is best
    mirror(project)
    after = snapshot()
    assert list(after) == list(before)
    changed = only([run for run in after if after[run] != before[run]])
    assert client().get_run(changed).data.metrics["sharpness"] == 1.25
    assert after[changed][4] - before[changed][4] == Counter([("sharpness", 0, 1.25)])
    file = client().download_artifacts(changed, "metrics.json")
    assert json.loads(Path(file).read_text(encoding="utf-8"))["sharpness"] == 1.25


def test_durations_are_of_the_weights_that_are_there(project: Settings) -> None:
    def seconds() -> dict[str, float | None]:
        return {run.data.tags["model"]: run.data.metrics.get("time/train seconds") for run in runs()}

    def lasted() -> dict[str, int | None]:
        """What MLflow shows as the duration, in ms; None: nothing."""
        return {run.data.tags["model"]: run.info.end_time and run.info.end_time - run.info.start_time for run in runs()}

    vae, gan = (Path(f"runs/{name}/0/model.safetensors") for name in ("vae", "gan"))
    measured = vae.read_bytes()
    vae.write_bytes(other := Path("runs/nice/0/model.safetensors").read_bytes() + b"\0")  # nobody has measured these
    gan.write_bytes(other)
    mirror(project)
    assert seconds() == {"gan": None, "vae": None, "nice": 12.5, "pixelcnn": 12.5, "vqvae": 12.5}
    assert lasted() == {"gan": None, "vae": None, "nice": 12_500, "pixelcnn": 12_500, "vqvae": 12_500}
    assert {run.info.status for run in runs()} == {"FINISHED"}
    vae.write_bytes(measured)
    mirror(project)
    assert (seconds()["vae"], lasted()["vae"]) == (12.5, 12_500)
    vae.write_bytes(other)
    edit(Path("runs/vae/0/metrics.json"), sharpness=1.25)  # in which no model is best
    mirror(project)
    run = only([run for run in runs() if run.data.tags["model"] == "vae"])
    assert run.data.metrics["sharpness"] == 1.25
    assert lasted()["vae"] == 0  # MLflow forgets no end
    times = {key: value for key, value in run.data.metrics.items() if key.startswith("time/")}
    assert len(times) == 4
    assert all(math.isnan(value) for value in times.values())


def test_live_then_mirror_have_each_point_once(project: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    sizes: list[int] = []
    log_batch = MlflowClient.log_batch

    def counted(self: Any, run_id: str, metrics: Any = (), **others: Any) -> None:
        sizes.append(len(metrics))
        log_batch(self, run_id, metrics=metrics, **others)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    records: list[Record] = [{"step": step, "epoch": step / 9, "loss": 1 / step} for step in range(1, 701)]
    Path("runs/nice/0/history.jsonl").write_text(
        "".join(json.dumps(record) + "\n" for record in records), encoding="utf-8"
    )
    with live("nice", 0, project) as log:
        for record in records[:40]:
            log(record)
    run = only(runs())
    assert (run.info.run_name, run.info.status) == ("nice-0", "FINISHED")
    assert points(run) == expected(records[:40])
    mirror(project)
    assert len(runs()) == len(MODELS)
    again = only([r for r in runs() if r.info.run_id == run.info.run_id])
    assert curves(again) == expected(records)
    assert max(sizes) == 1000  # what a server takes in one request; a SQLite store takes any number


def test_a_followed_training_lasts_from_its_beginning_until_the_mirror_knows_better(
    project: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflow.tracking.live.LIVE_AFTER", 0.5)  # its run in MLflow is so much younger
    start = time.monotonic()
    with live("nice", 0, project) as log:
        inside = time.monotonic()
        log(RECORDS[0])
        wait_for(runs)
        inside = time.monotonic() - inside
    outside = time.monotonic() - start
    run = only(runs())
    assert inside * 1000 - 20 <= run.info.end_time - run.info.start_time <= outside * 1000
    mirror(project)
    run = client().get_run(run.info.run_id)
    assert run.info.end_time - run.info.start_time == 12_500


def test_a_duration_that_another_machine_measured_of_these_weights_stays(project: Settings) -> None:
    mirror(project)
    shutil.rmtree("timings")
    edit(Path("runs/vae/0/metrics.json"), sharpness=1.25)  # in which no model is best
    mirror(project)
    assert {run.info.end_time - run.info.start_time for run in runs()} == {12_500}


def test_a_short_training_leaves_its_curve_to_the_mirror(
    project: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("workflow.tracking.live.LIVE_AFTER", 600.0)
    records = history("nice")
    with live("nice", 0, project) as log:
        for record in records:
            log(record)
    assert runs() == []
    mirror(project)
    assert curves(only([run for run in runs() if run.info.run_name == "nice-0"])) == expected(records)
    assert capfd.readouterr().err == ""


def test_points_arrive_while_the_training_runs(project: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflow.tracking.live.SEND_EVERY", 0.2)
    with live("nice", 0, project) as log:
        log(RECORDS[0])
        wait_for(lambda: bool(runs()) and points(runs()[0]) == expected(RECORDS[:1]))
        assert runs()[0].info.status == "RUNNING"
        log(RECORDS[1])
        wait_for(lambda: points(runs()[0]) == expected(RECORDS[:2]))


def test_what_decides_a_result_decides_the_run(project: Settings) -> None:
    def change(**models: dict[str, Any]) -> Settings:
        return params.Params.model_validate({**content, "models": {**content["models"], **models}})

    content = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    nice = content["models"]["nice"]
    tags = [content_tag("nice", 0, project), content_tag("nice", 1, project)]
    tags.append(content_tag("nice", 0, change(nice={**nice, "couplings": 3})))
    tags.append(content_tag("nice", 0, change(nice={**nice, "train": {**nice["train"], "lr": 0.5}})))
    assert content_tag("nice", 0, change(gan=nice)) == tags[0]  # another model's affair
    threads = {**content["compute"], "threads": 2}
    tags.append(content_tag("nice", 0, params.Params.model_validate({**content, "compute": threads})))
    edit(Path("data/ledger/models/nice.json"), sha256="other")
    tags.append(content_tag("nice", 0, project))
    edit(Path("data/prepared/card.json"), sha256={"train": "other"})
    tags.append(content_tag("nice", 0, project))
    assert len(set(tags)) == 7


def test_a_changed_hyper_parameter_makes_a_new_run(project: Settings) -> None:
    with live("nice", 0, project) as log:
        log(RECORDS[0])
    text = Path("params.yaml").read_text(encoding="utf-8")
    assert text.count("couplings: 2") == 1
    Path("params.yaml").write_text(text.replace("couplings: 2", "couplings: 3"), encoding="utf-8")
    with live("nice", 0, params.load()) as log:
        log(RECORDS[1])
    assert {run.data.params["couplings"]: points(run) for run in runs()} == {
        "2": expected(RECORDS[:1]), "3": expected(RECORDS[1:2]),
    }  # fmt: skip


def test_runs_say_in_what_their_model_is_best(mirrored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mirrored)
    best = {run.data.tags["model"]: run.data.tags.get("best in", "").split("; ") for run in runs()}
    assert "GFLOPs per image" in best["nice"]
    assert "FID" in best["gan"]
    assert not any("FID" in names for model, names in best.items() if model != "gan")
