"""Descriptions from docstrings: what a class is, and what each of its arguments or keys means."""

import inspect
import re

ENTRY = re.compile(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", re.MULTILINE)


def summary(described: type) -> str:
    """What the docstring says of the class as a whole, up to its arguments, on one line."""
    return _one_line(_parts(described)[0])


def arguments(described: type) -> dict[str, str]:
    """What the section `Args:` of the docstring says of each argument, on one line."""
    return {name: _one_line(text) for name, text in ENTRY.findall(_parts(described)[1])}


def _parts(described: type) -> tuple[str, str]:
    about, _, listed = (inspect.getdoc(described) or "").partition("Args:\n")
    return about, listed


def _one_line(text: str) -> str:
    return " ".join(text.split())
