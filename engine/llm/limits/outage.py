"""An endpoint that is down or accepts nothing: one request checks whether it is back, with one time limit for all."""

from __future__ import annotations

import random
from collections.abc import Callable

from registry.counted import counted

PATIENCE_SECONDS = 150.0
"""How long an endpoint may be down if `limits.patience` is not set: enough for a server to restart."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
SUSPECTS = 3
"""If this many different requests fail in a row and none is answered, the endpoint is at fault, not the requests."""


class Outage:
    """Whether an endpoint is down, and when to check again.

    It is down if nothing listens at the address, or if several different requests in a row find it in trouble. One
    request that fails again and again, or an occasional reset, says nothing about the others.

    An endpoint that has never answered is more likely misspelled than down: unless the user set a patience, it gets
    only `tries` further attempts.

    Args:
        patience: seconds that an outage may last, if the user set it.
        tries: further attempts for an endpoint that has never answered.
        heard: the endpoint has answered before.
        clock: seconds, monotonic.
    """

    def __init__(self, patience: float | None, tries: int, heard: bool, clock: Callable[[], float]) -> None:
        self._patience = patience
        self._tries = tries
        self._heard = heard
        self._clock = clock
        self._suspects: set[str] = set()
        self._since: float | None = None
        self._checks = 0
        self._next_check = 0.0
        self._why = ""

    @property
    def down(self) -> bool:
        """Whether the endpoint counts as down."""
        return self._since is not None

    def failed(self, key: str, why: str, retry_after: float | None = None, *, unreachable: bool, probe: bool) -> None:
        """Record that a request found the endpoint in trouble.

        Args:
            key: the key of the request.
            why: what happened, for the user.
            retry_after: seconds that the server asks to wait.
            unreachable: nothing listens at the address.
            probe: the request was sent to check whether the endpoint is back; others were sent before it went down.
        """
        self._why = why
        self._suspects.add(key)
        now = self._clock()
        if self._since is None and (unreachable or len(self._suspects) >= SUSPECTS):
            self._since, self._checks = now, 0
        elif self._since is not None and probe:
            self._checks += 1
        else:
            return
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._checks, 10)) * random.uniform(0.5, 1)
        self._next_check = now + max(pause, retry_after or 0.0)

    def alive(self, *, answered: bool) -> None:
        """Record that the endpoint responded; `answered`: with a completion."""
        self._since = None
        self._suspects.clear()
        self._heard = self._heard or answered

    def wait(self) -> float:
        """Seconds until the next check; 0 if the endpoint is up."""
        return max(0.0, self._next_check - self._clock()) if self.down else 0.0

    def given_up(self) -> str:
        """Why there are no more checks, for the user; empty while there is patience left."""
        if self._since is None:
            return ""
        if self._patience is None and not self._heard:
            tried = counted(self._checks + 1, "attempt")
            return f"no answer after {tried}; last error: {self._why}" if self._checks >= self._tries else ""
        patience = PATIENCE_SECONDS if self._patience is None else self._patience
        if self._clock() - self._since < patience:
            return ""
        return (
            f"the endpoint was down for {patience:g} s; last error: {self._why}. Answers so far are kept: run again when it "
            "is up, or raise limits.patience (seconds)"
        )


class Refusal:
    """How long an endpoint has accepted no request at all, but answers 429.

    One request that is refused again and again says nothing about the others: it may be larger than the server's limit.

    Args:
        patience: seconds that this may last, if the user set it.
        clock: seconds, monotonic.
    """

    def __init__(self, patience: float | None, clock: Callable[[], float]) -> None:
        self._patience = PATIENCE_SECONDS if patience is None else patience
        self._clock = clock
        self._suspects: set[str] = set()
        self._since: float | None = None

    def end(self) -> None:
        """Record any other response."""
        self._since = None
        self._suspects.clear()

    def throttled(self, key: str, why: str) -> str:
        """Record a 429 while no other request was in flight.

        Args:
            key: the key of the request.
            why: what the server answered, for the user.

        Returns:
            why no more requests are sent, for the user; empty while there is patience left.
        """
        now = self._clock()
        self._suspects.add(key)
        self._since = now if self._since is None else self._since
        if len(self._suspects) < SUSPECTS or now - self._since < self._patience:
            return ""
        return (
            f"the endpoint has accepted no request for {now - self._since:.0f} s; last error: {why}. Answers so far are kept: "
            "run again when its limits allow it, or raise limits.patience (seconds)"
        )
