"""Stops a step when the server refuses every request for the same reason, instead of rejecting every row."""

from __future__ import annotations

import re

from engine.llm.types.errors import RequestError

MOST_REFUSALS = 20
"""The number of refusals with the same words, before any answer, that stops the step."""

_COMPARED = 200
_VARYING = re.compile(r"\S*\d\S*")
"""Ids and numbers, which vary between refusals for the same reason."""


class CircuitBreaker:
    """Counts the first refusals of a server. Once the server has answered anything, refusals concern single requests."""

    def __init__(self) -> None:
        self._answered = False
        self._words: str | None = None
        self._refusals = 0

    def answered(self) -> None:
        """Record that the server answered a request, now or in an earlier run."""
        self._answered = True

    def refused(self, error: RequestError) -> str | None:
        """Record a refusal. Returns why the step must stop, or None if it continues."""
        if self._answered or error.completion is not None:
            return None
        words = _VARYING.sub("#", str(error).lower())[:_COMPARED]
        self._refusals = self._refusals + 1 if words == self._words else 1
        self._words = words
        if self._refusals < MOST_REFUSALS:
            return None
        return f"{error} (the first {MOST_REFUSALS} requests were all refused with this message, and none was answered)"
