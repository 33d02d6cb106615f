"""`dvc.yaml` declares the outputs that the code writes: no other place names them."""

from string import Template

import yaml

from tests.conftest import ROOT
from workflow import paths
from workflow.paths import RunFiles

FILLED = {"item.model": "vae", "item.seed": "0", "data.name": "digits"}


class _Filled(Template):
    idpattern = r"[a-z.]+"


def test_dvc_declares_every_output_that_the_code_writes() -> None:
    declared = set()
    for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values():
        for output in (output for kind in ("outs", "metrics", "plots") for output in stage.get(kind, [])):
            name = next(iter(output)) if isinstance(output, dict) else output
            declared.add(_Filled(name).substitute(FILLED))
    written = {
        *(paths.LEDGER, paths.CHECKED, paths.RAW / "digits", paths.PREPARED / "card.json", paths.index_entry("vae", 0)),
        *(paths.PREPARED / f"{split}.safetensors" for split in ("train", "valid", "test")),
        *(paths.EXTRACTOR, paths.EXTRACTOR_METRICS, paths.REFERENCE, paths.REAL_FEATURES, paths.AUDIT),
        *RunFiles("vae", 0).all(),
        *(paths.TRACKED, paths.PAGE, paths.SUMMARY, paths.TABLE, paths.METRICS, paths.CURVES, paths.CHARTS),
        *(paths.FIGURES, paths.LATEX, paths.MARKDOWN, paths.METHODS),
    }
    assert declared == {str(path) for path in written}
