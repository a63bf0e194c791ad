"""How many requests may be in flight: additive increase, multiplicative decrease below the user's limit (AIMD)."""

from __future__ import annotations

import random
from collections.abc import Callable

START = 8
START_SECONDS = 0.005
"""At the start, the window opens by `START` requests after every such interval, until it is open or the first 429 arrives.

Sending everything at once would overwhelm a small server; waiting for answers before sending more would waste seconds.
"""

_DECREASE = 0.8
_MOST_LOST = 4.0
_SHORTEST_HOLD, _LONGEST_HOLD = 4.0, 64.0
_LONGEST_PAUSE = 60.0


class Window:
    """The number of requests that an endpoint accepts, learned from its 429s.

    A 429 shows how many requests the server can carry: those that are still in flight. That is the ceiling. The window
    drops below it, grows back to it within a few rounds (one round: as many answers as the window is wide), and probes
    beyond it only after a hold. The hold doubles if probing met another 429, and halves if it did not.

    If a reduced window meets 429s and nothing is answered in between, the endpoint accepts nothing at all. Then all
    requests pause for the time in Retry-After, or for an exponential back-off with full jitter.

    Args:
        most: the user's limit; `most` of the window is the part of it that is this run's share.
        clock: seconds, monotonic.
        gently: start with few requests.
    """

    def __init__(self, most: int, clock: Callable[[], float], *, gently: bool = True) -> None:
        self._whole = most
        self.most = most
        self.starting = gently and most > START
        self.epoch = 0
        self._clock = clock
        self._size = float(START if self.starting else most)
        self._ceiling = float(most)
        self._floor = 1.0
        self._hold = _SHORTEST_HOLD
        self._held = 0.0
        self._answered = True
        self._paused_until = 0.0
        self._pauses = 0

    def size(self) -> int:
        """The number of requests that may be in flight now."""
        return max(1, int(self._size))

    def open_further(self) -> None:
        """One step of the start. Call it every START_SECONDS, after the responses so far have been handled."""
        if self.starting:
            self._size = min(self._size + START, float(self.most))
            self.starting = self._size < self.most

    def divide(self, parts: int) -> None:
        """Continue with one of `parts` equal parts of the user's limit, but at least one request.

        What was learned about the server is divided, too: the others take their parts of what it can carry.
        """
        most = max(1, self._whole // parts)
        grows, part, learned = most > self.most, most / self.most, not self.starting and self._size < self.most
        self._ceiling = min(float(most), max(1.0, self._ceiling * part)) if learned else float(most)
        self._floor = max(1.0, self._floor * part)
        if learned and not grows:
            self._size = max(1.0, self._size * part)  # a part that grows is filled as answers arrive
        self._size = min(self._size, float(most))
        # What has never met a limit opens step by step, as at the start.
        self.starting = self._size < most and not learned
        self.most = most

    def pause(self) -> float:
        """Seconds until a request may be sent."""
        return max(0.0, self._paused_until - self._clock())

    def answered(self) -> None:
        """Record that a request was answered."""
        self._answered = True
        self._pauses = 0
        if self.starting or self._size >= self.most:
            return
        if self._size < self._ceiling:
            self._size = min(self._ceiling, self._size + max(1.0, self._size / 8) / self._size)
            return
        self._held += 1 / self._size
        if self._held >= self._hold:
            # The longer nothing was throttled, the larger the step.
            self._ceiling = min(float(self.most), self._ceiling + max(1.0, self._ceiling / (2 * self._hold)))
            self._hold = max(1.0, self._hold / 2)
            self._held = 0.0

    def throttled(self, epoch: int, carried: int, retry_after: float | None) -> None:
        """Record that a request was answered with 429.

        Args:
            epoch: the window's `epoch` when the request was sent; one round of requests reduces the window once.
            carried: requests that are still in flight.
            retry_after: seconds that the server asks to wait.
        """
        size = self.size()
        if epoch == self.epoch:
            self.epoch += 1
            self._ceiling = float(max(1, min(size, carried)))
            self._floor = max(1.0, size / _MOST_LOST)
            self._hold = min(_LONGEST_HOLD, max(_SHORTEST_HOLD, self._hold) * 2)
            if not self._answered:
                self._pause(retry_after)
            self._answered = False
        else:
            self._ceiling = min(self._ceiling, float(max(1, carried)))
        self.starting = False
        self._ceiling = max(self._ceiling, self._floor)
        self._size = max(1.0, self._ceiling * _DECREASE)
        self._held = 0.0

    def _pause(self, retry_after: float | None) -> None:
        self._pauses += 1
        seconds = retry_after if retry_after is not None else random.uniform(0, 0.5 * 2 ** min(self._pauses, 8))
        self._paused_until = max(self._paused_until, self._clock() + min(seconds, _LONGEST_PAUSE))
