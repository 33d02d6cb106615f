"""What the comparison takes: another unit of an extractor is no doubt, seeds are rows, test images are averaged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workflow.data.arrays import write_arrays
from workflow.evaluation.comparison import difference
from workflow.evaluation.measurements import Measured, measurements

UNITS = np.array([1.0, 5.0, 0.2])  # of three extractors


def _model(folder: Path, name: str, fid: float, seeds: int = 1) -> list[Measured]:
    random = np.random.default_rng(int(100 * fid))
    found = []
    for seed in range(seeds):
        table = (fid + 0.05 * random.normal(size=(3, 3))) * UNITS
        metrics: dict[str, Any] = {"fid": table.mean(), "repeats": {"fid": table.tolist()}, "bits_per_dim_kind": None}
        path = folder / f"{name}-{seed}.safetensors"
        write_arrays(path, {"per_image/fid": np.full(5, fid + seed, np.float32)})
        found.append(Measured(metrics, path))
    return found


def _baseline(units: "np.ndarray[Any, Any]") -> dict[str, Any]:
    return {"fid": float((40 * units).mean()), "repeats": {"fid": [(40 * units).tolist()] * 3}}


def test_another_unit_of_another_extractor_is_no_doubt(tmp_path: Path) -> None:
    models = {"a": _model(tmp_path, "a", 2.0), "b": _model(tmp_path, "b", 3.0)}
    found = measurements(models, _baseline(UNITS))["fid"]
    told = difference(found["a"], found["b"])
    blind = measurements(models, _baseline(np.ones(3)))["fid"]
    untold = difference(blind["a"], blind["b"])
    assert told is not None
    assert untold is not None
    assert told.p_value < 0.05 < untold.p_value
    assert found["a"].mean == pytest.approx(2 * UNITS.mean(), rel=0.1)


def test_of_several_seeds_each_is_a_row_and_test_images_are_averaged(tmp_path: Path) -> None:
    runs = _model(tmp_path, "a", 2.0, seeds=2)
    found = measurements({"a": runs}, {})["fid"]["a"]
    assert np.shape(found.table) == (2, 3)
    assert found.table[1] == pytest.approx(np.mean(runs[1].metrics["repeats"]["fid"], axis=0))
    assert found.per_image == pytest.approx(np.full(5, 2.5))


def test_a_number_that_was_not_repeated_is_a_table_of_one(tmp_path: Path) -> None:
    write_arrays(tmp_path / "p.safetensors", {"x": np.zeros(1, np.float32)})
    found = measurements({"a": [Measured({"fid": 2.0}, tmp_path / "p.safetensors")]}, {})["fid"]["a"]
    assert (found.table, len(found.per_image), found.estimate) == ([[2.0]], 0, None)


def test_an_error_that_all_images_share_is_in_the_unit_of_the_column(tmp_path: Path) -> None:
    write_arrays(tmp_path / "p.safetensors", {"x": np.zeros(1, np.float32)})
    metrics = {"bits_per_dim": 2.0, "nats": 50.0, "bits_per_dim_kind": "estimate", "bits_per_dim_error": 0.1}
    run = Measured(metrics, tmp_path / "p.safetensors")
    for seeds, errors in ((1, (0.1, 2.5)), (2, (0.0, 0.0))):  # of several seeds, each has its own: they scatter by it
        found = measurements({"a": [run] * seeds}, {})
        assert (found["bits_per_dim"]["a"].error, found["nats"]["a"].error) == pytest.approx(errors)
