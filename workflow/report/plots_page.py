"""The JavaScript that `dvc plots` draws with, on this machine, so that its page also opens without a network.

DVC's own page loads it from the web. `.dvc/config` names `.dvc/plots.html` in its place, which loads the copies that
come with Snakemake's package, and turns to the web only where there are none.
"""

import importlib.util
from pathlib import Path

from workflow.files import write_bytes

FOLDER = Path(".dvc/tmp/vega")
FILES = ("vega/vega.js", "vega-lite/vega-lite.js", "vega-embed/vega-embed.js")  # in the order in which they need it


def keep_library() -> None:
    """Copy Vega into DVC's folder of temporary files, if Snakemake's package has it and it is not there yet."""
    found = importlib.util.find_spec("snakemake")
    if found is None or not found.submodule_search_locations:
        return
    for source in (Path(found.submodule_search_locations[0]) / "assets/data" / name for name in FILES):
        copy = FOLDER / source.name
        if source.exists() and not (copy.exists() and copy.stat().st_size == source.stat().st_size):
            write_bytes(copy, source.read_bytes())
