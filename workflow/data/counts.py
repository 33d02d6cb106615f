"""What the parameters ask of the data: how many images there must be, and of which classes.

All of it is known once the data are prepared, so it is refused there, before anything is trained. Measures and models
do not look again, but for what would otherwise come out wrong.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import yaml

from workflow.data.arrays import Card, read_card
from workflow.errors import BakeoffError
from workflow.params import PATH, Embedded, Entry, Folder, Params, Published
from workflow.paths import DVC_LOCK, PREPARED

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the lock has many lines
MORE = "add images, or change data.valid and data.test"


def check_counts(settings: Params, card: Card) -> None:
    """Raise BakeoffError for the first parameter that these data cannot meet: its value, what is allowed, what to do.

    Not for trials of sweeps: their training refuses what cannot be, and the sweep sets them aside.
    """
    check_evaluation(settings, card)
    trials = {name for sweep in settings.sweeps.values() for name in sweep.trials}
    for name, entry in settings.models.items():
        if name not in trials:
            check_model(name, entry, card)


def check_evaluation(settings: Params, card: Card) -> None:
    """The same for what all models are measured by."""
    train, test, drawn = card.counts["train"], card.counts["test"], settings.sample.count
    if train < 2:
        raise BakeoffError(f"data: {train} image to train on; there should be at least 2: {MORE}")
    if test < 2:
        raise BakeoffError(f"data: {test} image to test with; there should be at least 2: {MORE}")
    least, what = min((test, "test images"), (train, "training images"), (drawn, "samples (sample.count)"))
    if (neighbours := settings.evaluate.neighbours) >= least:
        raise BakeoffError(
            f"{PATH}: evaluate.neighbours: {neighbours}: too many for {least} {what}; set it to {least - 1} or lower"
        )
    inception = settings.evaluate.extractor == "inception"
    least, what = min((train, "training images"), (drawn, "samples (sample.count)"))
    if (card.classes or inception) and (splits := settings.evaluate.splits) > least:
        raise BakeoffError(
            f"{PATH}: evaluate.splits: {splits}: too many for {least} {what}; set it to {least} or lower"
        )
    if inception and card.mixture:
        raise BakeoffError(f"{PATH}: evaluate.extractor: 'inception': the data are points; set it to trained")


def check_model(name: str, entry: Entry, card: Card) -> None:
    """The same for one model."""
    parts, train = entry.train.parts, card.counts["train"]
    if parts > train:
        raise BakeoffError(
            f"{PATH}: models.{name}.train.parts: {parts}: more than there are training images ({train}); set it lower"
        )
    asked, known = entry.hyperparameters.get("classes", 0), len(card.classes)
    if asked not in (0, known):
        remedy = f"set {known}, or 0 for a model that is not conditioned on them" if known else "set 0"
        raise BakeoffError(f"{PATH}: models.{name}.classes: {asked}: the data have {known or 'no'} classes; {remedy}")


def recorded_card(settings: Embedded | Published | Folder) -> Card | None:
    """The card of the prepared data, if dvc.lock says that they are of these settings, and no picture is newer.

    None if they are not prepared, or will be anew; then it is the stage `prepare` that looks at them.
    """
    card = PREPARED / "card.json"
    try:
        stage = yaml.load(DVC_LOCK.read_text(encoding="utf-8"), _LOADER)["stages"]["prepare"]  # noqa: S506 -- safe
        recorded = type(settings).model_validate(stage["params"][str(PATH)]["data"])
        digests = {out["path"]: out["md5"] for out in stage["outs"]}
        digest = hashlib.md5(card.read_bytes(), usedforsecurity=False).hexdigest()  # as DVC has it
        written = card.stat().st_mtime
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return None
    if recorded != settings or digests.get(str(card)) != digest:
        return None
    if isinstance(settings, Folder) and any(place.stat().st_mtime > written for place in _places(settings.root)):
        return None
    return read_card()


def _places(root: Path) -> Iterator[Path]:
    """A folder, and all files and folders in it, but for links to nothing."""
    yield root
    yield from (path for path in root.rglob("*") if path.exists())
