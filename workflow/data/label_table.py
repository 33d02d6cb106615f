"""The owner's own labels: `labels.csv` beside the pictures, or the metadata of a Hugging Face image folder.

`labels.csv` has the columns file, class and, if the owner has splits, split. A first row with these names (or file_name
and label) is a header, in which case the columns may stand in any order, others are ignored, and either class or split
may be missing. Without a header there are two or three columns in this order. Paths are relative to the folder of the
table. It is UTF-8, with commas, semicolons or tabs between columns. A `metadata.csv` has a header; `metadata.jsonl` has
an object on each line, whose keys are the columns. Without one for the class or the split, metadata are about something
else, and not read. Names of tables may have capitals.
"""

import csv
import io
import json
import unicodedata
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from workflow.data.listing import shown, some
from workflow.errors import BakeoffError

METADATA = ("metadata.csv", "metadata.jsonl")
NAMES = ("labels.csv", *METADATA)  # the first that is there is read
COLUMNS = {
    "file": ("file", "file_name", "filename", "path", "image"),
    "class": ("class", "label", "class_name"),
    "split": ("split",),
}
SEPARATORS = ",;\t"
ORDER = ("file", "class", "split")  # without a header
# Names of splits, in any case: those of torchvision, Keras and Hugging Face.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Row:
    """What a table says about a file. label, split: "" if it has no such column. line: its number, from 1."""

    label: str
    split: str
    line: int


@dataclass(frozen=True)
class Table:
    """What a table says about each of its files, by the path relative to the folder of the table, with slashes."""

    path: Path
    rows: dict[str, Row]


def read_table(path: Path, present: Collection[str]) -> Table | None:
    """Read a table; None if it is metadata without labels and splits.

    Args:
        path: of the table.
        present: the files below the folder of the table, relative to it, with slashes.

    Raises BakeoffError if a file is missing or named twice, or if a row lacks a class or has an unknown split, and for
    what is not valid CSV or JSON.
    """
    stored = stored_names(present)

    def known(cell: str) -> bool:
        return cell.casefold() in COLUMNS["file"] or bool(stored_name(cell, stored))

    rows = _objects(path) if path.suffix.casefold() == ".jsonl" else csv_rows(path, known)
    first = next(rows, None)
    where = _columns(first[1], present if path.name.casefold() == NAMES[0] else ()) if first else None
    if where is None and path.name.casefold() != NAMES[0]:
        return None
    lines = list(rows)
    if first and where:
        _check_columns(path, first[1], lines, where)
    elif first:
        lines = [first, *lines]
        where = dict(zip(ORDER, range(max(len(cells) for _, cells in lines)), strict=False))
        _check_first(path, *first, stored)
    if not lines or not where or len(where) < 2:
        raise BakeoffError(f"{shown(path)}: has no rows of file and class, as in `cat1.png,cat`; add them or remove it")
    return Table(path, _rows(path, lines, where, stored))


def csv_rows(path: Path, known: Callable[[str], bool]) -> Iterator[tuple[int, list[str]]]:
    """The rows of CSV that are not empty, with the numbers of their lines; BakeoffError if it is not valid.

    Between columns stands what, in the first line, separates a cell that is `known`, such as the name of a file that is
    there or of its column; if nothing does, the commonest of commas, semicolons and tabs.
    """
    text = _text(path)
    rows = csv.reader(
        io.StringIO(text, newline=""), delimiter=_separator(text, known), skipinitialspace=True, strict=True
    )
    begun = 1
    try:
        for cells in rows:
            if any(cell.strip() for cell in cells):
                yield rows.line_num, [cell.strip() for cell in cells]
            begun = rows.line_num + 1
    except csv.Error as error:
        raise BakeoffError(f"{shown(path)}: line {begun}: not valid CSV ({error}); correct it") from None


def _separator(text: str, known: Callable[[str], bool]) -> str:
    first = text.lstrip().partition("\n")[0]

    def tells(separator: str) -> bool:
        try:
            cells = next(csv.reader([first], delimiter=separator, skipinitialspace=True), [])
        except csv.Error:  # a cell goes on in the next line
            return False
        return len(cells) > 1 and any(known(cell.strip()) for cell in cells)

    return next(filter(tells, SEPARATORS), None) or max(SEPARATORS, key=first.count)


def _objects(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The objects on the lines of a file, as rows with their numbers, after a header of all their keys."""
    objects = [(n, _object(path, n, line)) for n, line in enumerate(_text(path).split("\n"), 1) if line.strip()]
    header = list(dict.fromkeys(key for _, cells in objects for key in cells))
    if header:
        yield 0, header
    for line, cells in objects:
        yield line, [cells.get(key, "") for key in header]


def _object(path: Path, number: int, line: str) -> dict[str, str]:
    """The object on a line: numbers as they are written, "" for nothing and for lists and objects of other keys."""
    form = 'write an object such as {"file_name": "1.png", "label": "cat"} on each line'
    at = f"{shown(path)}: line {number}"
    try:
        found = json.loads(
            line, parse_int=str, parse_float=str, parse_constant=lambda _: None, object_pairs_hook=_without_doubles
        )
    except json.JSONDecodeError as error:
        raise BakeoffError(f"{at}: not valid JSON ({error.msg} at column {error.colno}); {form}") from None
    except (ValueError, RecursionError) as error:
        why = "too deep" if isinstance(error, RecursionError) else shown(error)
        raise BakeoffError(f"{at}: not valid JSON ({why}); {form}") from None
    if not isinstance(found, dict):
        raise BakeoffError(f"{at}: not an object; {form}")
    for key, value in found.items():
        if isinstance(value, dict | list) and any(key.casefold() in names for names in COLUMNS.values()):
            what = "a list" if isinstance(value, list) else "an object"
            raise BakeoffError(f"{at}: {shown(key)}: should be text or a number, not {what}")
    return {key: _cell(value) for key, value in found.items()}


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; raises ValueError if a key stands twice, as only one of its values would be seen."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key} stands twice")
        found[key] = value
    return found


def _cell(value: Any) -> str:
    """A value of JSON as it would stand in CSV."""
    if isinstance(value, bool):
        return json.dumps(value)
    return value.strip() if isinstance(value, str) else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BakeoffError(f"{shown(path)}: not UTF-8 ({error.reason}); save it in UTF-8") from None


def _columns(first: list[str], present: Collection[str]) -> dict[str, int] | None:
    """Where the columns are, if the first row is a header with a file and a class or a split."""
    cells = [cell.casefold() for cell in first]
    where = {
        column: cells.index(name) for column, names in COLUMNS.items() for name in reversed(names) if name in cells
    }
    is_header = "file" in where and len(where) > 1 and first[where["file"]] not in present
    return where if is_header else None


def _check_columns(path: Path, header: list[str], rows: list[tuple[int, list[str]]], where: dict[str, int]) -> None:
    """Raise BakeoffError for what a header hides: text that fills more columns than it has, and splits by other names.

    Otherwise half a class's name would be taken for all of it, and pictures to test with would be trained on.
    """
    for line, cells in rows:
        if any(cells[len(header) :]):
            raise BakeoffError(
                f"{shown(path)}: line {line}: {shown(cells[where['file']])}: has {len(cells)} columns, but the header "
                f"has {len(header)}; put text that contains separators into double quotes"
            )
    for place, name in enumerate(header):
        values = {cells[place].casefold() for _, cells in rows if place < len(cells)}
        if "split" not in where and place not in where.values() and len(values) > 1 and values <= SPLIT_NAMES.keys():
            raise BakeoffError(f"{shown(path)}: column {shown(name)} has names of splits; call it split, or remove it")


def _check_first(path: Path, line: int, cells: list[str], stored: dict[str, str]) -> None:
    """Raise BakeoffError if the first row of a table without a known header looks like a header of other names."""
    if not PurePath(cells[0]).suffix and stored_name(cells[0], stored) is None:
        raise BakeoffError(
            f"{shown(path)}: line {line}: {shown(cells[0])}: no such file; if the line is a header, call its columns "
            "file, class and split, and otherwise correct the path, with its ending"
        )


def stored_names(present: Collection[str]) -> dict[str, str]:
    """The names of files as the system has them, by their composed form: macOS writes é as e and an accent."""
    return {unicodedata.normalize("NFC", name): name for name in present}


def stored_name(told: str, stored: dict[str, str]) -> str | None:
    """The name of a file as the system has it, from the name in a table; stored: what `stored_names` returns."""
    for name in (told, told.replace("\\", "/").removeprefix("./")):
        if found := stored.get(unicodedata.normalize("NFC", name)):
            return found
    return None


def _rows(
    path: Path, lines: list[tuple[int, list[str]]], where: dict[str, int], stored: dict[str, str]
) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    missing: list[str] = []
    for line, cells in lines:
        values = {column: cells[place] if place < len(cells) else "" for column, place in where.items()}
        if not (told := values["file"]):
            raise BakeoffError(f"{shown(path)}: line {line}: no file; add it, or remove the row")
        name = stored_name(told, stored)
        if name is None:
            missing.append(told)
            continue
        at = f"{shown(path)}: line {line}: {shown(told)}"
        if name in rows:
            raise BakeoffError(f"{at}: stands in line {rows[name].line} already; remove one of the two")
        for column in ("class", "split"):
            if column in where and not values[column]:
                raise BakeoffError(f"{at}: no {column}; add it, or remove the row")
        split = values.get("split", "")
        if split and split.casefold() not in SPLIT_NAMES:
            known = ", ".join(SPLIT_NAMES)
            raise BakeoffError(f"{at}: split {shown(split)!r}: should be one of {known}")
        rows[name] = Row(values.get("class", ""), SPLIT_NAMES.get(split.casefold(), ""), line)
    if missing:
        raise BakeoffError(
            f"{shown(path)}: names {len(missing)} of {len(lines)} files that are not in its folder ({some(missing)}); "
            "correct the paths, which are relative to the table, with their endings, or remove the rows"
        )
    return rows
