"""The table of measures, which the report and the mirror in MLflow read."""

import subprocess
import sys

from workflow.evaluation.columns import MEASURED, keys_on_features


def test_figures_on_features_are_known_by_name_with_their_spreads() -> None:
    assert keys_on_features() == {
        *("fid", "fid_infinity", "kid", "kid_std", "inception_score", "inception_score_std"),
        *("precision", "recall", "density", "coverage", "copying.c_t", "copying.authentic"),
        "copying.fld_gap",
        *("vendi", "rke", "prd.precision", "prd.recall"),
    }


def test_measures_have_keys_of_their_own_and_whole_sentences() -> None:
    assert len({column.key for column in MEASURED}) == len(MEASURED)
    assert all(text.endswith(".") for c in MEASURED for text in (c.measures, c.note))


def test_reading_the_tables_of_measures_and_kinds_loads_no_heavy_library() -> None:
    code = "import sys, workflow.evaluation.columns, workflow.models.taxonomy; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "matplotlib", "mlflow"} & set(loaded)


def test_no_interval_reaches_beyond_what_is_possible() -> None:
    columns = {column.key: column for column in MEASURED}
    assert columns["precision"].within_limits((-0.1, 1.2)) == [0, 1]
    assert columns["fid"].within_limits((-0.5, 1.5)) == [0, 1.5]
    assert columns["kid"].within_limits((-0.5, 1.5)) == [-0.5, 1.5]
