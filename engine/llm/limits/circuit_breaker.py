"""Notices when a server refuses every request in the same words, so that not every row has to hear them."""

from __future__ import annotations

import re

from engine.llm.types.errors import RequestError

MOST_REFUSALS = 20
"""So many requests may be refused in the same words before one is answered."""

_COMPARED = 200
_VARYING = re.compile(r"\S*\d\S*")
"""Ids and numbers, which differ between refusals for the same reason."""


class Breaker:
    """Counts the first refusals of a server; once it has answered anything, they are the requests' own fault."""

    def __init__(self) -> None:
        self._answered = False
        self._words: str | None = None
        self._refusals = 0

    def answered(self) -> None:
        """The server answered a request, now or in an earlier run."""
        self._answered = True

    def refused(self, error: RequestError) -> str | None:
        """Take note of a refusal; returns why the step is to stop, if it is."""
        if self._answered or error.completion is not None:
            return None
        words = _VARYING.sub("#", str(error).lower())[:_COMPARED]
        self._refusals = self._refusals + 1 if words == self._words else 1
        self._words = words
        if self._refusals < MOST_REFUSALS:
            return None
        return f"{error} (the first {MOST_REFUSALS} requests were all refused in these words, and none was answered)"
