"""Reasons of rejects and errors of rows by cause: those that differ only in a value, such as a file's name, count as one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

_VALUES = re.compile(r"'(?:[^']|'(?=\w))*'|\"[^\"]*\"|\d[\d,.]*")


def cause_of(reason: str) -> str:
    """A reason without quoted texts and numbers."""
    return _VALUES.sub("*", reason)


class CountedCause(NamedTuple):
    """A cause, as `cause_of` returns it.

    Attributes:
        text: its first reason, for users; it mentions that others differ in a value.
        times: how many reasons have this cause.
    """

    cause: str
    text: str
    times: int


def by_cause(reasons: Iterable[str]) -> list[CountedCause]:
    """The causes of reasons, the most frequent first."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    differ: set[str] = set()
    for reason in reasons:
        cause = cause_of(reason)
        counts[cause] += 1
        if first.setdefault(cause, reason) != reason:
            differ.add(cause)
    return [
        CountedCause(cause, first[cause] + (" (and others with other values)" if cause in differ else ""), count)
        for cause, count in counts.most_common()
    ]
