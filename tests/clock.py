"""A clock that tests advance by hand."""

from __future__ import annotations


class Clock:
    """A clock whose time the test advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now
