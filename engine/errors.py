"""Errors for users: each says what is wrong, where, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any


@dataclass(frozen=True, order=True)
class Position:
    """A place in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Problem:
    """One problem: what is wrong, where, and (if known) what to do about it."""

    message: str
    position: Position | None = None
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.position}: " if self.position else ""
        return f"{where}{self.message}" + (f"\n    {self.hint}" if self.hint else "")


class EngineError(Exception):
    """An error for users: its text says what is wrong, where, and what to do, so they need no traceback."""


class PipelineError(EngineError):
    """A pipeline or its arguments are wrong; `problems` has everything that was found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        # A problem that affects several references is reported once.
        self.problems = sorted(dict.fromkeys(problems), key=lambda p: (p.position is None, p.position))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class StepError(EngineError):
    """A step failed while it ran; finished work is kept."""


def message_of(error: Exception) -> str:
    """An error's text for users. Python's own text of an OSError has its number and quotes."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return str(error)


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "", *, similarity: float = 0.6) -> str:
    """A hint for a misspelled word: the closest known word, else `otherwise`, else all known words if there are few.

    Args:
        similarity: how similar the closest word has to be, from 0 to 1 (difflib's ratio).
    """
    known = sorted(known)
    close = get_close_matches(word, known, n=1, cutoff=similarity)
    if close:
        return f"did you mean {close[0]!r}?"
    if otherwise:
        return otherwise
    return f"available: {', '.join(known)}" if known and len(known) <= 20 else ""


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "mapping": "a mapping",
    "model": "a mapping",
}
"""The first word of a pydantic error's type, `int_parsing`, in the words of a YAML file."""

_KIND = re.compile(rf"({'|'.join(_KINDS)})_(?:type|parsing|parsing_size|from_float|attributes_type)")


def wrong_value(error: Any) -> str:
    """What a value has to be, from one of pydantic's `ValidationError.errors()`: `must be a whole number`."""
    if kind := _KIND.fullmatch(error["type"]):
        return f"must be {_KINDS[kind[1]]}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return re.sub(r"^(?:Input|Value|List|Tuple|String|Dictionary) should ", "must ", message)
