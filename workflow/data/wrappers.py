"""Folders around all that a split has, as archives leave them: `train/train/cat`, `test/images/1.png`.

A folder that is all that a split has is looked through, and so is one that is all that this one has. It is not if
another split has a folder of that name (in any case) beside others: then it is a class, the only one of this split. Nor
if there are pictures right in it, unless its name is nearly that of the split or says nothing (images), or every split
has it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from workflow.data.label_table import SPLIT_NAMES
from workflow.data.listing import shown, some
from workflow.errors import BakeoffError

# Names of folders that say nothing about the pictures in them, in any case; no class is called so.
NEUTRAL = frozenset((
    *("data", "dataset", "image", "images", "img", "imgs"),
    *("jpeg", "jpegimages", "jpegs", "jpg", "jpgs", "png", "pngs"),
))  # fmt: skip
Parts = tuple[str, ...]


@dataclass(frozen=True)
class Inside:
    """What is in the folder of a split.

    chain: folders, of which each is all that the one above it has. last: what the last of them has, the names of its
    folders, and "" if there are pictures beside them.
    """

    chain: Parts
    last: frozenset[str]


@dataclass(frozen=True)
class Wrapped:
    """What to look through in the folder of a split.

    folders: around its classes, from the outside in. reach: the same, and a last one with pictures right in it, which
    is no class either if there is a table beside them. doubt: why the class in them may be none; "" if that is clear.
    """

    folders: Parts
    reach: Parts
    doubt: str


def wrapped(folder: Path, splits: Mapping[str, str], pictures: Iterable[Parts]) -> dict[str, Wrapped]:
    """The folders to look through in the folder of each split.

    Args:
        folder: that has those of the splits.
        splits: which split each of these is, by name.
        pictures: paths of all pictures, relative to `folder`.

    Raises BakeoffError if a folder that is all that a split has is called like another split, and is no class there.
    """
    below: dict[str, list[Parts]] = {top: [] for top in splits}
    for parts in pictures:
        if len(parts) > 1 and parts[0] in below:
            below[parts[0]].append(parts[1:])
    inside = {top: _inside(paths) for top, paths in below.items()}
    shared = _shared([found.chain for found in inside.values()])
    result = {}
    for top, found in inside.items():
        elsewhere = {name.casefold() for other in inside if other != top for name in inside[other].last} - {""}
        result[top] = _wrapped(found, top, splits[top], shared, elsewhere)
        _refuse_others(folder, top, splits[top], result[top].reach)
    return result


def top_folders(pictures: Iterable[Parts], depth: int) -> set[str]:
    """The names of the folders at this depth of all paths; "" for pictures beside them."""
    return {parts[depth] if len(parts) > depth + 1 else "" for parts in pictures}


def nearly(name: str) -> str:
    """The split of which a folder's name reminds: `train2017`, `test_images`, `valset`; "" if of none."""
    words = (word.removesuffix("set") for word in re.findall("[a-z]+", name.casefold()))
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "")


def _inside(pictures: list[Parts]) -> Inside:
    chain: Parts = ()
    while len(names := top_folders(pictures, len(chain))) == 1 and "" not in names:
        chain = (*chain, *names)
    return Inside(chain, frozenset(names))


def _shared(chains: list[Parts]) -> int:
    """The number of folders with which all chains begin."""
    count = 0
    while all(len(chain) > count for chain in chains) and len({chain[count] for chain in chains}) == 1:
        count += 1
    return count


def _wrapped(found: Inside, top: str, split: str, shared: int, elsewhere: set[str]) -> Wrapped:
    """shared: how many folders of the chain every split has. elsewhere: what other splits have beside others."""
    chain = found.chain
    places = [place for place in range(shared, len(chain)) if chain[place].casefold() in elsewhere]
    if places:
        folders, name = chain[: places[0]], chain[places[0]]
        below = {chain[place] for place in places[1:]} | {last for last in found.last if last.casefold() in elsewhere}
        doubt = (
            f"has {shown('/'.join((top, *folders, name)))}, which may be the class {shown(name)} or a folder around "
            f"the classes in it ({some(sorted(below))}); rename it if it is no class, and otherwise the folders in it"
        )
        return Wrapped(folders, folders, doubt if below else "")
    is_class = "" in found.last and len(chain) > shared and not _says_nothing(chain[-1], split)
    return Wrapped(chain[:-1] if is_class else chain, chain, "")


def _says_nothing(name: str, split: str) -> bool:
    return name.casefold() in NEUTRAL or nearly(name) == split


def _refuse_others(folder: Path, top: str, split: str, folders: Parts) -> None:
    """Raise BakeoffError for a folder called like another split: pictures to test with might be trained on."""
    for place, name in enumerate(folders):
        if (other := nearly(name)) not in ("", split):
            path = "/".join((top, *folders[: place + 1]))
            raise BakeoffError(
                f"data.root: {shown(folder)}: has {shown(path)}, which looks like the split {other} inside {split}; "
                "move its pictures to where they belong, or rename it"
            )
