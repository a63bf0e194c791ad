"""An endpoint that is down: one request looks whether it is back, all others wait, and all share one patience."""

from __future__ import annotations

import random
from collections.abc import Callable

PATIENCE_SECONDS = 150.0
"""How long an endpoint may be down when `limits.patience` does not say: enough for a server that restarts."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
SUSPECTS = 3
"""So many different requests fail in a row, and none is answered: the endpoint is at fault, not the requests."""


class Outage:
    """Whether an endpoint is down, and when to look again.

    It is down when nobody listens there, and when several different requests in a row find it in trouble: one that fails
    again and again, or a reset now and then, says nothing of the others.

    An endpoint that has never answered is more likely misspelt than down: unless the user set a patience, it gets
    `tries` further tries.

    Args:
        patience: seconds that an outage may last, as the user set it.
        tries: further tries for an endpoint that has never answered.
        heard: it has answered before.
        clock: seconds, monotonic.
    """

    def __init__(self, patience: float | None, tries: int, heard: bool, clock: Callable[[], float]) -> None:
        self._patience = patience
        self._tries = tries
        self._heard = heard
        self._clock = clock
        self._suspects: set[str] = set()
        self._since: float | None = None
        self._looked = 0
        self._next = 0.0
        self._why = ""

    @property
    def down(self) -> bool:
        """Whether the endpoint is taken to be down."""
        return self._since is not None

    def failed(self, key: str, why: str, retry_after: float | None = None, *, unreachable: bool, probe: bool) -> None:
        """A request found the endpoint in trouble.

        Args:
            key: of the request.
            why: what happened, for the user.
            retry_after: the server's wish in seconds.
            unreachable: nobody listens there.
            probe: it was sent to see whether the endpoint is back; others were sent before it went down.
        """
        self._why = why
        self._suspects.add(key)
        now = self._clock()
        if self._since is None and (unreachable or len(self._suspects) >= SUSPECTS):
            self._since, self._looked = now, 0
        elif self._since is not None and probe:
            self._looked += 1
        else:
            return
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._looked, 10)) * random.uniform(0.5, 1)
        self._next = now + max(pause, retry_after or 0.0)

    def alive(self, *, answered: bool) -> None:
        """The endpoint responded; `answered`: with a completion."""
        self._since = None
        self._suspects.clear()
        self._heard = self._heard or answered

    def wait(self) -> float:
        """Seconds until the next look; 0 when the endpoint is up."""
        return max(0.0, self._next - self._clock()) if self.down else 0.0

    def given_up(self) -> str:
        """Why not to look any more, for the user; nothing while there is patience left."""
        if self._since is None:
            return ""
        if self._patience is None and not self._heard:
            tried = "1 try" if self._looked == 0 else f"{self._looked + 1} tries"
            return f"no answer in {tried}; the last: {self._why}" if self._looked >= self._tries else ""
        patience = PATIENCE_SECONDS if self._patience is None else self._patience
        if self._clock() - self._since < patience:
            return ""
        return (
            f"the endpoint was down for {patience:g} s; the last: {self._why}. What was answered is kept: run again when it is "
            "up, or raise limits.patience (seconds)"
        )
