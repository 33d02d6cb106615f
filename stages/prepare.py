"""Split the downloaded data set into the three splits that every family sees."""

from workflow import params
from workflow.data import catalogue
from workflow.data.arrays import as_card, write_prepared
from workflow.data.counts import check_counts
from workflow.engines.command import run
from workflow.paths import PREPARED, RAW


def main() -> None:
    """Write the splits and their card, if there are enough images for the later stages."""
    settings = params.load()
    sets, about = catalogue.prepare(settings.data, RAW / settings.data.name)
    counts = {split: len(images) for split, images in sets.items()}
    check_counts(settings, as_card({**about, "counts": counts, "sha256": {}}))
    write_prepared(PREPARED, sets, **about)


if __name__ == "__main__":
    run(main, __doc__)
