"""Captions of images: the table `captions.csv`, and the numbers of their words, which models are given.

`captions.csv` lies anywhere in the folder of the pictures. It has two columns, the path of a picture relative to the
folder of the table, and the text; a first row with the names file and caption (or file_name and text) is a header, in
which case the columns may stand in any order and others are ignored. It is UTF-8, with commas, semicolons or tabs
between columns. A picture in several rows has several captions. Data without a table, but with names of classes, have
captions made of these (`workflow.data.wordings`).

Words are letters and digits, in lower case; everything else separates them. The vocabulary is the words of all captions
of training images, in alphabetical order, numbered from 1. A caption is a row of these numbers, with zeros after them.
"""

import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from workflow.data.arrays import Array, Card
from workflow.data.label_table import csv_rows, stored_name, stored_names
from workflow.data.listing import shown, some
from workflow.data.wordings import wordings
from workflow.errors import BakeoffError

NAME = "captions.csv"
COLUMNS = {"file": ("file", "file_name", "filename", "path", "image"), "caption": ("caption", "text")}
APOSTROPHE = "'"
MOST_WORDS = 2**15 - 1
KNOWN = 12  # words that an error names


@dataclass(frozen=True)
class Language:
    """What captions are made of. words: the vocabulary. length: words of the longest caption."""

    words: tuple[str, ...]
    length: int


def words_in(text: str) -> list[str]:
    """The words of a text, in lower case: of letters with their marks and digits, and of apostrophes between them.

    >>> words_in("A thin three, don't you think?")
    ['a', 'thin', 'three', "don't", 'you', 'think']
    """
    composed = unicodedata.normalize("NFC", text.casefold()).replace("’", APOSTROPHE)
    kept = "".join(c if c == APOSTROPHE or unicodedata.category(c)[0] in "LMN" else " " for c in composed)
    return [word for part in kept.split() if (word := part.strip(APOSTROPHE))]


def learn(texts: Iterable[str]) -> Language:
    """The language of the captions of the training images; BakeoffError if it has more words than int16 has numbers."""
    found = [words_in(text) for text in texts]
    words = sorted({word for words in found for word in words})
    if len(words) > MOST_WORDS:
        raise BakeoffError(f"{NAME}: {len(words):,} different words; at most {MOST_WORDS:,}: leave rare ones out")
    return Language(tuple(words), max(map(len, found)))


def language_of(card: Card) -> Language | None:
    """The language of the captions of these data; None if they have neither captions nor classes that name them."""
    if card.words:
        return Language(card.words, card.caption_length)
    made = wordings(card)
    return learn(one.text for one in made) if made else None


def in_numbers(captions: Sequence[Sequence[str]], language: Language) -> Array:
    """The captions of N images as numbers of words, int16 (N, K, length), K being the most that an image has.

    Of an image with fewer, they are repeated. Words that are not in the vocabulary are left out, and words after the
    longest of the captions in training.
    """
    place = {word: number for number, word in enumerate(language.words, 1)}
    most = max(map(len, captions), default=1)
    found = np.zeros((len(captions), most, language.length), np.int16)
    for rows, texts in zip(found, captions, strict=True):
        for k, row in enumerate(rows):
            known = [place[word] for word in words_in(texts[k % len(texts)]) if word in place][: language.length]
            row[: len(known)] = known
    return found


def read_prompt(text: str, words: Sequence[str], length: int) -> Array:
    """A prompt as numbers of words, int64 (length,).

    Args:
        text: the prompt.
        words: the vocabulary.
        length: of captions.

    Raises BakeoffError for a word that is not in the vocabulary, naming some that are, and if there is no word, or too
    many.
    """
    asked, found = words_in(text), np.zeros(length, np.int64)
    for word in asked:
        if word not in words:
            near = get_close_matches(word, words, KNOWN)
            known = [*near, *(other for other in words if other not in near)]
            more = f" and {len(known) - KNOWN} more" if len(known) > KNOWN else ""
            raise BakeoffError(f"{word!r}: in no caption of the training; known: {', '.join(known[:KNOWN])}{more}")
    if not asked:
        raise BakeoffError(f"{text!r}: has no word; name what to draw")
    if len(asked) > length:
        raise BakeoffError(f"{text!r}: {len(asked)} words; at most {length} (caption_length)")
    found[: len(asked)] = [words.index(word) + 1 for word in asked]
    return found


def read_captions(path: Path, present: Collection[str]) -> dict[str, list[str]]:
    """The captions in a table, by the paths of the pictures relative to its folder, with slashes.

    Args:
        path: of the table.
        present: the files below its folder, relative to it, with slashes.

    Raises BakeoffError if a file is missing, or a text, and for what is not valid CSV.
    """
    stored = stored_names(present)
    rows = list(csv_rows(path, lambda cell: cell.casefold() in COLUMNS["file"] or bool(stored_name(cell, stored))))
    where = _columns([cell.casefold() for cell in rows[0][1]]) if rows else None
    columns = len(rows[0][1]) if where else 2
    if where:
        rows = rows[1:]
    file, caption = where or (0, 1)
    found: dict[str, list[str]] = {}
    missing: list[str] = []
    for line, cells in rows:
        at = f"{shown(path)}: line {line}"
        told, text = (cells[place] if place < len(cells) else "" for place in (file, caption))
        if not told:
            raise BakeoffError(f"{at}: no file; add it, or remove the row")
        if any(cells[columns:]):
            raise BakeoffError(
                f"{at}: {shown(told)}: has {len(cells)} columns instead of {columns}; put text that has separators "
                "into double quotes"
            )
        if not words_in(text):
            raise BakeoffError(f"{at}: {shown(told)}: no caption; add one, or remove the row")
        if name := stored_name(told, stored):
            found.setdefault(name, []).append(text)
        else:
            missing.append(told)
    if missing:
        raise BakeoffError(
            f"{shown(path)}: names {len(missing)} of {len(rows)} files that are not in its folder ({some(missing)}); "
            "correct the paths, which are relative to the table, with their endings, or remove the rows"
        )
    if not found:
        raise BakeoffError(f"{shown(path)}: has no rows of file and caption, as in `cat1.png,a black cat`; add them")
    return found


def _columns(header: list[str]) -> tuple[int, int] | None:
    """Where file and caption stand, if the first row is a header that names both."""
    file, caption = (next((header.index(name) for name in names if name in header), None) for names in COLUMNS.values())
    return None if file is None or caption is None else (file, caption)
