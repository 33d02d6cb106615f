"""The notebook of docs/ runs in a finished project, from its first cell to its last."""

import json
import re
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.copied_project import SNAKEMAKE, Project

NOTEBOOK = json.loads((ROOT / "docs/tour.ipynb").read_text(encoding="utf-8"))
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_it_is_a_notebook_without_results() -> None:
    """Which would be those of some other run."""
    import nbformat

    nbformat.validate(NOTEBOOK)
    assert all(
        cell["outputs"] == [] and cell["execution_count"] is None for cell in NOTEBOOK["cells"] if "outputs" in cell
    )


@pytest.mark.slow
def test_all_cells_run_one_after_another(tmp_path: Path) -> None:
    project = Project(tmp_path, ("pixelcnn", "vae"))
    project.run(*SNAKEMAKE)
    (tmp_path / "docs/tour.py").write_text("\n".join(CODE), encoding="utf-8")
    here = project.run(sys.executable, "docs/tour.py")  # from the project's folder, and from that of the notebook
    there = project.run("env", "-C", "docs", sys.executable, "tour.py")
    # Each run has a temporary folder of its own.
    here, there = (re.sub(r"\S+/samples\.npz", "samples.npz", printed) for printed in (here, there))
    assert here == there
    assert re.search(r"^VAE: \d\.\d{3} bits/dim\nPixelCNN: \d\.\d{3} bits/dim\nfeatures \(100, \d+\)$", here, re.M)
    assert re.search(r"^classifier FID ↓ +\d", here, re.M)
