"""How a folder of pictures is understood: its splits and classes, from names and tables alone.

Looking through. Hidden files, and what systems leave in folders, are no part of it. A folder that contains a single
folder and no picture beside it is looked through, as often as needed; so is one inside a split, unless another split
shows that it is a class (see `wrappers`). Refused: one inside a split that is called like another split, and one that
may be a class or have the classes in it.

Splits. Top folders called train or training; val, valid, validation or dev; test or testing, in any case, are the
splits. If `valid` or `test` is missing, it is taken out of `train`. Pictures beside the folders of the splits, and in
other top folders, are left out, counted and named. A single folder `train` beside others that are no splits is a class
(locomotives), unless it has folders with pictures of its own. Refused, because pictures to test with might be trained
on: splits without `train`; two folders of the same split; names that are nearly those of splits (train2017); splits
below the classes instead of above; `train` with classes beside folders that are no splits; pictures that are all named
like splits (train-1.png, test-1.png), with no folders of splits.

Classes. The folders below the splits, or the top folders if there are no splits, are classes if every picture lies in
one and there are two or more. Folders deeper down mean nothing. If some pictures lie in none, there are no classes, and
this is said. Refused: classes in some splits while others have no folders; classes to test or validate with that are
not among those to train with; `images` and the like beside other folders, which may be their masks.

Tables. `labels.csv`, `metadata.csv` or `metadata.jsonl` (see `label_table`) at the top, or in each folder of a split,
takes precedence over folders for what it has columns for: classes, splits or both. Pictures that it does not name are
left out, counted.

Captions. Each `captions.csv` (see `captions`), wherever it lies, says what the pictures below its folder show. If there
is one, every picture that is used must have a caption.
"""

import re
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path, PurePath

from workflow.data import captions
from workflow.data.arrays import SPLITS
from workflow.data.label_table import METADATA, NAMES, SPLIT_NAMES, Row, Table, read_table
from workflow.data.listing import Entry, list_files, shown, some
from workflow.data.wrappers import NEUTRAL, Parts, Wrapped, nearly, top_folders, wrapped
from workflow.errors import BakeoffError

HEIC = frozenset((".heic", ".heif"))  # read if Pillow's plug-in for it is installed, which is not among the packages
HEIC_PLUGIN = find_spec("pillow_heif") is not None
ENDINGS = frozenset((
    *(HEIC if HEIC_PLUGIN else ()),
    *(".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
))  # fmt: skip
# Pictures in formats that are not read, and tables of many; all files with other endings are just other files.
NOT_READ = frozenset((
    *(".arw", ".cr2", ".cr3", ".dcm", ".dng", ".exr", ".hdr", ".jp2", ".jxl", ".nef"),
    *(".npy", ".npz", ".orf", ".pdf", ".psd", ".raf", ".raw", ".svg", ".tga"),
    *(".arrow", ".parquet", ".tfrecord"),
))  # fmt: skip
ARCHIVES = frozenset((".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip"))
TABLES = frozenset((".csv", ".jsonl", ".tsv"))
SEEN = ENDINGS | HEIC  # by their names pictures that might be used
# Formats of sound that are not read.
SOUND = frozenset((".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wma"))
NO_TABLE = f"{', '.join(NAMES[:-1])} or {NAMES[-1]} with classes or splits, at the top or in the folder of a split"
SHOWN = 20  # classes in a table on a terminal


@dataclass(frozen=True)
class Medium:
    """What is looked for in a folder; below, all of it is called pictures.

    word: for one of them. endings: of files that are read. seen: by their names such that might be. not_read: endings
    of formats that are not read.
    """

    word: str
    endings: frozenset[str]
    seen: frozenset[str]
    not_read: frozenset[str]

    def has(self, entry: Entry) -> bool:
        """Whether an entry is a file that is read."""
        return stat.S_ISREG(entry.mode) and PurePath(entry.parts[-1]).suffix.lower() in self.endings


PICTURES = Medium("picture", ENDINGS, SEEN, NOT_READ)
RECORDINGS = Medium("recording", frozenset((".wav", ".wave")), frozenset((".wav", ".wave")), SOUND)


@dataclass(frozen=True)
class File:
    """A file that may be a picture.

    parts: its path relative to the folder. split, label: "" if there are none. captions: what it shows, in words.
    """

    parts: Parts
    split: str
    label: str
    captions: tuple[str, ...] = ()


@dataclass
class Layout:
    """How the folder is understood.

    files: that may be pictures. left_out: the number of the others, by reason. splits: that the folder comes with.
    splits_from, classes_from: what they are taken from, in words; "" if there are none. notes: what else to say.
    """

    files: list[File] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    splits: tuple[str, ...] = ()
    splits_from: str = ""
    classes_from: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        """The classes of the files; none if there is just one."""
        return classes_of(file.label for file in self.files)

    def in_words(self, classes: int) -> str:
        """One line for the card; classes: how many there are in the end."""
        out = [split for split in SPLITS if split not in self.splits]
        taken = f", {' and '.join(out)} taken out of train" if self.splits and out else ""
        splits = f"{self.splits_from}{taken}" if self.splits else "no splits"
        return "; ".join([splits, f"{self.classes_from}: {classes}" if classes else "no classes", *self.notes])


def classes_of(labels: Iterable[str]) -> list[str]:
    """The classes, in the order of their names or, if all are numbers, of these; none if there is just one."""
    names = set(labels) - {""}
    numbers = all(name.isdecimal() for name in names)
    return sorted(names, key=lambda name: (int(name) if numbers else 0, name)) if len(names) > 1 else []


def understand(root: Path, entries: list[Entry], medium: Medium = PICTURES) -> Layout:
    """Find the splits and classes of the files in a folder, as the text of this module says.

    Args:
        root: the folder.
        entries: what `list_files` finds in it.
        medium: what is looked for.

    Raises BakeoffError for what is nearly a layout, naming the folders, and for an invalid table.
    """
    return _Reader(root, entries, medium).read()


def check_classes(root: Path, files: Iterable[File], word: str = PICTURES.word) -> None:
    """Raise BakeoffError if a class of another split is not among those of `train`; word: for one of the files."""
    found: dict[str, set[str]] = {split: set() for split in ("", *SPLITS)}
    for file in files:
        found[file.split].add(file.label)
    for split in ("valid", "test"):
        if more := sorted(found[split] - found["train"]):
            raise BakeoffError(
                f"data.root: {shown(root)}: {split} has {_classes(len(more))} of which train has no usable {word}: "
                f"{some(more)}; add some, or remove or rename {'it' if len(more) == 1 else 'them'}"
            )


class _Reader:
    """The steps of `understand`. Pictures are known by their paths below `base`, the folder that is looked through to.

    wrapped: what to look through in the folders called like splits. tables: by the top folder below `base` that they
    lie in, "" for `base` itself. rows: what they say, by picture.
    split_of: of each picture, "" if it lies beside the splits; empty if there are no splits.
    """

    def __init__(self, root: Path, entries: list[Entry], medium: Medium) -> None:
        self._root, self._entries, self._medium, self._layout = root, entries, medium, Layout()
        self._names = {entry.name for entry in entries}
        self._base: Parts = ()
        self._wrapped: dict[str, Wrapped] = {}
        self._tables: dict[str, Table] = {}
        self._rows: dict[Parts, Row] = {}
        self._split_of: dict[Parts, str] = {}

    def read(self) -> Layout:
        layout, pictures = self._layout, [entry.parts for entry in self._entries if self._medium.has(entry)]
        self._look_through(pictures)
        if self._base:
            layout.notes.append(f"all in {shown('/'.join(self._base))}")
        pictures = [parts[len(self._base) :] for parts in pictures]
        self._look_through_splits()
        self._find_tables_of_splits()
        self._count_others()
        self._read_rows()
        pictures = self._only_listed(pictures)
        self._find_splits(pictures)
        pictures = self._only_in_splits(pictures)
        label_of, said = self._labels(pictures), self._captions([(*self._base, *parts) for parts in pictures])
        layout.files = [
            File(path, self._split_of.get(parts, ""), label_of.get(parts, ""), said.get(path, ()))
            for parts in pictures
            for path in [(*self._base, *parts)]
        ]
        layout.splits = tuple(split for split in SPLITS if split in self._split_of.values())
        check_classes(self._root, layout.files, self._medium.word)
        return layout

    def _error(self, text: str) -> BakeoffError:
        return BakeoffError(f"data.root: {shown(self._root.joinpath(*self._base))}: {text}")

    # Looking through, and tables

    def _look_through(self, pictures: list[Parts]) -> None:
        """Find the base: the first folder with a table, a picture, or several folders."""
        while not (table := self._table()):
            tops = top_folders(pictures, len(self._base))
            if len(tops) != 1 or "" in tops or SPLIT_NAMES.get(next(iter(tops)).casefold(), "train") != "train":
                return
            self._base = (*self._base, *tops)
        self._tables[""] = table

    def _look_through_splits(self) -> None:
        """Find what to look through in them; folders of pictures that cannot be used count, too."""
        if self._tables and any(row.split for row in self._tables[""].rows.values()):
            return
        depth = len(self._base)
        seen = [entry.parts for entry in self._entries if PurePath(entry.parts[-1]).suffix.lower() in self._medium.seen]
        pictures = [parts[depth:] for parts in seen]
        tops = sorted(name for name in top_folders(pictures, 0) if name.casefold() in SPLIT_NAMES)
        folder = self._root.joinpath(*self._base)
        self._wrapped = wrapped(folder, {top: SPLIT_NAMES[top.casefold()] for top in tops}, pictures)

    def _find_tables_of_splits(self) -> None:
        """Find the first table in each split, at its top or in the folders that are looked through."""
        if self._tables:
            return
        for top, found in self._wrapped.items():
            for depth in range(len(found.reach) + 1):
                if table := self._table(top, *found.reach[:depth]):
                    self._tables[top] = table
                    break

    def _table(self, *below: str) -> Table | None:
        """The table in the base, or in a folder below it."""
        folder = (*self._base, *below)
        prefix = "".join(f"{part}/" for part in folder)
        beside = {entry.parts[-1].casefold(): entry.parts[-1] for entry in self._entries if entry.parts[:-1] == folder}
        if NAMES[0] not in beside and len(both := [beside[name] for name in METADATA if name in beside]) > 1:
            place = shown(self._root.joinpath(*folder))
            raise BakeoffError(f"{place}: has {_and(both)}; remove the one that is not to be read")
        for name in (beside[name] for name in NAMES if name in beside):
            present = {other.removeprefix(prefix) for other in self._names if other.startswith(prefix)}
            if table := read_table(self._root.joinpath(*folder, name), present):
                return table
        return None

    def _count_others(self) -> None:
        """Count what is no picture, except the tables."""
        tables, left_out = {table.path for table in self._tables.values()}, self._layout.left_out
        for entry in self._entries:
            ending = PurePath(entry.parts[-1]).suffix.lower()
            if stat.S_ISLNK(entry.mode):
                left_out["links left out"] += 1
            elif self._medium.has(entry) or _has_captions(entry) or self._root.joinpath(*entry.parts) in tables:
                continue
            elif ending in self._medium.seen - self._medium.endings:  # HEIC, whose plug-in is missing
                left_out[f"{ending} files left out, which `uv pip install pillow-heif` lets be read"] += 1
            elif ending in self._medium.not_read:
                left_out[f"{ending} files left out, a format that is not read"] += 1
            elif ending in ARCHIVES:
                left_out[f"{ending} files left out, which are not unpacked"] += 1
            elif ending in TABLES:
                left_out[f"tables left out that are no {NO_TABLE}"] += 1
            else:
                left_out["other files left out"] += 1

    def _read_rows(self) -> None:
        for top, table in self._tables.items():
            for name, row in table.rows.items():
                if top and row.split:
                    raise BakeoffError(
                        f"{shown(table.path)}: has a column split, but lies in the folder of a split; remove the column"
                    )
                inside = table.path.parent.relative_to(self._root.joinpath(*self._base)).parts
                self._rows[(*inside, *name.split("/"))] = row

    def _only_listed(self, pictures: list[Parts]) -> list[Parts]:
        """The pictures that the tables name, and those in folders without one."""
        listed = []
        for parts in pictures:
            table = self._tables.get("") or self._tables.get(parts[0])
            if table and parts not in self._rows:
                self._layout.left_out[f"not in {table.path.name}, left out"] += 1
            else:
                listed.append(parts)
        return listed

    # Captions

    def _captions(self, pictures: list[Parts]) -> dict[Parts, tuple[str, ...]]:
        """The captions of each picture, by its whole path; empty if there are none."""
        found: dict[Parts, tuple[str, ...]] = {}
        tables = [entry.parts for entry in self._entries if _has_captions(entry)]
        for parts in tables:
            folder = "".join(f"{part}/" for part in parts[:-1])
            present = {name.removeprefix(folder) for name in self._names if name.startswith(folder)}
            for name, texts in captions.read_captions(self._root.joinpath(*parts), present).items():
                path = (*parts[:-1], *name.split("/"))
                found[path] = (*found.get(path, ()), *texts)
        if tables and (without := ["/".join(parts) for parts in pictures if parts not in found]):
            raise self._error(
                f"has {len(without):,} of {len(pictures):,} {self._medium.word}s without a caption ({some(without)}); "
                f"add them to {captions.NAME}, or move them elsewhere"
            )
        if tables:
            self._layout.notes.append(f"captions from {captions.NAME}")
        return found

    # Splits

    def _find_splits(self, pictures: list[Parts]) -> None:
        if any(row.split for row in self._rows.values()):
            self._layout.splits_from = f"splits from {self._tables[''].path.name}"
            self._split_of = {parts: self._rows[parts].split for parts in pictures}
            if "train" not in self._split_of.values():
                raise self._error(
                    f"{self._tables[''].path.name} has no {self._medium.word} of the split train; add some"
                )
        elif folders := self._split_folders(pictures):
            names = sorted(folders, key=lambda top: SPLITS.index(folders[top]))
            self._layout.splits_from = f"splits from folders ({', '.join(map(shown, names))})"
            self._split_of = {parts: folders.get(parts[0], "") if len(parts) > 1 else "" for parts in pictures}
        else:
            self._refuse_names(pictures)

    def _split_folders(self, pictures: list[Parts]) -> dict[str, str]:
        """The top folders that are splits, and which; empty if there are none."""
        tops = sorted({parts[0] for parts in pictures if len(parts) > 1})
        named = {top: SPLIT_NAMES[top.casefold()] for top in tops if top.casefold() in SPLIT_NAMES}
        others = [top for top in tops if top not in named]
        self._refuse_nearly(tops, named)
        self._refuse_splits_below(pictures, named if {"train"} < {*named.values()} else tops)
        if named and "train" not in named.values():
            beside = f", only {some(others)}" if others else ""
            raise self._error(
                f"has {_and(named)} like a split, but no train{beside}; put the {self._medium.word}s to train on "
                "into a folder train or, if these are no splits, rename them or set data.root to one of them"
            )
        if set(named.values()) == {"train"}:
            if not any(len(parts) > 2 and parts[0] in named for parts in pictures):
                return {}  # flat: a class of that name, or just a folder
            if others:
                raise self._error(
                    f"has {_and(named)} with folders in it, like a split, and beside it {some(others)}; call that "
                    "valid or test if it is one, or move it elsewhere"
                )
        return named

    def _refuse_nearly(self, tops: list[str], named: dict[str, str]) -> None:
        """Raise for two folders of the same split, and for names that remind of different splits."""
        for split in SPLITS:
            if len(same := [top for top in named if named[top] == split]) > 1:
                raise self._error(f"has {_and(same)}, both names of the split {split}; merge them or rename one")
        near = {top: split for top in tops if top not in named and (split := nearly(top))}
        if near and len({*named.values(), *near.values()}) > 1:
            raise self._error(
                f"has {_and([*named, *near])}, which look like splits; call them train, valid and test if they are, "
                "and otherwise something else"
            )

    def _refuse_splits_below(self, pictures: list[Parts], tops: Iterable[str]) -> None:
        """Raise if folders below these, which are not looked through, are called like different splits."""
        begin = {top: 1 + len(self._wrapped[top].folders) if top in self._wrapped else 1 for top in tops}
        found = {
            SPLIT_NAMES[parts[place].casefold()]: "/".join(parts[: place + 1])
            for parts in pictures
            for place in range(begin.get(parts[0], len(parts)), len(parts) - 1)
            if parts[place].casefold() in SPLIT_NAMES
        }
        if len(found) > 1:
            raise self._error(
                f"has {_and(sorted(found.values()))}, which look like splits below other folders; splits must be the "
                "top folders, with the classes below them"
            )

    def _refuse_names(self, pictures: list[Parts]) -> None:
        """Raise if the names of all pictures begin with splits: Hugging Face reads them so."""
        found: dict[str, str] = {}
        for parts in pictures:
            word = re.match("[a-z]*", parts[-1].casefold())
            if not word or word[0] not in SPLIT_NAMES:
                return
            found.setdefault(SPLIT_NAMES[word[0]], parts[-1])
        if len(found) > 1:
            raise self._error(
                f"has {self._medium.word}s whose names begin with splits ({some(sorted(found.values()))}); put "
                "them into folders train, valid and test, say in labels.csv which split each is of, or rename them"
            )

    def _only_in_splits(self, pictures: list[Parts]) -> list[Parts]:
        """Without those that lie beside the splits, which are counted and named."""
        if not self._split_of:
            return pictures
        beside = Counter(parts[0] if len(parts) > 1 else "" for parts in pictures if not self._split_of[parts])
        for top, number in sorted(beside.items()):
            place = f"in {shown(top)}, which is no split" if top else "beside the splits"
            self._layout.left_out[f"{place}, left out"] += number
            self._layout.notes.append(f"{number:,} {place}, left out")
        return [parts for parts in pictures if self._split_of[parts]]

    # Classes

    def _labels(self, pictures: list[Parts]) -> dict[Parts, str]:
        """The class of each picture; empty if there are no classes."""
        if any(row.label for row in self._rows.values()):
            names = _and(sorted({table.path.name for table in self._tables.values()}))
            self._layout.classes_from = f"classes from {names}"
            labels = {parts: self._rows[parts].label if parts in self._rows else "" for parts in pictures}
        elif "folders" in self._layout.splits_from:
            self._layout.classes_from, labels = "classes from folders below them", self._folders_in_splits(pictures)
        else:
            self._layout.classes_from, labels = "classes from folders", _folders_of(pictures)
        without = [parts for parts in pictures if not labels[parts]]
        if len(classes := classes_of(labels.values())) == 0 or not without:
            if "folders" in self._layout.classes_from:
                self._refuse_neutral(classes)
            return labels if classes else {}
        have = {self._split_of.get(parts, "") for parts in pictures if labels[parts]}
        if flat := [split for split in SPLITS if split in set(self._split_of.values()) - have]:
            then = "" if "train" in flat else f": a part of train is then taken for {_and(flat)}"
            raise self._error(
                f"has classes in {_and(split for split in SPLITS if split in have)}, but none in {_and(flat)}; sort "
                f"these {self._medium.word}s, too, or move them elsewhere{then}"
            )
        word = self._medium.word
        self._layout.notes.append(
            f"{_count(len(without), f'{word} lies', f'{word}s lie')} in none of the {len(classes)} folders that could "
            f"be classes: {some('/'.join(parts) for parts in without)}"
        )
        return {}

    def _folders_in_splits(self, pictures: list[Parts]) -> dict[Parts, str]:
        """The folder of each picture below what is looked through in its split, "" if there is none."""
        for found in self._wrapped.values():
            if found.doubt:
                raise self._error(found.doubt)
        if through := ["/".join((top, *found.folders)) for top, found in self._wrapped.items() if found.folders]:
            through.sort(key=lambda path: SPLITS.index(SPLIT_NAMES[path.partition("/")[0].casefold()]))
            self._layout.notes.append(f"{_and(through)} looked through")
        depths = {top: 1 + len(found.folders) for top, found in self._wrapped.items()}
        return {parts: parts[depth] if len(parts) > (depth := depths[parts[0]]) + 1 else "" for parts in pictures}

    def _refuse_neutral(self, classes: list[str]) -> None:
        """Raise for names of classes that say nothing: their pictures may have masks, which would be trained on."""
        if neutral := [name for name in classes if name.casefold() in NEUTRAL]:
            others = [name for name in classes if name not in neutral]
            beside = f" beside {some(others)}" if others else ""
            raise self._error(
                f"has {_and(neutral)}{beside}, which look like pictures and their masks rather than classes; move what "
                f"is not to be trained on elsewhere, or rename {_and(neutral)} if that is a class"
            )


def _has_captions(entry: Entry) -> bool:
    """Whether an entry is a table of captions."""
    return entry.parts[-1].casefold() == captions.NAME and stat.S_ISREG(entry.mode)


def _folders_of(pictures: list[Parts]) -> dict[Parts, str]:
    """The top folder of each picture, "" if there is none; deeper if that is the same for all."""
    depth = 0
    while True:
        found = {parts: parts[depth] if len(parts) > depth + 1 else "" for parts in pictures}
        if len(names := set(found.values())) != 1 or "" in names:
            return found
        depth += 1


def _classes(number: int) -> str:
    return "a class" if number == 1 else f"{number} classes"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _and(names: Iterable[str]) -> str:
    """The names in words, escaped: "train, valid and test"."""
    *most, last = [shown(name) for name in names]
    return f"{', '.join(most)} and {last}" if most else last


def in_table(layout: Layout) -> list[str]:
    """The numbers of files by class and split, as lines for a terminal."""
    splits, counts = layout.splits or ("",), Counter((file.label, file.split) for file in layout.files)
    classes = layout.classes
    rows = [["", *(split or "files" for split in splits)]]
    rows += [[shown(name), *(f"{counts[name, split]:,}" for split in splits)] for name in classes[:SHOWN]]
    if len(classes) > SHOWN:
        rows.append([f"and {len(classes) - SHOWN} more", *("" for _ in splits)])
    totals = Counter(file.split for file in layout.files)
    rows.append(["all", *(f"{totals[split]:,}" for split in splits)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def look(root: Path, medium: Medium = PICTURES) -> list[str]:
    """How the folder is understood, as lines for a terminal; raises BakeoffError like `understand`."""
    layout = understand(root, list_files(root), medium)
    left_out = [f"{number:,} {what}" for what, number in sorted(layout.left_out.items())]
    return [f"data.root: {shown(root)}: {layout.in_words(len(layout.classes))}", *in_table(layout), *left_out]
