"""What the parameters require of the data: how many images, and of which classes.

All of this is known once the data are prepared, so it is checked there, before anything is trained. Metrics and models
do not check again unless the result would otherwise be wrong.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from workflow.data.arrays import Card, read_card
from workflow.data.captions import language_of, words_in
from workflow.data.listing import some
from workflow.errors import BakeoffError
from workflow.params import PATH, Data, Embedded, Entry, Params
from workflow.paths import DVC_LOCK, PREPARED

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # faster, for the many lines of dvc.lock
LEAST = 2  # images to train on, and to test with


def check_counts(settings: Params, card: Card) -> None:
    """Raise BakeoffError for the first parameter that these data do not allow, with its value and what to do.

    Trials of sweeps are skipped: if one is impossible, its training fails and the sweep sets it aside.
    """
    check_evaluation(settings, card)
    trials = {name for sweep in settings.sweeps.values() for name in sweep.trials}
    for name, entry in settings.models.items():
        if name not in trials:
            check_model(name, entry, card)


def check_evaluation(settings: Params, card: Card) -> None:
    """Check the parameters of the evaluation, which concern all models."""
    train, test, drawn = card.counts["train"], card.counts["test"], settings.sample.count
    for split, what in (("train", "to train on"), ("test", "to test with")):
        if (count := card.counts[split]) < LEAST:
            raise BakeoffError(
                f"data: {count} image {what}, of {sum(card.counts.values())}; at least {LEAST} are needed: "
                f"{_more(settings.data, card, split)}"
            )
    least, what = min((test, "test images"), (train, "training images"), (drawn, "samples (sample.count)"))
    if (neighbours := settings.evaluate.neighbours) >= least:
        raise BakeoffError(
            f"{PATH}: evaluate.neighbours: {neighbours}: too many for {least} {what}; set it to {least - 1} or lower"
        )
    extractors = settings.evaluate.extractors
    least, what = min((train, "training images"), (drawn, "samples (sample.count)"))
    if (card.classes or extractors[0] == "inception") and (splits := settings.evaluate.splits) > least:
        raise BakeoffError(
            f"{PATH}: evaluate.splits: {splits}: too many for {least} {what}; set it to {least} or lower"
        )
    if (card.mixture or card.rate) and (of_pictures := [name for name in extractors if name != "trained"]):
        what = "points" if card.mixture else "signals"
        raise BakeoffError(f"{PATH}: evaluate.extractor: {of_pictures[0]!r}: the data are {what}; set it to trained")


def check_model(name: str, entry: Entry, card: Card) -> None:
    """Check the parameters of one model; of one that is not trained, there are none."""
    if not entry.train:
        return
    parts, train = entry.train.parts, card.counts["train"]
    if parts > train:
        fitting = max(part for part in range(1, train + 1) if entry.train.batch_size % part == 0)
        raise BakeoffError(
            f"{PATH}: models.{name}.train.parts: {parts}: more than there are training images ({train}); set it to "
            f"{fitting}"
        )
    mixed = entry.hyperparameters.get("components")
    if isinstance(mixed, int) and mixed > train:
        raise BakeoffError(
            f"{PATH}: models.{name}.components: {mixed}: more than there are training images ({train}); set it to "
            f"{train} or lower"
        )
    asked, known = entry.hyperparameters.get("classes", 0), len(card.classes)
    if asked not in (0, known):
        remedy = f"set {known}, or 0 for a model that is not conditioned on them" if known else "set 0"
        raise BakeoffError(f"{PATH}: models.{name}.classes: {asked}: the data have {known or 'no'} classes; {remedy}")
    _check_captions(name, entry, card)


def _check_captions(name: str, entry: Entry, card: Card) -> None:
    """Check what a model with captions is told of their vocabulary and length."""
    asked, length = (entry.hyperparameters.get(key, 0) for key in ("vocabulary", "caption_length"))
    if not asked:
        return
    language, where = language_of(card), f"{PATH}: models.{name}"
    if not language:
        raise BakeoffError(
            f"{where}.vocabulary: {asked}: the data have neither captions nor classes to make them of; add "
            "captions.csv to your pictures, or set 0"
        )
    if not card.words and (same := _told_alike(card.classes)):
        raise BakeoffError(
            f"{where}.vocabulary: {asked}: captions are made of the names of the classes, and those of {same} have no "
            "letters or digits that tell them apart; rename them, add captions.csv to your pictures, or set 0"
        )
    if asked != (words := len(language.words)):
        raise BakeoffError(f"{where}.vocabulary: {asked}: the captions to train on have {words} words; set {words}")
    if length < language.length:
        raise BakeoffError(
            f"{where}.caption_length: {length}: a caption to train on has {language.length} words; set "
            f"{language.length} or more"
        )


def _told_alike(classes: Sequence[str]) -> str:
    """Classes whose names have the same words, or none, as a list; "" if there are none."""
    named: dict[tuple[str, ...], list[str]] = {(): []}
    for name in classes:
        named.setdefault(tuple(words_in(name)), []).append(name)
    alike = next((names for words, names in named.items() if len(names) > bool(words)), [])
    return some(alike)


def _more(data: Data, card: Card, split: str) -> str:
    """How a split, train or test, gets the least number of images."""
    if data.test is None or "as the set comes" in card.split:
        own = f"add images to the {split} split in {data.root}"
        return f"{own}, or lower data.valid" if split == "train" else own
    share = data.test if split == "test" else 1 - data.valid - data.test
    change = "raise data.test" if split == "test" else "lower data.valid and data.test"
    return change if isinstance(data, Embedded) else f"add images, up to {math.ceil(LEAST / share)} in all, or {change}"


def recorded_card(settings: Data) -> Card | None:
    """The card of the prepared data, if dvc.lock records them for these settings and no own file is newer.

    None if the data have not been prepared or will be prepared again; the stage `prepare` then checks them.
    """
    card = PREPARED / "card.json"
    try:
        stage = yaml.load(DVC_LOCK.read_text(encoding="utf-8"), _LOADER)["stages"]["prepare"]  # noqa: S506 -- safe
        recorded = type(settings).model_validate(stage["params"][str(PATH)]["data"])
        digests = {out["path"]: out["md5"] for out in stage["outs"]}
        digest = hashlib.md5(card.read_bytes(), usedforsecurity=False).hexdigest()  # DVC's hash
        written = card.stat().st_mtime
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return None
    if recorded != settings or digests.get(str(card)) != digest:
        return None
    if not isinstance(settings, Embedded) and any(place.stat().st_mtime > written for place in _places(settings.root)):
        return None
    return read_card()


def _places(root: Path) -> Iterator[Path]:
    """A file, or a folder and all files and folders in it, without broken links."""
    yield root
    yield from (path for path in root.rglob("*") if path.exists())
