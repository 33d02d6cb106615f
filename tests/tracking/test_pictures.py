"""Samples over training in MLflow: the same places of the slider for all runs, each image once."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tracking.conftest import MODELS, SHAPE, Settings, client, only, runs
from workflow.data.arrays import read_arrays
from workflow.data.tensors import write_tensors
from workflow.paths import RunFiles
from workflow.tracking.mirror import MIRRORED, mirror
from workflow.tracking.names import IMAGES
from workflow.tracking.pictures import FOLDER, LOGGED_IMAGES, draw, nearest, write_snapshots

PERCENTAGES = (0, 12, 25, 38, 50, 62, 75, 88, 100)


@pytest.mark.parametrize(
    ("steps", "chosen"),
    [
        ([0, 7, 14, 21, 28, 35, 42, 49, 56], (0, 1, 2, 3, 4, 5, 6, 7, 8)),
        ([0, 390, 585, 780, 975, 1170, 1365, 1755, 1794], (0, 1, 1, 2, 4, 5, 6, 7, 8)),  # validated too rarely
        ([5], (0,) * 9),
    ],
)
def test_every_run_has_an_image_at_the_same_percentages(steps: list[int], chosen: tuple[int, ...]) -> None:
    assert nearest(np.array(steps)) == dict(zip(PERCENTAGES, chosen, strict=True))


def test_images_made_elsewhere_have_no_training_to_show(project: Settings, tmp_path: Path) -> None:
    files = RunFiles("gan", 0)
    none = {"images": torch.empty(0, 0, *SHAPE, dtype=torch.uint8), "steps": torch.empty(0, dtype=torch.int64)}
    write_tensors(files.snapshots, none)
    files.history.write_text("", encoding="utf-8")
    mirror(project)
    assert client().get_run(run_of("gan")).data.tags[MIRRORED]
    assert images_of(run_of("gan")) == []


def images_of(run_id: str) -> list[str]:
    """The run's images, in the order in which MLflow reads them: of two for one step, it shows the second."""
    return [file.path for file in client().list_artifacts(run_id, FOLDER)]


def run_of(name: str) -> str:
    return str(only([run for run in runs() if run.data.tags["model"] == name]).info.run_id)


def test_images_are_named_and_tagged_as_mlflows_own_function_does_it(
    project: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def without_what_differs(paths: list[str]) -> list[str]:
        return sorted(re.sub(r"\+timestamp\+\d+\+[0-9a-f-]+", "", path) for path in paths)

    place = tmp_path_factory.mktemp("place")
    write_snapshots(place, RunFiles("vae", 0), 5, [])
    ours = [str(file.relative_to(place)) for file in place.rglob("*.*")]
    mine = client()
    run_id = mine.create_run(mine.create_experiment("theirs")).info.run_id
    for percent in PERCENTAGES:
        mine.log_image(run_id, np.zeros((8, 8), np.uint8), key=IMAGES, step=percent)
    assert without_what_differs(ours) == without_what_differs(images_of(run_id))
    assert mine.get_run(run_id).data.tags[LOGGED_IMAGES] == "True"


def test_images_are_logged_once_and_those_of_other_weights_come_last(project: Settings) -> None:
    mirror(project)
    assert {run.data.tags[LOGGED_IMAGES] for run in runs()} == {"True"}
    before = {name: images_of(run_of(name)) for name in MODELS}
    assert {name: len(paths) for name, paths in before.items()} == dict.fromkeys(MODELS, 2 * len(PERCENTAGES))
    for run in runs():
        client().delete_tag(run.info.run_id, MIRRORED)  # as if the last thing it does had not been done
    mirror(project)
    assert {name: images_of(run_of(name)) for name in MODELS} == before
    file = RunFiles("vae", 0).snapshots
    first = file.read_bytes()
    images = torch.zeros(9, 10, *SHAPE, dtype=torch.uint8)
    for content in ("other", "first"):  # the first ones come back
        if content == "other":
            write_tensors(file, {"images": images, "steps": torch.arange(9)})
        else:
            file.write_bytes(first)
        earlier = images_of(run_of("vae"))
        mirror(project)
        now = images_of(run_of("vae"))
        assert len(now) == len(earlier) + 2 * len(PERCENTAGES)
        for percent in PERCENTAGES:
            of_step = [path for path in now if f"+step+{percent}+" in path]
            assert not {of_step[-2], of_step[-1]} & set(earlier)
    assert all(images_of(run_of(name)) == before[name] for name in MODELS if name != "vae")


def test_small_images_are_enlarged_and_both_files_show_the_same(
    mirrored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mirrored)
    snapshots = read_arrays(RunFiles("vae", 0).snapshots)["images"]
    last = [path for path in images_of(run_of("vae")) if "+step+100+" in path]
    shown = [np.asarray(Image.open(client().download_artifacts(run_of("vae"), path)).convert("L")) for path in last]
    small, full = shown
    assert np.array_equal(small, full)
    assert full.shape == (3 * 48 + 2, 4 * 48 + 3)  # ten images, four in a row, eight pixels drawn as 48
    assert np.array_equal(full[:48:6, :48:6], np.round(snapshots[-1][0, 0] / 4 * 255))


def test_points_are_drawn_as_one_plane() -> None:
    assert draw(np.zeros((2000, 1, 1, 2), np.uint8), 128).size == (192, 192)
