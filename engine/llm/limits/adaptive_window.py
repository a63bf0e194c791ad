"""How many requests may be in flight: additive increase, multiplicative decrease below the user's limit (AIMD)."""

from __future__ import annotations

import random
from collections.abc import Callable

START = 8
START_SECONDS = 0.005
"""At the beginning, `START` more requests go out every so many seconds, until all may or the first 429 comes back.

All at once would hit a small server with everything; waiting for answers before sending more would waste seconds.
"""

_DECREASE = 0.8
_MOST_LOST = 4.0
_SHORTEST_HOLD, _LONGEST_HOLD = 4.0, 64.0
_LONGEST_PAUSE = 60.0


class Window:
    """The number of requests that an endpoint takes, as far as its 429s have told.

    A 429 tells how many requests the server is carrying: those that are still in flight. That is the ceiling. The window
    falls below it, grows back to it within a few rounds (a round: as many answers as the window is wide), and looks
    beyond it only after a hold, which doubles when it met 429 again and halves when it did not.

    When a window that was cut down meets 429s and nothing is answered in between, the endpoint takes nothing at all:
    everybody pauses for what Retry-After says, or for an exponential back-off with full jitter.

    Args:
        most: the user's limit.
        clock: seconds, monotonic.
        gently: begin with few requests.
    """

    def __init__(self, most: int, clock: Callable[[], float], *, gently: bool = True) -> None:
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
        """So many requests may be in flight now."""
        return max(1, int(self._size))

    def open_further(self) -> None:
        """A step of the beginning; to be called once in START_SECONDS, when what was heard has been dealt with."""
        if self.starting:
            self._size = min(self._size + START, float(self.most))
            self.starting = self._size < self.most

    def pause(self) -> float:
        """Seconds until anything may be sent."""
        return max(0.0, self._paused_until - self._clock())

    def answered(self) -> None:
        """A request sent now or earlier was answered."""
        self._answered = True
        self._pauses = 0
        if self.starting or self._size >= self.most:
            return
        if self._size < self._ceiling:
            self._size = min(self._ceiling, self._size + max(1.0, self._size / 8) / self._size)
            return
        self._held += 1 / self._size
        if self._held >= self._hold:
            # The longer nothing was refused, the larger the step.
            self._ceiling = min(float(self.most), self._ceiling + max(1.0, self._ceiling / (2 * self._hold)))
            self._hold = max(1.0, self._hold / 2)
            self._held = 0.0

    def throttled(self, epoch: int, carried: int, retry_after: float | None) -> None:
        """A request was answered with 429.

        Args:
            epoch: the window's `epoch` when it was sent; a round of requests cuts the window down once.
            carried: requests that are still in flight.
            retry_after: the server's wish in seconds.
        """
        size = self.size()
        if epoch == self.epoch:
            self.epoch += 1
            self._ceiling = float(max(1, min(size, carried)))
            self._floor = max(1.0, size / _MOST_LOST)
            self._hold = min(_LONGEST_HOLD, max(_SHORTEST_HOLD, self._hold) * 2)
            if not self._answered:
                self._stand_still(retry_after)
            self._answered = False
        else:
            self._ceiling = min(self._ceiling, float(max(1, carried)))
        self.starting = False
        self._ceiling = max(self._ceiling, self._floor)
        self._size = max(1.0, self._ceiling * _DECREASE)
        self._held = 0.0

    def _stand_still(self, retry_after: float | None) -> None:
        self._pauses += 1
        seconds = retry_after if retry_after is not None else random.uniform(0, 0.5 * 2 ** min(self._pauses, 8))
        self._paused_until = max(self._paused_until, self._clock() + min(seconds, _LONGEST_PAUSE))
